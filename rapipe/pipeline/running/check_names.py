"""Names in the parameters against the tables of methods, before any work.

This module imports every table only to refuse; it changes no artefact. So the
stages do not declare what it imports, and a new method re-runs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from rapipe import paths
from rapipe.batches.transforms import VIEWS
from rapipe.classifier.fusions import FUSIONS
from rapipe.classifier.heads import HEADS
from rapipe.config.loading import load
from rapipe.config.names import (
    CHECKPOINT,
    DISTILLED,
    ENCODER,
    FROZEN,
    LINEAR,
    NOISE,
    PRETRAINED,
    PROJECTION,
    SELF,
    TRAINING,
    WITH_SELF,
    ClassifierName,
    init_of,
)
from rapipe.config.schema import (
    Params,
    PretrainParams,
    RetrievalParams,
    TrainParams,
)
from rapipe.corpus.sources import SOURCES
from rapipe.corpus.sources.hub_files import is_on_hub
from rapipe.encoder import backbones, checkpoints
from rapipe.encoder.backbones.pooling import check_pool
from rapipe.errors import UserError
from rapipe.evaluation.corruptions import CORRUPTIONS
from rapipe.evaluation.corruptions.base import SEVERITIES
from rapipe.generation import GENERATORS
from rapipe.io.text import expand_home, quoted
from rapipe.pipeline.inputs import images_of, query_images
from rapipe.pipeline.requests import method_of
from rapipe.pipeline.running.argument_keys import argument_keys, keys_of
from rapipe.pretraining.objectives import OBJECTIVES, ObjectiveSpec
from rapipe.pretraining.optimisers import OPTIMISERS
from rapipe.retrieval.bank import select_bank
from rapipe.retrieval.search import check_k
from rapipe.retrieval.strategies import STRATEGIES
from rapipe.specs import NO_ENCODER, VECTORS, GenerationRecipe

WIDE = 8192
"""Of a projection head: most objectives have a square of its last width, in a layer or a loss."""
WIDEST = {"dino": 65_536}
"""Those that have none, by objective."""


KEYS = {
    **keys_of("train", TrainParams),
    **keys_of("retrieval", RetrievalParams),
    **keys_of("pretrain", PretrainParams),
    "image_size": "pretrain.image_size",
    "init": "classifiers.init",
}


def load_checked(path: Path) -> Params:
    """Parameters whose every name is known; `UserError` names the key, value and choices."""
    params = load(path)
    check(params)
    return params


@argument_keys(**KEYS)
def check(params: Params) -> None:
    """Raise `UserError` if a name in the parameters is not known."""
    for i, source in enumerate(params.corpus.sources):
        _known(f"corpus.sources[{i}].kind", source.kind, SOURCES)
    _copied(params)
    _known("generate.method", params.generate.method, GENERATORS)
    if params.generated_sources:
        _generator(params)
    _known("pretrain.objective", params.pretrain.objective, OBJECTIVES)
    if params.pretrain.encoder != NO_ENCODER:
        _encoder(params)
    _known("pretrain.views", params.pretrain.views, [name for name in VIEWS if name != "none"])
    _known("pretrain.optimiser", params.pretrain.optimiser, OPTIMISERS)
    for i, name in enumerate(params.retrieval.strategies):
        _known(f"retrieval.strategies[{i}]", name, STRATEGIES)
    _known("retrieval.fusion", params.retrieval.fusion, FUSIONS)
    _query_vectors_seen(params.retrieval)
    method_of(params)  # which refuses other names
    for key, text in _classifiers(params).items():
        _classifier(params, key, text)
    names = map(ClassifierName.parse, _classifiers(params).values())
    starts = {name.backbone for name in names if name.initial == CHECKPOINT}
    for init in sorted({init_of(params.classifiers.init, backbone) for backbone in starts}):
        checkpoints.check(init)
    for i, text in enumerate(params.evaluate.corruptions):
        _corruption(f"evaluate.corruptions[{i}]", text)
    _known("train.augment", params.train.augment, VIEWS)
    _tricks(params.train)


def _corruption(key: str, text: str) -> None:
    """Raise `UserError` unless it is NAME:SEVERITY."""
    name, _, severity = text.partition(":")
    _known(key, name, CORRUPTIONS)
    if severity not in map(str, SEVERITIES):
        raise UserError(f"{key} is {quoted(text)}; write {name}:1 to {name}:{max(SEVERITIES)}")


def _query_vectors_seen(retrieval: RetrievalParams) -> None:
    """Raise `UserError` if an image's own vector is shown to a fusion that sees no vectors."""
    inputs = {name: fusion.inputs_of(retrieval.fusion_spec) for name, fusion in FUSIONS.items()}
    for i, name in enumerate(retrieval.strategies):
        if name not in WITH_SELF or VECTORS in inputs[retrieval.fusion]:
            continue
        shows = f"retrieval.strategies[{i}] is {quoted(name)}, which shows an image its own vector"
        if FUSIONS[retrieval.fusion].inputs:
            sees = ", ".join(other for other, seen in inputs.items() if VECTORS in seen)
            raise UserError(
                f"{shows}, but retrieval.fusion {retrieval.fusion} sees no vectors; choose from "
                f"{sees}"
            )
        raise UserError(
            f"{shows}, but with retrieval.attend: label no vector is seen; choose embedding or both"
        )


