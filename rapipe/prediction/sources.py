"""Images to predict, wherever they lie: files, folders, archives and Parquet.

Nothing is read of labels or splits: every image counts.
"""

from __future__ import annotations

import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from rapipe.corpus.formats import HEAD, image_error, suffix_of
from rapipe.corpus.sources.base import Item, SourceRequest, Split, remarks
from rapipe.corpus.sources.parquet import SUFFIX, parquet
from rapipe.corpus.sources.trees import FileTree, file_tree
from rapipe.errors import ArgumentError, UserError, rename_arguments
from rapipe.io.text import expand_home
from rapipe.records import UNLABELLED


@dataclass(frozen=True)
class ImageFiles:
    """Images that lie in files, to be read one after the other."""

    size: int
    """How many there are."""
    items: Callable[[], Iterator[Item]]
    remarks: tuple[str, ...]
    """What a user should see before they are read."""


def open_paths(paths: Sequence[str | Path], column: str = "") -> ImageFiles:
    """The images of some paths, in this order; those of a folder by name, then its Parquet files.

    Args:
        paths: image files; folders, zip and tar files of images in any depth; Parquet files, and
            folders of them.
        column: of Parquet, where the images are; `image` or `img` unless given.

    Raises:
        ArgumentError: a path does not exist, or is a folder without an image.
        UserError: a Parquet file or an archive cannot be read; names it.
    """
    splits: list[Split] = []
    passed_over: Counter[str] = Counter()
    for text in paths:
        path = expand_home(text)
        if not path.exists():
            link = ", but a link to nothing" if path.is_symlink() else ""
            raise ArgumentError(f"`paths`: {str(text)!r} is no file and no folder{link}")
        splits += _splits(path, column, passed_over)
    return ImageFiles(
        sum(split.size for split in splits),
        lambda: chain.from_iterable(split.items() for split in splits),
        tuple(remarks(passed_over, ())),
    )


def _splits(path: Path, column: str, passed_over: Counter[str]) -> list[Split]:
    if path.is_file() and suffix_of(path.name) == SUFFIX:
        return [_table(path, column)]
    if path.is_file() and not _is_archive(path):
        return [_one_image(path)]
    tree = file_tree(path)
    tables = () if tree.packed else [n for n in tree.names if suffix_of(n) == SUFFIX]
    others = Counter(tree.passed_over)
    if tables:
        del others[SUFFIX]
    if not tree.images and not tables:
        beside = "".join(f"; {remark}" for remark in remarks(others, ()))
        raise ArgumentError(f"`paths`: {path} holds no image{beside}")
    passed_over += others
    return [_images(tree), *(_table(path / name, column) for name in tables)]


def _images(tree: FileTree) -> Split:
    """Those of a folder or an archive; each path is made once, which takes a while of so many."""
    if tree.packed:
        return tree.split([(name, UNLABELLED) for name in tree.images])

    root = Path(tree.root)

    def items() -> Iterator[Item]:
        for name, error in tree.images.items():
            path = root / name
            yield Item(b"" if error else path, UNLABELLED, str(path), error)

    return Split(len(tree.images), items)


def _one_image(path: Path) -> Split:
    error = image_error(path.name, lambda: _head(path)) or ""

    def items() -> Iterator[Item]:
        yield Item(b"" if error else path, UNLABELLED, str(path), error)

    return Split(1, items)


def _is_archive(path: Path) -> bool:
    """Whether a file is a zip or tar file, and does not look like an image."""
    if image_error(path.name, lambda: _head(path)) is not None:
        return False
    try:
        return zipfile.is_zipfile(path) or tarfile.is_tarfile(path)
    except (OSError, EOFError):  # decoding says what is wrong with it
        return False


def _head(path: Path) -> bytes:
    with path.open("rb", 0) as file:
        return file.read(HEAD) or b""


def _table(path: Path, column: str) -> Split:
    """The rows of a Parquet file."""
    try:
        source = parquet(SourceRequest(str(path), labelled=False, image=column))
    except UserError as error:
        raise UserError(rename_arguments(str(error), {"image": "--column"})) from None
    (split,) = source.splits.values()

    def items() -> Iterator[Item]:
        for row, item in enumerate(split.items()):
            yield item._replace(label=UNLABELLED, location=f"{path}#{row}")

    return Split(split.size, items)
