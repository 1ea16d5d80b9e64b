"""CIFAR-10-C: the test images of CIFAR-10, corrupted in 19 ways at five severities, 32 by 32.

A NumPy file holds one corruption: all images at severity 1, then all at 2, up to 5. The i-th image
of each severity is the i-th test image of CIFAR-10. Nothing in them is unpickled. Hendrycks and
Dietterich, 2019; layout and checksum: https://zenodo.org/records/2535967
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from rapipe.corpus.sources.archives import require_files, unpack
from rapipe.corpus.sources.base import Item, Source, SourceRequest, Split, out_of_range
from rapipe.corpus.sources.download import Archive
from rapipe.errors import ArgumentError, UserError
from rapipe.io.memory_map import map_array

KIND = "cifar10-c"
ARCHIVE = Archive(
    "CIFAR-10-C.tar",
    "https://zenodo.org/records/2535967/files/CIFAR-10-C.tar",
    "56bf5dcef84df0e2308c6dcbcbbd8499",
)
SHAPE = (32, 32, 3)
SEVERITIES = 5
LABELS = "labels.npy"
CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)


def cifar10_c(request: SourceRequest) -> Source:
    """One corruption at one severity, which `image` names, such as `fog:3`; a test split only.

    Raises:
        ArgumentError: the files are missing and may not be fetched, or `image` names none of them.
        UserError: a file is damaged, or the labels are not those of five equal parts.
    """
    replace(request, image="").choose_label(KIND)
    root = request.folder(KIND)
    folder = root if any(root.glob("*.npy")) else unpack(KIND, request, ARCHIVE, "CIFAR-10-C")
    names = sorted(file.stem for file in folder.glob("[!.]*.npy") if file.name != LABELS)
    name, _, severity = request.image.rpartition(":")
    if name not in names or severity not in map(str, range(1, SEVERITIES + 1)):
        raise ArgumentError(
            f"`request`: `image` is {request.image!r}; for {KIND} it must be a corruption and a "
            f"severity from 1 to {SEVERITIES}, such as fog:3; {folder} has {', '.join(names)}"
        )
    images_file, labels_file = files = require_files((folder / f"{name}.npy", folder / LABELS))
    images, labels = _read(images_file), _read(labels_file)
    if images.shape[1:] != SHAPE or images.dtype != np.uint8:
        raise UserError(
            f"{images_file} holds an array of shape {images.shape} and type {images.dtype}, not "
            "images of 32 x 32 x 3 bytes"
        )
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise UserError(
            f"{labels_file} holds an array of shape {labels.shape} and type {labels.dtype}, not "
            "labels"
        )
    if len(images) != len(labels):
        raise UserError(
            f"{images_file} holds {len(images)} images, but {labels_file} {len(labels)} labels"
        )
    count, rest = divmod(len(labels), SEVERITIES)
    if rest or (labels.reshape(SEVERITIES, count) != labels[:count]).any():
        raise UserError(
            f"{labels_file} does not hold the same labels for each of {SEVERITIES} severities"
        )
    start = (int(severity) - 1) * count

    def items() -> Iterator[Item]:
        for row, label in enumerate(labels[:count].tolist(), start):
            error = out_of_range(label, len(CLASSES))
            yield Item(np.array(images[row]), label, f"{images_file} image {row}", error)

    return Source(CLASSES, {"test": Split(count, items)}, files)


def _read(file: Path) -> np.ndarray:
    try:
        return map_array(file)
    except ValueError as error:
        raise UserError(f"{file} cannot be read: {error}") from None
