"""Which rows of the store are meant."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from rapipe.errors import UserError
from rapipe.retrieval.store import Mask, Rows, Store


@dataclass(frozen=True)
class Selection:
    """Rows of the memory: those that meet every condition that is given."""

    ids: Sequence[int] = ()
    classes: Sequence[str] = ()
    sources: Sequence[str] = ()
    where: str = ""

    def __str__(self) -> str:
        parts = [
            *(f"--id {own}" for own in self.ids[:3]),
            *(["..."] if len(self.ids) > 3 else []),
            *(f"--class {own}" for own in self.classes),
            *(f"--source {own}" for own in self.sources),
            *([f'--where "{self.where}"'] if self.where else []),
        ]
        return " ".join(parts)

    def __call__(self, memory: Store, rows: Rows) -> Mask:
        """Which of some rows are meant; `UserError` if a name or an id is not there."""
        known = memory.manifest.classes
        mask = np.ones(len(rows), np.bool_)
        if self.ids:
            missing = np.setdiff1d(self.ids, rows.ids)
            if len(missing):
                raise UserError(f"--id {missing[0]}: the memory has no image with this id")
            mask &= np.isin(rows.ids, self.ids)
        if self.classes:
            for name in self.classes:
                if name not in known:
                    raise UserError(
                        f"--class {name!r}: the memory has no such class; it has {', '.join(known)}"
                    )
            mask &= np.isin(rows.labels, [known.index(name) for name in self.classes])
        if self.sources:
            present = sorted(set(rows.sources.tolist()))
            for name in self.sources:
                if name not in present:
                    raise UserError(
                        f"--source {name!r}: the memory has no such source; it has "
                        f"{', '.join(present)}"
                    )
            mask &= np.isin(rows.sources, self.sources)
        if self.where:
            mask &= memory.where(self.where, rows)
        return mask


def named(names: Iterable[str]) -> str:
    """Names as a list for a sentence."""
    return ", ".join(names)