def check_memory(params: Params) -> None:
    """Raise `UserError` if the memory that the corpus will fill offers fewer than k neighbours.

    Before pretraining, which may take hours; prefetch, which comes after it, checks the memory
    that it finds.
    """
    train, asking_too = images_of("train"), bool(params.classifiers.distill)
    every = np.full(len(train), "train")
    none = train.ids[:0]  # the corpus has taken out of train what is held out
    excluded = [source.name for source in params.corpus.sources if source.role == TRAINING]
    facts, limit = (train.ids, train.sources, every), params.retrieval.bank
    rows = select_bank(*facts, none, limit, params.seed, excluded)
    if set(params.retrieval.strategies) <= {SELF}:  # which shows nothing of it
        return
    check_k(params.retrieval.k, query_images("train", asking_too).ids, train.ids[rows])


def _copied(params: Params) -> None:
    """Raise `UserError` in a copy of the project, as DVC makes some, that lacks the images."""
    if paths.COPIES not in Path.cwd().as_posix() or paths.CORPUS_CARD.exists():
        return
    for i, source in enumerate(params.corpus.sources):
        local = source.path and not is_on_hub(source.path)
        if local and not expand_home(source.path).exists():
            raise UserError(
                f"corpus.sources[{i}].path is {quoted(source.path)}, which is not in this copy of "
                "the project: dvc exp run --temp, and --queue, copy only what git tracks; write "
                "an absolute path, or run it without --temp"
            )


@argument_keys(**keys_of("generate", GenerationRecipe), image_size="corpus.image_size")
def _generator(params: Params) -> None:
    """Raise `UserError` if the method cannot make such images here."""
    GENERATORS[params.generate.method].check(params.corpus.image_size)


def _tricks(train: TrainParams) -> None:
    """Their tables import Lightning, which takes seconds: not for the names of the default."""
    if (train.schedule, train.average, train.tune, train.loggers) == ("cosine", "none", (), ()):
        return
    from rapipe.training import loggers
    from rapipe.training.averaging import AVERAGES
    from rapipe.training.schedules import SCHEDULES
    from rapipe.training.tuner import TUNERS

    _known("train.schedule", train.schedule, SCHEDULES)
    _known("train.average", train.average, AVERAGES)
    for i, name in enumerate(train.tune):
        _known(f"train.tune[{i}]", name, TUNERS)
    loggers.check(train.loggers)


def _classifiers(params: Params) -> dict[str, str]:
    """The names of all classifiers, that of the teacher too, by their keys."""
    teacher, names = params.classifiers.distill, params.classifiers.backbones
    keys = {f"classifiers.backbones[{i}]": name for i, name in enumerate(names)}
    return {**keys, "classifiers.distill": teacher} if teacher else keys


