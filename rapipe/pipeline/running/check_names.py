"""Names in the parameters against the tables of methods, before any work.

This module imports every table only to refuse; it changes no artefact. So the
stages do not declare what it imports, and a new method re-runs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from rapipe.batches.transforms import VIEWS
from rapipe.classifier.heads import HEADS
from rapipe.config.loading import load
from rapipe.config.names import DISTILLED, FROZEN, INITIAL_WEIGHTS, NOISE, parse_name
from rapipe.config.schema import Params, TrainParams
from rapipe.corpus.sources import SOURCES
from rapipe.encoder import backbones, checkpoints
from rapipe.errors import UserError
from rapipe.io.text import quoted
from rapipe.pipeline.inputs import images_of, query_images
from rapipe.pipeline.provenance import method_of
from rapipe.pretraining.objectives import OBJECTIVES, Recipe
from rapipe.pretraining.optimisers import OPTIMISERS
from rapipe.retrieval.bank import bank_of
from rapipe.retrieval.search import check_k
from rapipe.retrieval.strategies import STRATEGIES

WIDE = 8192
"""Of a projection head: most objectives have a square of its last width, in a layer or a loss."""
WIDEST = {"dino": 65_536}
"""Those that have none, by objective."""


def load_checked(path: Path) -> Params:
    """Parameters whose every name is known; `UserError` names the key, value and choices."""
    params = load(path)
    check(params)
    return params


def check(params: Params) -> None:
    """Raise `UserError` if a name in the parameters is not known."""
    for i, source in enumerate(params.corpus.sources):
        _known(f"corpus.sources[{i}].kind", source.kind, SOURCES)
    _known("pretrain.objective", params.pretrain.objective, OBJECTIVES)
    _encoder(params)
    _known("pretrain.views", params.pretrain.views, [name for name in VIEWS if name != "none"])
    _known("pretrain.optimiser", params.pretrain.optimiser, OPTIMISERS)
    for i, name in enumerate(params.retrieval.strategies):
        _known(f"retrieval.strategies[{i}]", name, STRATEGIES)
    method_of(params).check()
    for i, name in enumerate(params.train.backbones):
        _entry(params, f"train.backbones[{i}]", name)
    if params.train.distill:
        _entry(params, "train.distill", params.train.distill)
    if any(
        parse_name(name).start == "elsewhere"
        for name in (*params.train.backbones, *_teacher(params))
    ):
        checkpoints.check(params.train.init)
    _known("train.augment", params.train.augment, VIEWS)
    _tricks(params.train)


def check_memory(params: Params) -> None:
    """Raise `UserError` if the memory that the corpus will fill offers fewer than k neighbours.

    Before pretraining, which may take hours; prefetch, which comes after it, checks the memory
    that it finds.
    """
    train, asking_too = images_of("train"), bool(params.train.distill)
    every = np.full(len(train), "train")
    none = train.ids[:0]  # the corpus has taken out of train what is held out
    rows = bank_of(train.ids, train.sources, every, none, params.retrieval.bank, params.seed)
    check_k(params.retrieval.k, query_images("train", asking_too).ids, train.ids[rows])


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


def _teacher(params: Params) -> tuple[str, ...]:
    """The teacher's name, if there is one."""
    return (params.train.distill,) if params.train.distill else ()


def _encoder(params: Params) -> None:
    """Raise `UserError` if the objective cannot follow its recipe, or teach its backbone."""
    recipe, own = params.pretrain, OBJECTIVES[params.pretrain.objective]
    _backbone(params, "pretrain.encoder", recipe.encoder, recipe.width, recipe.stem)
    own.check(Recipe(params.corpus.image_size, 1, recipe.head, recipe.temperature))
    widest = WIDEST.get(recipe.objective, WIDE)
    if max(recipe.head, default=0) > widest:
        raise UserError(
            f"pretrain.head is {quoted(list(recipe.head))}, but with pretrain.objective: "
            f"{recipe.objective} no layer may be wider than {widest:,}"
        )
    if not own.particular:
        return
    _teachable(params, "pretrain.encoder", recipe.encoder, recipe.width, recipe.stem)
    for name in (*params.train.backbones, *_teacher(params)):
        if parse_name(name).start == "corpus":
            network, train = parse_name(name).network, params.train
            _teachable(
                params, f"train.backbones has {quoted(name)}", network, train.width, train.stem
            )


def _teachable(params: Params, key: str, name: str, width: int, stem: str) -> None:
    with torch.device("meta"):
        backbone = backbones.build(name, width, stem, params.corpus.image_size)
    try:
        OBJECTIVES[params.pretrain.objective].check_encoder(backbone)
    except UserError as error:
        raise UserError(f"{key}: {error}") from None


def _entry(params: Params, key: str, name: str) -> None:
    """Raise `UserError` unless a name of `train.backbones` has a known backbone and head."""
    own = parse_name(name)
    _backbone(params, key, own.network, params.train.width, params.train.stem)
    if own.head not in HEADS:
        heads = [head for head in HEADS if head != "linear"]
        words = ", ".join((*INITIAL_WEIGHTS, FROZEN, *heads, DISTILLED, NOISE))
        raise UserError(f"{key} is {quoted(name)}; behind + must stand one of {words}")


def _backbone(params: Params, key: str, name: str, width: int, stem: str) -> None:
    """Raise `UserError` unless there is such a backbone, for images of this size."""
    try:
        if name in backbones.BACKBONES:  # these take every size
            return
        with torch.device("meta"):  # no weights: to try costs nothing
            backbones.build(name, width, stem, params.corpus.image_size)
    except UserError as error:
        raise UserError(f"{key}: {error}") from None


def _known(key: str, name: str, table: Iterable[str]) -> None:
    if name not in table:
        raise UserError(f"{key} is {quoted(name)}; it must be one of {', '.join(table)}")
