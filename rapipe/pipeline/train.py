"""Stages train-plain and train-retrieval: one classifier, its best epoch chosen on validation."""

from __future__ import annotations

import math
import shutil
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from rapipe import metrics, paths
from rapipe.batches.transforms import VIEWS, RandomGaussianNoise
from rapipe.classifier.classifier import Classifier, ClassifierSpec
from rapipe.classifier.module import ClassifierModule
from rapipe.classifier.neighbour_batch import DeviceBank
from rapipe.config.names import ClassifierName
from rapipe.config.schema import Params, TrainParams
from rapipe.config.variants import Variant
from rapipe.corpus.labels import visible_label_mask
from rapipe.device import device
from rapipe.encoder.encoder import EncoderSpec
from rapipe.io.checksums import is_intact
from rapipe.io.folders import atomic_folder
from rapipe.io.tables import fingerprint, write_csv
from rapipe.pipeline.initial_weights import InitialWeights
from rapipe.pipeline.inputs import (
    bank_card,
    check_labels,
    checked,
    corpus_card,
    labelled,
    neighbours_of,
    query_images,
)
from rapipe.progress import say
from rapipe.records import UNLABELLED, Embeddings, Images, Neighbours
from rapipe.training.callbacks import BestEpoch, History, Row
from rapipe.training.compilation import compile_network
from rapipe.training.loggers import loggers
from rapipe.training.loop import fit
from rapipe.training.module import Schedule
from rapipe.training.precision import precision_of
from rapipe.training.recipe import Tricks

READS = (paths.CORPUS, paths.NEIGHBOURS, paths.INITIAL)
WRITES = (paths.MODELS,)


def run(params: Params, variant: Variant) -> None:
    """Write `data/models/<variant>/`: weights, card and history."""
    start = InitialWeights.of(variant)
    material = TrainingData.of(params, variant, bool(start.teacher))
    facts = facts_of(params, variant, material, start)
    place = paths.CHECKPOINTS / f"{variant.name}-teacher-{fingerprint(facts)}"
    if start.teacher:
        taught = teacher_of(params, variant, material, start.of_teacher(), place, facts)
        soft = taught.predict(material.train.pixels, material.bank, material.rows("train"))
        made = trained(params, variant, material, start, facts, soft)
    else:
        made = trained(params, variant, material.labelled(), start, facts)
    with atomic_folder(paths.MODELS / variant.name) as folder:
        made.classifier.write(folder, made.facts)
        write_csv(folder / "history.csv", [known_only(row) for row in made.history])
    for finished in (made.checkpoints, place):
        shutil.rmtree(finished, ignore_errors=True)


def known_only(row: Row) -> dict[str, float | None]:
    """A row of the history as it is written: empty where no image of the steps had a label."""
    own = row["train_top1"]
    return {**row, "train_top1": None if math.isnan(own) else own}


@dataclass(frozen=True)
class TrainingData:
    """What a classifier learns from, and is measured on while it does."""

    train: Images
    validation: Images
    test: Images
    tables: dict[str, Neighbours]
    """By split; empty without retrieval."""
    memory: Embeddings | None
    bank: DeviceBank | None
    known: np.ndarray
    """Which training images' labels are known; those of the others are -1."""

    @classmethod
    def of(cls, params: Params, variant: Variant, unlabelled: bool) -> TrainingData:
        """What is on the disk for this variant, with or without unlabelled training images."""
        splits = {"train": query_images("train", unlabelled)}
        splits.update({name: labelled(name) for name in ("validation", "test")})
        tables, memory, bank = {}, None, None
        if variant.retrieval != "none":
            check_labels(params)
            memory = Embeddings.read(checked(paths.BANK))
            bank = DeviceBank(memory, len(corpus_card()["classes"]), device())
            tables = {name: neighbours_of(own, variant, name) for name, own in splits.items()}
        train = splits["train"]
        kept = visible_label_mask(train.ids, train.labels, params.train.label_fraction, params.seed)
        splits["train"] = replace(train, labels=np.where(kept, train.labels, UNLABELLED))
        return cls(**splits, tables=tables, memory=memory, bank=bank, known=kept)

    def labelled(self) -> TrainingData:
        """The same, of the training images whose labels are known."""
        if self.known.all():
            return self
        rows = np.flatnonzero(self.known)
        tables = dict(self.tables)
        if tables:
            tables["train"] = tables["train"].take(rows)
        return replace(
            self, train=self.train.take(rows), tables=tables, known=self.known[self.known]
        )

    def rows(self, split: str) -> Any:
        """The neighbours' rows of the bank (Q, K), or None without retrieval."""
        return self.tables[split].indices if self.tables else None


