"""MAE: reconstruct an image from a quarter of its patches.

With lightly's masked vision transformer and decoder. Masked patches are dropped before
the encoder, so a step costs it a quarter. The target is every patch's pixels, normalised
within the patch; the positions are fixed sines and cosines. The encoder keeps the
weights it comes with otherwise.

Letters: B batch, T tokens (of which the first few are no patches), C channels,
P patches, S side of a patch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rapipe.encoder.backbones import Backbone
from rapipe.errors import ArgumentError
from rapipe.pretraining.objectives.base import Objective, ObjectiveSpec
from rapipe.pretraining.objectives.parts import in_float32
from rapipe.training import ranks

MASK_RATIO = 0.75
MIN_PATCHES = 4
"""Of an image: a quarter of fewer is none."""
EPSILON = 1e-6
"""That lightly adds to the variance of a patch."""
DECODER_BLOCKS = 4
"""The paper's 8 are for 196 patches."""


class MAE(Objective):
    """Reconstructs the three quarters of an image's patches that its encoder does not see.

    The encoder must be a vision transformer of timm's; the decoder has its width and
    heads, and 4 blocks.

    Raises:
        ArgumentError: the encoder is none, or an image has fewer than four patches.

    Source: He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022.
    """

    views = 1
    caution = (
        "features of masked autoencoders are poor keys for retrieval (in lightly's benchmarks on "
        "ImageNet their nearest neighbours are right for 11 % of the images, BYOL's for 46 %)"
    )
    may_collapse = False
    draws = True
    restricts_encoders = True
    ignores = ("head", "temperature", "local_crops")

    def __init__(self, encoder: Backbone, spec: ObjectiveSpec) -> None:
        from lightly.models.modules import MaskedVisionTransformerTIMM
        from lightly.models.modules.masked_vision_transformer_decoder_timm import (
            MaskedVisionTransformerDecoderTIMM,
        )
        from lightly.models.utils import initialize_2d_sine_cosine_positional_embedding

        super().__init__(encoder, spec)
        net = _transformer(encoder)
        self.side, self.patches = net.patch_embed.patch_size[0], net.patch_embed.num_patches
        self.prefix, width = net.num_prefix_tokens, net.embed_dim
        initialize_2d_sine_cosine_positional_embedding(
            net.pos_embed, num_prefix_tokens=0 if net.no_embed_class else self.prefix
        )
        self.masked_encoder = MaskedVisionTransformerTIMM(
            net, weight_initialization="skip", pos_embed_initialization="skip"
        )
        self.masked_encoder.mask_token.requires_grad_(False)  # for methods that do not drop patches
        self.decoder_embed = nn.Linear(width, width)
        self.decoder = MaskedVisionTransformerDecoderTIMM(
            self.patches, width, DECODER_BLOCKS, net.blocks[0].attn.num_heads, self.prefix
        )
        self.decoder_pred = nn.Linear(width, 3 * self.side**2)

    @classmethod
    def check_encoder(cls, encoder: Backbone) -> None:
        _transformer(encoder)

    def forward(self, views: tuple[Tensor, ...], labels: Tensor) -> Tensor:
        from lightly.models.utils import get_at_index, normalize_mean_var, patchify

        images = views[0]
        visible, masked = self.draw_mask(len(images), images.device)
        target = get_at_index(patchify(images, self.side), masked)  # (B, .75 P, 3SS)
        reconstruction = get_at_index(self.reconstruct(images, visible), masked)
        return in_float32(F.mse_loss, reconstruction, normalize_mean_var(target))

    def draw_mask(self, b: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Indices of the visible patches of B images (B, P/4), and of the masked ones (B, 3P/4).

        Drawn on the CPU wherever images are, so that every device masks the same.
        """
        from lightly.models.utils import random_token_mask

        size = ranks.count() * b, self.patches
        indices = random_token_mask(size, MASK_RATIO, mask_class_token=True)
        share = ranks.share(size[0])
        visible, masked = (part[share].to(device) for part in indices)
        return visible, masked

    def reconstruct(self, images: Tensor, visible: Tensor) -> Tensor:
        """Pixels (B, P, 3SS) of all patches, from the visible ones (B, P/4) alone."""
        from lightly.models.utils import repeat_token, set_at_index

        b = len(images)
        prefix = torch.arange(self.prefix, device=visible.device).expand(b, -1)
        indices = torch.cat((prefix, visible + self.prefix), dim=1)
        features = self.masked_encoder.encode(images, idx_keep=indices)
        encoded = self.decoder_embed(features)  # (B, prefix + P/4, C)
        blank = repeat_token(self.decoder.mask_token, (b, self.prefix + self.patches))
        tokens = set_at_index(blank.to(encoded.dtype), indices, encoded)  # (B, T, C)
        pixels: Tensor = self.decoder_pred(self.decoder(tokens)[:, self.prefix :])
        return pixels

    def show(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, H) without their masked patches, and with reconstructions of these.

        What it has learned is a patch's pixels normalised within the patch: they are shown with
        the mean and the variance of the patch itself.
        """
        from lightly.models.utils import patchify, unpatchify

        visible, masked = self.draw_mask(len(images), images.device)
        patches = patchify(images, self.side)  # (B, P, 3SS)
        mean, var = patches.mean(dim=2, keepdim=True), patches.var(dim=2, keepdim=True)
        drawn = self.reconstruct(images, visible) * (var + EPSILON).sqrt() + mean
        index = masked[:, :, None].expand(-1, -1, patches.shape[2])
        reconstructed = patches.scatter(1, index, drawn.gather(1, index))
        seen = patches.scatter(1, index, 0.0)
        return unpatchify(seen, self.side), unpatchify(reconstructed, self.side)


def _transformer(encoder: Backbone) -> Any:
    """timm's vision transformer in the encoder, if it is one that patches can be dropped from."""
    from timm.layers import PatchEmbed
    from timm.models.vision_transformer import VisionTransformer

    net: Any = getattr(encoder, "net", None)
    # Of exactly this class: those derived from it have tokens that lightly does not know of.
    supported = type(net) is VisionTransformer and type(net.patch_embed) is PatchEmbed
    if not supported or net.pos_embed is None:
        raise ArgumentError(
            "`objective` is mae, which needs a vision transformer as `encoder`, such as "
            "timm:vit_tiny_patch16_224"
        )
    if net.patch_embed.num_patches < MIN_PATCHES:
        raise ArgumentError(
            f"`objective` is mae, which hides three quarters of an image's patches, but `encoder` "
            f"makes {net.patch_embed.num_patches} of an image: raise `image_size`, or choose an "
            "encoder with smaller patches"
        )
    return net
