"""`pretrain`: images -> an encoder that was pretrained on them, measured beside two baselines.

Letters: N images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rapipe.device import device
from rapipe.encoder.backbones import Backbone
from rapipe.encoder.encoder import Encoder, EncoderSpec, NotFinite
from rapipe.encoder.imported import ImportedVectors
from rapipe.encoder.scores import describe, knn_accuracy, linear_accuracy, raw_pixels
from rapipe.errors import ArgumentError
from rapipe.pretraining.collapse import CollapseCheck
from rapipe.pretraining.kept import KeptEncoders, folders_by_epoch
from rapipe.pretraining.module import PretrainingModule
from rapipe.pretraining.objectives import OBJECTIVES, Objective, ObjectiveSpec
from rapipe.pretraining.pictures import Pictures, pictures_of
from rapipe.progress import say
from rapipe.records import UNLABELLED, Images, Vectors
from rapipe.specs import PretrainingRecipe
from rapipe.training import ranks
from rapipe.training.callbacks import History, Row
from rapipe.training.compilation import compile_network
from rapipe.training.loop import fit
from rapipe.training.module import Weights
from rapipe.training.precision import precision_of

SCORED = 10_000
"""Labelled images of a split that features are scored on, at most; drawn where there are more."""
KEPT = "epochs"
"""Folder of the encoders that are kept on the way, in that of checkpoints."""


@dataclass(frozen=True)
class PretrainedEncoder:
    """An encoder, how it came about, and how good it is."""

    encoder: Encoder
    scores: Row
    """On validation, 0 to 1, of at most SCORED labelled images a split: `knn_top1` and
    `linear_top1` of its features, and `knn_top1` of two baselines: `random_init_knn_top1` (the
    same network with random weights) and `raw_pixels_knn_top1`."""
    history: list[Row]
    """A row an epoch: epoch, step, images_seen, loss, what the objective measured, knn_top1,
    feature_std, effective_rank, and the baselines; without pretraining one row of epoch 0, whose
    loss is nan."""
    pictures: Pictures = field(default_factory=dict)
    """Of a few validation images: attention maps and reconstructions, where there are any."""
    projection: dict[str, Tensor] | None = None
    """Weights of the first layer of the projection head, if classifiers may start from it."""
    kept: dict[int, Path] = field(default_factory=dict)
    """Folders of encoders on the way, in `checkpoints`, by epoch."""


def pretrain(
    images: Images,
    validation: Images,
    spec: EncoderSpec | None = None,
    recipe: PretrainingRecipe | None = None,
    *,
    initial: Backbone | None = None,
    weights: Weights | None = None,
    seed: int = 0,
    precision: str = "auto",
    compile: bool = False,
    checkpoints: Path | None = None,
) -> PretrainedEncoder:
    """Pretrain an encoder on images, by a self-supervised objective or a supervised one.

        >>> encoder = pretrain(splits["train"], splits["validation"]).encoder
        >>> vectors = encoder.embed(images.pixels)

    Args:
        images: N of them; their labels, if they have any, are used by the objective `supervised`
            alone, and for the scores.
        validation: labelled images that the features are scored on; nothing is chosen by them.
        spec: a ResNet-18 of width 16 unless given.
        initial: the same network with the weights to go on from, or, with the objective `none`,
            to keep; random ones unless given.
        weights: (N,) how often an epoch sees each image; once unless given.
        precision: `bf16`, `fp32`, or `auto`: whichever is faster here.
        checkpoints: as of `train_classifier`; a recipe that keeps encoders needs it.

    Raises:
        ArgumentError: the recipe contradicts itself, training diverges, features collapse, or
            torch cannot compile the network.
    """
    spec, recipe = spec or EncoderSpec.of(images), recipe or PretrainingRecipe()
    ranks.join(recipe.devices, recipe.nodes)
    train, validation = _scored(images), _scored(validation)
    torch.manual_seed(seed)
    encoder = Encoder(spec).to(device())
    raw = raw_pixels(train.pixels), raw_pixels(validation.pixels)
    baselines = {
        "random_init_knn_top1": score(encoder, train, validation)["knn_top1"],
        "raw_pixels_knn_top1": knn_accuracy(train, raw[0], validation, raw[1]),
    }
    collapse = CollapseCheck(images, encoder)
    if initial is not None:
        encoder = Encoder(spec, initial).to(device())
    objective = _objective(encoder, recipe, len(images.classes))
    if objective.trains:
        weights = np.ones(len(images)) if weights is None else weights
        module = PretrainingModule(objective, images, encoder.preprocess, recipe, seed, weights)
        if compile:
            compile_network(module, precision_of(precision))
        measure = partial(_measure, check=collapse, spec=spec, train=train, validation=validation)
        history = History(measure)
        callbacks = [history, *_kept(spec, recipe, checkpoints)]
        fit(module, callbacks, checkpoints, precision_of(precision), keep=True)
        encoder = Encoder(spec, objective.encoder).to(device())
    kept = folders_by_epoch(checkpoints / KEPT) if checkpoints and recipe.keep_every else {}
    rows = history.rows if objective.trains else []
    return _result(encoder, objective, rows, train, validation, baselines, kept)


def _result(
    encoder: Encoder,
    objective: Objective,
    rows: list[Row],
    train: Images,
    validation: Images,
    baselines: Row,
    kept: dict[int, Path],
) -> PretrainedEncoder:
    """An encoder with its scores, and what else is left of its pretraining."""
    vectors = encoder.embed(train.pixels), encoder.embed(validation.pixels)
    rows = rows or [_untrained(train, validation, *vectors)]
    scores = {
        "knn_top1": rows[-1]["knn_top1"],
        "linear_top1": linear_accuracy(train, vectors[0], validation, vectors[1]),
        **baselines,
    }
    pictures = pictures_of(encoder, objective, validation)
    projection = objective.middle.cpu().state_dict() if objective.middle else None
    history = [{**row, **baselines} for row in rows]
    return PretrainedEncoder(encoder.cpu(), scores, history, pictures, projection, kept)


def _kept(
    spec: EncoderSpec, recipe: PretrainingRecipe, checkpoints: Path | None
) -> list[KeptEncoders]:
    """The callback that keeps encoders, if any are to be kept."""
    if not recipe.keep_every:
        return []
    if checkpoints is None:
        raise ArgumentError(
            f"`keep_every` is {recipe.keep_every}, but without `checkpoints` there is no folder "
            "to keep encoders in: give one, or set it to 0"
        )
    return [KeptEncoders(spec, checkpoints / KEPT, recipe.keep_every)]


def score_vectors(
    train: Images, validation: Images, imported: ImportedVectors
) -> tuple[list[Row], Row]:
    """The history and the scores that `pretrain` returns, of vectors without an encoder.

    There are no random weights to compare them with: that baseline is nan.
    """
    train, validation = _scored(train), _scored(validation)
    raw = raw_pixels(train.pixels), raw_pixels(validation.pixels)
    baselines = {
        "random_init_knn_top1": math.nan,
        "raw_pixels_knn_top1": knn_accuracy(train, raw[0], validation, raw[1]),
    }
    vectors = imported.embed(train.pixels), imported.embed(validation.pixels)
    row = _untrained(train, validation, *vectors)
    linear = linear_accuracy(train, vectors[0], validation, vectors[1])
    scores = {"knn_top1": row["knn_top1"], "linear_top1": linear, **baselines}
    return [{**row, **baselines}], scores


def _scored(images: Images) -> Images:
    """The labelled images, or SCORED of them."""
    rows = np.flatnonzero(images.labels != UNLABELLED)
    if len(rows) > SCORED:
        rows = np.sort(np.random.default_rng(0).permutation(rows)[:SCORED])
    return images if len(rows) == len(images) else images.take(rows)


def _untrained(train: Images, validation: Images, *vectors: Vectors) -> Row:
    """The history of an encoder that takes no step."""
    row = {"epoch": 0, "step": 0, "images_seen": 0, "loss": math.nan}
    return {**row, **describe(train, vectors[0], validation, vectors[1])}


def _objective(encoder: Encoder, recipe: PretrainingRecipe, classes: int) -> Objective:
    """The objective around a backbone with the encoder's weights."""
    spec = encoder.spec
    backbone = spec.build()
    backbone.load_state_dict(encoder.backbone.state_dict())
    objective = OBJECTIVES[recipe.objective](
        backbone,
        ObjectiveSpec(
            spec.image_size, classes, recipe.head, recipe.temperature, recipe.local_crops
        ),
    )
    if objective.caution:
        say(f"{recipe.objective}: {objective.caution}")
    return objective


def _measure(
    module: PretrainingModule,
    check: CollapseCheck,
    spec: EncoderSpec,
    train: Images,
    validation: Images,
) -> Row:
    online = Encoder(spec).to(device())
    online.backbone.load_state_dict(module.network.encoder.state_dict())
    try:
        check.refuse(online, module)
        measured = {name: module.pop_mean(name) for name in module.network.measured}
        return {**measured, **score(online, train, validation)}
    except NotFinite:
        module.refuse_divergence("the features of an image became nan or infinite")


def score(encoder: Encoder, train: Images, validation: Images) -> Row:
    """kNN accuracy on validation, feature spread and effective rank."""
    return describe(
        train, encoder.embed(train.pixels), validation, encoder.embed(validation.pixels)
    )
