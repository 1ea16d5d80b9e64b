"""The map: a point for every row of the bank, and for every validation and test image.

Letters: N points, D embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rapipe.errors import ArgumentError
from rapipe.explore.layout import Points, lay_out
from rapipe.explore.project import Project
from rapipe.io import arrow
from rapipe.records import UNLABELLED, Ids, Labels, Names

HELD_OUT = ("validation", "test")
POINTS = "points.arrow"


@dataclass(frozen=True)
class MapData:
    """Where each image stands, and what it is; the bank first."""

    method: str
    ids: Ids
    points: Points  # (N, 2), from -1 to 1
    labels: Labels
    """Of the classes of the bank; -1 = none."""
    sources: Names
    splits: Names

    def take(self, rows: npt.NDArray[np.int64]) -> MapData:
        """Some of the points."""
        return MapData(
            self.method,
            self.ids[rows],
            self.points[rows],
            self.labels[rows],
            self.sources[rows],
            self.splits[rows],
        )

    def write(self, folder: Path) -> None:
        """Write `points.arrow`."""
        columns = {
            "id": pa.array(self.ids),
            "x": pa.array(self.points[:, 0]),
            "y": pa.array(self.points[:, 1]),
            "label": pa.array(self.labels),
            "source": pa.array(self.sources.tolist(), pa.string()),
            "split": pa.array(self.splits.tolist(), pa.string()),
        }
        arrow.write_columns(folder / POINTS, columns, {"method": self.method})

    @classmethod
    def read(cls, folder: Path) -> MapData:
        """What `write` wrote."""
        table, facts = arrow.read_table(folder / POINTS)
        x, y = (arrow.column(table, name).to_numpy() for name in ("x", "y"))
        return cls(
            method=facts["method"],
            ids=arrow.column(table, "id").to_numpy(),
            points=np.stack([x, y], axis=1),
            labels=arrow.column(table, "label").to_numpy(),
            sources=np.array(arrow.column(table, "source").to_pylist(), np.str_),
            splits=np.array(arrow.column(table, "split").to_pylist(), np.str_),
        )


def map_of(project: Project, method: str = "pca") -> MapData:
    """The map of a project.

    Raises:
        ArgumentError: there is no such method, or nothing is embedded.
    """
    memory = project.memory
    if memory is None:
        raise ArgumentError("there is no memory, so there is nothing to map")
    bank = memory.bank
    held_out = {split: project.splits[split] for split in HELD_OUT if split in project.splits}
    images = list(held_out.values())
    embedded = (memory.encoder.embed(part.pixels, f"embedding {s}") for s, part in held_out.items())
    splits = (np.full(len(part), split) for split, part in held_out.items())
    return MapData(
        method,
        ids=np.concatenate([bank.ids, *(part.ids for part in images)]),
        points=lay_out(method, np.concatenate([bank.vectors, *embedded]), project.seed),
        labels=np.concatenate([bank.labels, *(part.labels for part in images)]),
        sources=np.concatenate([bank.sources, *(part.sources for part in images)]),
        splits=np.concatenate([bank.splits, *splits]),
    )


def packed(data: MapData, classes: int) -> tuple[bytes, dict[str, object]]:
    """The map as bytes that a browser reads without parsing, and what they are.

    Little-endian: ids (N int64), points (2N float32), then classes, sources and splits (N int16
    each). A class is that of the bank, -1 for none; sources and splits are numbers of the lists.
    """
    sources, of_source = np.unique(data.sources, return_inverse=True)
    splits, of_split = np.unique(data.splits, return_inverse=True)
    labels = np.where(data.labels < classes, data.labels, UNLABELLED)
    parts = [
        data.ids.astype("<i8").tobytes(),
        np.ascontiguousarray(data.points, "<f4").tobytes(),
        *(codes.astype("<i2").tobytes() for codes in (labels, of_source, of_split)),
    ]
    facts: dict[str, object] = {"method": data.method, "count": len(data.ids)}
    return b"".join(parts), {**facts, "sources": sources.tolist(), "splits": splits.tolist()}
