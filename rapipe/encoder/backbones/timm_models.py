"""Any model of timm as a backbone: `timm:vit_tiny_patch16_224`, `timm:convnext_atto` and so on.

Notable: the model is timm's own, so its weights have timm's names. Neighbours
enter by forward hooks at the ends of its stages, or of quarters of its blocks
where all are alike, or once after its last layer if it does not say where its
stages end.

Letters: B batch, F features.
"""

from __future__ import annotations

from difflib import SequenceMatcher
from heapq import nlargest

from torch import Tensor

from rapipe.encoder.backbones.base import Backbone, FamilyFactory
from rapipe.encoder.backbones.hooks import HookedBackbone
from rapipe.encoder.backbones.pooling import check_pool, neighbouring_sizes, pool_tokens
from rapipe.encoder.backbones.timm_plan import PATCH_DIVISORS, Misfit, create, make_plan
from rapipe.errors import UserError

SIZES = (32, 64, 96, 128, 224)
"""Tried to tell a user what would work."""
SIMILAR = 0.6
"""Similarity of names that are suggested."""


class TimmBackbone(HookedBackbone):
    """A model of timm in `net`, its classifier left out.

    Args:
        name: the model's, without `timm:`.
        stem: patches are the model's own (`imagenet`), of half (`half`) or of a
            quarter of their side (`cifar`); a model that is not made of
            patches keeps its own stem.
        image_size: side of the images in pixels.
        pool: what becomes of the last tokens; a model that has none pools as it does.

    Raises:
        UserError: the model takes no such images.
        ArgumentError: it cannot pool so.
    """

    def __init__(self, name: str, stem: str, image_size: int, pool: str = "model") -> None:
        super().__init__()
        try:
            plan = make_plan(name, stem, image_size)
        except Exception as error:  # timm's models refuse images in every way there is
            side = error.side if isinstance(error, Misfit) else 0
            raise UserError(_refusal(name, stem, image_size, side)) from error
        check_pool(pool, f"timm:{name}", plan.prefix, plan.has_cls)
        self.name, self.image_size = name, image_size
        self.prefix = plan.prefix or 0
        self.pool = "model" if plan.prefix is None else pool
        self.net = create(name, plan.options)
        self.features = plan.features
        if self.pool != "model":
            self.features = plan.channels * len(pool.split("+"))
        self.hook(plan.stages)

    def extract(self, images: Tensor) -> Tensor:
        if self.pool == "model":
            features: Tensor = self.net(images)  # (B, F)
            return features
        norm = getattr(self.net, "fc_norm", None)
        return pool_tokens(self.net.forward_features(images), self.prefix, self.pool, norm)


def _refusal(name: str, stem: str, image_size: int, side: int) -> str:
    """One sentence that says what would work: another stem, or else other sizes.

    Args:
        side: of patches that do not fill the image; 0 if that is not why.
    """
    near = neighbouring_sizes(image_size, side) if side else ()
    stems = [other for other in PATCH_DIVISORS if _takes_images(name, other, image_size)]
    others = near if near else () if stems else SIZES
    sizes = [str(size) for size in others if _takes_images(name, stem, size)]
    refusal = f"timm:{name} does not take images of {image_size} pixels with the stem {stem}; "
    remedies = [f"it takes them with the stem {' or '.join(stems)}"] if stems else []
    if sizes:
        listed = " or ".join(sizes) if near else ", ".join(sizes)
        remedies.append(f"with this stem it takes images of {listed} pixels")
    nothing = "choose another model: neither another stem nor another size would help"
    return refusal + (", and ".join(remedies) or nothing)


def _takes_images(name: str, stem: str, image_size: int) -> bool:
    try:
        make_plan(name, stem, image_size)
    except Exception:
        return False
    return True


def timm_model(name: str, config: str = "") -> FamilyFactory:
    """Any model of timm, such as ViT, DeiT, Swin, TNT, MLP-Mixer and ConvNeXt, of its own width.

    What is made of it takes `width` as every backbone does, but a model's name says how wide it
    is. The stem `imagenet` is the model's own; `half` and `cifar` halve and quarter the side of
    its patches (at least 1 pixel), and change nothing in a model that is not made of patches.
    The name says all: `config` is not needed.

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

    def build(width: int, stem: str, image_size: int, pool: str) -> Backbone:
        return TimmBackbone(name, stem, image_size, pool)

    return build


def _similar_names(name: str, names: list[str]) -> list[str]:
    """Up to three names that begin much like this one."""

    def similarity(other: str) -> float:
        return SequenceMatcher(None, name, other[: len(name)]).ratio()

    return [other for other in nlargest(3, names, similarity) if similarity(other) > SIMILAR]
