"""Stage pretrain: an encoder pretrained on the corpus, measured beside two baselines."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from rapipe import paths
from rapipe.config import deciding
from rapipe.config.schema import IMPORTED, Params
from rapipe.cores import busy_cores
from rapipe.device import deterministic, device
from rapipe.encoder import checkpoints
from rapipe.encoder.backbones import BACKBONES, PUBLISHED, Backbone
from rapipe.encoder.encoder import EncoderSpec
from rapipe.encoder.imported import ImportedVectors
from rapipe.encoder.initial_weights import write_projection
from rapipe.io import weights
from rapipe.io.atomic import atomic_write
from rapipe.io.folders import atomic_folder
from rapipe.io.provenance import Facts
from rapipe.io.tables import fingerprint, without_nan, write_csv, write_json
from rapipe.pipeline.inputs import (
    PARAMS,
    checked,
    images_of,
    imported_vectors,
    labelled,
    present_corpus,
)
from rapipe.pipeline.running.argument_keys import argument_keys, keys_of
from rapipe.pipeline.running.check_names import check_memory
from rapipe.pipeline.running.ranks import on_ranks
from rapipe.progress import say
from rapipe.specs import NO_ENCODER, PretrainingRecipe
from rapipe.training import ranks
from rapipe.training.precision import precision_of

if TYPE_CHECKING:  # what trains imports Lightning, which takes seconds
    from rapipe.pretraining.pretrain import PretrainedEncoder
    from rapipe.training.callbacks import Row

READS = (paths.CORPUS,)
WRITES = (paths.ENCODER, paths.PRETRAINING)

KEYS = {
    **keys_of("pretrain", PretrainingRecipe),
    "compile": "train.compile",
    "encoder": "pretrain.encoder",
    "image_size": "pretrain.image_size",
    "pool": "pretrain.pool",
    "init": "pretrain.init",
    "images": "corpus.sources",
    "weights": "corpus.sources: the weights",
    "k": "retrieval.k",
    "bank": "retrieval.bank",
}


BUSY = 0.5
"""Cores of other processes from which on threads wait for long."""
UNMEASURED = ("loss", "random_init_knn_top1")
"""What an encoder that is not trained lacks, or a memory without one."""


@argument_keys(**KEYS)
def run(params: Params) -> None:
    """Write `data/encoder/`, and curves and scores into `results/pretraining/`."""
    if on_ranks(run, params.pretrain, params):
        return
    present_corpus(params)
    check_memory(params)
    if params.pretrain.encoder == NO_ENCODER:
        write_imported(params)
        return
    source = Source.of(params)
    result = pretrained(params, source)
    if ranks.rank():
        return
    facts: Facts = {PARAMS: facts_of(params, source), "scores": result.scores}
    if ranks.count() > 1:
        facts["ranks"] = ranks.count()
    if source.published:
        facts["published"] = source.published
    if params.pretrain.objective == IMPORTED:
        facts |= imported_vectors()
    with atomic_folder(paths.ENCODER) as folder:
        result.encoder.write(folder, facts)
        write_projection(folder, result.projection)
        _write_extras(folder, result)
        encoder = weights.fingerprint(weights.read_card(folder, "pretrain"))
    _write_results(result.history, result.scores, encoder)
    shutil.rmtree(checkpoints_of(params, source), ignore_errors=True)


def _write_extras(folder: Path, result: PretrainedEncoder) -> None:
    """Write the encoders that were kept on the way, and pictures, if there are any."""
    for kept in result.kept.values():
        shutil.copytree(kept, folder / paths.ENCODER_EPOCHS.name / kept.name)
    if result.pictures:
        from safetensors.numpy import save

        atomic_write(folder / paths.ENCODER_PICTURES.name, save(result.pictures))


def _write_results(history: list[Row], scores: Row, encoder: str) -> None:
    with atomic_folder(paths.PRETRAINING) as folder:
        write_csv(folder / "history.csv", [without_nan(row, *UNMEASURED) for row in history])
        content = without_nan({**history[-1], **scores}, *UNMEASURED)
        write_json(folder / "scores.json", {**content, "encoder": encoder})


@dataclass(frozen=True)
class Source:
    """A network, and the weights that its pretraining starts from."""

    spec: EncoderSpec
    init: str = ""
    """A checkpoint; empty for random weights."""
    published: Facts = field(default_factory=dict)
    """Where the checkpoint is from: init, revision, licence."""
    parameters: Facts = field(default_factory=dict)
    """Those of params.yaml that hold for another network than the memory's encoder."""

    @classmethod
    def of(cls, params: Params) -> Source:
        """The memory's encoder."""
        network = params.pretrain
        init = network.init
        if network.encoder.partition(":")[0] in PUBLISHED:
            init = init or network.encoder
        spec = spec_of(params, network.encoder, network.width, network.stem, network.image_size)
        spec = replace(spec, pool=network.pool, precision=network.precision)
        if not init:
            return cls(spec)
        described = checkpoints.describe(network.encoder, init)
        spec = replace(
            spec,
            image_size=network.image_size or described.image_size or spec.image_size,
            mean=described.mean,
            std=described.std,
            interpolation=described.interpolation,
            crop=described.crop,
            pool=network.pool if network.pool != "model" else described.pool,
            stem=network.stem if network.encoder in BACKBONES else "imagenet",  # its own patches
            config=described.config,
        )
        facts = {"init": init, "revision": described.revision, "licence": described.licence}
        return cls(spec, init, facts)

    def weights(self) -> Backbone | None:
        """The network with the checkpoint's weights; None to start from random ones."""
        if not self.init:
            return None
        backbone = self.spec.build()
        say(checkpoints.fill(backbone, checkpoints.read(self.init), self.init))
        return backbone