@argument_keys(**{**KEYS, "init": "pretrain.init"})
def _encoder(params: Params) -> None:
    """Raise `UserError` if the objective cannot follow its recipe, or teach its backbone."""
    recipe, objective = params.pretrain, OBJECTIVES[params.pretrain.objective]
    size = recipe.image_size
    if recipe.init:
        checkpoints.check(recipe.init)
        fitting = checkpoints.encoder_of(recipe.init)
        if recipe.init.startswith("package:") and recipe.encoder != fitting:
            raise UserError(
                f"pretrain.init is {quoted(recipe.init)}, whose network is {fitting}: set "
                f"pretrain.encoder to that, not {quoted(recipe.encoder)}"
            )
    else:
        size = size or params.corpus.image_size
    _backbone("pretrain.encoder", recipe.encoder, recipe.width, recipe.stem, size, recipe.pool)
    size = size or params.corpus.image_size
    objective.check(ObjectiveSpec(size, 1, recipe.head, recipe.temperature))
    widest = WIDEST.get(recipe.objective, WIDE)
    if max(recipe.head, default=0) > widest:
        raise UserError(
            f"pretrain.head is {quoted(list(recipe.head))}, but with pretrain.objective: "
            f"{recipe.objective} no layer may be wider than {widest:,}"
        )
    if not objective.restricts_encoders:
        return
    _teachable(params, "pretrain.encoder", recipe.encoder, recipe.width, recipe.stem, size)
    for text in _classifiers(params).values():
        name, train = ClassifierName.parse(text), params.train
        if name.initial == PRETRAINED and name.backbone != ENCODER:
            key = f"classifiers.backbones has {quoted(text)}"
            size = train.image_size or params.corpus.image_size
            _teachable(params, key, name.backbone, train.width, train.stem, size)


def _teachable(params: Params, key: str, name: str, width: int, stem: str, size: int) -> None:
    with torch.device("meta"):
        backbone = backbones.build(name, width, stem, size)
    try:
        OBJECTIVES[params.pretrain.objective].check_encoder(backbone)
    except UserError as error:
        raise type(error)(f"{key}: {error}") from None


def _classifier(params: Params, key: str, text: str) -> None:
    """Raise `UserError` unless the name of a classifier has a known backbone and head."""
    name, train = ClassifierName.parse(text), params.train
    if name.initial == PRETRAINED:
        _pretrained(params, key, text, name)
    if name.backbone != ENCODER:
        size = train.image_size or params.corpus.image_size
        _backbone(key, name.backbone, train.width, train.stem, size)
    if name.head not in HEADS:
        heads = [head for head in HEADS if head != LINEAR]
        words = ", ".join((PRETRAINED, CHECKPOINT, FROZEN, *heads, DISTILLED, NOISE))
        raise UserError(f"{key} is {quoted(text)}; behind + must stand one of {words}")


def _pretrained(params: Params, key: str, text: str, name: ClassifierName) -> None:
    """Raise `UserError` if there is nothing that a classifier could have been pretrained by."""
    memory, backbone = params.pretrain, name.backbone
    if name.head == PROJECTION and OBJECTIVES[memory.objective].middle is None:
        fitting = [other for other, objective in OBJECTIVES.items() if objective.middle]
        raise UserError(
            f"{key} is {quoted(text)}, but pretrain.objective is {memory.objective}, which keeps "
            f"no layer of its projection head: choose {' or '.join(fitting)}, or leave "
            f"+{PROJECTION} out"
        )
    if backbone == ENCODER:
        if memory.encoder == NO_ENCODER:
            raise UserError(
                f"{key} is {quoted(text)}, but pretrain.encoder is {NO_ENCODER}: name a backbone "
                "in one of the two"
            )
    elif not OBJECTIVES[memory.objective].trains:
        raise UserError(
            f"{key} is {quoted(text)}, but pretrain.objective is {memory.objective}, which "
            f"pretrains nothing: leave +{PRETRAINED} out, or write {ENCODER} for the memory's"
        )
    elif memory.init and backbone == memory.encoder:
        raise UserError(
            f"{key} is {quoted(text)}, but pretrain.init is the memory's alone: write {ENCODER} "
            "for its encoder, at its own input"
        )


def _backbone(key: str, name: str, width: int, stem: str, size: int, pool: str = "model") -> None:
    """Raise `UserError` unless there is such a backbone, for images of this size; 0 = unknown."""
    try:
        if name in backbones.BACKBONES:  # these take every size
            check_pool(pool, name)
        elif name.partition(":")[0] in backbones.PUBLISHED or not size:
            backbones.find(name)  # the size is checked when its configuration is read
        else:
            with torch.device("meta"):  # no weights: to try costs nothing
                backbones.build(name, width, stem, size, pool)
    except UserError as error:
        raise type(error)(f"{key}: {error}") from None


def _known(key: str, name: str, table: Iterable[str]) -> None:
    if name not in table:
        raise UserError(f"{key} is {quoted(name)}; it must be one of {', '.join(table)}")
