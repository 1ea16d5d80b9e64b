"""Stage initialise: what each classifier starts from: nothing, or weights pretrained somewhere.

Pretraining takes long, so weights are also kept in `data/cache`, by what they were made from.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rapipe import paths
from rapipe.config.names import (
    CHECKPOINT,
    ENCODER,
    PRETRAINED,
    PROJECTION,
    SCRATCH,
    ClassifierName,
    init_of,
)
from rapipe.config.schema import Params
from rapipe.encoder import checkpoints
from rapipe.encoder.encoder import Encoder, EncoderSpec
from rapipe.encoder.initial_weights import copy_projection, write_projection
from rapipe.io import weights
from rapipe.io.atomic import atomic_write
from rapipe.io.checksums import is_intact
from rapipe.io.folders import atomic_folder
from rapipe.io.tables import fingerprint, read_json, write_csv, write_json
from rapipe.io.text import expand_home
from rapipe.pipeline import pretrain
from rapipe.pipeline.inputs import PARAMS, checked, initial_facts, present_encoder
from rapipe.pipeline.pretrain import Source
from rapipe.pipeline.running.argument_keys import argument_keys
from rapipe.pipeline.running.ranks import on_ranks
from rapipe.progress import say
from rapipe.training import ranks
from rapipe.training.precision import precision_of

READS = (paths.CORPUS, paths.ENCODER)
WRITES = (paths.INITIAL,)


KEYS = {
    **pretrain.KEYS,
    "init": "classifiers.init",
    "width": "train.width",
    "stem": "train.stem",
    "image_size": "train.image_size",
}


@argument_keys(**KEYS)
def run(params: Params) -> None:
    """Write `data/initial/`."""
    with atomic_folder(paths.INITIAL) as folder:
        for path, text in _folders(params):
            initialise(params, text, folder / path)


def _folders(params: Params) -> Iterator[tuple[str, str]]:
    """Each folder with the name of its classifier; a teacher's lies in its student's."""
    for text in params.classifiers.backbones:
        yield text, text
        if ClassifierName.parse(text).distilled:
            yield f"{text}/{paths.TEACHER}", params.classifiers.distill


def initialise(params: Params, text: str, folder: Path) -> None:
    """Write what this classifier starts from, and what it alone needs to know."""
    name, grid, card = ClassifierName.parse(text), params.classifiers, {}
    if name.initial != SCRATCH:
        cached = weights_of(params, name)
        for file in (weights.WEIGHTS, weights.CARD):
            atomic_write(folder / file, (cached / file).read_bytes())
        if name.head == PROJECTION:
            copy_projection(cached, folder)
        card = read_json(folder / weights.CARD, "initialise")
    facts = {
        "noise_std": grid.noise_std if name.noisy else 0.0,
        "teacher": grid.distill if name.distilled else "",
        "temperature": grid.distill_temperature if name.distilled else 0.0,
    }
    teacher: dict[str, Any] = {}
    teacher_noise: float | bool = False
    if name.distilled:
        its_name = ClassifierName.parse(grid.distill)
        teacher = facts_of(params, its_name)
        teacher_noise = its_name.noisy and grid.noise_std
    key = fingerprint([card.get("spec"), card.get("hash"), facts, teacher, teacher_noise])
    made_with = initial_facts(params, text, precision_of(params.train.precision, paths.PRECISION))
    write_json(folder / weights.CARD, {**card, **facts, "key": key, PARAMS: made_with})


def facts_of(params: Params, name: ClassifierName) -> dict[str, Any]:
    """All that decides the weights; nothing for those from scratch."""
    if name.initial == SCRATCH:
        return {}
    if name.backbone == ENCODER:
        card = present_encoder(params)
        return {"spec": card["spec"], "hash": card["hash"]}
    source = source_of(params, name)
    if name.initial == PRETRAINED:
        return {"spec": asdict(source.spec), **pretrain.facts_of(params, source)}
    init = init_of(params.classifiers.init, name.backbone)
    path = expand_home(init)
    file = path / weights.CARD if path.is_dir() else path  # a card has its weights' hash
    content = file.read_bytes() if file.is_file() else b""
    digest = hashlib.sha256(content).hexdigest()
    return {"spec": asdict(source.spec), "init": init, "sha256": digest}


def source_of(params: Params, name: ClassifierName) -> Source:
    """What network it is; pretrained on ours, it starts from random weights."""
    train = params.train
    spec = pretrain.spec_of(params, name.backbone, train.width, train.stem, train.image_size)
    network = {"encoder": name.backbone, "width": spec.width, "stem": spec.stem, "init": ""}
    network["keep_every"] = 0  # encoders on the way are kept of the memory's alone
    return Source(spec, parameters={f"pretrain.{key}": value for key, value in network.items()})


def weights_of(params: Params, name: ClassifierName) -> Path:
    """A folder with the weights: made before, those of the encoder, or made now."""
    folder = paths.INITIAL_CACHE / fingerprint(facts_of(params, name))
    if not is_intact(folder):
        with atomic_folder(folder) as part:
            if name.backbone == ENCODER:
                copy_encoder(part)
            elif name.initial == CHECKPOINT:
                init = init_of(params.classifiers.init, name.backbone)
                write_checkpoint(init, source_of(params, name).spec, part)
            else:
                write_pretrained(params, source_of(params, name), part)
    return folder


def copy_encoder(folder: Path) -> None:
    """Write the memory's encoder, and the first layer of its projection head, if it is kept."""
    Encoder.read(checked(paths.ENCODER)).write(folder, {})
    copy_projection(paths.ENCODER, folder)


def write_pretrained(params: Params, source: Source, folder: Path) -> None:
    """Write this backbone pretrained on the corpus: the encoder, if that is the same."""
    facts = pretrain.facts_of(params, source)
    card = weights.read_card(checked(paths.ENCODER), "pretrain")
    made_with = {**(card.get(PARAMS) or {}), "pretrain.keep_every": 0}
    if fingerprint([card["spec"], made_with]) == fingerprint([asdict(source.spec), facts]):
        copy_encoder(folder)
        return
    say(f"pretraining {source.spec.backbone} to start from")
    pretrain_from_random(params, source, folder)


@argument_keys(**KEYS)
def pretrain_from_random(params: Params, source: Source, folder: Path) -> None:
    """Write this backbone pretrained on the corpus, on the devices of one machine."""
    recipe = replace(params.pretrain.recipe, nodes=1)
    if on_ranks(pretrain_from_random, recipe, params, source, folder):
        return
    result = pretrain.pretrained(params, source)
    if ranks.rank():
        return
    result.encoder.write(folder, {})
    write_projection(folder, result.projection)
    write_csv(folder / "history.csv", [{**row, **result.scores} for row in result.history])
    shutil.rmtree(pretrain.checkpoints_of(params, source))


def write_checkpoint(init: str, spec: EncoderSpec, folder: Path) -> None:
    """Write the weights of a checkpoint, as those of this backbone."""
    backbone = spec.build()
    say(checkpoints.fill(backbone, checkpoints.read(init), init))
    weights.write(folder, backbone, spec, {})