def pretrained(params: Params, source: Source) -> PretrainedEncoder:
    """Pretrain a backbone by `pretrain.*`; resumes where it was interrupted."""
    from rapipe.pretraining.pretrain import pretrain

    images = images_of("train")
    recipe = params.pretrain.recipe
    if source.parameters:  # not of the memory's encoder: only that is kept on the way
        recipe = replace(recipe, keep_every=0, nodes=1)
    weight_of = {group.name: group.weight for group in params.corpus.sources}
    tell_if_busy()
    with deterministic(params.train.deterministic):
        return pretrain(
            images,
            labelled("validation"),
            source.spec,
            recipe,
            initial=source.weights(),
            weights=np.array([weight_of[name] for name in images.sources.tolist()]),
            seed=params.seed,
            precision=precision_of(params.train.precision, paths.PRECISION),
            compile=params.train.compile,
            checkpoints=checkpoints_of(params, source),
        )


def tell_if_busy() -> None:
    """Say so where other processes slow threads down: these wait for one another at each step."""
    if device().type == "cpu" and torch.get_num_threads() > 1 and (busy := busy_cores()) > BUSY:
        say(f"other processes keep {busy:.1f} cores busy: with OMP_NUM_THREADS=1 this is faster")


def write_imported(params: Params) -> None:
    """Write the card of a memory without an encoder, and scores of its vectors."""
    from rapipe.pretraining.pretrain import score_vectors

    facts = {"corpus": present_corpus(params)["hash"], **deciding.of_encoder(params, None)}
    vectors = imported_vectors()
    train, validation = labelled("train"), labelled("validation")
    imported = ImportedVectors.read(checked(paths.VECTORS))
    history, scores = score_vectors(train, validation, imported)
    card = {
        "spec": {"backbone": NO_ENCODER},
        "hash": "",
        PARAMS: {**facts, **vectors},
        "scores": without_nan(scores, *UNMEASURED),
        **vectors,
    }
    with atomic_folder(paths.ENCODER) as folder:
        write_json(folder / weights.CARD, card)
    _write_results(history, scores, weights.fingerprint(card))


def spec_of(
    params: Params, backbone: str, width: int, stem: str, image_size: int = 0
) -> EncoderSpec:
    """A network for images of the present corpus.

    Args:
        image_size: that it sees; 0 = as they are.
    """
    card = present_corpus(params)
    mean, std = tuple(card["mean"]), tuple(card["std"])
    return EncoderSpec(backbone, width, stem, image_size or params.corpus.image_size, mean, std)


def facts_of(params: Params, source: Source) -> Facts:
    """All that decides what pretraining makes."""
    precision = precision_of(params.train.precision, paths.PRECISION)
    vectors = imported_vectors() if params.pretrain.objective == IMPORTED else {}
    return {
        "corpus": present_corpus(params)["hash"],
        **deciding.of_encoder(params, precision),
        **source.parameters,
        **vectors,
    }


def checkpoints_of(params: Params, source: Source) -> Path:
    """From where this pretraining goes on."""
    facts = [asdict(source.spec), facts_of(params, source), source.published]
    return paths.CHECKPOINTS / f"pretrain-{fingerprint(facts)}"
