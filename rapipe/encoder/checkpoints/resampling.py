"""Layers of timm that mix tokens with each other, resampled to another grid of tokens.

MLP-Mixer, ResMLP and gMLP learn a weight for each token, so their tensors fit one number of
tokens. Of a map over tokens its outputs are resampled like an image from the old grid to the new
one; for its inputs the new grid is resampled to the old one first. So on an image that varies
slowly the new network computes what the old one does. timm resamples the positions of ViT, Swin
and TNT in the same way by itself, but not these.

Letters: T tokens of the checkpoint, N of the network, both square grids.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

State = dict[str, Tensor]

PATCHES = "stem.proj.weight"
"""The kernel that makes tokens of patches, (C, 3, P, P)."""
OUTPUTS = (
    *("mlp_tokens.fc2.weight", "mlp_tokens.fc2.bias", "linear_tokens.weight", "linear_tokens.bias"),
    *("gate.proj.weight", "gate.proj.bias"),
)
"""Ends of names of tensors whose first axis is the tokens that a layer gives."""
INPUTS = ("mlp_tokens.fc1.weight", "linear_tokens.weight", "gate.proj.weight")
"""Of those whose second axis is the tokens that it reads."""


def resample_mixer(tensors: State, targets: Mapping[str, Tensor]) -> State:
    """The tensors in the shapes of the targets, where they mix tokens and both grids are square.

    Tensors of the right shape, and all others, stay as they are.
    """
    return {
        name: _resample(name, tensor, targets[name].shape) if name in targets else tensor
        for name, tensor in tensors.items()
    }


def _resample(name: str, tensor: Tensor, shape: torch.Size) -> Tensor:
    if tensor.shape == shape or tensor.ndim != len(shape):
        return tensor
    if name == PATCHES:
        from timm.layers import resample_patch_embed  # seconds: only for those who use it

        kernel: Tensor = resample_patch_embed(tensor, list(shape[2:]))
        return kernel
    result = tensor.float()
    if name.endswith(OUTPUTS) and _are_square(tensor.shape[0], shape[0]):
        result = grid_map(tensor.shape[0], shape[0]) @ result
    if name.endswith(INPUTS) and _are_square(tensor.shape[1], shape[1]):
        result = result @ grid_map(shape[1], tensor.shape[1])
    return result.to(tensor.dtype)


def grid_map(tokens: int, others: int) -> Tensor:
    """The matrix (N, T) that resamples values on a square grid of T tokens to one of N.

    Bicubic and antialiased, as timm resamples positions; of equal grids it is the identity.
    """
    if tokens == others:
        return torch.eye(tokens)
    side, other = math.isqrt(tokens), math.isqrt(others)
    basis = torch.eye(tokens).reshape(tokens, 1, side, side)
    columns = F.interpolate(basis, (other, other), mode="bicubic", antialias=True)
    return columns.reshape(tokens, others).T


def _are_square(*counts: int) -> bool:
    return all(math.isqrt(count) ** 2 == count for count in counts)
