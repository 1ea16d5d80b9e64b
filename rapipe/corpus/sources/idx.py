"""IDX files, the format of MNIST and the many sets that follow it, packed by gzip or not.

A folder holds pairs `NAME-images-idx3-ubyte` and `NAME-labels-idx1-ubyte`
(`idx4` for colour), where NAME tells the split: it has the word train, t10k,
test or validation in it. One pair with any other name comes undivided.
Format: http://yann.lecun.com/exdb/mnist/ (LeCun, Cortes and Burges).
"""

from __future__ import annotations

import gzip
import math
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from rapipe.corpus.loading import MAX_PIXELS
from rapipe.corpus.sources.base import (
    ALIASES,
    UNDIVIDED,
    Item,
    Source,
    SourceRequest,
    Split,
    out_of_range,
)
from rapipe.corpus.sources.files import Listing, walk_files
from rapipe.errors import ArgumentError, UserError
from rapipe.records import SPLITS

IMAGES = ("-images-idx3-ubyte", "-images-idx4-ubyte", "-images.idx3-ubyte")
LABELS = ("-labels-idx1-ubyte", "-labels.idx1-ubyte")
UNSIGNED_BYTES = 8
MAX_IMAGES = 1 << 28
"""A file of more labels is damaged, and would fill the memory."""
Pair = tuple[Path, Path]


def idx(request: SourceRequest) -> Source:
    """Images and labels of a folder of IDX files; classes are named by their numbers.

    Raises:
        ArgumentError: the folder holds no pair of files.
        UserError: a file is damaged.
    """
    request.choose_label("idx")
    root = request.location
    pairs = find_pairs(root) if request.path else {}
    if not pairs:
        wrong = "is a file; it must be a" if root.is_file() else "is no"
        raise ArgumentError(
            f"`path`: {request.path!r} {wrong} folder with files NAME{IMAGES[0]} and "
            f"NAME{LABELS[0]} (or .gz)"
        )
    return pairs_source(pairs)


def find_pairs(root: Path, packed: bool = True) -> dict[str, Pair]:
    """The pairs of files in a folder by split; empty if there are none.

    Args:
        packed: include files packed by gzip.

    Raises:
        UserError: labels are missing, a link leads to nothing, or the names do not say which pair
            is which split.
    """
    endings = ("", ".gz") if packed else ("",)
    suffixes = tuple(i + e for i in IMAGES for e in endings)
    entries = walk_files(root, Listing()) if root.is_dir() else ()
    images = [root / entry.name for entry in entries if entry.name.endswith(suffixes)]
    pairs: dict[str, Pair] = {}
    for path in images:
        prefix = path.name.removesuffix(".gz").rsplit("-images", 1)[0]
        labels = [path.with_name(prefix + ending + e) for ending in LABELS for e in endings]
        present = [file for file in labels if file.is_file()]
        if not present:
            raise UserError(f"{path} has no labels beside it: {labels[0]}")
        split = _split_of(prefix) or (UNDIVIDED if len(images) == 1 else "")
        if not split or split in pairs:
            raise UserError(
                f"{path} and other images lie in {root}: let each name hold one of the words "
                "train, validation and test (or t10k), each once"
            )
        pairs[split] = (path, present[0])
    return {split: pairs[split] for split in (*SPLITS, UNDIVIDED) if split in pairs}


def pairs_source(pairs: dict[str, Pair], classes: tuple[str, ...] = ()) -> Source:
    """Images and labels of pairs of files by split; classes are numbers unless named."""
    labels = {split: _labels(path) for split, (_, path) in pairs.items()}
    if not classes:
        numbers = sorted(set[int]().union(*labels.values()))
        classes = tuple(map(str, numbers))
        labels = {split: bytes(map(numbers.index, raw)) for split, raw in labels.items()}
    return Source(
        classes,
        {
            split: _split(images, labels[split], len(classes))
            for split, (images, _) in pairs.items()
        },
        tuple(path for pair in pairs.values() for path in pair),
    )


def _split_of(prefix: str) -> str:
    """The split that one of the words of a name stands for, or ""."""
    for word in re.split("[^a-z0-9]+", prefix.lower()):
        split = "test" if word == "t10k" else ALIASES.get(word, word)
        if split in SPLITS:
            return split
    return ""


def _split(path: Path, labels: bytes, classes: int) -> Split:
    with _open(path) as file:
        count, *shape = _header(file, path)
    if count != len(labels):
        raise UserError(f"{path} holds {count} images, but there are {len(labels)} labels")
    if math.prod(shape) > 3 * MAX_PIXELS:
        raise UserError(f"{path} holds arrays of shape {shape}, larger than images can be")
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] != 3):
        raise UserError(f"{path} holds arrays of shape {shape}, not images")

    def items() -> Iterator[Item]:
        with _open(path) as file:
            _header(file, path)
            for row, label in enumerate(labels):
                data = _read_exactly(file, math.prod(shape), path)
                pixels = np.frombuffer(data, np.uint8).reshape(shape)
                yield Item(pixels, label, f"{path} image {row}", out_of_range(label, classes))

    return Split(count, items)


def _labels(path: Path) -> bytes:
    with _open(path) as file:
        shape = _header(file, path)
        if shape[0] > MAX_IMAGES:
            raise UserError(f"{path} holds {shape[0]:,} labels, more than {MAX_IMAGES:,}")
        if len(shape) != 1:
            raise UserError(f"{path} holds arrays of {len(shape)} dimensions, not labels")
        return _read_exactly(file, shape[0], path)


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, (gzip.open if path.suffix == ".gz" else open)(path, "rb"))


def _header(file: BinaryIO, path: Path) -> list[int]:
    """Read the header of a file: two zeros, the type, the number of dimensions, and the shape."""
    magic = _read_exactly(file, 4, path)
    if magic[:2] != b"\0\0" or magic[2] != UNSIGNED_BYTES or not 1 <= magic[3] <= 4:
        raise UserError(f"{path} is no IDX file of unsigned bytes: it begins with {magic.hex(' ')}")
    sizes = _read_exactly(file, 4 * magic[3], path)
    return [int(size) for size in np.frombuffer(sizes, ">u4")]


def _read_exactly(file: BinaryIO, count: int, path: Path) -> bytes:
    try:
        data = file.read(count)
    except (OSError, EOFError, zlib.error, OverflowError, MemoryError) as error:
        raise UserError(f"{path} is damaged: {error or 'its header asks too much'}") from None
    if len(data) < count:
        raise UserError(f"{path} is damaged: it ends too early")
    return data
