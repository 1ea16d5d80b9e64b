"""Vectors that another program made, in the place of an encoder: they are looked up by image.

Letters: N images, S side in pixels, D embedding.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from rapipe.batches.loader import CPU
from rapipe.encoder.encoder import Encoder
from rapipe.errors import UserError
from rapipe.io import memory_map, weights
from rapipe.io.checksums import image_id
from rapipe.records import IDS, VECTORS, Ids, Pixels, Vectors
from rapipe.specs import NO_ENCODER

REMEDY = "run rapipe store import FILE"


class NoEncoderError(UserError):
    """An image has no imported vector, and there is no encoder that could embed it."""


class ImportedVectors:
    """Embeds the images that have a vector, and refuses others, such as noisy ones.

    Args:
        ids: (N,) of images.
        vectors: (N, D) of unit length, maybe mapped from a file.
    """

    def __init__(self, ids: Ids, vectors: Vectors) -> None:
        self.order = np.argsort(ids, kind="stable")
        self.ids = ids[self.order]
        self.vectors = vectors

    @property
    def features(self) -> int:
        """D, the length of the vectors."""
        return int(self.vectors.shape[1])

    @property
    def device(self) -> torch.device:
        """Where vectors are looked up."""
        return CPU

    def to(self, device: torch.device) -> ImportedVectors:
        """The same, on every device."""
        return self

    def embed(self, pixels: Pixels, progress: str = "") -> Vectors:
        """The vectors (N, D) of images (N, S, S, 3).

        Raises:
            NoEncoderError: an image has none.
        """
        ids = np.array([image_id(np.ascontiguousarray(image).tobytes()) for image in pixels])
        rows = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        missing = int((self.ids[rows] != ids).sum())
        if missing:
            raise NoEncoderError(
                f"{missing:,} of {len(ids):,} images have no imported vector, and this memory has "
                "no encoder that could embed them"
            )
        return memory_map.take_rows(self.vectors, self.order[rows])

    @classmethod
    def read(cls, folder: Path) -> ImportedVectors:
        """What `rapipe store import` wrote; `UserError` if it is not there."""
        try:
            ids = memory_map.load_array(folder / IDS)
            return cls(ids, memory_map.map_array(folder / VECTORS))
        except FileNotFoundError as error:
            raise UserError(f"{error.filename} is missing: {REMEDY}") from None
        except ValueError as error:
            raise UserError(f"{folder} is damaged ({error}): {REMEDY}") from None


def read_encoder(folder: Path, vectors: Path) -> Encoder | ImportedVectors:
    """What embeds the images of a project.

    Args:
        folder: where an encoder was written, or the card of a memory without one.
        vectors: where imported vectors lie, if there are any.

    Raises:
        UserError: it is missing or damaged.
    """
    if has_encoder(weights.read_card(folder, "pretrain")):
        return Encoder.read(folder)
    return ImportedVectors.read(vectors)


def has_encoder(card: dict[str, Any]) -> bool:
    """Whether images that are new, or noisy, can be embedded."""
    return bool(card["spec"].get("backbone") != NO_ENCODER)
