"""Rows of one decoded split of a source, as they enter a split of the corpus.

Letters: N rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import compress

import numpy as np
import numpy.typing as npt

from rapipe.corpus.decode_cache import DecodedSplit
from rapipe.records import Ids, Labels

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SplitRows:
    """Rows of one decoded split of a source, with their labels in the corpus."""

    name: str
    """Of the source."""
    decoded: DecodedSplit
    rows: Rows
    """Ascending."""
    labels: Labels

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def ids(self) -> Ids:
        """(N,)."""
        return self.decoded.ids[self.rows]

    def locations(self) -> Iterator[str]:
        """The file or row of each image (N,)."""
        mask = np.zeros(len(self.decoded.ids), np.bool_)
        mask[self.rows] = True
        return compress(self.decoded.locations(), mask.tolist())

    def select(self, mask: npt.NDArray[np.bool_]) -> SplitRows:
        """The rows where the mask (N,) is true."""
        return replace(self, rows=self.rows[mask], labels=self.labels[mask])
