"""What the training of a classifier starts from: weights, or none, and words about them.

What only some classifiers need (their teacher, their noise) stands in their own card, so that
it re-trains no others.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rapipe.encoder.backbones import Backbone
from rapipe.encoder.encoder import EncoderSpec
from rapipe.errors import ArgumentError, UserError
from rapipe.io import weights
from rapipe.io.atomic import atomic_write
from rapipe.io.tables import read_json

if TYPE_CHECKING:
    from torch import Tensor

PROJECTION = "projection.safetensors"
"""Beside a backbone's weights, those of the first layer of its projection head, if it is kept."""
STAGE = "initialise"
"""The command that makes it."""


@dataclass(frozen=True)
class InitialWeights:
    """A folder with a card, and with the weights of a backbone unless it starts from scratch."""

    folder: Path
    key: str
    """Fingerprint of all that the card says, and of the weights."""
    noise_std: float
    """Of the noise in the training; 0 without."""
    teacher: str
    """The classifier's teacher, by its name; empty without."""
    temperature: float
    """Of the teacher's and the student's softmax; 0 without."""

    @classmethod
    def read(cls, folder: Path) -> InitialWeights:
        """Read the card; `UserError` if it is missing or damaged."""
        card = read_json(folder / weights.CARD, STAGE)
        try:
            return cls(folder, **{name: card[name] for name in FACTS})
        except KeyError as error:
            raise UserError(
                f"{folder / weights.CARD} is damaged (it has no {error}): run rapipe {STAGE}, or "
                "dvc repro"
            ) from None

    @property
    def spec(self) -> EncoderSpec:
        """The network whose weights they are; `UserError` if there are none."""
        return EncoderSpec(**weights.read_card(self.folder, STAGE)["spec"])

    def backbone(self, network: EncoderSpec) -> Backbone | None:
        """The backbone with its weights; None if there are none.

        Raises:
            ArgumentError: they are of another network or corpus.
            UserError: they are missing or damaged.
        """
        if not (self.folder / weights.WEIGHTS).exists():
            return None
        card = weights.read_card(self.folder, STAGE)
        if json.dumps(asdict(network)) != json.dumps(card["spec"]):
            raise ArgumentError(
                f"{self.folder} belongs to another corpus, or to another `width`, `stem` or "
                "`image_size`: run "
                f"rapipe {STAGE}, or dvc repro"
            )
        backbone = network.build()
        weights.fill(backbone, self.folder, card, STAGE)
        return backbone

    def projection(self) -> dict[str, Tensor] | None:
        """Weights of the layer of the head `projection`; None if it starts random."""
        from safetensors.torch import load_file

        path = self.folder / PROJECTION
        return load_file(path) if path.exists() else None


def write_projection(folder: Path, projection: dict[str, Tensor] | None) -> None:
    """Write the weights of the first layer of a projection head, if there are any."""
    from safetensors.torch import save

    if projection:
        atomic_write(folder / PROJECTION, save(projection))


def copy_projection(source: Path, folder: Path) -> None:
    """Copy them from folder to folder, if there are any."""
    if (source / PROJECTION).exists():
        shutil.copyfile(source / PROJECTION, folder / PROJECTION)


FACTS = ("key", "noise_std", "teacher", "temperature")
"""What a card says beside the weights."""
