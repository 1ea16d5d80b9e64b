"""Stage corpus: named sources -> one Arrow file a split, and a card."""

from __future__ import annotations

import hashlib
import shutil

import numpy as np

from rapipe import paths
from rapipe.corpus import compose
from rapipe.params import Params
from rapipe.pipeline.inputs import write_json
from rapipe.records import Images, Pixels
from rapipe.sources import SOURCES


def run(params: Params) -> None:
    """Write `data/corpus/`."""
    corpus = params.corpus
    splits = compose(
        {source.name: SOURCES[source.kind](source.path) for source in corpus.sources},
        corpus.image_size,
        corpus.validation_fraction,
        corpus.test_fraction,
        params.seed,
    )
    shutil.rmtree(paths.CORPUS, ignore_errors=True)
    for name, images in splits.items():
        images.write(paths.split(name))
    write_json(paths.CORPUS_CARD, card(splits))


def card(splits: dict[str, Images]) -> dict[str, object]:
    """Counts, classes, pixel statistics of train on [0, 1], and a hash of everything."""
    digest = hashlib.sha256()
    for images in splits.values():
        for column in (images.ids, images.labels):
            digest.update(np.ascontiguousarray(column).tobytes())
    classes = splits["train"].classes
    mean, std = _statistics(splits["train"].pixels)
    return {
        "classes": list(classes),
        "splits": {name: _counts(images) for name, images in splits.items()},
        "mean": mean,
        "std": std,
        "hash": digest.hexdigest(),
    }


def _counts(images: Images) -> dict[str, object]:
    sources, of_source = np.unique(images.sources, return_counts=True)
    of_class = np.bincount(images.labels[images.labels >= 0], minlength=len(images.classes))
    return {
        "images": len(images),
        "unlabelled": int((images.labels < 0).sum()),
        "by_class": dict(zip(images.classes, of_class.tolist(), strict=True)),
        "by_source": dict(zip(sources.tolist(), of_source.tolist(), strict=True)),
    }


def _statistics(pixels: Pixels) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, exact, from counts of the 256 values."""
    values = np.arange(256) / 255
    means, stds = [], []
    for channel in range(3):
        share = np.bincount(pixels[..., channel].reshape(-1), minlength=256) / pixels[..., 0].size
        mean = float(share @ values)
        means.append(mean)
        stds.append(max(float(share @ (values - mean) ** 2) ** 0.5, 1 / 255))
    return means, stds
