"""Stages evaluate-plain and evaluate-retrieval: one classifier on the whole test split."""

from __future__ import annotations

from typing import Any

import numpy as np

from rapipe import paths
from rapipe.classifier import Classifier
from rapipe.device import device
from rapipe.encoder import Encoder
from rapipe.errors import UserError
from rapipe.evaluation.noise import Lookup, evaluate
from rapipe.params import Params, Variant
from rapipe.pipeline.inputs import bank_card, labelled, write_json
from rapipe.pipeline.memory import check_encoder, method_of
from rapipe.records import Embeddings, Images


def run(params: Params, variant: Variant) -> None:
    """Write `results/runs/<variant>.json`: clean, and at each noise level.

    If the memory has been edited since the classifier was trained, it is
    `<variant>@<memory>.json`, so that both can be compared.
    """
    classifier, card = Classifier.read(paths.MODELS / variant.name)
    images = labelled("test")
    lookup, memory, edited, store = None, "", False, ""
    if variant.retrieval != "none":
        remembered = bank_card()
        memory, store = remembered["memory"], remembered["store"]
        edited = store != card.get("memory")
        lookup = lookup_of(params, variant, classifier, remembered, images)
    levels = (0.0, *params.evaluate.noise_std)
    scores, by_class = evaluate(classifier.to(device()), images, levels, lookup, params.seed)
    keys = {
        "backbone": variant.backbone,
        "retrieval": variant.retrieval,
        "k": variant.k,
        "seed": variant.seed,
    }
    bank_size = len(lookup.bank) if lookup else 0
    write_json(
        paths.RUNS / f"{variant.name}{'@' + memory if edited else ''}.json",
        {
            "setting": card["setting"],
            "parameters": card["parameters"],
            "best_epoch": card["best_epoch"],
            "edited": edited,
            "store": store,
            "rows": [{**keys, **row, "bank_size": bank_size, "memory": memory} for row in scores],
            "by_class": dict(zip(images.classes, by_class, strict=True)),
        },
    )


def lookup_of(
    params: Params,
    variant: Variant,
    classifier: Classifier,
    remembered: dict[str, Any],
    images: Images,
) -> Lookup:
    """The bank that was prefetched last; `UserError` if the classifier cannot use it."""
    check_encoder(remembered["encoder"], paths.BANK, "prefetch")
    bank = Embeddings.read(paths.BANK)
    d = classifier.spec.dimension
    if bank.vectors.shape[1] != d:
        raise UserError(
            f"{variant.name} was trained with vectors of {d} dimensions, but {paths.BANK} holds "
            f"vectors of {bank.vectors.shape[1]}: run rapipe train, or dvc repro"
        )
    if np.isin(bank.ids, images.ids).any():
        raise UserError(f"{paths.BANK} holds images of the present test split: run rapipe prefetch")
    return Lookup(
        Encoder.read(paths.ENCODER).to(device()),
        bank,
        variant.retrieval,
        variant.k,
        params.seed,
        method_of(params),
    )
