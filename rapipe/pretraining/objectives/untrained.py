"""No objective: an encoder that is taken as it is, or vectors that another program made."""

from __future__ import annotations

from rapipe.pretraining.objectives.base import Objective


class Untrained(Objective):
    """Takes the encoder with its initial weights: no step is trained.

    Source: Nakata et al., "Revisiting a kNN-based Image Classification System with
    High-capacity Storage", ECCV 2022.
    """

    trains = False
    ignores = ("head", "temperature", "local_crops")


class Imported(Untrained):
    """The vectors of the memory come from a file, by `rapipe store import`.

    Source: this project.
    """
