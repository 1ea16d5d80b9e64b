"""Any model of timm as a backbone: `timm:vit_tiny_patch16_224`, `timm:convnext_atto` and so on.

Notable: the model is timm's own, so its weights have timm's names. Neighbours
enter by forward hooks at the ends of its stages, or of quarters of its blocks
where all are alike, or once after its last layer if it does not say where its
stages end.

Letters: B batch, F features.
"""

from __future__ import annotations

from difflib import SequenceMatcher
from functools import partial
from heapq import nlargest
from typing import Any

from torch import Tensor, nn

from rapipe.encoder.backbones.base import Backbone, Fuse, Make, no_fusion
from rapipe.encoder.backbones.timm_plan import FINER, Stage, create, make_plan
from rapipe.errors import UserError

SIZES = (32, 64, 96, 128, 224)
"""Tried to tell a user what would work."""
ALIKE = 0.6


class TimmBackbone(Backbone):
    """A model of timm in `net`, its classifier left out.

    Args:
        name: the model's, without `timm:`.
        stem: patches are the model's own (`imagenet`), of half (`half`) or of a
            quarter of their side (`cifar`); a model that is not made of
            patches keeps its own stem.
        image_size: side of the images in pixels.

    Raises:
        UserError: the model takes no such images.
    """

    def __init__(self, name: str, stem: str, image_size: int) -> None:
        super().__init__()
        try:
            plan = make_plan(name, stem, image_size)
        except Exception as error:  # timm's models refuse images in every way there is
            raise UserError(_refusal(name, stem, image_size)) from error
        self.net = create(name, plan.options)
        self.widths = tuple(place.channels for place in plan.places)
        self.features = plan.features
        self._fuse: Fuse = no_fusion
        for i, place in enumerate(plan.places):
            # A partial of a bound method: a deep copy of it calls the copy's `_fuse`.
            module = self.net.get_submodule(place.module)
            module.register_forward_hook(partial(self._enter, i, place))

    def forward(self, images: Tensor, fuse: Fuse = no_fusion) -> Tensor:
        self._fuse = fuse
        try:
            features: Tensor = self.net(images)  # (B, F)
        finally:
            self._fuse = no_fusion
        return features

    def _enter(self, i: int, place: Stage, module: nn.Module, given: Any, output: Any) -> Any:
        return output if self._fuse is no_fusion else place.enter(self._fuse, i, output)


def _refusal(name: str, stem: str, image_size: int) -> str:
    """One sentence that says what would work: another stem, or else other sizes."""
    stems = [other for other in FINER if _works(name, other, image_size)]
    sizes = [] if stems else [str(size) for size in SIZES if _works(name, stem, size)]
    told = f"timm:{name} does not take images of {image_size} pixels with the stem {stem}; "
    if stems:
        return told + f"it takes them with the stem {' or '.join(stems)}"
    if sizes:
        return told + f"with this stem it takes images of {', '.join(sizes)} pixels"
    return told + "choose another model: neither another stem nor another size would help"


def _works(name: str, stem: str, image_size: int) -> bool:
    try:
        make_plan(name, stem, image_size)
    except Exception:
        return False
    return True


def timm_model(name: str) -> Make:
    """Any model of timm, such as ViT, DeiT, Swin, TNT, MLP-Mixer and ConvNeXt, of its own width.

    What is made of it takes `width` as every backbone does, but a model's name says how wide it
    is. The stem `imagenet` is the model's own; `half` and `cifar` halve and quarter the side of
    its patches (at least 1 pixel), and change nothing in a model that is not made of patches.

    Source: Wightman, "PyTorch Image Models", GitHub 2019.

    Raises:
        UserError: timm has no model of this name.
    """
    import timm  # seconds: only for those who use it

    names = timm.list_models()
    if name not in names:
        close = " or ".join(f"timm:{other}" for other in _close(name, names))
        told = f"did you mean {close}?" if close else "timm.list_models() has the names"
        raise UserError(f"'timm:{name}' is no model of timm; {told}")

    def make(width: int, stem: str, image_size: int) -> Backbone:
        return TimmBackbone(name, stem, image_size)

    return make


def _close(name: str, names: list[str]) -> list[str]:
    """Up to three names that begin much like this one."""

    def likeness(other: str) -> float:
        return SequenceMatcher(None, name, other[: len(name)]).ratio()

    return [other for other in nlargest(3, names, key=likeness) if likeness(other) > ALIKE]
