"""Vectors of images, read from the store where it has them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rapipe import paths
from rapipe.device import device
from rapipe.encoder.imported import read_encoder
from rapipe.pipeline.inputs import checked
from rapipe.records import Ids, Images, Vectors
from rapipe.retrieval.search import VectorsWithIds
from rapipe.retrieval.store import Store


def stored_vectors(store: Store, ids: Ids) -> VectorsWithIds:
    """The rows of the store with these ids, by id.

    To read them is cheaper than to embed the images again: 10,000 of 32 pixels take a
    ResNet-18 of width 64 about 40 seconds on two cores; to open a store and read as many
    rows takes one or two.
    """
    blocks = list(store.blocks(store.members() & np.isin(store.all_rows.ids, ids)))
    stored_ids = np.concatenate([np.empty(0, np.int64), *(rows.ids for rows, _ in blocks)])
    empty = np.empty((0, store.manifest.dimension), np.float32)
    vectors = np.concatenate([empty, *(block for _, block in blocks)])
    unique, first = np.unique(stored_ids, return_index=True)
    return VectorsWithIds(unique, vectors[first])


def vectors_of(images: Images, rows: npt.NDArray[np.int64], stored: VectorsWithIds) -> Vectors:
    """Unit vectors (Q, D) of images by row; those that are not stored are embedded now."""
    ids = images.ids[rows]
    is_stored = np.isin(ids, stored.ids)
    vectors = np.empty((len(rows), stored.vectors.shape[1]), np.float32)
    vectors[is_stored] = stored.vectors[np.searchsorted(stored.ids, ids[is_stored])]
    if not is_stored.all():
        encoder = read_encoder(checked(paths.ENCODER), paths.VECTORS).to(device())
        missing = images.pixels[rows[~is_stored]]
        vectors[~is_stored] = encoder.embed(missing, "embedding what the store lacks")
    return vectors
