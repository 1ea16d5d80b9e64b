"""A selection of rows of the store, by the options of `rapipe store`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rapipe.errors import UserError
from rapipe.retrieval.store.reading import Store
from rapipe.retrieval.store.rows import Mask, Rows


@dataclass(frozen=True)
class Selection:
    """Rows of the store that meet all conditions; an empty condition selects all."""

    ids: Sequence[int] = ()
    classes: Sequence[str] = ()
    sources: Sequence[str] = ()
    where: str = ""

    def __str__(self) -> str:
        options = [
            *(f"--id {image_id}" for image_id in self.ids[:3]),
            *(["..."] if len(self.ids) > 3 else []),
            *(f"--class {name}" for name in self.classes),
            *(f"--source {name}" for name in self.sources),
            *([f'--where "{self.where}"'] if self.where else []),
        ]
        return " ".join(options)

    def __call__(self, store: Store, rows: Rows) -> Mask:
        """Which of these rows are selected; `UserError` if there is no such id or name."""
        mask = np.ones(len(rows), np.bool_)
        if self.ids:
            missing = np.setdiff1d(self.ids, rows.ids)
            if len(missing):
                raise UserError(f"--id {missing[0]}: the store has no image with this id")
            mask &= np.isin(rows.ids, self.ids)
        if self.classes:
            classes = store.manifest.classes
            _check_names("class", self.classes, classes)
            mask &= np.isin(rows.labels, [classes.index(name) for name in self.classes])
        if self.sources:
            _check_names("source", self.sources, sorted(set(rows.sources.tolist())))
            mask &= np.isin(rows.sources, self.sources)
        if self.where:
            mask &= store.where(self.where, rows)
        return mask


def _check_names(option: str, names: Sequence[str], choices: Sequence[str]) -> None:
    for name in names:
        if name not in choices:
            raise UserError(
                f"--{option} {name!r}: the store has no such {option}; it has {', '.join(choices)}"
            )
