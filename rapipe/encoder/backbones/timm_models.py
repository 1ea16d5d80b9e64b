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

from rapipe.encoder.backbones.base import Backbone, BackboneFactory, Fuse, no_fusion
from rapipe.encoder.backbones.timm_plan import PATCH_DIVISORS, Stage, create, make_plan
from rapipe.errors import UserError

SIZES = (32, 64, 96, 128, 224)
"""Tried to tell a user what would work."""
SIMILAR = 0.6
"""Similarity of names that are suggested."""


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
        self.widths = tuple(stage.channels for stage in plan.stages)
        self.features = plan.features
        self._fuse: Fuse = no_fusion
        for number, stage in enumerate(plan.stages):
            # A partial of a bound method: a deep copy of it calls the copy's `_fuse`.
            module = self.net.get_submodule(stage.module)
            module.register_forward_hook(partial(self._hook, number, stage))

    def forward(self, images: Tensor, fuse: Fuse = no_fusion) -> Tensor:
        self._fuse = fuse
        try:
            features: Tensor = self.net(images)  # (B, F)
        finally:
            self._fuse = no_fusion
        return features

    def _hook(self, number: int, stage: Stage, module: nn.Module, inputs: Any, output: Any) -> Any:
        return output if self._fuse is no_fusion else stage.fuse_output(self._fuse, number, output)


def _refusal(name: str, stem: str, image_size: int) -> str:
    """One sentence that says what would work: another stem, or else other sizes."""
    stems = [other for other in PATCH_DIVISORS if _takes_images(name, other, image_size)]
    sizes = [] if stems else [str(size) for size in SIZES if _takes_images(name, stem, size)]
    refusal = f"timm:{name} does not take images of {image_size} pixels with the stem {stem}; "
    if stems:
        return refusal + f"it takes them with the stem {' or '.join(stems)}"
    if sizes:
        return refusal + f"with this stem it takes images of {', '.join(sizes)} pixels"
    return refusal + "choose another model: neither another stem nor another size would help"


def _takes_images(name: str, stem: str, image_size: int) -> bool:
    try:
        make_plan(name, stem, image_size)
    except Exception:
        return False
    return True


def timm_model(name: str) -> BackboneFactory:
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
        close = " or ".join(f"timm:{other}" for other in _similar_names(name, names))
        hint = f"did you mean {close}?" if close else "timm.list_models() has the names"
        raise UserError(f"'timm:{name}' is no model of timm; {hint}")

    def build(width: int, stem: str, image_size: int) -> Backbone:
        return TimmBackbone(name, stem, image_size)

    return build


def _similar_names(name: str, names: list[str]) -> list[str]:
    """Up to three names that begin much like this one."""

    def similarity(other: str) -> float:
        return SequenceMatcher(None, name, other[: len(name)]).ratio()

    return [other for other in nlargest(3, names, similarity) if similarity(other) > SIMILAR]
