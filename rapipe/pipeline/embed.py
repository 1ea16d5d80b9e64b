"""Stage embed: every image of the corpus -> the store and its manifest."""

from __future__ import annotations

import numpy as np

from rapipe import paths, store
from rapipe.device import device
from rapipe.encoder import Encoder
from rapipe.params import Params
from rapipe.records import SPLITS, Embeddings, Images
from rapipe.weights import weights_hash


def run(params: Params) -> None:
    """Write `data/store` and `data/store.json`."""
    encoder = Encoder.read(paths.ENCODER).to(device())
    splits = {name: Images.read(paths.split(name)) for name in SPLITS}
    embeddings = Embeddings(
        ids=np.concatenate([images.ids for images in splits.values()]),
        vectors=np.concatenate(
            [encoder.embed(images.pixels, f"embedding {s}") for s, images in splits.items()]
        ),
        labels=np.concatenate([images.labels for images in splits.values()]),
        sources=np.concatenate([images.sources for images in splits.values()]),
        splits=np.repeat(list(splits), [len(images) for images in splits.values()]),
    )
    store.write(embeddings, weights_hash(encoder.backbone), paths.STORE, paths.STORE_MANIFEST)
