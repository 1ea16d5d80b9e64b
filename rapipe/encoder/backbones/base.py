"""What every backbone is: images to features, with places where neighbours may enter.

Letters: B batch, T tokens, C channels, F features.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

Fuse = Callable[[int, Tensor], Tensor]
"""Called at place i with tokens (B, T, C_i); returns tokens of the same shape."""


def no_fusion(place: int, tokens: Tensor) -> Tensor:
    """The `Fuse` of a classifier without retrieval: tokens stay as they are."""
    return tokens


class Backbone(nn.Module):
    """Base class.

    Attributes:
        widths: channels C_i of the tokens at each place where neighbours may enter.
        features: F, the dimension of the output.
    """

    widths: tuple[int, ...]
    features: int

    def forward(self, images: Tensor, fuse: Fuse = no_fusion) -> Tensor:
        """Normalised images (B, 3, H, W) -> features (B, F)."""
        raise NotImplementedError


Make = Callable[[int, str, int], Backbone]
"""Makes a backbone of (width, stem, image_size)."""


def fuse_map(fuse: Fuse, place: int, x: Tensor) -> Tensor:
    """Apply `fuse` to a feature map (B, C, H, W), its positions as tokens."""
    if fuse is no_fusion:
        return x
    b, c, h, w = x.shape
    tokens = x.flatten(2).transpose(1, 2)  # (B, H*W, C)
    return fuse(place, tokens).transpose(1, 2).reshape(b, c, h, w)
