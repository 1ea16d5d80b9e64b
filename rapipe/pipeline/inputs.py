"""What several stages read, and how they write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rapipe import paths
from rapipe.config.schema import Params
from rapipe.config.variants import Variant
from rapipe.corpus.labels import visible_label_mask
from rapipe.errors import UserError
from rapipe.io.checksums import verify_checksums
from rapipe.io.tables import parse_checksummed, read_json
from rapipe.records import Ids, Images, Neighbours, Pixels


def labelled(split: str) -> Images:
    """The labelled images of a split: those that classifiers learn from or are tested on."""
    return query_images(split, unlabelled=False)


def images_of(split: str) -> Images:
    """All images of a split, labelled or not."""
    return Images.read(checked(paths.split(split)))


def query_images(split: str, unlabelled: bool) -> Images:
    """The images of a split that look up neighbours: the labelled ones.

    Args:
        unlabelled: of train also those that a teacher may label: without a label, but not
            of a source that is memory only.
    """
    images = images_of(split)
    asks = images.labels >= 0
    if split == "train" and unlabelled:
        sources = corpus_card()["sources"]
        task = [name for name, own in sources.items() if own["role"] == "task"]
        asks |= np.isin(images.sources, task)
    return images if asks.all() else images.take(np.flatnonzero(asks))


def hidden_label_ids(train: Images, params: Params) -> Ids:
    """Ids of the training images whose labels `train.label_fraction` keeps from everyone."""
    kept = visible_label_mask(train.ids, train.labels, params.train.label_fraction, params.seed)
    return train.ids[(train.labels >= 0) & ~kept]


def neighbours_of(images: Images, variant: Variant, split: str) -> Neighbours:
    """The prefetched table of the images of a split that ask.

    Raises:
        UserError: it belongs to other images or another k.
    """
    table = Neighbours.read(checked(paths.table(variant.retrieval, split)))
    if split == "train" and len(table.query_ids) > len(images):
        every = query_images(split, unlabelled=True)
        if np.array_equal(every.ids, table.query_ids):
            table = table.take(np.flatnonzero(every.labels >= 0))
    if not np.array_equal(table.query_ids, images.ids) or table.indices.shape[1] != variant.k:
        raise UserError(
            f"{paths.table(variant.retrieval, split)} belongs to another corpus or another "
            "retrieval.k: run rapipe prefetch, or dvc repro"
        )
    return table


def bank_card() -> dict[str, Any]:
    """What the bank was made from: version of the memory, encoder, classes."""
    return read_card(paths.BANK_CARD)


def check_labels(params: Params) -> None:
    """Raise `UserError` unless the bank knows the labels that are known now, and no others."""
    told = bank_card().get("labels_known")
    if told != [params.train.label_fraction, params.seed]:
        raise UserError(
            f"{paths.BANK} was made for another train.label_fraction than "
            f"{params.train.label_fraction:g}, or another seed: run rapipe prefetch, or dvc repro"
        )


def pictures(train: Images, ids: Ids) -> Pixels:
    """Pixels (N, H, W, 3) of images by id; grey where the corpus has no such image."""
    row_of = {own: row for row, own in enumerate(train.ids.tolist())}
    found = np.full((len(ids), *train.pixels.shape[1:]), 128, np.uint8)
    for place, own in enumerate(ids.tolist()):
        if own in row_of:
            found[place] = train.pixels[row_of[own]]
    return found


def corpus_card() -> dict[str, Any]:
    """Counts, classes, pixel statistics and hash of the corpus."""
    return read_card(paths.CORPUS_CARD)


def checked(path: Path) -> Path:
    """The path of a file or folder that a stage has made, if it is what the stage wrote.

    Raises:
        UserError: it is missing or not what was written; names the file and the stage.
    """
    verify_checksums(path, paths.maker(path))
    return path


def read_card(path: Path) -> dict[str, Any]:
    """A JSON object in a folder that a stage has made."""
    return read_json(checked(path), paths.maker(path))


def read_result(path: Path) -> dict[str, Any]:
    """What `write_result` wrote; `UserError` names the stage if it is missing or damaged."""
    return read_json(path, paths.maker(path), parse_checksummed)
