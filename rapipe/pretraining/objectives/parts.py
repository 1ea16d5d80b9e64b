"""What several objectives are made of: heads, and losses in float32.

Letters: B batch, F features, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from rapipe.training.ranks import gathered


def mlp(
    features: int,
    widths: tuple[int, ...],
    norm: bool = True,
    last: nn.Module | None = None,
) -> nn.Module:
    """A head (B, F) -> (B, D): linear layers of these widths, ReLU between them.

    Args:
        widths: of the layers, the last of them D; one width is a linear head.
        norm: normalise the batch before each ReLU.
        last: normalisation after the last layer.
    """
    from lightly.models.modules.heads import ProjectionHead  # seconds: only for those who use it

    *hidden, out = widths
    blocks: list[Any] = []
    for width in hidden:
        blocks.append((features, width, nn.BatchNorm1d(width) if norm else None, nn.ReLU()))
        features = width
    head: nn.Module = ProjectionHead([*blocks, (features, out, last, None)])
    return head


def persist_queue(queue: nn.Module) -> None:
    """Let checkpoints hold a memory bank of lightly's, which it leaves out of them."""
    for name in ("bank", "bank_ptr"):
        queue.register_buffer(name, getattr(queue, name), persistent=True)


def of_whole_batch(loss: Callable[..., Tensor], *outputs: Tensor) -> Tensor:
    """`in_float32`, of the outputs of all ranks: for losses that compare the images of a batch."""
    return in_float32(lambda *parts: loss(*map(gathered, parts)), *outputs)


def in_float32(loss: Callable[..., Tensor], *outputs: Tensor) -> Tensor:
    """The loss of these outputs in float32, whatever precision they were made in.

    bfloat16 has three digits: too few for logits that are divided by a small
    temperature, and for sums of thousands of squares.
    """
    with torch.autocast(outputs[0].device.type, enabled=False):
        return loss(*(output.float() for output in outputs))
