"""CIFAR-10 and CIFAR-100, from the published binary files or from the Python version.

The Python version is made of pickles. They are read opcode by opcode, as data:
nothing in them is unpickled or run. Krizhevsky, 2009; layouts and checksums:
https://www.cs.toronto.edu/~kriz/cifar.html
"""

from __future__ import annotations

import pickletools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rapipe.corpus.sources.archives import decode_text, require_files, unpack
from rapipe.corpus.sources.base import Item, Source, SourceRequest, Split, out_of_range
from rapipe.corpus.sources.download import Archive
from rapipe.errors import UserError

SIDE = 32
PIXELS = 3 * SIDE * SIDE
URL = "https://www.cs.toronto.edu/~kriz/"
CIFAR10 = Archive(
    "cifar-10-binary.tar.gz", URL + "cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"
)
CIFAR100 = Archive(
    "cifar-100-binary.tar.gz", URL + "cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8"
)


@dataclass(frozen=True)
class _Layout:
    """How one version of one set lies in its folder."""

    batches: dict[str, tuple[str, ...]]
    """File names by split."""
    names: str
    """File with the class names."""
    labels: str | int
    """Key of the labels in a pickle, or bytes before the label in a binary row."""


@dataclass(frozen=True)
class _Batch:
    pixels: bytes
    labels: list[int]


def cifar10(request: SourceRequest) -> Source:
    """50,000 + 10,000 colour photographs of 10 classes, 32 by 32.

    Raises:
        ArgumentError: the files are missing and may not be fetched.
        UserError: a file is damaged.
    """
    request.choose_label("cifar10")
    parts = range(1, 6)
    train, test = tuple(f"data_batch_{i}" for i in parts), ("test_batch",)
    python = _Layout({"train": train, "test": test}, "batches.meta", "labels")
    binary = _Layout(
        {"train": tuple(f"{name}.bin" for name in train), "test": ("test_batch.bin",)},
        "batches.meta.txt",
        0,
    )
    folder = unpack("cifar10", request, CIFAR10, "cifar-10-batches-py", "cifar-10-batches-bin")
    return _source(folder, python if folder.name.endswith("-py") else binary, "label_names", 1)


def cifar100(request: SourceRequest) -> Source:
    """50,000 + 10,000 colour photographs, 32 by 32; `fine` labels (100) or `coarse` (20).

    Raises:
        ArgumentError: the files are missing and may not be fetched.
        UserError: a file is damaged.
    """
    label = request.choose_label("cifar100", "fine", "coarse")
    python = _Layout({"train": ("train",), "test": ("test",)}, "meta", f"{label}_labels")
    binary = _Layout(
        {"train": ("train.bin",), "test": ("test.bin",)},
        f"{label}_label_names.txt",
        ("coarse", "fine").index(label),
    )
    folder = unpack("cifar100", request, CIFAR100, "cifar-100-python", "cifar-100-binary")
    layout = python if folder.name.endswith("-python") else binary
    return _source(folder, layout, f"{label}_label_names", 2)


def _source(folder: Path, layout: _Layout, names_key: str, label_bytes: int) -> Source:
    batches = {split: [folder / name for name in names] for split, names in layout.batches.items()}
    names = folder / layout.names
    files = require_files([names, *(file for paths in batches.values() for file in paths)])
    if isinstance(layout.labels, str):
        classes = tuple(_strings(names, names_key))
    else:
        classes = tuple(decode_text(names.read_bytes(), names).split())
    if not classes:
        raise UserError(f"{names} names no classes: unpack the archive again")

    def read(file: Path) -> _Batch:
        if isinstance(layout.labels, str):
            return _pickled(file, layout.labels)
        return _binary(file, layout.labels, label_bytes)

    def split(paths: list[Path]) -> Split:
        def items() -> Iterator[Item]:
            for file in paths:
                batch = read(file)
                planes = np.frombuffer(batch.pixels, np.uint8).reshape(-1, 3, SIDE, SIDE)
                for row, (image, label) in enumerate(zip(planes, batch.labels, strict=True)):
                    pixels = np.ascontiguousarray(image.transpose(1, 2, 0))
                    error = out_of_range(label, len(classes))
                    yield Item(pixels, label, f"{file} image {row}", error)

        return Split(sum(len(read(file).labels) for file in paths), items)

    return Source(classes, {name: split(paths) for name, paths in batches.items()}, files)


def _binary(file: Path, label_at: int, label_bytes: int) -> _Batch:
    """Rows of one or two label bytes and 3,072 pixels, plane by plane."""
    raw = np.fromfile(file, np.uint8)
    if not len(raw) or len(raw) % (label_bytes + PIXELS):
        raise UserError(f"{file} is damaged: it has {len(raw)} bytes, not whole rows")
    rows = raw.reshape(-1, label_bytes + PIXELS)
    return _Batch(rows[:, label_bytes:].tobytes(), rows[:, label_at].tolist())


def _pickled(file: Path, key: str) -> _Batch:
    """Pixels are the long string of the pickle, labels the numbers that follow their key."""
    pixels, labels, last = b"", list[int](), b""
    for name, value in _opcodes(file):
        if isinstance(value, bytes):
            if len(value) >= PIXELS:
                pixels = value
            last = value[:64]
        elif last == key.encode() and name in NUMBERS:
            labels.append(value)
    if not labels or len(pixels) != len(labels) * PIXELS:
        raise UserError(f"{file} is damaged: {len(labels)} labels, {len(pixels)} bytes of pixels")
    return _Batch(pixels, labels)


def _strings(file: Path, key: str) -> list[str]:
    """The list of strings that follows a key."""
    strings: list[str] | None = None
    for name, value in _opcodes(file):
        if value == key.encode():
            strings = []
        elif strings is not None and isinstance(value, bytes):
            strings.append(decode_text(value, file))
        elif strings and name in ("APPENDS", "SETITEM", "SETITEMS"):
            break
    return strings or []


NUMBERS = frozenset(("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1"))


def _opcodes(file: Path) -> Iterator[tuple[str, Any]]:
    """Names and arguments of the opcodes of a pickle; strings of all kinds as bytes."""
    try:
        for opcode, value, _ in pickletools.genops(file.read_bytes()):
            if isinstance(value, str):
                value = value.encode("latin-1")
            elif isinstance(value, bytearray):
                value = bytes(value)
            yield opcode.name, value
    except (ValueError, UnicodeError) as error:
        raise UserError(f"{file} is damaged: {error}") from None