@dataclass(frozen=True)
class TrainedClassifier:
    """A classifier with the weights of its best epoch, and how it got them."""

    classifier: Classifier
    facts: dict[str, Any]
    history: list[Row]
    checkpoints: Path
    """What it would resume from, which may go as soon as it is written."""


def trained(
    params: Params,
    variant: Variant,
    material: TrainingData,
    start: InitialWeights,
    facts: dict[str, Any],
    soft: np.ndarray | None = None,
) -> TrainedClassifier:
    """Train one classifier; resumes where it was interrupted.

    Args:
        start: what it starts from, and which kind it is: the variant's own, or its teacher's.
        facts: all that decides its weights.
        soft: a teacher's logits of the training images, in the place of their labels.
    """
    recipe, memory = params.train, material.memory
    torch.manual_seed(variant.seed)
    classifier = Classifier(spec_of(params, variant, start.own, memory))
    start.fill(classifier.backbone, spec_of_start(classifier.spec))
    augment = VIEWS[recipe.augment](params.corpus.image_size)
    if start.noise_std:
        augment = nn.Sequential(augment, RandomGaussianNoise(start.noise_std))
    tricks = tricks_of(params)
    module = ClassifierModule(
        classifier,
        augment,
        material.train,
        material.tables.get("train"),
        material.bank,
        Schedule(recipe.epochs, recipe.batch_size, recipe.learning_rate, variant.seed),
        recipe.weight_decay,
        params.retrieval.dropout if memory else 0.0,
        tricks,
        soft,
        start.temperature,
    )
    if recipe.compile:
        compile_network(module, facts["precision"])

    def measure(module: ClassifierModule) -> Row:
        return {
            "train_top1": module.take("correct"),  # nan where no image of the steps has a label
            "validation_top1": accuracy(classifier, material, "validation", recipe.compile),
            "test_top1_not_for_selection": accuracy(classifier, material, "test", recipe.compile),
        }

    history = History(measure, recipe.probe_every, recipe.measure_every)
    best = BestEpoch(classifier, history, "validation_top1")
    unique = f"{variant.name}-{fingerprint(facts)}"
    checkpoints = paths.CHECKPOINTS / unique
    found = fit(
        module,
        [history, best],
        checkpoints,
        facts["precision"],
        tricks,
        loggers(recipe.loggers, paths.LOGS, unique),
        keep=True,
    )
    row = best.restore()
    counted = [p.numel() for p in classifier.parameters()]
    learned = [p.numel() for p in classifier.parameters() if p.requires_grad]
    facts = {
        **facts,
        "parameters": sum(counted),
        "trained_parameters": sum(learned),
        "best_epoch": row["epoch"],
        "validation_top1": row["validation_top1"],
        "found": found,
    }
    return TrainedClassifier(classifier.cpu(), facts, history.rows, checkpoints)


def accuracy(classifier: Classifier, material: TrainingData, split: str, compiled: bool) -> float:
    """Top-1 accuracy (0 to 1) of a split, with its neighbours."""
    images: Images = getattr(material, split)
    with torch.compiler.set_stance("force_eager") if compiled else nullcontext():
        logits = classifier.predict(images.pixels, material.bank, material.rows(split))
    return metrics.top_k(logits, images.labels, 1)


