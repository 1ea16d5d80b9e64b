"""Stages train-plain and train-retrieval: one classifier, its best epoch chosen on validation."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from rapipe import metrics, paths
from rapipe.classifier import Classifier, ClassifierSpec
from rapipe.device import device
from rapipe.fitting.base import Best, History, Row, Schedule, fit
from rapipe.fitting.speed import compile_network, precision_of
from rapipe.fitting.training import Training
from rapipe.params import Params, Variant
from rapipe.pipeline.inputs import (
    bank_card,
    corpus_card,
    fingerprint,
    labelled,
    neighbours_of,
    write_csv,
)
from rapipe.records import SPLITS, Embeddings
from rapipe.retrieved import Bank
from rapipe.views import VIEWS, SomeNoise


def run(params: Params, variant: Variant) -> None:
    """Write `data/models/<variant>/`: weights, card and history."""
    recipe, card = params.train, corpus_card()
    splits = {name: labelled(name) for name in SPLITS}
    memory = Embeddings.read(paths.BANK) if variant.retrieval != "none" else None
    tables = {
        name: neighbours_of(images, variant, name) if memory else None
        for name, images in splits.items()
    }
    spec = ClassifierSpec(
        backbone=variant.network,
        width=recipe.width,
        stem=recipe.stem,
        image_size=params.corpus.image_size,
        classes=len(card["classes"]),
        mean=tuple(card["mean"]),
        std=tuple(card["std"]),
        retrieval=variant.retrieval,
        dimension=memory.vectors.shape[1] if memory else 0,
        attend=params.retrieval.attend if memory else "",
    )
    torch.manual_seed(variant.seed)
    classifier = Classifier(spec)
    bank = Bank(memory, spec.classes, device()) if memory else None
    remembered = bank_card() if memory else None

    def accuracy(split: str) -> float:
        table = tables[split]
        with torch.compiler.set_stance("force_eager") if recipe.compile else nullcontext():
            logits = classifier.predict(
                splits[split].pixels, bank, table.indices if table else None
            )
        return metrics.top_k(logits, splits[split].labels, 1)

    def measure(module: Training) -> Row:
        return {
            "train_top1": module.take("correct"),
            "validation_top1": accuracy("validation"),
            "test_top1_not_for_selection": accuracy("test"),
        }

    augment = VIEWS[recipe.augment](spec.image_size)
    if variant.noisy:
        augment = nn.Sequential(augment, SomeNoise(recipe.noise_std))
    module = Training(
        classifier,
        augment,
        splits["train"],
        tables["train"],
        bank,
        Schedule(recipe.epochs, recipe.batch_size, recipe.learning_rate, variant.seed),
        recipe.weight_decay,
        params.retrieval.dropout if memory else 0.0,
    )
    precision = precision_of(recipe.precision, paths.PRECISION)
    if recipe.compile:
        compile_network(module, precision)
    history = History(measure, recipe.probe_every)
    best = Best(classifier, history, "validation_top1")
    facts = {
        "variant": asdict(variant),
        "bank_size": len(memory) if memory else 0,
        "memory": remembered["store"] if remembered else "",
        "setting": setting(params, variant, card, remembered, precision),
        "precision": precision,
    }
    checkpoints = paths.CHECKPOINTS / f"{variant.name}-{fingerprint(facts)}"
    fit(module, [history, best], checkpoints, precision)

    row = best.restore()
    classifier.cpu().write(
        paths.MODELS / variant.name,
        {
            **facts,
            "parameters": sum(p.numel() for p in classifier.parameters()),
            "best_epoch": row["epoch"],
            "validation_top1": row["validation_top1"],
        },
    )
    write_csv(paths.MODELS / variant.name / "history.csv", history.rows)


def setting(
    params: Params,
    variant: Variant,
    card: dict[str, Any],
    memory: dict[str, Any] | None,
    precision: str,
) -> str:
    """Fingerprint of all that two results must share to be compared across k, bank and seeds."""
    recipe = asdict(params.train)
    for name in ("backbones", "seeds", "probe_every", "compile"):
        recipe.pop(name)
    if not variant.noisy:
        recipe.pop("noise_std")
    recipe["precision"] = precision  # what was done, not what was asked for
    facts = {"corpus": card["hash"], "train": recipe}
    if memory:
        facts["store"] = memory["store"]
        facts["seed"] = params.seed
        facts["retrieval"] = [params.retrieval.attend, params.retrieval.dropout]
    return fingerprint(facts)
