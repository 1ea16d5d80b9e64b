"""Composes sources into Images with stable ids and splits.

Every image becomes a square of `image_size` pixels in three channels; its id
is a hash of those pixels, so exact duplicates share one id. What is held out
is held out by id: duplicates never end on both sides of a division that we make.

Letters: N images, S side in pixels.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from rapipe.errors import UserError
from rapipe.progress import track
from rapipe.records import SPLITS, UNLABELLED, Ids, Images, Labels
from rapipe.sources.base import WHOLE, Item, Source, Split

CHUNK = 1024


def compose(
    sources: Mapping[str, Source],
    image_size: int,
    validation_fraction: float,
    test_fraction: float,
    seed: int,
) -> dict[str, Images]:
    """Images by split (train, validation, test) from sources by name.

    Classes of the sources are joined by name, in order of appearance. A source
    without validation split gives `validation_fraction` of its train split to
    it; one that comes undivided first gives `test_fraction` to test.

    Raises:
        UserError: a source lacks a train or test split, an image cannot be
            decoded, or a division leaves a split empty.
    """
    classes = tuple(dict.fromkeys(name for source in sources.values() for name in source.classes))
    parts: dict[str, list[Images]] = {split: [] for split in SPLITS}
    for name, source in sources.items():
        rng = np.random.default_rng([seed, *name.encode()])
        own = {
            split: _read(name, source, split, data, image_size, classes)
            for split, data in source.splits.items()
        }
        for split, images in _divide(name, own, validation_fraction, test_fraction, rng).items():
            parts[split].append(images)
    joined = {split: _join(images) for split, images in parts.items()}
    for split, images in joined.items():
        if not (images.labels >= 0).any():
            raise UserError(
                f"corpus: the {split} split holds no labelled image; "
                "add images or change corpus.validation_fraction or corpus.test_fraction"
            )
    return joined


def pixel_hash(pixels: npt.NDArray[np.uint8]) -> int:
    """64-bit id of one image (S, S, 3): BLAKE2b of its pixels, as a signed integer."""
    digest = hashlib.blake2b(pixels.tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def decode(item: Item, size: int) -> npt.NDArray[np.uint8]:
    """The image of an item as (size, size, 3) pixels, resized and cropped around its centre.

    Raises:
        UserError: the bytes are no image that can be decoded; names the file or row.
    """
    try:
        if isinstance(item.data, bytes):
            image = ImageOps.exif_transpose(Image.open(io.BytesIO(item.data)))
        else:
            image = Image.fromarray(item.data)
        image = image.convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise UserError(f"{item.where} is no image that can be read: {error}") from None
    except Image.DecompressionBombError as error:
        raise UserError(f"{item.where} is too large: {error}") from None
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
    return np.asarray(image)


def held_out(
    ids: Ids, labels: Labels, fraction: float, rng: np.random.Generator
) -> npt.NDArray[np.bool_]:
    """Mask (N,) of a share of the images, stratified by label; equal ids stay together."""
    unique, first = np.unique(ids, return_index=True)
    label_of = labels[first]
    chosen = []
    for label in np.unique(label_of):
        own = rng.permutation(unique[label_of == label])
        chosen.append(own[: round(fraction * len(own))])
    return np.asarray(np.isin(ids, np.concatenate(chosen)))


def _divide(
    name: str,
    own: dict[str, Images],
    validation_fraction: float,
    test_fraction: float,
    rng: np.random.Generator,
) -> dict[str, Images]:
    """The splits of one source, with what is missing held out."""
    if WHOLE in own:
        own["train"], own["test"] = _cut(own.pop(WHOLE), test_fraction, rng)
    for split in ("train", "test"):
        if split not in own:
            raise UserError(f"corpus.sources: {name} has no {split} split, only {', '.join(own)}")
    if "validation" not in own:
        own["train"], own["validation"] = _cut(own["train"], validation_fraction, rng)
    return own


def _cut(images: Images, fraction: float, rng: np.random.Generator) -> tuple[Images, Images]:
    out = held_out(images.ids, images.labels, fraction, rng)
    return images.take(np.flatnonzero(~out)), images.take(np.flatnonzero(out))


def _read(
    name: str, source: Source, split: str, data: Split, size: int, classes: tuple[str, ...]
) -> Images:
    """Decode one split of one source, on all cores, in order."""
    if data.size == 0:
        raise UserError(f"corpus.sources: the {split} split of {name} holds no images")
    pixels = np.empty((data.size, size, size, 3), np.uint8)
    ids = np.empty(data.size, np.int64)
    labels = np.full(data.size, UNLABELLED, np.int64)
    label_of = np.array([classes.index(own) for own in source.classes], np.int64)

    def place(row: int, item: Item) -> None:
        pixels[row] = decode(item, size)
        ids[row] = pixel_hash(pixels[row])
        if item.label != UNLABELLED:
            labels[row] = label_of[item.label]

    items = track(data.items(), f"{name} {split}", data.size)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        start = 0
        for chunk in _chunks(items):
            list(pool.map(place, range(start, start + len(chunk)), chunk))
            start += len(chunk)
    return Images(ids, pixels, labels, np.full(data.size, name), classes)


def _chunks(items: Iterator[Item]) -> Iterator[list[Item]]:
    while chunk := list(islice(items, CHUNK)):
        yield chunk


def _join(parts: list[Images]) -> Images:
    return Images(
        ids=np.concatenate([p.ids for p in parts]),
        pixels=np.concatenate([p.pixels for p in parts]),
        labels=np.concatenate([p.labels for p in parts]),
        sources=np.concatenate([p.sources for p in parts]),
        classes=parts[0].classes,
    )
