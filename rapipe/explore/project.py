"""What the explorer looks at: images, a bank, an encoder and classifiers.

Letters: N images, S side in pixels, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from rapipe.classifier.classifier import Classifier
from rapipe.corpus.decode import Decoding
from rapipe.encoder.encoder import Encoder
from rapipe.encoder.imported import ImportedVectors
from rapipe.records import Embeddings, Ids, Images, Pixels
from rapipe.retrieval.strategies import RetrievalRequest

Row = dict[str, Any]


@dataclass(frozen=True)
class Trained:
    """A classifier that can be asked.

    Args:
        retrieval: its strategy, or `none`.
        fusion: how neighbours enter it; "" without retrieval.
        read: reads it from disk.
        influence: rows of the bank with `id`, `class`, `source`, `shown`, `effect`, the most
            harmful first; none where nothing was left out.
    """

    name: str
    backbone: str
    retrieval: str
    fusion: str
    seed: int
    read: Callable[[], Classifier]
    influence: Callable[[], Sequence[Row]] = list


@dataclass(frozen=True)
class Memory:
    """What classifiers with retrieval look up.

    Args:
        bank: the rows that may be retrieved.
        classes: names of its classes, the task's first.
        versions: by tag, a function that returns the ids of the version of the store.
        duplicates: test images that are close to the bank: `test_id`, `bank_id`, `similarity`.
    """

    bank: Embeddings
    encoder: Encoder | ImportedVectors
    request: RetrievalRequest
    classes: Sequence[str]
    versions: Mapping[str, Callable[[], Ids]] = field(default_factory=dict)
    duplicates: Sequence[Row] = ()


@dataclass(frozen=True)
class Project:
    """All of it.

    Args:
        test: the labelled test images.
        splits: every image that may be shown, by split.
        classifiers: by name, at least one.
        memory: None where no classifier has retrieval.
        decoding: how an image that a user brings becomes a square.
        noise_std: the levels of noise that were evaluated.
        seed: of noise, corruptions, and the map.
    """

    test: Images
    splits: Mapping[str, Images]
    classifiers: Mapping[str, Trained]
    memory: Memory | None
    decoding: Decoding
    noise_std: Sequence[float] = ()
    seed: int = 0

    @cached_property
    def _index(self) -> tuple[Ids, npt.NDArray[np.int64], list[Images]]:
        """Ids of all images, ascending; where each stands in all splits; and these."""
        parts = list(self.splits.values())
        ids = np.concatenate([part.ids for part in parts])
        order = np.argsort(ids, kind="stable")
        return ids[order], order, parts

    def image(self, image_id: int) -> Images | None:
        """The image of an id, as one; None if the corpus has none."""
        ids, order, parts = self._index
        at = int(np.searchsorted(ids, image_id))
        if at == len(ids) or ids[at] != image_id:
            return None
        row = int(order[at])
        for part in parts:
            if row < len(part):
                return part.take(np.array([row]))
            row -= len(part)
        raise AssertionError("a row is in no split")


def png(pixels: Pixels) -> bytes:
    """One image (S, S, 3) as a PNG file."""
    file = BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG")
    return file.getvalue()
