"""Images that repeat others, pixel by pixel: no two splits share one.

Letters: N rows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np
import numpy.typing as npt

from rapipe.corpus.split_rows import SplitRows


def remove_repeats(pieces: dict[str, list[SplitRows]]) -> int:
    """Remove test images from validation, and both from train; the number of removed rows.

    The splits of a source may overlap, and so may those of different sources.
    """
    removed = 0
    for split, later in (("validation", ("test",)), ("train", ("validation", "test"))):
        held_out = _ids(piece for name in later for piece in pieces[name])
        removed += _remove(pieces[split], range(len(pieces[split])), held_out)
    return removed


def remove_copies(pieces: dict[str, list[SplitRows]], generated: Collection[str]) -> int:
    """Remove the generated images that equal a real one; the number of removed rows.

    So no real image is in a conflict, or leaves its split, because of one.

    Args:
        generated: names of the sources whose images are generated; all are in train.
    """
    real = _ids(
        piece for split in pieces.values() for piece in split if piece.name not in generated
    )
    rows = [i for i, piece in enumerate(pieces["train"]) if piece.name in generated]
    return _remove(pieces["train"], rows, real)


def _ids(pieces: Iterable[SplitRows]) -> npt.NDArray[np.int64]:
    return np.concatenate([np.empty(0, np.int64), *(piece.ids for piece in pieces)])


def _remove(pieces: list[SplitRows], numbers: Iterable[int], ids: npt.NDArray[np.int64]) -> int:
    """Remove rows with these ids (N,) from some of the pieces, in place; how many there were."""
    removed = 0
    for i in numbers:
        repeats = np.isin(pieces[i].ids, ids)
        removed += int(repeats.sum())
        pieces[i] = pieces[i].select(~repeats)
    return removed
