"""The bank: which embeddings of the store may be retrieved.

Letters: N rows of the store.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rapipe.errors import ArgumentError
from rapipe.records import Ids, Names


def select_bank(
    ids: Ids,
    sources: Names,
    splits: Names,
    held_out: Ids,
    bank: int | str,
    seed: int,
    excluded_sources: Sequence[str] = (),
) -> npt.NDArray[np.int64]:
    """Rows of the bank: of train, limited, none with the pixels of a held-out image.

    Args:
        ids: (N,), ascending.
        sources: (N,).
        splits: (N,).
        held_out: ids of the validation and test images, whether they are among the rows or not.
        bank: `all`; a number of images, drawn with `seed` (a smaller draw is
            part of a larger one); or names of sources joined by `+`.
        excluded_sources: names of sources that are never looked up.

    Returns:
        Row numbers, ascending.

    Raises:
        ArgumentError: `bank` is more than there are images, or selects none.
    """
    excluded = np.concatenate([held_out, ids[splits != "train"]])
    mask = (splits == "train") & ~np.isin(ids, excluded)
    if excluded_sources:
        mask &= ~np.isin(sources, excluded_sources)
    rows = np.flatnonzero(mask)
    if isinstance(bank, int):
        if bank > len(rows):
            raise ArgumentError(
                f"`bank` is {bank}, but there are {len(rows)} training images; "
                f"choose all, or from 1 to {len(rows)}"
            )
        sample = np.random.default_rng(seed).permutation(len(rows))[:bank]
        rows = rows[np.sort(sample)]
    elif bank != "all":
        rows = rows[np.isin(sources[rows], bank.split("+"))]
    if not len(rows):
        raise ArgumentError(f"`bank` is {bank!r}, which leaves no training image")
    return rows
