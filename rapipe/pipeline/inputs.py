"""What several stages read, and how they write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rapipe import paths
from rapipe.config.schema import Params
from rapipe.config.variants import Variant
from rapipe.errors import UserError
from rapipe.io import weights
from rapipe.io.checksums import verify_checksums
from rapipe.io.tables import parse_checksummed, read_json
from rapipe.records import Images, Neighbours


def labelled(split: str) -> Images:
    """The labelled images of a split: those that classifiers learn from or are tested on."""
    return query_images(split, unlabelled=False)


def images_of(split: str) -> Images:
    """All images of a split, labelled or not."""
    return Images.read(checked(paths.split(split)))


def query_images(split: str, unlabelled: bool) -> Images:
    """The images of a split that are queries: the labelled ones.

    Args:
        unlabelled: of train also those that a teacher may label: without a label, but not
            of a source that is memory only.
    """
    images = images_of(split)
    mask = images.labels >= 0
    if split == "train" and unlabelled:
        sources = corpus_card()["sources"]
        task = [name for name, facts in sources.items() if facts["role"] == "task"]
        mask |= np.isin(images.sources, task)
    return images if mask.all() else images.take(np.flatnonzero(mask))


def neighbours_of(images: Images, variant: Variant, split: str) -> Neighbours:
    """The prefetched table of the query images of a split.

    Raises:
        UserError: it belongs to other images or another k.
    """
    table = Neighbours.read(checked(paths.table(variant.retrieval, split)))
    if split == "train" and len(table.query_ids) > len(images):
        queries = query_images(split, unlabelled=True)
        if np.array_equal(queries.ids, table.query_ids):
            table = table.take(np.flatnonzero(queries.labels >= 0))
    if not np.array_equal(table.query_ids, images.ids) or table.indices.shape[1] != variant.k:
        raise UserError(
            f"{paths.table(variant.retrieval, split)} belongs to another corpus or another "
            "retrieval.k: run rapipe prefetch, or dvc repro"
        )
    return table


def bank_card() -> dict[str, Any]:
    """What the bank was made from: version of the store, encoder, classes."""
    return read_card(paths.BANK_CARD)


def encoder_fingerprint() -> str:
    """Of the encoder in `data/encoder`: its weights, and how it prepares images."""
    return weights.fingerprint(weights.read_card(checked(paths.ENCODER), "pretrain"))


def check_encoder(fingerprint: str, artefact: object, stage: str) -> None:
    """Raise `UserError` unless `data/encoder` has the fingerprint that embedded an artefact.

    Args:
        stage: the one that makes the artefact anew.
    """
    present = encoder_fingerprint()
    if fingerprint != present:
        raise UserError(
            f"{artefact} was embedded by encoder {fingerprint[:12]}, but {paths.ENCODER} is "
            f"{present[:12]}: run rapipe {stage}, or dvc repro"
        )


def check_labels(params: Params) -> None:
    """Raise `UserError` unless the bank knows the labels that are known now, and no others."""
    setting = bank_card().get("labels_known")
    if setting != [params.train.label_fraction, params.seed]:
        raise UserError(
            f"{paths.BANK} was made for another train.label_fraction than "
            f"{params.train.label_fraction:g}, or another seed: run rapipe prefetch, or dvc repro"
        )


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
    """What `write_checksummed` wrote; `UserError` names the stage if it is missing or damaged."""
    return read_json(path, paths.maker(path), parse_checksummed)
