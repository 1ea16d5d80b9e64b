"""IDX files, the format of MNIST and the many sets that follow it, packed by gzip or not.

A folder holds pairs `NAME-images-idx3-ubyte` and `NAME-labels-idx1-ubyte`
(`idx4` for colour), where NAME tells the split: it has the word train, t10k,
test or validation in it. One pair with any other name comes undivided.
Format: http://yann.lecun.com/exdb/mnist/ (LeCun, Cortes and Burges).
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from rapipe.errors import UserError
from rapipe.records import SPLITS
from rapipe.sources.base import ALIASES, WHOLE, Ask, Item, Source, Split, out_of_range

IMAGES = ("-images-idx3-ubyte", "-images-idx4-ubyte", "-images.idx3-ubyte")
LABELS = ("-labels-idx1-ubyte", "-labels.idx1-ubyte")
UNSIGNED_BYTES = 8
Pair = tuple[Path, Path]


def idx(ask: Ask) -> Source:
    """Images and labels of a folder of IDX files; classes are named by their numbers.

    Raises:
        UserError: the folder holds no pair of files, or one is damaged.
    """
    ask.choose_label("idx")
    pairs = find(Path(ask.path)) if ask.path else {}
    if not pairs:
        raise UserError(
            f"corpus.sources: {ask.path!r} is no folder with files NAME{IMAGES[0]} and "
            f"NAME{LABELS[0]} (or .gz)"
        )
    return pairs_source(pairs)


def find(root: Path) -> dict[str, Pair]:
    """The pairs of files in a folder by split; nothing if there are none.

    Raises:
        UserError: labels are missing, or two pairs are for one split.
    """
    found: dict[str, Pair] = {}
    images = [p for p in sorted(root.rglob("*")) if _plain(p).endswith(IMAGES) and p.is_file()]
    for path in images:
        prefix = _plain(path).rsplit("-images", 1)[0]
        labels = [prefix + ending + zipped for ending in LABELS for zipped in ("", ".gz")]
        present = [path.with_name(name) for name in labels if path.with_name(name).is_file()]
        if not present:
            raise UserError(f"{path} has no labels beside it: {path.with_name(labels[0])}")
        split = _split_of(prefix) if len(images) > 1 else _split_of(prefix, WHOLE)
        if split in found and _plain(found[split][0]) != _plain(path):
            raise UserError(
                f"{path} and {found[split][0]} are both images of the {split} split: name each "
                "with one of the words train, validation and test (or t10k)"
            )
        found.setdefault(split, (path, present[0]))
    return {split: found[split] for split in (*SPLITS, WHOLE) if split in found}


def pairs_source(pairs: dict[str, Pair], classes: tuple[str, ...] = ()) -> Source:
    """Images and labels of pairs of files by split; classes are numbers unless named."""
    labels = {split: _labels(path) for split, (_, path) in pairs.items()}
    if not classes:
        top = max((max(own, default=-1) for own in labels.values()), default=-1)
        classes = tuple(str(number) for number in range(top + 1))
    return Source(
        classes,
        {
            split: _split(images, labels[split], len(classes))
            for split, (images, _) in pairs.items()
        },
        tuple(path for pair in pairs.values() for path in pair),
    )


def _plain(path: Path) -> str:
    return path.name.removesuffix(".gz")


def _split_of(prefix: str, otherwise: str = "") -> str:
    for word in (*SPLITS, *ALIASES, "t10k"):
        if word in prefix.lower():
            return "test" if word == "t10k" else ALIASES.get(word, word)
    return otherwise or prefix


def _split(path: Path, labels: bytes, classes: int) -> Split:
    with _open(path) as file:
        count, *shape = _header(file, path)
    if count != len(labels):
        raise UserError(f"{path} holds {count} images, but there are {len(labels)} labels")
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] != 3):
        raise UserError(f"{path} holds arrays of shape {shape}, not images")

    def items() -> Iterator[Item]:
        with _open(path) as file:
            _header(file, path)
            for row, label in enumerate(labels):
                data = _exactly(file, math.prod(shape), path)
                pixels = np.frombuffer(data, np.uint8).reshape(shape)
                yield Item(pixels, label, f"{path} image {row}", out_of_range(label, classes))

    return Split(count, items)


def _labels(path: Path) -> bytes:
    with _open(path) as file:
        shape = _header(file, path)
        if len(shape) != 1:
            raise UserError(f"{path} holds arrays of {len(shape)} dimensions, not labels")
        return _exactly(file, shape[0], path)


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, (gzip.open if path.suffix == ".gz" else open)(path, "rb"))


def _header(file: BinaryIO, path: Path) -> list[int]:
    """Reads the beginning of a file: two zeros, the type, the dimensions, their lengths."""
    magic = _exactly(file, 4, path)
    if magic[:2] != b"\0\0" or magic[2] != UNSIGNED_BYTES or not 1 <= magic[3] <= 4:
        raise UserError(f"{path} is no IDX file of unsigned bytes: it begins with {magic.hex(' ')}")
    sizes = _exactly(file, 4 * magic[3], path)
    return [int(size) for size in np.frombuffer(sizes, ">u4")]


def _exactly(file: BinaryIO, count: int, path: Path) -> bytes:
    try:
        data = file.read(count)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} is damaged: {error}") from None
    if len(data) < count:
        raise UserError(f"{path} is damaged: it ends too early")
    return data
