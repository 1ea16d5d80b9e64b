"""What a source is: classes, and for each split the images with their labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rapipe.corpus.decode import Data
from rapipe.errors import UserError

WHOLE = "all"
"""The split of a source that comes undivided: the corpus divides it."""

ALIASES = {
    **{"training": "train", "testing": "test"},
    **{"val": "validation", "valid": "validation", "dev": "validation"},
}
"""Other names that data sets give their splits."""


@dataclass(frozen=True)
class SourceRequest:
    """What a user asks of a source.

    Args:
        path: file or folder; "" for where the source lives by itself.
        label: which of several labels the source has; "" for its usual one.
        download: whether it may fetch what is missing.
        home: the folder of public data sets, each in a folder of its own.
        labelled: whether labels are wanted; if not, they need not be there or be right.
    """

    path: str = ""
    label: str = ""
    download: bool = False
    home: Path = Path()
    labelled: bool = True

    def folder(self, kind: str) -> Path:
        """The folder of a public data set."""
        return Path(self.path) if self.path else self.home / kind

    def choose_label(self, kind: str, *names: str) -> str:
        """The label asked for, else the first of `names`; `UserError` if it is none of them."""
        if self.label and self.label not in names:
            known = f"it has {', '.join(names)}" if names else "it has one only; leave `label` out"
            raise UserError(f"corpus.sources: {kind} has no label {self.label!r}; {known}")
        return self.label or (names[0] if names else "")


class Item(NamedTuple):
    """One image as it lies on disk, with its label (-1 = none)."""

    data: Data
    label: int
    where: str
    """File or row, for messages."""
    error: str = ""
    """Why it cannot be used, as the rest of a sentence that begins with `where`."""


@dataclass(frozen=True)
class Split:
    """A number of images, and a way to walk through them."""

    size: int
    items: Callable[[], Iterator[Item]]


@dataclass(frozen=True)
class Source:
    """Classes, in the order of the labels, and splits by name.

    Splits are a non-empty choice of train, validation and test, or `all` alone.
    """

    classes: tuple[str, ...]
    splits: Mapping[str, Split]
    files: tuple[Path, ...]
    """All it reads: if none of them changes, neither does the source."""


def out_of_range(label: object, classes: int) -> str:
    """Why a label cannot be used, or "" if it is from 0 to `classes` - 1, or -1 for none."""
    if isinstance(label, int) and -1 <= label < classes:
        return ""
    return f"has the label {label}; it must be from 0 to {classes - 1}, or -1 for none"
