"""What a repository may hold, by its kind, and whether a folder is a usable one.

Only these files go up, and only these come down: no pickle, no code and no image is among them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from rapipe import __version__
from rapipe.encoder.encoder import Encoder
from rapipe.errors import ArgumentError, UserError
from rapipe.io.atomic import atomic_write
from rapipe.io.checksums import CHECKSUMS, verify_checksums, write_checksums
from rapipe.io.tables import read_json, write_json
from rapipe.io.weights import CARD, WEIGHTS, read_card
from rapipe.prediction import exported
from rapipe.retrieval.store.exporting import SCHEMA
from rapipe.retrieval.store.vector_files import VectorFile

MARKER = "rapipe.json"
"""Says what a repository holds, and who wrote it."""
README = "README.md"
COMMON = {MARKER, README, CHECKSUMS}
GIT = ".gitattributes"
"""The hub's own, in every repository."""
FORMAT = 1
"""Of a repository; one of a higher number was written by a later version."""
MEMORY = "memory.parquet"
MODEL, DATASET = "model", "dataset"
"""The hub's types of repositories."""
LENGTH = 1e-3
"""A vector's squared length may differ from 1 by so much."""


@dataclass(frozen=True)
class Kind:
    """What can be pushed and pulled."""

    name: str
    repo_type: str
    files: frozenset[str]
    """Names of all files that there may be, besides `COMMON`."""
    describe: Callable[[Path], str]
    """Reads a folder of this kind; says what it holds and how to use it. Raises `UserError`."""

    def check_names(self, names: set[str], page: str) -> None:
        """Raise `ArgumentError` if a repository holds anything else; `names` lacks `GIT`."""
        if MARKER not in names:
            raise ArgumentError(
                f"`repository`: {page} holds nothing that rapipe push wrote ({_some(names)})"
            )
        if unknown := names - self.files - COMMON:
            raise ArgumentError(
                f"`repository`: {page} holds {_some(unknown)}, which is no part of a rapipe "
                f"{self.name}: nothing of it is touched"
            )


def _some(names: set[str]) -> str:
    first = sorted(names)[:3]
    return ", ".join(first) + (", ..." if len(names) > len(first) else "") if first else "no file"


def _describe_encoder(folder: Path) -> str:
    encoder, spec = Encoder.read(folder), read_card(folder, "push")["spec"]
    settings = ", ".join(f"{key}: {spec[key]}" for key in ("width", "stem", "pool"))
    return (
        f"{spec['backbone']}, which gives vectors of {encoder.features} dimensions; to use it, set "
        f"pretrain.init: {folder}, encoder: {spec['backbone']}, {settings}, and objective: none "
        f"(or another, to train on), or in Python rapipe.Encoder.read({str(folder)!r})"
    )


def _describe_classifier(folder: Path) -> str:
    predictor = exported.load(folder)
    rows = f", with a memory of {len(predictor.retriever.bank):,}" if predictor.retriever else ""
    return (
        f"a classifier of {len(predictor.classes)} classes{rows}; to use it, "
        f"rapipe.load({str(folder)!r}).predict(['image.jpg'])"
    )


def _describe_memory(folder: Path) -> str:
    path = folder / MEMORY
    file = VectorFile.open(path)
    absent = set(SCHEMA.names) - {"origin"} - set(pq.read_schema(path).names)
    if absent:
        raise UserError(f"{path} lacks the column {min(absent)}")
    dimension = 0
    for block in file.read(file.ids):
        squares = np.einsum("nd,nd->n", block.values, block.values)
        if not np.allclose(squares, 1, atol=LENGTH):
            raise UserError(f"{path} holds a vector that is not of unit length")
        dimension = block.values.shape[1]
    return (
        f"{file.rows:,} vectors of {dimension} dimensions; in a project with the same images, "
        f"rapipe store import {path}"
    )


def _network(folder: str) -> set[str]:
    return {f"{folder}/{name}" for name in (CARD, WEIGHTS, CHECKSUMS)}


KINDS = {
    kind.name: kind
    for kind in (
        Kind("encoder", MODEL, frozenset({CARD, WEIGHTS}), _describe_encoder),
        Kind(
            "classifier",
            MODEL,
            frozenset(
                {
                    *(exported.OURS - {exported.CLASSIFIER, exported.ENCODER, exported.BANK}),
                    *_network(exported.CLASSIFIER),
                    *_network(exported.ENCODER),
                    *(f"{exported.BANK}/{n}" for n in ("vectors.npy", "rows.arrow", CHECKSUMS)),
                }
            ),
            _describe_classifier,
        ),
        Kind("memory", DATASET, frozenset({MEMORY, CARD}), _describe_memory),
    )
}


def complete(folder: Path, kind: Kind, readme: str) -> None:
    """Add to the files of a kind what every repository has."""
    atomic_write(folder / README, readme.encode())
    write_json(folder / MARKER, {"format": FORMAT, "what": kind.name, "rapipe": __version__})
    write_checksums(folder)


def names_in(folder: Path) -> set[str]:
    """Of all files below a folder, hidden ones too."""
    return {f.relative_to(folder).as_posix() for f in folder.rglob("*") if not f.is_dir()}


def verify(folder: Path, kind: Kind) -> str:
    """What a folder holds, after all of it was checked and read.

    Raises:
        UserError: it is of another kind or a later version, damaged, or does not load.
    """
    marker: dict[str, Any] = read_json(folder / MARKER, "push")
    if marker.get("what") != kind.name:
        raise UserError(f"{folder} holds a rapipe {marker.get('what')}, not {kind.name}")
    if marker.get("format") != FORMAT:
        raise UserError(
            f"{folder} has the format {marker.get('format')}, but rapipe {__version__} reads "
            f"{FORMAT}: install rapipe {marker.get('rapipe')}"
        )
    verify_checksums(folder, "pull")
    return kind.describe(folder)
