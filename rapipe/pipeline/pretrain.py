"""Stage pretrain: a self-supervised encoder, measured beside two floors."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rapipe import paths
from rapipe.batches.transforms import VIEWS, Normalise
from rapipe.config.schema import Params
from rapipe.device import device
from rapipe.encoder.backbones import build
from rapipe.encoder.encoder import Encoder, EncoderSpec
from rapipe.encoder.scores import describe, knn_accuracy, linear_accuracy, raw_pixels
from rapipe.errors import UserError
from rapipe.io.folders import atomic_folder
from rapipe.io.tables import fingerprint, write_csv, write_json
from rapipe.pipeline.inputs import corpus_card, images_of, labelled
from rapipe.pipeline.running.check_names import check_memory
from rapipe.pretraining.module import PretrainingModule
from rapipe.pretraining.objectives import OBJECTIVES, Recipe
from rapipe.progress import say
from rapipe.records import Images
from rapipe.training.callbacks import History, Row
from rapipe.training.compilation import compile_network
from rapipe.training.loop import fit
from rapipe.training.module import Schedule
from rapipe.training.precision import precision_of

READS = (paths.CORPUS,)
WRITES = (paths.ENCODER, paths.PRETRAINING)

COLLAPSED_STD = 0.05
COLLAPSED_RANK = 1.5


def run(params: Params) -> None:
    """Write `data/encoder/`, and curves and scores into `results/pretraining/`."""
    check_memory(params)
    recipe = params.pretrain
    made = pretrained(params, spec_of(params, recipe.encoder, recipe.width, recipe.stem))
    with atomic_folder(paths.ENCODER) as folder:
        made.encoder.write(folder, {**made.facts, "scores": made.scores})
    with atomic_folder(paths.PRETRAINING) as folder:
        write_csv(folder / "history.csv", made.history)
        write_json(folder / "scores.json", {**made.history[-1], **made.scores})
    made.done()


@dataclass(frozen=True)
class Pretrained:
    """An encoder, how it was made, and how good it is."""

    encoder: Encoder
    facts: dict[str, Any]
    """All that decides what its weights are, but the spec."""
    scores: Row
    history: list[Row]
    """A row an epoch, with the floors."""
    checkpoints: Path

    def done(self) -> None:
        """What it would resume from may go, now that it is written."""
        shutil.rmtree(self.checkpoints)


def spec_of(params: Params, backbone: str, width: int, stem: str) -> EncoderSpec:
    """The spec of an encoder of the present corpus."""
    card = corpus_card()
    mean, std = tuple(card["mean"]), tuple(card["std"])
    return EncoderSpec(backbone, width, stem, params.corpus.image_size, mean, std)


def facts_of(params: Params, spec: EncoderSpec, precision: str) -> dict[str, Any]:
    """All that decides what pretraining makes, but the spec."""
    own = {"encoder": spec.backbone, "width": spec.width, "stem": spec.stem}
    return {
        "recipe": {**asdict(params.pretrain), **own},
        "corpus": corpus_card()["hash"],
        "weights": {source.name: source.weight for source in params.corpus.sources},
        "seed": params.seed,
        "precision": precision,
    }


def pretrained(params: Params, spec: EncoderSpec) -> Pretrained:
    """Pretrain a backbone by `pretrain.*`; resumes where it was interrupted."""
    recipe, classes = params.pretrain, tuple(corpus_card()["classes"])
    images, train, validation = (
        images_of("train"),
        labelled("train"),
        labelled("validation"),
    )
    torch.manual_seed(params.seed)
    encoder = Encoder(spec).to(device())
    floors = {
        "random_init_knn_top1": scores(encoder, train, validation)["knn_top1"],
        "raw_pixels_knn_top1": knn_accuracy(
            train, raw_pixels(train), validation, raw_pixels(validation)
        ),
    }
    backbone = build(spec.backbone, spec.width, spec.stem, spec.image_size)
    backbone.load_state_dict(encoder.backbone.state_dict())

    def measure(module: PretrainingModule) -> Row:
        online = Encoder(spec)
        online.backbone.load_state_dict(module.network.encoder.state_dict())
        row = scores(online.to(device()), train, validation)
        if module.network.may_collapse:
            refuse_collapse(row, module.current_epoch + 1)
        return row

    precision = precision_of(params.train.precision, paths.PRECISION)
    facts = facts_of(params, spec, precision)
    objective = OBJECTIVES[recipe.objective](
        backbone, Recipe(spec.image_size, len(classes), recipe.head, recipe.temperature)
    )
    if objective.caution:
        say(f"{recipe.objective}: {objective.caution}")
    module = PretrainingModule(
        objective,
        VIEWS[recipe.views](spec.image_size),
        Normalise(spec.mean, spec.std),
        images,
        Schedule(recipe.epochs, recipe.batch_size, recipe.learning_rate, params.seed),
        np.array([facts["weights"][name] for name in images.sources.tolist()]),
        recipe.optimiser,
    )
    if params.train.compile:
        compile_network(module, precision)
    history = History(measure)
    checkpoints = paths.CHECKPOINTS / f"pretrain-{fingerprint([asdict(spec), facts])}"
    fit(module, [history], checkpoints, precision, keep=True)
    trained = Encoder(spec, module.network.encoder.cpu())
    return Pretrained(
        trained,
        facts,
        {**final(trained, history.rows[-1], train, validation), **floors},
        [{**row, **floors} for row in history.rows],
        checkpoints,
    )


def scores(encoder: Encoder, train: Images, validation: Images) -> Row:
    """kNN accuracy on validation, feature spread and effective rank."""
    return describe(
        train, encoder.embed(train.pixels), validation, encoder.embed(validation.pixels)
    )


def final(encoder: Encoder, last: Row, train: Images, validation: Images) -> Row:
    """Accuracy on validation of the neighbours' vote, and of a linear classifier."""
    here = encoder.to(device())
    linear = linear_accuracy(
        train, here.embed(train.pixels), validation, here.embed(validation.pixels)
    )
    encoder.cpu()
    return {"knn_top1": last["knn_top1"], "linear_top1": linear}


def refuse_collapse(row: Row, epoch: int) -> None:
    """Raise `UserError` if all images have (nearly) the same features."""
    if row["feature_std"] < COLLAPSED_STD or row["effective_rank"] < COLLAPSED_RANK:
        raise UserError(
            f"pretraining collapsed in epoch {epoch}: feature_std {row['feature_std']:.3f} "
            f"(at least {COLLAPSED_STD}), effective rank {row['effective_rank']:.2f} (at least "
            f"{COLLAPSED_RANK}); lower pretrain.learning_rate, raise pretrain.batch_size, or "
            "choose other pretrain.views"
        )
