"""What an encoder looks at, and what a masked autoencoder makes of what it does not see.

Letters: N images, H side in pixels as the network sees them, A attention heads, G side of the
grid of patches, T tokens.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rapipe.batches.preprocess import Preprocess
from rapipe.batches.transforms import to_float
from rapipe.encoder.encoder import Encoder
from rapipe.pretraining.objectives import Objective
from rapipe.pretraining.objectives.mae import MAE
from rapipe.records import Images, Pixels

EXAMPLES = 6
"""Images that are shown, of as many classes as there are."""
Pictures = dict[str, npt.NDArray[Any]]
"""By name: `original`, with `attention`, or with `masked` and `reconstructed`, or all; empty where
the network has neither."""


def pictures_of(encoder: Encoder, objective: Objective, images: Images) -> Pictures:
    """Of a few labelled images.

    `attention` (N, A, G, G) float32 is a vision transformer's of timm; the others
    (N, H, H, 3) uint8 are a masked autoencoder's.
    """
    pixels = _examples(images)
    attention = attention_maps(encoder, pixels)
    pictures: Pictures = {} if attention is None else {"attention": attention}
    if isinstance(objective, MAE):
        pictures |= _reconstructions(objective, encoder.preprocess, pixels)
    if pictures:
        shown = encoder.preprocess(_on_device(encoder.preprocess, pixels))
        pictures["original"] = _to_pixels(encoder.preprocess, shown)
    return pictures


def attention_maps(encoder: Encoder, pixels: Pixels) -> npt.NDArray[np.float32] | None:
    """How much the last block's CLS token attends to each patch, by head: (N, A, G, G).

    Of a network without a CLS token the mean over its patches. None where the encoder is no
    vision transformer of timm's.

    Source: Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021.
    """
    net: Any = getattr(encoder.backbone, "net", None)
    blocks: Any = getattr(net, "blocks", None)
    attend: Any = getattr(blocks[-1], "attn", None) if blocks else None
    if not hasattr(attend, "fused_attn") or not hasattr(net, "num_prefix_tokens"):
        return None
    weights: list[Tensor] = []  # each (B, A, T, T)
    hook = attend.attn_drop.register_forward_hook(lambda *call: weights.append(call[-1].float()))
    is_fused, attend.fused_attn = attend.fused_attn, False  # fused, the weights are never there
    try:
        encoder.embed(pixels)
    finally:
        attend.fused_attn = is_fused
        hook.remove()
    all_weights, prefix = torch.cat(weights)[: len(pixels)], net.num_prefix_tokens
    to_patches = all_weights[..., prefix:]  # (N, A, T, P)
    has_cls = getattr(net, "cls_token", None) is not None
    by_head = to_patches[:, :, 0] if has_cls else to_patches[:, :, prefix:].mean(dim=2)
    side = math.isqrt(by_head.shape[-1])
    maps = by_head.reshape(*by_head.shape[:2], side, side).cpu()
    return np.asarray(maps.contiguous().numpy())


@torch.inference_mode()
def _reconstructions(objective: MAE, preprocess: Preprocess, pixels: Pixels) -> Pictures:
    images = preprocess(_on_device(preprocess, pixels))
    was_training = objective.training
    objective.eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # the same patches in every run
        masked, reconstructed = objective.show(images)
    objective.train(was_training)
    shown = {"masked": masked, "reconstructed": reconstructed}
    return {name: _to_pixels(preprocess, part) for name, part in shown.items()}


def _examples(images: Images) -> Pixels:
    """Images (N, S, S, 3): the first one of each class, of as many classes as are shown."""
    _, firsts = np.unique(images.labels, return_index=True)
    return images.pixels[firsts[:EXAMPLES]]


def _on_device(preprocess: Preprocess, pixels: Pixels) -> Tensor:
    return to_float(torch.from_numpy(np.ascontiguousarray(pixels)).to(preprocess.device))


def _to_pixels(preprocess: Preprocess, images: Tensor) -> Pixels:
    """Normalised images (N, 3, H, H) as they are seen: (N, H, H, 3) uint8."""
    normalise = preprocess.normalise
    seen = ((images - normalise.shift) / normalise.scale).clamp(0, 1)
    shown = (255 * seen).round().byte().permute(0, 2, 3, 1).cpu()
    return np.asarray(shown.contiguous().numpy())  # safetensors writes memory as it lies
