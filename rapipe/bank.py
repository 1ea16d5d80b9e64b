"""Which embeddings a classifier may look up."""

from __future__ import annotations

import numpy as np

from rapipe.errors import UserError
from rapipe.records import Embeddings


def bank_of(embeddings: Embeddings, limit: int | str, seed: int) -> Embeddings:
    """The training rows of `embeddings`, limited, in id order.

    Images of validation and test never enter, nor training images with the
    same pixels as one of them.

    Args:
        limit: `all`; a number of images, drawn with `seed` (a smaller draw is
            part of a larger one); or names of sources joined by `+`.

    Raises:
        UserError: the limit asks for more images than there are, or leaves none.
    """
    training = embeddings.splits == "train"
    rows = np.flatnonzero(training & ~np.isin(embeddings.ids, embeddings.ids[~training]))
    rows = rows[np.argsort(embeddings.ids[rows], kind="stable")]
    if isinstance(limit, int):
        if limit > len(rows):
            raise UserError(
                f"retrieval.bank is {limit}, but there are {len(rows)} images to remember; "
                f"choose all, or from 1 to {len(rows)}"
            )
        drawn = np.random.default_rng(seed).permutation(len(rows))[:limit]
        rows = rows[np.sort(drawn)]
    elif limit != "all":
        rows = rows[np.isin(embeddings.sources[rows], limit.split("+"))]
    if not len(rows):
        raise UserError(f"retrieval.bank is {limit!r}, and no training image is left to remember")
    return embeddings.take(rows)
