"""A source: its classes, and for each split the images with their labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rapipe.corpus.decode import Data
from rapipe.errors import ArgumentError

UNDIVIDED = "all"
"""The only split of a source without splits: the corpus divides it."""

ALIASES = {
    **{"training": "train", "testing": "test"},
    **{"val": "validation", "valid": "validation", "dev": "validation"},
}
"""Other names of splits in data sets."""


@dataclass(frozen=True)
class SourceRequest:
    """What to read of a source.

    Args:
        path: file or folder; "" for the default of a public data set.
        label: which of its labels, if the source has several; "" for the usual one.
        download: whether missing files may be fetched.
        home: the folder of public data sets, each in a folder of its own.
        labelled: whether labels are used; if not, they may be missing or wrong.
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
        """The requested label, or the first of `names`.

        Raises:
            ArgumentError: it is none of them.
        """
        if self.label and self.label not in names:
            choice = f"it has {', '.join(names)}" if names else "it has one only; leave `label` out"
            raise ArgumentError(f"`request`: {kind} has no label {self.label!r}; {choice}")
        return self.label or (names[0] if names else "")


class Item(NamedTuple):
    """One image as it is stored, with its label (-1 = none)."""

    data: Data
    label: int
    location: str
    """File or row, for messages."""
    error: str = ""
    """Why it cannot be used: a clause that goes on after its location."""


@dataclass(frozen=True)
class Split:
    """A number of images, and a function that iterates over them."""

    size: int
    items: Callable[[], Iterator[Item]]


@dataclass(frozen=True)
class Source:
    """Classes, in the order of the labels, and splits by name.

    Splits are one or more of train, validation and test, or only `all`.
    """

    classes: tuple[str, ...]
    splits: Mapping[str, Split]
    files: tuple[Path, ...]
    """All files that it reads: as long as none of them changes, neither does the source."""


def out_of_range(label: object, classes: int) -> str:
    """Why a label cannot be used, or "" if it is from 0 to `classes` - 1, or -1 for none."""
    if isinstance(label, int) and -1 <= label < classes:
        return ""
    return f"has the label {label}; it must be from 0 to {classes - 1}, or -1 for none"
