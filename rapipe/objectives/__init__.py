"""Objectives of pretraining: one file each, one line each in `OBJECTIVES`."""

from rapipe.objectives.barlow_twins import BarlowTwins
from rapipe.objectives.base import Objective, Recipe
from rapipe.objectives.byol import BYOL
from rapipe.objectives.dino import DINO
from rapipe.objectives.mae import MAE
from rapipe.objectives.moco import MoCo
from rapipe.objectives.simclr import SimCLR
from rapipe.objectives.simsiam import SimSiam
from rapipe.objectives.supervised import Supervised
from rapipe.objectives.vicreg import VICReg

OBJECTIVES: dict[str, type[Objective]] = {
    "byol": BYOL,
    "simclr": SimCLR,
    "moco": MoCo,
    "simsiam": SimSiam,
    "barlow-twins": BarlowTwins,
    "vicreg": VICReg,
    "dino": DINO,
    "mae": MAE,
    "supervised": Supervised,
}

__all__ = ["OBJECTIVES", "Objective", "Recipe"]
