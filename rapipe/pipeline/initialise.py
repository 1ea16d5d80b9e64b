"""Stage initialise: what each classifier starts from: nothing, or weights pretrained somewhere.

Pretraining takes long, so weights are also kept in `data/cache`, by what they were made from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rapipe import paths
from rapipe.config.names import ClassifierName, parse_name
from rapipe.config.schema import Params
from rapipe.encoder import checkpoints
from rapipe.encoder.backbones import build
from rapipe.encoder.encoder import Encoder, EncoderSpec
from rapipe.io import weights
from rapipe.io.atomic import atomic_write
from rapipe.io.checksums import is_intact
from rapipe.io.folders import atomic_folder
from rapipe.io.tables import fingerprint, read_json, write_csv, write_json
from rapipe.pipeline.initial_weights import SCRATCH
from rapipe.pipeline.inputs import checked
from rapipe.pipeline.pretrain import facts_of, pretrained, spec_of
from rapipe.progress import say
from rapipe.training.precision import precision_of

READS = (paths.CORPUS, paths.ENCODER)
WRITES = (paths.INITIAL,)


def run(params: Params) -> None:
    """Write `data/start/`."""
    with atomic_folder(paths.INITIAL) as folder:
        for name, own in wanted(params):
            initialise(params, own, folder / name)


def wanted(params: Params) -> Iterator[tuple[str, ClassifierName]]:
    """Names of the folders, and what each is to hold; a teacher's lies in its student's."""
    for name in params.train.backbones:
        own = parse_name(name)
        yield name, own
        if own.distilled:
            yield f"{name}/{paths.TEACHER}", parse_name(params.train.distill)


def initialise(params: Params, own: ClassifierName, folder: Path) -> None:
    """Write what this classifier starts from, and what it alone needs to know."""
    recipe, card = params.train, {}
    if own.start != SCRATCH:
        kept = weights_of(params, own)
        for name in (weights.WEIGHTS, weights.CARD):
            atomic_write(folder / name, (kept / name).read_bytes())
        card = read_json(folder / weights.CARD, "initialise")
    facts = {
        "noise_std": recipe.noise_std if own.noisy else 0.0,
        "teacher": recipe.distill if own.distilled else "",
        "temperature": recipe.distill_temperature if own.distilled else 0.0,
    }
    teacher = facts_of_start(params, parse_name(recipe.distill)) if own.distilled else {}
    noisy = own.distilled and parse_name(recipe.distill).noisy and recipe.noise_std
    key = fingerprint([card.get("spec"), card.get("hash"), facts, teacher, noisy])
    write_json(folder / weights.CARD, {**card, **facts, "key": key})


def facts_of_start(params: Params, own: ClassifierName) -> dict[str, Any]:
    """All that decides the weights; nothing for those from scratch."""
    if own.start == SCRATCH:
        return {}
    spec = spec_of_start(params, own)
    if own.start == "corpus":
        precision = precision_of(params.train.precision, paths.PRECISION)
        return {"spec": asdict(spec), **facts_of(params, spec, precision)}
    place = Path(params.train.init)
    file = place / weights.CARD if place.is_dir() else place  # a card has its weights' hash
    content = file.read_bytes() if file.is_file() else b""
    found = hashlib.sha256(content).hexdigest()
    return {"spec": asdict(spec), "init": params.train.init, "sha256": found}


def spec_of_start(params: Params, own: ClassifierName) -> EncoderSpec:
    """What network it is."""
    return spec_of(params, own.network, params.train.width, params.train.stem)


def weights_of(params: Params, own: ClassifierName) -> Path:
    """A folder with the weights: made before, those of the encoder, or made now."""
    facts = facts_of_start(params, own)
    folder = paths.INITIAL_CACHE / fingerprint(facts)
    if not is_intact(folder):
        make = write_elsewhere if own.start == "elsewhere" else write_here
        with atomic_folder(folder) as part:
            make(params, spec_of_start(params, own), part)
    return folder


def write_here(params: Params, spec: EncoderSpec, folder: Path) -> None:
    """Write this backbone pretrained on the corpus: the encoder, if that is the same."""
    facts = facts_of(params, spec, precision_of(params.train.precision, paths.PRECISION))
    card = weights.read_card(checked(paths.ENCODER), "pretrain")
    if fingerprint([card["spec"], {name: card.get(name) for name in facts}]) == fingerprint(
        [asdict(spec), facts]
    ):
        Encoder.read(paths.ENCODER).write(folder, {})
        return
    say(f"pretraining {spec.backbone} to start from")
    made = pretrained(params, spec)
    made.encoder.write(folder, {})
    write_csv(folder / "history.csv", [{**row, **made.scores} for row in made.history])
    made.done()


def write_elsewhere(params: Params, spec: EncoderSpec, folder: Path) -> None:
    """Write the weights of `train.init`, as those of this backbone."""
    backbone = build(spec.backbone, spec.width, spec.stem, spec.image_size)
    say(checkpoints.fill(backbone, checkpoints.read(params.train.init), params.train.init))
    weights.write(folder, backbone, spec, {})
