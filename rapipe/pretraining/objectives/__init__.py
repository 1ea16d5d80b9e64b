"""Objectives of pretraining: one file each, one line each in `OBJECTIVES`."""

from rapipe.pretraining.objectives.barlow_twins import BarlowTwins
from rapipe.pretraining.objectives.base import Objective, ObjectiveSpec
from rapipe.pretraining.objectives.byol import BYOL
from rapipe.pretraining.objectives.dino import DINO
from rapipe.pretraining.objectives.mae import MAE
from rapipe.pretraining.objectives.moco import MoCo
from rapipe.pretraining.objectives.simclr import SimCLR
from rapipe.pretraining.objectives.simclr_v2 import SimCLRv2
from rapipe.pretraining.objectives.simsiam import SimSiam
from rapipe.pretraining.objectives.supervised import Supervised
from rapipe.pretraining.objectives.untrained import Imported, Untrained
from rapipe.pretraining.objectives.vicreg import VICReg

OBJECTIVES: dict[str, type[Objective]] = {
    "byol": BYOL,
    "simclr": SimCLR,
    "simclr-v2": SimCLRv2,
    "moco": MoCo,
    "simsiam": SimSiam,
    "barlow-twins": BarlowTwins,
    "vicreg": VICReg,
    "dino": DINO,
    "mae": MAE,
    "supervised": Supervised,
    "none": Untrained,
    "imported": Imported,
}

__all__ = ["OBJECTIVES", "Objective", "ObjectiveSpec"]
