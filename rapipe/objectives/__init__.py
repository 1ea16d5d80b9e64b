"""Self-supervised objectives: one file each, one line each in `OBJECTIVES`."""

from collections.abc import Callable

from rapipe.backbones import Backbone
from rapipe.objectives.base import Objective
from rapipe.objectives.byol import BYOL

OBJECTIVES: dict[str, Callable[[Backbone], Objective]] = {
    "byol": BYOL,
}

__all__ = ["OBJECTIVES", "Objective"]
