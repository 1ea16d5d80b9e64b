"""Stage pretrain: an encoder pretrained on the corpus, measured beside two baselines."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np

from rapipe import paths
from rapipe.config import deciding
from rapipe.config.schema import Params
from rapipe.encoder.encoder import EncoderSpec
from rapipe.io import weights
from rapipe.io.folders import atomic_folder
from rapipe.io.provenance import Facts
from rapipe.io.tables import fingerprint, write_csv, write_json
from rapipe.pipeline.inputs import PARAMS, images_of, labelled, present_corpus
from rapipe.pipeline.running.argument_keys import argument_keys, keys_of
from rapipe.pipeline.running.check_names import check_memory
from rapipe.pretraining.pretrain import PretrainedEncoder, pretrain
from rapipe.specs import PretrainingRecipe
from rapipe.training.precision import precision_of

READS = (paths.CORPUS,)
WRITES = (paths.ENCODER, paths.PRETRAINING)

KEYS = {
    **keys_of("pretrain", PretrainingRecipe),
    "compile": "train.compile",
    "encoder": "pretrain.encoder",
    "image_size": "corpus.image_size",
    "images": "corpus.sources",
    "weights": "corpus.sources: the weights",
    "k": "retrieval.k",
    "bank": "retrieval.bank",
}


@argument_keys(**KEYS)
def run(params: Params) -> None:
    """Write `data/encoder/`, and curves and scores into `results/pretraining/`."""
    network = params.pretrain
    spec = spec_of(params, network.encoder, network.width, network.stem)
    check_memory(params)
    result = pretrained(params, spec)
    with atomic_folder(paths.ENCODER) as folder:
        result.encoder.write(folder, {PARAMS: facts_of(params, spec), "scores": result.scores})
        encoder = weights.fingerprint(weights.read_card(folder, "pretrain"))
    with atomic_folder(paths.PRETRAINING) as folder:
        write_csv(folder / "history.csv", result.history)
        scores = {**result.history[-1], **result.scores, "encoder": encoder}
        write_json(folder / "scores.json", scores)
    shutil.rmtree(checkpoints_of(params, spec))


def pretrained(params: Params, spec: EncoderSpec) -> PretrainedEncoder:
    """Pretrain a backbone by `pretrain.*`; resumes where it was interrupted."""
    images = images_of("train")
    weight_of = {source.name: source.weight for source in params.corpus.sources}
    return pretrain(
        images,
        labelled("validation"),
        spec,
        params.pretrain.recipe,
        weights=np.array([weight_of[name] for name in images.sources.tolist()]),
        seed=params.seed,
        precision=precision_of(params.train.precision, paths.PRECISION),
        compile=params.train.compile,
        checkpoints=checkpoints_of(params, spec),
    )


def spec_of(params: Params, backbone: str, width: int, stem: str) -> EncoderSpec:
    """A network for images of the present corpus."""
    card = present_corpus(params)
    mean, std = tuple(card["mean"]), tuple(card["std"])
    return EncoderSpec(backbone, width, stem, params.corpus.image_size, mean, std)


def facts_of(params: Params, spec: EncoderSpec) -> Facts:
    """All that decides what pretraining makes."""
    precision = precision_of(params.train.precision, paths.PRECISION)
    return {
        "corpus": present_corpus(params)["hash"],
        **deciding.of_encoder(params, precision),
        "pretrain.encoder": spec.backbone,
        "pretrain.width": spec.width,
        "pretrain.stem": spec.stem,
    }


def checkpoints_of(params: Params, spec: EncoderSpec) -> Path:
    """From where this pretraining goes on."""
    return paths.CHECKPOINTS / f"pretrain-{fingerprint([asdict(spec), facts_of(params, spec)])}"
