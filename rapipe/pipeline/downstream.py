"""`rapipe downstream`: accuracy against epochs of pretraining, of the encoders that were kept.

What is measured of each encoder is kept in `results/downstream/`, so that several stand in one
figure: pretrain another one, and run the command again.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rapipe import paths
from rapipe.config.schema import Params
from rapipe.corpus.labels import visible_label_mask
from rapipe.encoder.encoder import Encoder
from rapipe.errors import UserError
from rapipe.evaluation.downstream import Row, as_it_is, fine_tuned
from rapipe.evaluation.uses import FINE_TUNED, PROBE, VOTE
from rapipe.io.atomic import atomic_write
from rapipe.io.provenance import Facts
from rapipe.io.tables import fingerprint, write_checksummed
from rapipe.pipeline.inputs import (
    PARAMS,
    checked,
    labelled,
    present_encoder,
    query_images,
    read_result,
)
from rapipe.pipeline.pretraining_results import read_curves
from rapipe.pipeline.running.argument_keys import argument_keys, keys_of
from rapipe.pretraining.kept import folders_by_epoch
from rapipe.progress import say
from rapipe.records import UNLABELLED, Images
from rapipe.report import style
from rapipe.report.downstream import accuracy_by_pretraining
from rapipe.specs import TrainingRecipe
from rapipe.specs import deciding as decisive
from rapipe.training.precision import precision_of

READS = (paths.CORPUS, paths.ENCODER)
WRITES = (paths.DOWNSTREAM,)
FIGURE = paths.DOWNSTREAM / "accuracy.png"


@argument_keys(**keys_of("train", TrainingRecipe))
def run(params: Params, fine_tune: bool = False) -> list[dict[str, Any]]:
    """Measure each encoder that was kept, and draw all that have been; returns the rows.

    What has been measured is not measured again.

    Args:
        fine_tune: also train a classifier from each, once a seed of `classifiers.seeds`.

    Raises:
        UserError: no encoders were kept on the way.
    """
    card = present_encoder(params)
    kept = folders_by_epoch(checked(paths.ENCODER) / paths.ENCODER_EPOCHS.name)
    if not kept:
        raise UserError(
            f"{paths.ENCODER} holds no encoders of epochs on the way: set pretrain.keep_every, "
            "such as to 5, and run rapipe pretrain"
        )
    facts = {**card[PARAMS], "train.label_fraction": params.train.label_fraction}
    path = paths.DOWNSTREAM / f"{params.pretrain.objective}-{fingerprint(facts)[:8]}.json"
    training = training_facts(params)
    rows = measured(path, facts, training)
    images = images_by_split(params)
    for epoch, folder in kept.items():
        uses = {row["use"] for row in rows if row["epoch"] == epoch}
        new: list[Row] = []
        if not {VOTE, PROBE} <= uses:
            new += as_it_is(Encoder.read(folder), images, params.seed)
        if fine_tune and FINE_TUNED not in uses:
            new.append(_fine_tuned(params, folder, images, [facts, training, epoch]))
        if new:
            rows += [{"epoch": epoch, **row} for row in new]
            write_checksummed(path, {"facts": facts, "training": training, "rows": rows})
            accuracies = ", ".join(f"{row['use']} {row['top1']:.1%}" for row in new)
            say(f"after {epoch} epochs of pretraining: {accuracies}")
    curves = read_curves(params)
    figure = accuracy_by_pretraining(curves)
    assert figure is not None
    atomic_write(FIGURE, style.png(figure))
    say(f"{FIGURE} shows it; rapipe report puts it on the page")
    return [{"encoder": curve.name, **row} for curve in curves for row in curve.rows]


def _fine_tuned(params: Params, folder: Path, images: dict[str, Images], facts: Any) -> Row:
    checkpoints = paths.CHECKPOINTS / f"downstream-{fingerprint(facts)}"
    recipe = params.train.recipe
    recipe = replace(
        recipe,
        precision=precision_of(recipe.precision, paths.PRECISION),
        loggers=(),
        tune=(),
        devices=1,
        nodes=1,
    )
    seeds = params.classifiers.seeds
    row = fine_tuned(Encoder.read(folder), images, recipe, seeds, params.seed, checkpoints)
    shutil.rmtree(checkpoints, ignore_errors=True)
    return row


def training_facts(params: Params) -> Facts:
    """All that decides a fine-tuned classifier, besides what it starts from."""
    train = params.train.recipe
    facts = {f"train.{name}": value for name, value in decisive(train).items()}
    return {**facts, "train.tune": [], "classifiers.seeds": list(params.classifiers.seeds)}


def measured(path: Path, facts: Facts, training: Facts) -> list[Row]:
    """The rows that are there, without those of classifiers that were trained otherwise."""
    if not path.exists():
        return []
    content = read_result(path)
    same = fingerprint(content["training"]) == fingerprint(training)
    return [row for row in content["rows"] if same or row["use"] != FINE_TUNED]


def images_by_split(params: Params) -> dict[str, Images]:
    """Labelled images; of train those whose label is visible."""
    train = query_images("train", unlabelled=False)
    visible = visible_label_mask(train.ids, train.labels, params.train.label_fraction, params.seed)
    train = replace(train, labels=np.where(visible, train.labels, UNLABELLED))
    return {"train": train, **{split: labelled(split) for split in ("validation", "test")}}
