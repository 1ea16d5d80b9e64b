"""Stage pretrain: a self-supervised encoder, measured beside two floors."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import torch

from rapipe import paths
from rapipe.backbones import build
from rapipe.device import device
from rapipe.encoder import Encoder, EncoderSpec
from rapipe.errors import UserError
from rapipe.evaluation.features import describe, knn_accuracy, raw_pixels
from rapipe.fitting.base import History, Row, Schedule, fit
from rapipe.fitting.pretraining import Pretraining
from rapipe.fitting.speed import compile_network, precision_of
from rapipe.objectives import OBJECTIVES
from rapipe.params import Params
from rapipe.pipeline.inputs import corpus_card, fingerprint, labelled, write_csv, write_json
from rapipe.records import Images
from rapipe.views import VIEWS, Normalise

COLLAPSED_STD = 0.05
COLLAPSED_RANK = 1.5


def run(params: Params) -> None:
    """Write `data/encoder/`, and curves and scores into `results/pretraining/`."""
    recipe, card = params.pretrain, corpus_card()
    weight_of = {source.name: source.weight for source in params.corpus.sources}
    images, train, validation = (
        Images.read(paths.split("train")),
        labelled("train"),
        labelled("validation"),
    )
    spec = EncoderSpec(
        recipe.encoder,
        recipe.width,
        recipe.stem,
        params.corpus.image_size,
        tuple(card["mean"]),
        tuple(card["std"]),
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

    def measure(module: Pretraining) -> Row:
        online = Encoder(spec)
        online.backbone.load_state_dict(module.network.encoder.state_dict())
        row = scores(online.to(device()), train, validation)
        refuse_collapse(row, module.current_epoch + 1)
        return row

    module = Pretraining(
        OBJECTIVES[recipe.objective](backbone),
        VIEWS[recipe.views](spec.image_size),
        Normalise(spec.mean, spec.std),
        images,
        Schedule(recipe.epochs, recipe.batch_size, recipe.learning_rate, params.seed),
        np.array([weight_of[name] for name in images.sources.tolist()]),
    )
    precision = precision_of(params.train.precision, paths.PRECISION)
    if params.train.compile:
        compile_network(module, precision)
    history = History(measure)
    facts = {
        "recipe": asdict(recipe),
        "corpus": card["hash"],
        "weights": weight_of,
        "seed": params.seed,
        "precision": precision,
    }
    fit(module, [history], paths.CHECKPOINTS / f"pretrain-{fingerprint(facts)}", precision)

    trained = Encoder(spec, module.network.encoder.cpu())
    final = {**history.rows[-1], **floors}
    measured = {name: final[name] for name in ("knn_top1", *floors)}
    trained.write(paths.ENCODER, {**facts, "scores": measured})
    write_csv(paths.PRETRAINING / "history.csv", [{**row, **floors} for row in history.rows])
    write_json(paths.PRETRAINING / "scores.json", final)


def scores(encoder: Encoder, train: Images, validation: Images) -> Row:
    """kNN accuracy on validation, feature spread and effective rank."""
    return describe(
        train, encoder.embed(train.pixels), validation, encoder.embed(validation.pixels)
    )


def refuse_collapse(row: Row, epoch: int) -> None:
    """Raise `UserError` if all images have (nearly) the same features."""
    if row["feature_std"] < COLLAPSED_STD or row["effective_rank"] < COLLAPSED_RANK:
        raise UserError(
            f"pretraining collapsed in epoch {epoch}: feature_std {row['feature_std']:.3f} "
            f"(at least {COLLAPSED_STD}), effective rank {row['effective_rank']:.2f} (at least "
            f"{COLLAPSED_RANK}); lower pretrain.learning_rate, raise pretrain.batch_size, or "
            "choose other pretrain.views"
        )
