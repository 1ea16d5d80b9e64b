"""Stage train: for each variant a classifier, its best epoch chosen on validation.

Those that have one network, since their fusions learn apart from it, are trained together.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import chdir
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rapipe import paths
from rapipe.classifier.classifier import Classifier
from rapipe.classifier.module import Teacher
from rapipe.classifier.neighbour_batch import DeviceBank, Shown
from rapipe.classifier.train import Beside, TrainedClassifier, train_classifier
from rapipe.config import deciding
from rapipe.config.names import ENCODER, ClassifierName
from rapipe.config.schema import Params
from rapipe.config.variants import Project, Variant
from rapipe.corpus.labels import visible_label_mask
from rapipe.device import device
from rapipe.encoder.encoder import EncoderSpec
from rapipe.encoder.initial_weights import InitialWeights
from rapipe.io.checksums import is_intact
from rapipe.io.folders import atomic_folder
from rapipe.io.provenance import Facts
from rapipe.io.tables import fingerprint, without_nan, write_csv
from rapipe.pipeline.copies import copied_pixels
from rapipe.pipeline.inputs import (
    checked,
    copied_neighbours_of,
    labelled,
    neighbours_of,
    present_bank,
    present_corpus,
    query_images,
    setting,
)
from rapipe.pipeline.running.argument_keys import argument_keys, keys_of
from rapipe.pipeline.running.ranks import on_ranks
from rapipe.progress import say
from rapipe.records import UNLABELLED, Embeddings, Images, Neighbours
from rapipe.specs import FusionSpec, TrainingRecipe
from rapipe.training import ranks
from rapipe.training.loggers import loggers
from rapipe.training.precision import precision_of

READS = (paths.CORPUS, paths.NEIGHBOURS, paths.INITIAL)
WRITES = (paths.MODELS,)

MAY_BE_NAN = ("train_top1", "validation_loss", "test_loss_not_for_selection")
"""Measurements that may be no number where the training went on all the same."""


by_keys = argument_keys(
    **keys_of("retrieval", FusionSpec),
    **keys_of("train", TrainingRecipe),
    width="train.width",
    stem="train.stem",
)


@by_keys
def run(params: Params, *variants: Variant) -> None:
    """Write `data/models/<variant>/`: weights, card and history.

    Args:
        variants: one, or several of `rapipe.config.variants.together`.
    """
    if not on_ranks(run, params.train, params, *variants):
        run_across(Project(Path(), params, variants))


@by_keys
def run_across(*projects: Project) -> None:
    """The same for variants of several projects, beside one network that all of them have.

    So a network is trained once, whatever memories it is shown. Each project gets its own models;
    checkpoints are the first's.

    Raises:
        ValueError: their networks are not the same.
    """
    parts = [_Part.read(project) for project in projects]
    if len(parts) > 1:
        both = zip(parts, projects, strict=True)
        if len({part.network(project) for part, project in both}) > 1:
            raise ValueError("these projects have several networks")
    (folder, params, variants), part = projects[0], parts[0]
    first, facts = variants[0], [own for part in parts for own in part.facts.values()]
    key = fingerprint(facts[0] if len(facts) == 1 else facts)
    with chdir(folder):
        checkpoints = paths.CHECKPOINTS / f"{first.name}-{key}"
        teacher_folder = paths.CHECKPOINTS / f"{first.name}-teacher-{key}"
        teacher = None
        if part.initial.teacher:
            logits = _teacher_logits(
                params, first, part.data, part.initial, teacher_folder, facts[0]
            )
            teacher = Teacher(logits, part.initial.temperature)
        sets = {
            _name(project, strategy): shown
            for project, own in zip(projects, parts, strict=True)
            for strategy, shown in own.data.sets(project.params, first.classifier).items()
        }
        images = part.data.images
        trained = _train(
            params, variants, first.classifier, images, sets, part.initial, checkpoints, teacher
        )
    if ranks.rank():
        return
    for project, own in zip(projects, parts, strict=True):
        with chdir(project.folder):
            for variant in project.variants:
                named = trained.beside.get(_name(project, variant.retrieval), trained)
                _write(variant, named, own.facts[variant])
    with chdir(folder):
        for finished in (checkpoints, teacher_folder):
            shutil.rmtree(finished, ignore_errors=True)


def _name(project: Project, strategy: str) -> str:
    """Of what a strategy shows, in the present project or in another."""
    return f"{project.folder.name}:{strategy}" if project.folder.name else strategy


def _write(variant: Variant, trained: TrainedClassifier, facts: Facts) -> None:
    with atomic_folder(paths.MODELS / variant.name) as folder:
        trained.classifier.write(folder, {**facts, **_outcome(trained)})
        rows = [without_nan(row, *MAY_BE_NAN) for row in trained.history]
        columns = list(dict.fromkeys(name for row in rows for name in row))  # resumed: first fewer
        write_csv(folder / "history.csv", rows, columns)
        if trained.tuned.curve:
            write_csv(folder / paths.RATES, trained.tuned.curve)


class Retrieved(NamedTuple):
    """What one strategy shows a classifier that learns."""

    neighbours: dict[str, Neighbours]
    """By split."""
    copied: Mapping[bool, Neighbours | None]
    """Of noisy copies of the training images, by whether these have noise too."""


@dataclass(frozen=True)
class TrainingData:
    """What classifiers learn from, and are measured on while they do."""

    images: dict[str, Images]
    """By split; training images whose label is hidden have none."""
    retrieved: dict[str, Retrieved]
    """By strategy; nothing without retrieval."""
    bank: Embeddings | None
    """Of which `self` shows nothing."""
    visible_labels: int

    @classmethod
    def read(cls, params: Params, variants: Sequence[Variant], unlabelled: bool) -> TrainingData:
        """What is on the disk for variants, with or without unlabelled training images."""
        images = {"train": query_images("train", unlabelled)}
        images |= {split: labelled(split) for split in ("validation", "test")}
        retrieved, bank = {}, None
        for variant in variants:
            if variant.retrieval == "none":
                continue
            if bank is None:
                present_bank(params)
                bank = Embeddings.read(checked(paths.BANK))
            neighbours = {
                split: neighbours_of(queries, params, variant.retrieval, split)
                for split, queries in images.items()
            }
            copied = {
                noisy: copied_neighbours_of(images["train"], params, variant.retrieval, noisy)
                for noisy in {name.noisy for name in deciding.names_of(params, variant.backbone)}
            }
            retrieved[variant.retrieval] = Retrieved(neighbours, copied)
        train = images["train"]
        visible = visible_label_mask(
            train.ids, train.labels, params.train.label_fraction, params.seed
        )
        images["train"] = replace(train, labels=np.where(visible, train.labels, UNLABELLED))
        return cls(images, retrieved, bank, int(visible.sum()))

    def sets(self, params: Params, name: ClassifierName) -> dict[str, Beside]:
        """What each strategy shows a classifier, and how it enters."""
        if self.bank is None:
            return {}
        fusion = params.retrieval.fusion_spec
        return {
            strategy: Beside(shown.neighbours, self.bank, fusion, shown.copied[name.noisy])
            for strategy, shown in self.retrieved.items()
        }


@dataclass(frozen=True)
class _Part:
    """What a project has for its variants."""

    data: TrainingData
    initial: InitialWeights
    facts: dict[Variant, Facts]

    @classmethod
    def read(cls, project: Project) -> _Part:
        folder, params, variants = project
        with chdir(folder):
            first = variants[0]
            initial = InitialWeights.read(checked(paths.INITIAL / first.backbone))
            data = TrainingData.read(params, variants, bool(initial.teacher))
            facts = {v: facts_of(params, v, data, initial) for v in variants}
        return cls(data, initial, facts)

    def network(self, project: Project) -> str:
        """Fingerprint of all that decides what the network learns, and what noisy copies are."""
        folder, params, (first, *_) = project
        with chdir(folder):
            plain = Variant.of(params, first.backbone, "none", first.seed)
            noise = [params.retrieval.query_noise, params.classifiers.noise_std]
            return fingerprint([facts_of(params, plain, self.data, self.initial), *noise])


def _train(
    params: Params,
    variants: Sequence[Variant],
    name: ClassifierName,
    images: dict[str, Images],
    sets: Mapping[str, Beside],
    initial: InitialWeights,
    checkpoints: Path,
    teacher: Teacher | None = None,
) -> TrainedClassifier:
    """Train a network, and fusions beside it; resumes where it was interrupted.

    Args:
        name: the variants' own, or their teacher's.
        sets: what fusions are shown; one at most where they do not learn apart.
    """
    recipe = params.train.recipe
    own: dict[str, Any] = {"beside": sets}
    if any(not shown.is_apart for shown in sets.values()):
        (own,) = (shown._asdict() for shown in sets.values())
    elif any(shown.noisy_neighbours for shown in sets.values()):
        own["noisy_pixels"] = copied_pixels(images["train"], params, name.noisy)
    network = initial.spec if name.backbone == ENCODER else network_of(params, name.backbone)
    precision = precision_of(recipe.precision, paths.PRECISION)
    return train_classifier(
        images,
        network=network,
        head=name.head,
        frozen=name.frozen,
        recipe=replace(recipe, precision=precision),
        initial=initial.backbone(network),
        projection=initial.projection(),
        noise_std=initial.noise_std,
        teacher=teacher,
        seed=variants[0].seed,
        checkpoints=checkpoints,
        loggers=loggers(
            () if ranks.rank() else recipe.loggers,
            paths.LOGS,
            checkpoints.name,
            _logged(params, variants, precision),
        ),
        **own,
    )


def _logged(params: Params, variants: Sequence[Variant], precision: str) -> dict[str, Any]:
    """What loggers keep with a run: the variants, and the parameters that decide their weights."""
    last = variants[-1]  # the first of several has no neighbours
    facts = {f"variant.{name}": value for name, value in asdict(last).items()}
    facts["variant.retrieval"] = ", ".join(v.retrieval for v in variants)
    return {**facts, **deciding.of_training(params, last, precision)}


def network_of(params: Params, backbone: str) -> EncoderSpec:
    """The network of a classifier, for images of the present corpus."""
    card, train = present_corpus(params), params.train
    size = train.image_size or params.corpus.image_size
    mean, std = tuple(card["mean"]), tuple(card["std"])
    return EncoderSpec(backbone, train.width, train.stem, size, mean, std)


def _teacher_logits(
    params: Params,
    variant: Variant,
    data: TrainingData,
    initial: InitialWeights,
    folder: Path,
    facts: dict[str, Any],
) -> np.ndarray:
    """What the student's teacher, trained on the visible labels, says of all training images.

    Args:
        folder: keeps the teacher until the student is done.
    """
    if not ranks.agreed(is_intact(folder)):
        say("training the teacher")
        facts = {**facts, "role": "teacher"}
        checkpoints = paths.CHECKPOINTS / f"{variant.name}-{fingerprint(facts)}"
        its_initial = InitialWeights.read(checked(initial.folder / paths.TEACHER))
        name = ClassifierName.parse(initial.teacher)
        sets = data.sets(params, name)
        trained = _train(params, [variant], name, data.images, sets, its_initial, checkpoints)
        trained = trained.beside.get(variant.retrieval, trained)
        if ranks.rank() == 0:
            with atomic_folder(folder) as part:
                trained.classifier.write(part, {**facts, **_outcome(trained)})
            shutil.rmtree(checkpoints)
        ranks.agreed(None)  # the others read it after that
    teacher, card = Classifier.read(folder)
    say(f"the teacher is right for {card['validation_top1']:.1%} of validation")
    teacher.to(device())
    pixels = data.images["train"].pixels
    if data.bank is None:
        return teacher.predict(pixels)
    bank = DeviceBank(data.bank, teacher.spec.classes, device())
    shown = data.retrieved[variant.retrieval].neighbours["train"]
    return teacher.predict(pixels, *Shown.of(bank, shown))


def _outcome(trained: TrainedClassifier) -> dict[str, Any]:
    """What a card says of the training's end."""
    return {
        "parameters": trained.parameters,
        "trained_parameters": trained.trained_parameters,
        "best_epoch": trained.best["epoch"],
        "validation_top1": trained.best["validation_top1"],
        "tuned": trained.tuned.values,
        **({"ranks": ranks.count()} if ranks.count() > 1 else {}),
    }


def facts_of(
    params: Params, variant: Variant, data: TrainingData, initial: InitialWeights
) -> dict[str, Any]:
    """All that decides the weights."""
    precision = precision_of(params.train.precision, paths.PRECISION)
    facts = setting(params, variant, precision)
    return {
        "variant": asdict(variant),
        "bank_size": len(data.bank) if data.bank and variant.rows_shown else 0,
        "memory": facts.get("store", ""),
        "labels": data.visible_labels,
        "teacher": initial.teacher,
        "setting": facts,
        "precision": precision,
    }
