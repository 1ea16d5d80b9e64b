"""How a model of timm is made for small images, and where neighbours enter it.

Notable: a dry run on torch's meta device, which computes nothing and draws no
random numbers, shows which modules give tokens, and as maps or as rows.

Letters: B batch, T tokens, C channels, F features.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from rapipe.encoder.backbones.base import Fuse, fuse_map

STAGES = 4
FINER = {"imagenet": 1, "half": 2, "cifar": 4}
"""By stem: how many times smaller than the model's own its patches are."""


@dataclass(frozen=True)
class Stage:
    """Where neighbours enter: what a module gives, or a part of it."""

    module: str
    part: int | None
    """Which of the tensors if the module gives several."""
    channels: int
    first: bool
    """A map (B, C, H, W), not tokens (B, T, C) or a map (B, H, W, C)."""

    def enter(self, fuse: Fuse, place: int, output: Any) -> Any:
        """What the module gave, after `fuse`."""
        x = output if self.part is None else output[self.part]
        if self.first:
            x = fuse_map(fuse, place, x)
        else:
            x = fuse(place, x.flatten(1, -2)).reshape(x.shape)
        if self.part is None:
            return x
        return type(output)([*output[: self.part], x, *output[self.part + 1 :]])


@dataclass(frozen=True)
class Plan:
    """What a dry run found: how to make a model, and what it is like."""

    options: dict[str, int]
    places: tuple[Stage, ...]
    features: int


def make_plan(name: str, stem: str, image_size: int) -> Plan:
    """Try the model on two images that do not exist; raises what timm or torch raise."""
    options, net = _sized(name, stem, image_size)
    net.eval()
    stages, children = _ends(net), {child: net.num_features for child, _ in net.named_children()}
    seen: dict[str, list[Any]] = {module: [] for module in children | stages}
    for module, outputs in seen.items():
        net.get_submodule(module).register_forward_hook(
            lambda _module, _given, output, outputs=outputs: outputs.append(output)
        )
    _, f = net(torch.empty(2, 3, image_size, image_size, device="meta")).shape

    def places(ends: dict[str, int]) -> list[Stage]:
        layout = getattr(net, "output_fmt", "NCHW")
        once = [module for module in ends if len(seen[module]) == 1]
        found = [_stage(module, seen[module][0], ends[module], layout) for module in once]
        return [place for place in found if place]

    return Plan(options, tuple(places(stages) or places(children)[-1:]), f)


def create(name: str, options: dict[str, int]) -> Any:
    """timm's model of this name, with these options even where its function states its own."""
    import timm  # seconds: only for those who use it

    # mixer_s32_224(patch_size=16) is an error in timm, as the function passes patch_size itself.
    room = timm.model_entrypoint(name).__globals__
    inner = room["build_model_with_cfg"]

    def build(*args: Any, **kwargs: Any) -> nn.Module:
        model: nn.Module = inner(*args, **kwargs | options)
        return model

    with patch.dict(room, build_model_with_cfg=build):
        return timm.create_model(name, num_classes=0)


def _ghost(name: str, options: dict[str, int]) -> Any:
    """The model on the meta device: without memory, and without a draw of random numbers."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return create(name, options)


def _sized(name: str, stem: str, image_size: int) -> tuple[dict[str, int], Any]:
    """The size of the images and of their patches, if the model takes them; a ghost so made."""
    own = _ghost(name, {})
    options = {"img_size": image_size} if _takes(own, "img_size") else {}
    if not _takes(own, "patch_size"):
        return options, _ghost(name, options)
    side = max(1, own.feature_info[0]["reduction"] // FINER[stem])
    finer = options if stem == "imagenet" else options | {"patch_size": side}
    net = _ghost(name, finer)
    if net.feature_info[0]["reduction"] != side:  # its patches are not what shrinks the image
        return options, _ghost(name, options)
    if image_size % side:
        raise ValueError("patches would not fill the image: timm would drop its edges")
    return finer, net


def _takes(net: nn.Module, option: str) -> bool:
    return any(option in inspect.signature(kind).parameters for kind in type(net).__mro__)


def _ends(net: Any) -> dict[str, int]:
    """Names of the modules after which neighbours may enter, and their channels."""
    info = net.feature_info if isinstance(net.feature_info, list) else net.feature_info.info
    if len({entry["reduction"] for entry in info}) == 1:  # blocks all alike: ends of quarters
        chosen = sorted({len(info) * (i + 1) // STAGES - 1 for i in range(STAGES)} - {-1})
        info = [info[i] for i in chosen]
    modules = dict(net.named_modules())  # some entries name none
    return {
        entry["module"]: entry["num_chs"] for entry in info[-STAGES:] if entry["module"] in modules
    }


def _stage(module: str, output: Any, channels: int, layout: str) -> Stage | None:
    """How tokens lie in the output of a module for two images; None if there are none."""
    several = isinstance(output, tuple | list)
    for part, x in enumerate(output if several else [output]):
        if not isinstance(x, Tensor) or x.ndim < 3 or len(x) != 2:
            continue
        first = x.ndim == 4 and x.shape[1] == channels
        last = x.shape[-1] == channels
        if first and last:  # the sizes do not tell
            first = layout == "NCHW"
        if first or last:
            return Stage(module, part if several else None, channels, first)
    return None
