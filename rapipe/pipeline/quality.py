"""A part of the stage audit: how like the real images the generated ones are.

It is measured by the memory's encoder, so after that, and not where the images are generated.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from rapipe import paths
from rapipe.evaluation.generated import (
    Memorisation,
    features,
    frechet_distance,
    kernel_distance,
)
from rapipe.io.checksums import sha256
from rapipe.io.tables import write_checksummed, write_csv
from rapipe.pipeline.inputs import PARAMS, generated_sources, quality_facts
from rapipe.pipeline.stored_vectors import stored_vectors, vectors_of
from rapipe.progress import say
from rapipe.records import Embeddings, Images, Vectors
from rapipe.retrieval.search import search
from rapipe.retrieval.store import Store

COLUMNS = ("generated_id", "class", "training_id", "training_class", "distance", "near")
COMPARED = 10_000
"""Images of a set whose distribution is compared, at most; drawn where there are more."""
Rows = npt.NDArray[np.int64]


def write_quality(splits: dict[str, Images], seed: int) -> None:
    """Write `results/quality.json` and `results/memorisation.csv`; empty without such images."""
    train, validation = splits["train"], splits["validation"]
    is_generated = np.isin(train.sources, generated_sources())
    if not is_generated.any():
        write_csv(paths.MEMORISATION, [], COLUMNS)
        write_checksummed(paths.QUALITY, {})
        return
    is_labelled = train.labels >= 0
    sides = {
        "generated": (train, np.flatnonzero(is_generated)),
        "training": (train, np.flatnonzero(is_labelled & ~is_generated)),
        "validation": (validation, np.flatnonzero(validation.labels >= 0)),
    }
    store = Store.open(paths.STORE, paths.STORE_MANIFEST)
    stored = stored_vectors(store, np.concatenate([im.ids[rows] for im, rows in sides.values()]))
    vectors = {name: vectors_of(im, rows, stored) for name, (im, rows) in sides.items()}
    memorisation = _write_pairs(sides, vectors)
    quality = {
        "images": {name: len(rows) for name, (_, rows) in sides.items()},
        **_distances(vectors, seed),
        "memorisation": memorisation,
        PARAMS: quality_facts(),
        "memorisation_sha256": sha256(paths.MEMORISATION),
    }
    write_checksummed(paths.QUALITY, quality)
    near = f"{memorisation['near']:,} of {len(vectors['generated']):,}"
    say(
        f"generated images: FID {quality['fid']['generated']:.3g} (training images "
        f"{quality['fid']['training']:.3g}); {near} nearer to a training image than "
        f"{1 - memorisation['quantile']:.0%} of the validation images, listed in "
        f"{paths.MEMORISATION}"
    )


def _distances(vectors: dict[str, Vectors], seed: int) -> dict[str, Any]:
    """Distances to validation, of generated images and of as many training images."""
    rng = np.random.default_rng(seed)
    size = min(len(vectors["generated"]), len(vectors["training"]), COMPARED)
    sizes = {"generated": size, "training": size, "validation": COMPARED}
    drawn = {
        name: features(vectors[name][np.sort(rng.permutation(len(vectors[name]))[:count])])
        for name, count in sizes.items()
    }
    real = drawn["validation"]
    facts: dict[str, Any] = {
        "compared": {name: len(values) for name, values in drawn.items()},
        "dimension": real.shape[1],
    }
    if min(facts["compared"].values()) < 2:  # a covariance needs two
        return {**facts, "fid": {}, "kid": {}}
    for key, distance in (("fid", frechet_distance), ("kid", kernel_distance)):
        facts[key] = {name: distance(drawn[name], real) for name in ("generated", "training")}
    return facts


def _write_pairs(
    sides: dict[str, tuple[Images, Rows]], vectors: dict[str, Vectors]
) -> dict[str, Any]:
    """Write each generated image with the nearest training image; return what they amount to."""
    (train, generated), (_, real) = sides["generated"], sides["training"]
    bank = Embeddings(
        train.ids[real],
        vectors["training"],
        train.labels[real],
        train.sources[real],
        np.full(len(real), "train"),
    )
    nearest, others = (
        search(vectors[name], bank, 1, sides[name][0].ids[sides[name][1]])
        for name in ("generated", "validation")
    )
    distances = (1 - table.similarities[:, 0].astype(np.float64) for table in (nearest, others))
    memorisation = Memorisation(*(values.clip(0) for values in distances))
    order = np.argsort(memorisation.generated, kind="stable")
    rows, copies = generated[order], real[nearest.indices[order, 0]]
    columns = (
        train.ids[rows].tolist(),
        [train.classes[label] for label in train.labels[rows].tolist()],
        train.ids[copies].tolist(),
        [train.classes[label] for label in train.labels[copies].tolist()],
        memorisation.generated[order].tolist(),
        memorisation.near[order].astype(int).tolist(),
    )
    pairs = [dict(zip(COLUMNS, row, strict=True)) for row in zip(*columns, strict=True)]
    write_csv(paths.MEMORISATION, pairs, COLUMNS)
    return memorisation.summary()
