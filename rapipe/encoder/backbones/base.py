"""What every backbone is: images to features, in stages after which neighbours may enter.

Letters: B batch, T tokens, C channels, F features.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

Fuse = Callable[[int, Tensor], Tensor]
"""Called after stage i with tokens (B, T, C_i); returns tokens of the same shape.

From a backbone that `branches` it may take several sets of neighbours for the same images: then it
returns the tokens of all images with the first set, of all with the second, and so on, from its
first call on.
"""


def no_fusion(stage: int, tokens: Tensor) -> Tensor:
    """The `Fuse` of a classifier without retrieval: tokens stay as they are."""
    return tokens


class Backbone(nn.Module):
    """Base class.

    Attributes:
        widths: channels C_i of the tokens after each stage.
        features: F, the dimension of the output.
        branches: whether the rest of it works on more images than it began with.
    """

    branches = False
    widths: tuple[int, ...]
    features: int

    def forward(self, images: Tensor, fuse: Fuse = no_fusion) -> Tensor:
        """Normalised images (B, 3, H, W) -> features (B, F)."""
        raise NotImplementedError


BackboneFactory = Callable[[int, str, int], Backbone]
"""Makes a backbone of (width, stem, image_size)."""
FamilyFactory = Callable[[int, str, int, str], Backbone]
"""Makes a backbone of a family of (width, stem, image_size, pool)."""


def fuse_map(fuse: Fuse, stage: int, x: Tensor) -> Tensor:
    """Apply `fuse` to a feature map (B, C, H, W), its positions as tokens."""
    if fuse is no_fusion:
        return x
    _, c, h, w = x.shape
    tokens = x.flatten(2).transpose(1, 2)  # (B, H*W, C)
    return fuse(stage, tokens).transpose(1, 2).reshape(-1, c, h, w)
