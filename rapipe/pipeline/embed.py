"""Stage embed: every image of the corpus -> the store and its manifest."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rapipe import paths
from rapipe.config.schema import Params
from rapipe.device import device
from rapipe.encoder.encoder import Encoder
from rapipe.io import memory_map, weights
from rapipe.pipeline.inputs import images_of, present_corpus, present_encoder
from rapipe.progress import track
from rapipe.records import SPLITS, Embeddings
from rapipe.retrieval import store

READS = (paths.CORPUS, paths.ENCODER)
"""The store has its own lock."""

BLOCK = 8192
"""Images embedded at once, so that memory does not grow with the corpus."""


def run(params: Params) -> None:
    """Write `data/store` and `data/store.json`."""
    card = present_encoder(params)
    encoder = Encoder.read(paths.ENCODER).to(device())
    classes = tuple(present_corpus(params)["classes"])
    spec = store.StoreSpec(encoder.features, classes, weights.fingerprint(card))
    store.write(blocks(encoder), spec, paths.STORE, paths.STORE_MANIFEST)


def blocks(encoder: Encoder) -> Iterator[Embeddings]:
    """The embeddings of all splits."""
    for split in SPLITS:
        images = images_of(split)
        starts = range(0, len(images), BLOCK)
        for start in track(starts, f"embedding {split}", len(starts)):
            part = slice(start, start + BLOCK)
            ids = images.ids[part]
            yield Embeddings(
                ids,
                encoder.embed(images.pixels[part]),
                images.labels[part],
                images.sources[part],
                np.full(len(ids), split),
            )
            memory_map.release_pages()