def teacher_of(
    params: Params,
    variant: Variant,
    material: TrainingData,
    start: InitialWeights,
    place: Path,
    facts: dict[str, Any],
) -> Classifier:
    """The student's teacher, trained on the known labels; kept in `place` until all is done."""
    if not is_intact(place):
        say("training the teacher")
        role = {**facts, "role": "teacher"}
        made = trained(params, variant, material.labelled(), start, role)
        with atomic_folder(place) as part:
            made.classifier.write(part, made.facts)
        shutil.rmtree(made.checkpoints)
    classifier, card = Classifier.read(place)
    say(f"the teacher is right for {card['validation_top1']:.1%} of validation")
    return classifier.to(device())


def spec_of_start(spec: ClassifierSpec) -> dict[str, Any]:
    """The spec of an encoder with the same backbone, as a card has it."""
    own = asdict(spec)
    return {field.name: own[field.name] for field in fields(EncoderSpec)}


def spec_of(
    params: Params, variant: Variant, own: ClassifierName, memory: Embeddings | None
) -> ClassifierSpec:
    """What is needed to build the network."""
    card = corpus_card()
    return ClassifierSpec(
        backbone=own.network,
        width=params.train.width,
        stem=params.train.stem,
        image_size=params.corpus.image_size,
        classes=len(card["classes"]),
        mean=tuple(card["mean"]),
        std=tuple(card["std"]),
        retrieval=variant.retrieval,
        dimension=memory.vectors.shape[1] if memory else 0,
        attend=params.retrieval.attend if memory else "",
        places=params.retrieval.places if memory else "all",
        gate=params.retrieval.gate if memory else False,
        head=own.head,
        frozen=own.frozen,
    )


def tricks_of(params: Params) -> Tricks:
    """The tricks among `train.*`, which have the same names."""
    return Tricks(**{field.name: getattr(params.train, field.name) for field in fields(Tricks)})


def facts_of(
    params: Params, variant: Variant, material: TrainingData, start: InitialWeights
) -> dict[str, Any]:
    """All that decides the weights."""
    remembered = bank_card() if material.memory else None
    precision = precision_of(params.train.precision, paths.PRECISION)
    return {
        "variant": asdict(variant),
        "bank_size": len(material.memory) if material.memory else 0,
        "memory": remembered["store"] if remembered else "",
        "labels": int(material.known.sum()),
        "label_fraction": params.train.label_fraction,
        "teacher": start.teacher,
        "setting": setting(params, variant, start, remembered, precision),
        "precision": precision,
    }


ELSEWHERE = ("init", "distill", "distill_temperature", "noise_std")
"""Parameters of `train` that a start's key speaks of, where they count."""
NO_MATTER = ("backbones", "seeds", "probe_every", "compile", "loggers")
"""Parameters of `train` that change no result, or that may differ between results compared."""


def setting(
    params: Params,
    variant: Variant,
    start: InitialWeights,
    memory: dict[str, Any] | None,
    precision: str,
) -> str:
    """Fingerprint of all that two results must share to be compared across k, bank and seeds."""
    names = [own.name for own in fields(TrainParams) if own.name not in (*ELSEWHERE, *NO_MATTER)]
    recipe = {name: getattr(params.train, name) for name in names}
    recipe["precision"] = precision  # what was done, not what was asked for
    facts = {"corpus": corpus_card()["hash"], "train": recipe, "start": start.key}
    if params.train.label_fraction < 1 or memory:
        facts["seed"] = params.seed
    if memory:
        asked = params.retrieval
        facts["store"] = memory["store"]
        facts["retrieval"] = [asked.attend, asked.places, asked.gate, asked.dropout]
        facts["strategy"] = {"diverse": asked.diversity, "replay": asked.replay}.get(
            variant.retrieval
        )
    return fingerprint(facts)
