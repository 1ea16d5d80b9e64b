"""STL-10: 5,000 + 8,000 labelled photographs of 10 classes and 100,000 unlabelled, 96 by 96.

Coates, Ng and Lee, 2011; layout: https://cs.stanford.edu/~acoates/stl10/,
checksum as in torchvision.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from rapipe.corpus.sources.archives import decode_text, require_files, unpack
from rapipe.corpus.sources.base import Item, Source, SourceRequest, Split, out_of_range
from rapipe.corpus.sources.download import Archive
from rapipe.errors import UserError
from rapipe.records import UNLABELLED

SIDE = 96
PIXELS = 3 * SIDE * SIDE
TOP = "stl10_binary"
ARCHIVE = Archive(
    "stl10_binary.tar.gz",
    "http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",
    "91f7769df0f17e558f3565bffb0c7dfb",
)
FILES = {"train": ("train_X.bin", "unlabeled_X.bin"), "test": ("test_X.bin",)}


def stl10(request: SourceRequest) -> Source:
    """The unlabelled images join the training split, with the label -1.

    Raises:
        ArgumentError: the files are missing and may not be fetched.
        UserError: a file is damaged.
    """
    request.choose_label("stl10")
    folder = unpack("stl10", request, ARCHIVE, TOP)
    names = folder / "class_names.txt"
    images = {split: [folder / name for name in file_names] for split, file_names in FILES.items()}
    labels = [folder / "train_y.bin", folder / "test_y.bin"]
    files = require_files([names, *labels, *(file for paths in images.values() for file in paths)])
    classes = tuple(decode_text(names.read_bytes(), names).split())
    splits = {split: _split(paths, len(classes)) for split, paths in images.items()}
    return Source(classes, splits, files)


def _split(files: list[Path], classes: int) -> Split:
    labels = {file: _labels(file) for file in files}

    def items() -> Iterator[Item]:
        for file in files:
            with file.open("rb") as binary:
                for row, label in enumerate(labels[file]):
                    columns = np.frombuffer(binary.read(PIXELS), np.uint8).reshape(3, SIDE, SIDE)
                    pixels = np.ascontiguousarray(columns.transpose(2, 1, 0))  # column by column
                    error = out_of_range(label, classes)
                    yield Item(pixels, label, f"{file} image {row}", error)

    return Split(sum(map(len, labels.values())), items)


def _labels(images: Path) -> list[int]:
    """Labels, from 0, of a file of images; all -1 if there is no file of labels."""
    count, rest = divmod(images.stat().st_size, PIXELS)
    if rest:
        raise UserError(f"{images} is damaged: it has {images.stat().st_size} bytes")
    path = images.with_name(images.name.replace("_X.bin", "_y.bin"))
    if not path.exists():
        return [UNLABELLED] * count
    labels = [label - 1 for label in path.read_bytes()]
    if len(labels) != count:
        raise UserError(f"{images} holds {count} images, but {path} {len(labels)} labels")
    return labels
