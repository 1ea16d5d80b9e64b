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

from rapipe.encoder.backbones.hooks import STAGES, DryRun, Stage, empty_images, quarter_ends

PATCH_DIVISORS = {"imagenet": 1, "half": 2, "cifar": 4}
"""Side of the model's own patches, over that of the patches with a stem."""


@dataclass(frozen=True)
class Plan:
    """How a model is made, and what its features are, as a dry run shows."""

    options: dict[str, int]
    stages: tuple[Stage, ...]
    features: int
    """F of its own pooling."""
    channels: int
    """C of its last tokens."""
    prefix: int | None
    """How many of its last tokens are no patches; None where they are a map."""
    has_cls: bool
    """Whether the first of them is a CLS token."""


class Misfit(ValueError):
    """Patches of this side would not fill the image: timm would drop its edges."""

    def __init__(self, side: int) -> None:
        super().__init__(side)
        self.side = side


def make_plan(name: str, stem: str, image_size: int) -> Plan:
    """Try the model on two images that do not exist; raises what timm or torch raise."""
    options, net = _options(name, stem, image_size)
    net.eval()
    stage_ends = _stage_ends(net)
    children = {child: net.num_features for child, _ in net.named_children()}
    outputs = DryRun(net, [*children | stage_ends]).outputs
    images = empty_images(image_size)
    f = net(images).shape[1]
    layout = getattr(net, "output_fmt", "NCHW")

    def stages(channels: dict[str, int]) -> list[Stage]:
        ends = (
            _stage(module, outputs[module][0], channels[module], layout)
            for module in channels
            if len(outputs[module]) == 1
        )
        return [stage for stage in ends if stage]

    ends = tuple(stages(stage_ends) or stages(children)[-1:])  # before the modules run again
    tokens, has_cls = net.forward_features(images), has_cls_token(net)
    cls_token = getattr(net, "cls_token", None)  # of some, a row a token
    prefix = getattr(net, "num_prefix_tokens", 0 if cls_token is None else cls_token.shape[1])
    if not isinstance(tokens, Tensor) or tokens.ndim != 3 or tokens.shape[1] <= prefix:
        return Plan(options, ends, f, 0, None, False)
    return Plan(options, ends, f, tokens.shape[2], prefix, has_cls)


def has_cls_token(net: Any) -> bool:
    """Whether the first of the last tokens of a model of timm is a CLS token."""
    stated = getattr(net, "cls_token", None) is not None
    return bool(getattr(net, "has_class_token", stated))


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
    own_side = plain.feature_info[0]["reduction"]
    side = max(1, own_side // PATCH_DIVISORS[stem])
    finer = options if stem == "imagenet" else options | {"patch_size": side}
    net = _meta_model(name, finer)
    if net.feature_info[0]["reduction"] != side:  # its patches are not what shrinks the image
        return options, _meta_model(name, options)
    own_size = plain.pretrained_cfg["input_size"][-1]  # of some, patches leave an edge over
    if image_size % side and (side, image_size) != (own_side, own_size):
        raise Misfit(side)
    return finer, net


def _takes(net: nn.Module, option: str) -> bool:
    return any(option in inspect.signature(kind).parameters for kind in type(net).__mro__)


def _stage_ends(net: Any) -> dict[str, int]:
    """Names of the modules after which neighbours may enter, and their channels."""
    info = net.feature_info if isinstance(net.feature_info, list) else net.feature_info.info
    if len({entry["reduction"] for entry in info}) == 1:  # blocks all alike: ends of quarters
        info = [info[i] for i in quarter_ends(len(info))]
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
