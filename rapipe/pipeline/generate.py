"""Stage generate: images of each class, made from the corpus's training images alone.

It comes before the corpus, which the generated images are a part of, and composes what that would
be without them: splits depend on the images of each source alone, so they are the same. Off, and
over at once, where no source is of the kind `generated`.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from rapipe import paths
from rapipe.config import deciding
from rapipe.config.names import GENERATED, SHIFT
from rapipe.config.schema import Params
from rapipe.corpus.compose import compose, corpus_hash
from rapipe.corpus.contact_sheet import contact_sheet
from rapipe.corpus.decode_cache import Workers
from rapipe.io import weights
from rapipe.io.folders import atomic_folder
from rapipe.io.provenance import Facts
from rapipe.io.tables import fingerprint, write_csv
from rapipe.pipeline.corpus import open_sources, rules_of
from rapipe.pipeline.inputs import PARAMS
from rapipe.pipeline.running.argument_keys import CORPUS_KEYS, argument_keys, keys_of
from rapipe.progress import say
from rapipe.records import Images
from rapipe.specs import GenerationRecipe
from rapipe.training.precision import precision_of

if TYPE_CHECKING:  # what trains imports Lightning, which takes seconds
    from rapipe.generation.generate import Generated

WRITES = (paths.GENERATED,)

KEYS = {**CORPUS_KEYS, **keys_of("generate", GenerationRecipe), "images": "corpus.sources"}


@argument_keys(**KEYS)
def run(params: Params) -> None:
    """Write `data/generated/`; goes on where it was interrupted."""
    if not params.generated_sources:
        with atomic_folder(paths.GENERATED):
            pass  # DVC wants a folder, always the same
        return
    from rapipe.generation.generate import generate

    precision = precision_of(params.train.precision, paths.PRECISION)
    images = training_images(params)
    facts = {**deciding.of_generated(params, precision), "images": corpus_hash({"train": images})}
    checkpoints = paths.CHECKPOINTS / f"generate-{fingerprint(facts)}"
    generated = generate(
        images,
        params.generate,
        seed=params.seed,
        precision=precision,
        checkpoints=checkpoints,
    )
    with atomic_folder(paths.GENERATED) as folder:
        write(generated, folder, {PARAMS: facts, "training_images": len(images)}, params.seed)
    say(f"{len(generated.images):,} images generated: {paths.GENERATED_SHEET}")
    for folder in paths.CHECKPOINTS.glob("generate-*"):
        if folder != checkpoints:  # which stays, for another role needs no other images
            shutil.rmtree(folder, ignore_errors=True)


def training_images(params: Params) -> Images:
    """The labelled training images of the corpus without its generated sources."""
    corpus, rules = params.corpus, rules_of(params)
    groups = [g for g in corpus.sources if g.kind != GENERATED and g.role != SHIFT]
    sources = open_sources(groups, corpus.download, rules.decoding)
    paths.DATA.mkdir(exist_ok=True)
    with TemporaryDirectory(dir=paths.DATA, prefix="generate-") as scratch:
        with Workers() as workers:
            compose(sources, rules, Path(scratch), workers)
        train = Images.read(Path(scratch, paths.split("train").name))
        rows = np.flatnonzero(train.labels >= 0)
        return train.take(rows)  # in memory: the file goes


def write(generated: Generated, folder: Path, facts: Facts, seed: int) -> None:
    """Write images, weights, history and pictures into an empty folder."""
    from rapipe.generation import pictures

    images = generated.images
    images.write(folder / paths.GENERATED_IMAGES.name)
    facts = {**facts, "classes": list(images.classes), "images": len(images)}
    weights.write(folder, generated.generator, generated.generator.spec, facts)
    write_csv(folder / "history.csv", generated.history)
    contact_sheet(images, folder / paths.GENERATED_SHEET.name, seed)
    if len(generated.reverse):
        pictures.strip(generated.reverse, images.classes, folder / paths.REVERSE.name)
        pictures.film(generated.reverse, folder / paths.REVERSE_FILM.name)
