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
PATCH_DIVISORS = {"imagenet": 1, "half": 2, "cifar": 4}
"""Side of the model's own patches, over that of the patches with a stem."""


@dataclass(frozen=True)
class Stage:
    """The end of a stage, where neighbours enter: the output of a module, or a part of it."""

    module: str
    part: int | None
    """Index of the tensor, if the output is several."""
    channels: int
    channels_first: bool
    """Whether it is a map (B, C, H, W), not tokens (B, T, C) or a map (B, H, W, C)."""

    def fuse_output(self, fuse: Fuse, number: int, output: Any) -> Any:
        """The module's output after `fuse`, which is called with this number of the stage."""
        x = output if self.part is None else output[self.part]
        if self.channels_first:
            x = fuse_map(fuse, number, x)
        else:
            x = fuse(number, x.flatten(1, -2)).reshape(x.shape)
        if self.part is None:
            return x
        return type(output)([*output[: self.part], x, *output[self.part + 1 :]])


@dataclass(frozen=True)
class Plan:
    """How a model is made, and what its features are, as a dry run shows."""

    options: dict[str, int]
    stages: tuple[Stage, ...]
    features: int


def make_plan(name: str, stem: str, image_size: int) -> Plan:
    """Try the model on two images that do not exist; raises what timm or torch raise."""
    options, net = _options(name, stem, image_size)
    net.eval()
    stage_ends = _stage_ends(net)
    children = {child: net.num_features for child, _ in net.named_children()}
    outputs: dict[str, list[Any]] = {module: [] for module in children | stage_ends}
    for module, calls in outputs.items():
        net.get_submodule(module).register_forward_hook(
            lambda _module, _inputs, output, calls=calls: calls.append(output)
        )
    _, f = net(torch.empty(2, 3, image_size, image_size, device="meta")).shape
    layout = getattr(net, "output_fmt", "NCHW")

    def stages(channels: dict[str, int]) -> list[Stage]:
        ends = (
            _stage(module, outputs[module][0], channels[module], layout)
            for module in channels
            if len(outputs[module]) == 1
        )
        return [stage for stage in ends if stage]

    return Plan(options, tuple(stages(stage_ends) or stages(children)[-1:]), f)


def create(name: str, options: dict[str, int]) -> Any:
    """timm's model of this name, with these options even where its function states its own."""
    import timm  # seconds: only for those who use it

    # mixer_s32_224(patch_size=16) is an error in timm, as the function passes patch_size itself.
    module_globals = timm.model_entrypoint(name).__globals__
    build_model = module_globals["build_model_with_cfg"]

    def build(*args: Any, **kwargs: Any) -> nn.Module:
        model: nn.Module = build_model(*args, **kwargs | options)
        return model

    with patch.dict(module_globals, build_model_with_cfg=build):
        return timm.create_model(name, num_classes=0)


def _meta_model(name: str, options: dict[str, int]) -> Any:
    """The model on the meta device: without memory, and without a draw of random numbers."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return create(name, options)


def _options(name: str, stem: str, image_size: int) -> tuple[dict[str, int], Any]:
    """Sizes of images and patches, as far as the model takes them; a model so made."""
    plain = _meta_model(name, {})
    options = {"img_size": image_size} if _takes(plain, "img_size") else {}
    if not _takes(plain, "patch_size"):
        return options, _meta_model(name, options)
    side = max(1, plain.feature_info[0]["reduction"] // PATCH_DIVISORS[stem])
    finer = options if stem == "imagenet" else options | {"patch_size": side}
    net = _meta_model(name, finer)
    if net.feature_info[0]["reduction"] != side:  # its patches are not what shrinks the image
        return options, _meta_model(name, options)
    if image_size % side:
        raise ValueError("patches would not fill the image: timm would drop its edges")
    return finer, net


def _takes(net: nn.Module, option: str) -> bool:
    return any(option in inspect.signature(kind).parameters for kind in type(net).__mro__)


def _stage_ends(net: Any) -> dict[str, int]:
    """Names of the modules after which neighbours may enter, and their channels."""
    info = net.feature_info if isinstance(net.feature_info, list) else net.feature_info.info
    if len({entry["reduction"] for entry in info}) == 1:  # blocks all alike: ends of quarters
        ends = sorted({len(info) * (i + 1) // STAGES - 1 for i in range(STAGES)} - {-1})
        info = [info[i] for i in ends]
    modules = dict(net.named_modules())  # some entries name none
    return {
        entry["module"]: entry["num_chs"] for entry in info[-STAGES:] if entry["module"] in modules
    }


def _stage(module: str, output: Any, channels: int, layout: str) -> Stage | None:
    """How tokens lie in the output of a module for two images; None if there are none."""
    is_sequence = isinstance(output, tuple | list)
    for part, x in enumerate(output if is_sequence else [output]):
        if not isinstance(x, Tensor) or x.ndim < 3 or len(x) != 2:
            continue
        first = x.ndim == 4 and x.shape[1] == channels
        last = x.shape[-1] == channels
        if first and last:  # the sizes do not tell
            first = layout == "NCHW"
        if first or last:
            return Stage(module, part if is_sequence else None, channels, first)
    return None
