"""Which embeddings a classifier may look up.

Letters: N rows of the store.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rapipe.errors import UserError
from rapipe.records import Ids, Names


def bank_of(
    ids: Ids, sources: Names, splits: Names, held_out: Ids, limit: int | str, seed: int
) -> npt.NDArray[np.int64]:
    """Rows that may be looked up: of train, limited, none with the pixels of a held-out image.

    Args:
        ids: (N,), ascending.
        sources: (N,).
        splits: (N,).
        held_out: ids of the validation and test images, whether they are among the rows or not.
        limit: `all`; a number of images, drawn with `seed` (a smaller draw is
            part of a larger one); or names of sources joined by `+`.

    Returns:
        Row numbers, ascending.

    Raises:
        UserError: the limit asks for more images than there are, or leaves none.
    """
    kept_apart = np.concatenate([held_out, ids[splits != "train"]])
    rows = np.flatnonzero((splits == "train") & ~np.isin(ids, kept_apart))
    if isinstance(limit, int):
        if limit > len(rows):
            raise UserError(
                f"retrieval.bank is {limit}, but there are {len(rows)} images to remember; "
                f"choose all, or from 1 to {len(rows)}"
            )
        drawn = np.random.default_rng(seed).permutation(len(rows))[:limit]
        rows = rows[np.sort(drawn)]
    elif limit != "all":
        rows = rows[np.isin(sources[rows], limit.split("+"))]
    if not len(rows):
        raise UserError(f"retrieval.bank is {limit!r}, and no training image is left to remember")
    return rows
