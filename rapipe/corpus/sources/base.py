"""A source: its classes, and for each split the images with their labels."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from rapipe.corpus.decode import Data
from rapipe.errors import ArgumentError
from rapipe.io.storage import is_remote
from rapipe.io.text import expand_home
from rapipe.records import SPLITS

UNDIVIDED = "all"
"""The only split of a source without splits: the corpus divides it."""

ALIASES = {
    **{"training": "train", "testing": "test"},
    **{"val": "validation", "valid": "validation", "dev": "validation"},
}
"""Other names of splits in data sets."""

WORD = re.compile("[A-Z]?[a-z]+|[A-Z]+")
"""A word in a name of several: `seg_train`, `Train-Images`, `trainImages`, `train2017`."""


@dataclass(frozen=True)
class SourceRequest:
    """What to read of a source.

    Args:
        path: file or folder, `~` for the home folder; "" for the default of a public data set.
        label: which of its labels, if the source has several; "" for the usual one.
        image, split: columns of a table; "" for the usual one, and for none.
        download: whether missing files may be fetched.
        home: the folder of public data sets, each in a folder of its own.
        labelled: whether labels are used; if not, they may be missing or wrong.
    """

    path: str = ""
    label: str = ""
    download: bool = False
    home: Path = Path()
    labelled: bool = True
    image: str = ""
    split: str = ""

    @property
    def location(self) -> Path:
        """The file or folder of this machine.

        Raises:
            ArgumentError: it is in storage that speaks S3.
        """
        if is_remote(self.path):
            raise ArgumentError(
                f"`path`: {self.path!r} is read by the kinds folder and parquet; for others fetch "
                "it first"
            )
        return expand_home(self.path)

    def folder(self, kind: str) -> Path:
        """The folder of a public data set.

        Raises:
            ArgumentError: `path` is a file.
        """
        if self.path and self.location.is_file():
            raise ArgumentError(
                f"`path`: {self.path!r} is a file, not a folder: for the kind {kind!r} name the "
                f"folder that it lies in, {str(self.location.parent)!r}"
            )
        return self.location if self.path else self.home / kind

    def refuse_columns(self, kind: str) -> None:
        """Raise `ArgumentError` if a column is requested, of a kind that is no table."""
        for key in ("image", "split"):
            if column := getattr(self, key):
                raise ArgumentError(
                    f"`request`: {kind} has no columns, but `{key}` is {column!r}; leave it out"
                )

    def choose_label(self, kind: str, *names: str) -> str:
        """The requested label, or the first of `names`.

        Raises:
            ArgumentError: it is none of them, or a column is requested of what is no table.
        """
        self.refuse_columns(kind)
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
    passed_over: Mapping[str, int] = field(default_factory=dict)
    """Numbers of files beside them that are no images, by suffix; and of litter, by name."""
    hints: tuple[str, ...] = ()
    """Sentences about what may be meant otherwise."""
    revision: str = ""
    """The hub's commit that the files are of, or a hash of their names, sizes and dates in S3;
    empty for files of this machine."""

    def remarks(self, name: str) -> Iterator[str]:
        """What a user should see before the images are read, a line each."""
        return (f"{name}: {remark}" for remark in remarks(self.passed_over, self.hints))


def remarks(passed_over: Mapping[str, int], hints: Iterable[str]) -> Iterator[str]:
    """What was passed over, and the hints."""
    if passed_over:
        yield f"passed over {listed(passed_over)}"
    yield from hints


def listed(counts: Mapping[str, int]) -> str:
    """Files that were passed over: `3 .txt, 1 @eaDir/`."""
    return ", ".join(f"{count:,} {kind}" for kind, count in counts.items())


def split_called(name: str) -> str:
    """The split that has this name, or ""."""
    split = ALIASES.get(name.lower(), name.lower())
    return split if split in SPLITS else ""


def split_in(name: str) -> str:
    """The one split that a name is or has in it as a word, or ""."""
    splits = {split for word in WORD.findall(name) if (split := split_called(word))}
    return split_called(name) or (splits.pop() if len(splits) == 1 else "")


def out_of_range(label: object, classes: int) -> str:
    """Why a label cannot be used, or "" if it is from 0 to `classes` - 1, or -1 for none."""
    if isinstance(label, int) and -1 <= label < classes:
        return ""
    return f"has the label {label}; it must be from 0 to {classes - 1}, or -1 for none"
