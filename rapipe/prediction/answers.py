"""What a predictor says of images: a record, and its rows for people and for files.

Letters: N images, C classes, K neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from rapipe.metrics import Probabilities
from rapipe.records import Ids, RecordError, Similarities

TOP = 3
"""Classes that a row lists, the likeliest first."""
DIGITS = 6
"""Decimals of what rows hold."""


@dataclass(frozen=True)
class Answers:
    """The classes of N images, how likely each is, and what was looked up for them."""

    locations: tuple[str, ...]
    """(N,) the file of each, or the file and row; `image 3` where it came from no file."""
    classes: tuple[str, ...]
    """(C,) their names."""
    probabilities: Probabilities
    """(N, C), rows sum to 1."""
    abstain: npt.NDArray[np.bool_]
    """(N,) which are too unsure to be answers; none without a threshold."""
    neighbour_ids: Ids
    """(N, K) of the images looked up; K is 0 where only an image's own vector is shown, or none."""
    similarities: Similarities
    """(N, K) cosine, to the image."""
    neighbour_classes: npt.NDArray[np.str_]
    """(N, K) names; "" for an image without a label."""

    def __post_init__(self) -> None:
        n, c = len(self.locations), len(self.classes)
        shape = self.neighbour_ids.shape
        fits = self.probabilities.shape == (n, c) and self.abstain.shape == (n,)
        if not fits or len(shape) != 2 or shape[0] != n:
            raise RecordError("lengths differ")
        if not shape == self.similarities.shape == self.neighbour_classes.shape:
            raise RecordError("shapes of neighbours differ")

    def __len__(self) -> int:
        return len(self.locations)

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """(N,) the number of the likeliest class."""
        return np.asarray(self.probabilities.argmax(axis=1))

    @property
    def class_names(self) -> list[str]:
        """(N,) the name of the likeliest class, whether it is an answer or not."""
        return [self.classes[label] for label in self.labels.tolist()]

    @property
    def confidence(self) -> npt.NDArray[np.float64]:
        """(N,) the largest probability."""
        return np.asarray(self.probabilities.max(axis=1, initial=0.0))

    def top(self, count: int = TOP) -> npt.NDArray[np.int64]:
        """(N, count) the likeliest classes, the likeliest first; fewer if there are fewer."""
        return np.argsort(-self.probabilities, axis=1, kind="stable")[:, :count]

    def rows(self) -> list[dict[str, Any]]:
        """A row an image, of plain values: numbers are rounded to six decimals."""
        top = self.top()
        chances = np.take_along_axis(self.probabilities, top, axis=1).round(DIGITS).tolist()
        similarities = self.similarities.astype(np.float64).round(DIGITS).tolist()
        columns = (
            self.locations,
            top.tolist(),
            chances,
            self.abstain.tolist(),
            self.neighbour_ids.tolist(),
            self.neighbour_classes.tolist(),
            similarities,
        )
        return [
            {
                "path": readable_path(location),
                "class": self.classes[labels[0]],
                "probability": likely[0],
                "abstain": abstains,
                "top_classes": [self.classes[label] for label in labels],
                "top_probabilities": likely,
                "neighbour_ids": ids,
                "neighbour_classes": names,
                "similarities": similar,
            }
            for location, labels, likely, abstains, ids, names, similar in zip(
                *columns, strict=True
            )
        ]


def readable_path(location: str) -> str:
    r"""A name that every encoding has: a byte that is no UTF-8 becomes, say, `\udcff`."""
    return location.encode("utf-8", "backslashreplace").decode()


def joined(parts: Sequence[Answers]) -> Answers:
    """Answers one after the other, of one predictor; at least one part."""
    names = ("probabilities", "abstain", "neighbour_ids", "similarities", "neighbour_classes")
    arrays: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in names
    }
    locations = tuple(location for part in parts for location in part.locations)
    return replace(parts[0], locations=locations, **arrays)
