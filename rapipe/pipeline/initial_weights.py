"""What the stage `initialise` leaves to training: weights to start from, and words about them.

What only some classifiers need (their teacher, their noise) stands in their own card, so that
it re-trains no others.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rapipe import paths
from rapipe.config.names import ClassifierName, parse_name
from rapipe.config.variants import Variant
from rapipe.encoder.backbones import Backbone
from rapipe.errors import UserError
from rapipe.io import weights
from rapipe.pipeline.inputs import checked, read_card

SCRATCH = "scratch"


@dataclass(frozen=True)
class InitialWeights:
    """What one classifier starts from."""

    folder: Path
    own: ClassifierName
    key: str
    """Of all that is said here, and of the weights: two starts are alike if their keys are."""
    noise_std: float
    """Of the noise in its training; 0 without."""
    teacher: str
    """Its teacher, written as in `train.backbones`; empty without."""
    temperature: float
    """Of the teacher's and the student's softmax; 0 without."""

    @classmethod
    def of(cls, variant: Variant) -> InitialWeights:
        """What the classifier of this variant starts from; `UserError` if it is missing."""
        return cls._read(paths.INITIAL / variant.backbone, variant.entry)

    def of_teacher(self) -> InitialWeights:
        """What its teacher starts from."""
        return self._read(self.folder / paths.TEACHER, parse_name(self.teacher))

    @classmethod
    def _read(cls, folder: Path, own: ClassifierName) -> InitialWeights:
        card = read_card(folder / weights.CARD)
        try:
            return cls(folder, own, **{name: card[name] for name in FACTS})
        except (KeyError, TypeError) as error:
            raise UserError(
                f"{folder / weights.CARD} is damaged ({error}): run rapipe initialise"
            ) from None

    def fill(self, backbone: Backbone, spec: dict[str, Any]) -> None:
        """Put the weights, if there are any, into the backbone.

        Raises:
            UserError: they are missing, damaged, or of another network or corpus.
        """
        if self.own.start == SCRATCH:
            return
        card = weights.read_card(checked(self.folder), "initialise")
        if json.dumps(spec) != json.dumps(card["spec"]):
            raise UserError(
                f"{self.folder} belongs to another corpus, or to another train.width or "
                "train.stem: run rapipe initialise, or dvc repro"
            )
        weights.fill(backbone, self.folder, card, "initialise")


FACTS = ("key", "noise_std", "teacher", "temperature")
"""What a card says beside the weights."""
