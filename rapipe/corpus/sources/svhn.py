"""SVHN, cropped: 73,257 + 26,032 house-number digits in colour, 32 by 32.

Netzer et al., 2011; http://ufldl.stanford.edu/housenumbers/, checksums as in
torchvision. The MATLAB files are read by scipy; they hold arrays only.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rapipe.corpus.sources.base import Item, Source, SourceRequest, Split
from rapipe.corpus.sources.download import Archive, obtain
from rapipe.errors import UserError

URL = "http://ufldl.stanford.edu/housenumbers/"
ARCHIVES = {
    "train": Archive(
        "train_32x32.mat", URL + "train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373"
    ),
    "test": Archive("test_32x32.mat", URL + "test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3"),
}


def svhn(request: SourceRequest) -> Source:
    """Train and test; the file's label 10 is the digit 0.

    Raises:
        ArgumentError: the files are missing and may not be fetched.
        UserError: a file is damaged.
    """
    request.choose_label("svhn")
    root = request.folder("svhn")
    files = {split: obtain(archive, root, request.download) for split, archive in ARCHIVES.items()}
    splits = {split: _split(file) for split, file in files.items()}
    return Source(tuple("0123456789"), splits, tuple(files.values()))


def _split(file: Path) -> Split:
    labels = np.asarray(_load(file, "y")).reshape(-1)
    if labels.dtype.kind not in "iuf" or not np.isin(labels, range(1, 11)).all():
        raise UserError(f"{file} holds labels that are not all from 1 to 10")
    labels = labels.astype(np.int64) % 10

    def items() -> Iterator[Item]:
        images = _load(file, "X")  # (32, 32, 3, N)
        shape, dtype = getattr(images, "shape", ()), getattr(images, "dtype", None)
        if (shape, dtype) != ((32, 32, 3, len(labels)), np.uint8):
            raise UserError(
                f"{file} holds images of shape {shape} and type {dtype} for {len(labels)} labels"
            )
        for row, label in enumerate(labels.tolist()):
            pixels = np.ascontiguousarray(images[..., row])
            yield Item(pixels, label, f"{file} image {row}")

    return Split(len(labels), items)


def _load(file: Path, name: str) -> Any:
    from scipy.io import loadmat

    try:
        return loadmat(file, variable_names=[name])[name]
    except Exception as error:  # damaged files make scipy raise anything
        raise UserError(f"{file} is no MATLAB file with the variable {name}: {error}") from None
