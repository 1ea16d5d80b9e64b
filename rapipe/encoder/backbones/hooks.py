"""Neighbours enter another library's network by forward hooks on its modules.

Letters: B batch, T tokens, C channels, F features.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rapipe.encoder.backbones.base import Backbone, Fuse, fuse_map, no_fusion

STAGES = 4


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


class HookedBackbone(Backbone):
    """A network in `net`, whose stages call `fuse` wherever they run.

    What inherits from it sets `net` and `features`, calls `hook`, and computes in `extract`.
    """

    net: Any

    def hook(self, stages: tuple[Stage, ...]) -> None:
        """Let neighbours enter after these modules of `net`."""
        self.widths = tuple(stage.channels for stage in stages)
        self._fuse: Fuse = no_fusion
        for number, stage in enumerate(stages):
            # A partial of a bound method: a deep copy of it calls the copy's `_fuse`.
            module = self.net.get_submodule(stage.module)
            module.register_forward_hook(partial(self._hook, number, stage))

    def forward(self, images: Tensor, fuse: Fuse = no_fusion) -> Tensor:
        self._fuse = fuse
        try:
            return self.extract(images)
        finally:
            self._fuse = no_fusion

    def extract(self, images: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) -> features (B, F)."""
        raise NotImplementedError

    def _hook(self, number: int, stage: Stage, module: nn.Module, inputs: Any, output: Any) -> Any:
        return output if self._fuse is no_fusion else stage.fuse_output(self._fuse, number, output)


def quarter_ends(count: int) -> list[int]:
    """Indices of the blocks at the ends of quarters: of all blocks if they are fewer than four."""
    return sorted({count * (i + 1) // STAGES - 1 for i in range(STAGES)} - {-1})


def block_ends(net: nn.Module) -> list[str]:
    """Names of modules at the ends of quarters of the longest list of like blocks in a network.

    A list inside another is a part of a block, and does not count.
    """
    lists: dict[str, int] = {}
    for name, module in net.named_modules():
        children = list(module.children())
        is_list = isinstance(module, nn.ModuleList | nn.Sequential)
        inside = any(name.startswith(f"{outer}.") for outer in lists)
        alike = len(children) > 1 and len({type(child) for child in children}) == 1
        if is_list and alike and not inside:
            lists[name] = len(children)
    if not lists:
        return []
    longest = max(lists, key=lambda name: lists[name])
    return [f"{longest}.{end}" for end in quarter_ends(lists[longest])]


class DryRun:
    """Outputs of some modules of a network on torch's meta device, which computes nothing."""

    def __init__(self, net: nn.Module, modules: list[str]) -> None:
        self.outputs: dict[str, list[Any]] = {name: [] for name in modules}
        for name, calls in self.outputs.items():
            net.get_submodule(name).register_forward_hook(
                lambda _module, _inputs, output, calls=calls: calls.append(output)
            )

    def stages(self) -> tuple[Stage, ...]:
        """The modules that ran once and gave tokens (B, T, C) or a map (B, C, H, W)."""
        return tuple(
            stage
            for name, calls in self.outputs.items()
            if len(calls) == 1 and (stage := _stage_of(name, calls[0]))
        )


def _stage_of(module: str, output: Any) -> Stage | None:
    is_sequence = isinstance(output, tuple | list)
    for part, x in enumerate(output if is_sequence else [output]):
        if isinstance(x, Tensor) and x.ndim in (3, 4):
            first = x.ndim == 4
            return Stage(module, part if is_sequence else None, x.shape[1 if first else -1], first)
    return None


def empty_images(size: int, count: int = 2) -> Tensor:
    """Images without memory, for a dry run."""
    return torch.empty(count, 3, size, size, device="meta")
