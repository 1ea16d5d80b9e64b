"""How the tokens of a transformer become one vector.

Letters: B batch, T tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rapipe.errors import ArgumentError

POOLS = ("model", "cls", "mean", "cls+mean")
"""What the model itself does, its CLS token, the mean of its patches, or the last two in a row."""


def check_pool(pool: str, name: str, prefix: int | None = None, has_cls: bool = False) -> None:
    """Raise `ArgumentError` if a model cannot pool so.

    Args:
        prefix: how many of its tokens are no patches; None if it has none at all, as
            convolutional models.
        has_cls: whether the first of them is a CLS token; if not, all are registers.
    """
    if pool not in POOLS:
        raise ArgumentError(f"`pool` is {pool!r}: choose from {', '.join(POOLS)}")
    if "cls" in pool.split("+") and not has_cls:
        choices = "model or mean, which are the same" if prefix is None else "model or mean"
        raise ArgumentError(f"`pool` is {pool!r}, but {name} has no CLS token: choose {choices}")


def pool_tokens(
    tokens: Tensor, prefix: int, pool: str, norm: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """The vector (B, C), or (B, 2 C) of `cls+mean`, that `pool` names, of tokens (B, T, C).

    The mean is of patches alone: CLS token and registers are left out.

    Args:
        norm: what the model puts onto a pooled vector.
    """
    vectors = {"cls": tokens[:, 0], "mean": tokens[:, prefix:].mean(dim=1)}
    return torch.cat(
        [norm(vectors[part]) if norm else vectors[part] for part in pool.split("+")], dim=1
    )


def check_multiple(name: str, image_size: int, patch: int) -> None:
    """Raise `ArgumentError` if patches of this side would not fill the image."""
    if image_size % patch:
        below, above = neighbouring_sizes(image_size, patch)
        raise ArgumentError(
            f"`image_size` is {image_size}, which is no multiple of the patches of {name}, "
            f"{patch} pixels wide: choose {below} or {above}"
        )


def neighbouring_sizes(image_size: int, patch: int) -> tuple[int, int]:
    """The multiples of the patch next to a size that is none."""
    below = max(image_size // patch, 1) * patch
    return below, below + patch
