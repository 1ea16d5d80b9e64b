"""The attribution maps of one classifier for some test images, as a file.

Import rule: nothing of torch, since the report reads it.

Letters: N images, S side in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rapipe.errors import UserError
from rapipe.io import arrow
from rapipe.records import Ids


@dataclass(frozen=True)
class AttributionMaps:
    """A map of each image, for the class that the classifier predicts."""

    ids: Ids  # (N,)
    predicted: npt.NDArray[np.int64]  # (N,)
    probability: npt.NDArray[np.float32]  # (N,), of that class
    maps: npt.NDArray[np.float32]  # (N, S, S)
    method: str

    def __post_init__(self) -> None:
        n, side = len(self.ids), self.maps.shape[-1]
        if self.maps.shape != (n, side, side):
            raise ValueError(f"maps of shape {self.maps.shape} for {n} images")
        if not len(self.predicted) == len(self.probability) == n:
            raise ValueError("ids, classes and probabilities differ in number")

    def write(self, path: Path) -> None:
        """Write one Arrow IPC file: a row an image."""
        columns = {
            "id": pa.array(self.ids),
            "predicted": pa.array(self.predicted),
            "probability": pa.array(self.probability),
            "map": arrow.lists(self.maps.reshape(len(self.ids), -1)),
        }
        arrow.write_columns(path, columns, {"method": self.method, "side": self.maps.shape[-1]})

    @classmethod
    def read(cls, path: Path) -> AttributionMaps:
        """Read what `write` wrote; `UserError` if it is missing or damaged."""
        table, facts = arrow.read_table(path)
        try:
            side = facts["side"]
            flat = arrow.column(table, "map").flatten().to_numpy()
            return cls(
                ids=arrow.column(table, "id").to_numpy(),
                predicted=arrow.column(table, "predicted").to_numpy(),
                probability=arrow.column(table, "probability").to_numpy(),
                maps=flat.reshape(-1, side, side),
                method=facts["method"],
            )
        except (KeyError, ValueError) as error:
            raise UserError(f"{path} is damaged ({error}): run rapipe eval") from None
