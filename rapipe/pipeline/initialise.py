"""Stage initialise: the weights that each classifier starts from: none, or pretrained ones.

A folder that was made from the same before is kept: pretraining takes long.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rapipe import checkpoints, paths, weights
from rapipe.backbones import Backbone, build
from rapipe.encoder import Encoder, EncoderSpec
from rapipe.errors import UserError
from rapipe.fitting.speed import precision_of
from rapipe.params import Entry, Params, entry
from rapipe.pipeline.inputs import fingerprint, write_csv, write_json
from rapipe.pipeline.pretrain import facts_of, pretrained, spec_of
from rapipe.progress import say

SCRATCH = "scratch"


def run(params: Params) -> None:
    """Write `data/start/`."""
    paths.START.mkdir(parents=True, exist_ok=True)
    for folder in paths.START.iterdir():
        if folder.name not in params.train.backbones:
            shutil.rmtree(folder)
    for folder, own in wanted(params):
        initialise(params, own, folder)


def wanted(params: Params) -> Iterator[tuple[Path, Entry]]:
    """The folders, and whose weights each is to hold."""
    for name in params.train.backbones:
        own = entry(name)
        yield paths.START / name, own
        if own.distilled:
            yield paths.START / name / paths.TEACHER, entry(params.train.distill)


def initialise(params: Params, own: Entry, folder: Path) -> None:
    """Write what this entry starts from, unless it is there."""
    spec = spec_of(params, own.network, params.train.width, params.train.stem)
    facts = facts_of_start(params, own, spec)
    key = fingerprint([asdict(spec), facts]) if facts else SCRATCH
    if key_of(folder) == key:
        return
    shutil.rmtree(folder, ignore_errors=True)
    part = paths.START / ".part"
    shutil.rmtree(part, ignore_errors=True)
    same = [card.parent for card in paths.START.rglob(weights.CARD) if key_of(card.parent) == key]
    if key == SCRATCH:
        write_json(part / weights.CARD, {"key": key})
    elif same:
        part.mkdir()
        for file in (weights.CARD, weights.WEIGHTS):
            shutil.copy(same[0] / file, part / file)
    elif own.start == "elsewhere":
        write_elsewhere(params, spec, key, facts, part)
    else:
        write_here(params, spec, key, facts, part)
    part.rename(folder)


def key_of(folder: Path) -> str:
    """What the folder was made from; empty if it is not whole."""
    try:
        return str(json.loads((folder / weights.CARD).read_text())["key"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def facts_of_start(params: Params, own: Entry, spec: EncoderSpec) -> dict[str, Any]:
    """All that decides these weights, but the spec; nothing for those from scratch."""
    if own.start == "corpus":
        return facts_of(params, spec, precision_of(params.train.precision, paths.PRECISION))
    if own.start == "elsewhere":
        place = Path(params.train.init)
        file = place / weights.CARD if place.is_dir() else place  # a card has its weights' hash
        content = file.read_bytes() if file.is_file() else b""
        return {"init": params.train.init, "sha256": hashlib.sha256(content).hexdigest()}
    return {}


def write_here(
    params: Params, spec: EncoderSpec, key: str, facts: dict[str, Any], folder: Path
) -> None:
    """Write this backbone pretrained on the corpus: the encoder, if that is the same."""
    card = weights.read_card(paths.ENCODER, "pretrain")
    of_encoder = [card["spec"], {name: card.get(name) for name in facts}]
    if fingerprint(of_encoder) == key:
        Encoder.read(paths.ENCODER).write(folder, {"key": key, **facts, "scores": card["scores"]})
        return
    say(f"pretraining {spec.backbone} to start from")
    made = pretrained(params, spec)
    made.encoder.write(folder, {"key": key, **facts, "scores": made.scores})
    write_csv(folder / "history.csv", made.history)


def write_elsewhere(
    params: Params, spec: EncoderSpec, key: str, facts: dict[str, Any], folder: Path
) -> None:
    """Write the weights of `train.init`, as those of this backbone."""
    backbone = build(spec.backbone, spec.width, spec.stem, spec.image_size)
    told = checkpoints.fill(backbone, checkpoints.read(params.train.init), params.train.init)
    say(told)
    weights.write(folder, backbone, spec, {"key": key, **facts, "told": told})


def started(params: Params, own: Entry, backbone: Backbone, folder: Path) -> str:
    """Put what the entry starts from into the backbone; returns what that was made from.

    Raises:
        UserError: it is missing, damaged, or of another corpus or network.
    """
    if own.start == SCRATCH:
        return SCRATCH
    card = weights.read_card(folder, "initialise")
    spec = spec_of(params, own.network, params.train.width, params.train.stem)
    if fingerprint(card["spec"]) != fingerprint(asdict(spec)):
        raise UserError(
            f"{folder} belongs to another corpus, or to another train.width or train.stem: "
            "run rapipe initialise, or dvc repro"
        )
    weights.fill(backbone, folder, card, "initialise")
    return str(card["key"])
