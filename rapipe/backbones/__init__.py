"""Backbones: one file a family, one line a name in `BACKBONES`.

A backbone is made by a function of (width, stem, image_size).
"""

from collections.abc import Callable

from rapipe.backbones.alexnet import alexnet
from rapipe.backbones.base import Backbone, Fuse, keep
from rapipe.backbones.perceiver import perceiver
from rapipe.backbones.resnet import resnet18

BACKBONES: dict[str, Callable[[int, str, int], Backbone]] = {
    "resnet18": resnet18,
    "alexnet": alexnet,
    "perceiver": perceiver,
}

__all__ = ["BACKBONES", "Backbone", "Fuse", "keep"]
