"""MAE: see a quarter of an image's patches, and paint the rest.

With lightly's masked vision transformer and decoder. Hidden patches are dropped before
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
from rapipe.errors import UserError
from rapipe.pretraining.objectives.base import Objective, Recipe
from rapipe.pretraining.objectives.parts import in_float32

MASKED = 0.75
FEWEST = 4
"""Patches of which a quarter can be seen."""
DECODER_BLOCKS = 4
"""The paper's 8 are for 196 patches."""


class MAE(Objective):
    """Paints the three quarters of an image's patches that its encoder does not see.

    The encoder must be a vision transformer of timm's; the decoder has its width and
    heads, and 4 blocks.

    Raises:
        UserError: the encoder is none, or an image has fewer than four patches.

    Source: He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022.
    """

    views = 1
    caution = (
        "features of masked autoencoders are poor keys for retrieval (in lightly's benchmarks on "
        "ImageNet their nearest neighbours are right for 11 % of the images, BYOL's for 46 %)"
    )
    may_collapse = False
    particular = True
    ignores = ("head", "temperature")

    def __init__(self, encoder: Backbone, recipe: Recipe) -> None:
        from lightly.models.modules import MaskedVisionTransformerTIMM
        from lightly.models.modules.masked_vision_transformer_decoder_timm import (
            MaskedVisionTransformerDecoderTIMM,
        )
        from lightly.models.utils import initialize_2d_sine_cosine_positional_embedding

        super().__init__(encoder, recipe)
        net = _transformer(encoder)
        self.side, self.patches = net.patch_embed.patch_size[0], net.patch_embed.num_patches
        self.prefix, width = net.num_prefix_tokens, net.embed_dim
        initialize_2d_sine_cosine_positional_embedding(
            net.pos_embed, num_prefix_tokens=0 if net.no_embed_class else self.prefix
        )
        self.masked = MaskedVisionTransformerTIMM(
            net, weight_initialization="skip", pos_embed_initialization="skip"
        )
        self.masked.mask_token.requires_grad_(False)  # for methods that do not drop patches
        self.bridge = nn.Linear(width, width)
        self.decoder = MaskedVisionTransformerDecoderTIMM(
            self.patches, width, DECODER_BLOCKS, net.blocks[0].attn.num_heads, self.prefix
        )
        self.paint = nn.Linear(width, 3 * self.side**2)

    @classmethod
    def check_encoder(cls, encoder: Backbone) -> None:
        _transformer(encoder)

    def forward(self, views: tuple[Tensor, ...], labels: Tensor) -> Tensor:
        from lightly.models.utils import get_at_index, normalize_mean_var, patchify

        images = views[0]
        seen, hidden = self.draw(len(images), images.device)
        target = get_at_index(patchify(images, self.side), hidden)  # (B, .75 P, 3SS)
        painted = get_at_index(self.reconstruct(images, seen), hidden)
        return in_float32(F.mse_loss, painted, normalize_mean_var(target))

    def draw(self, b: int, on: torch.device) -> tuple[Tensor, Tensor]:
        """Patches that each of B images shows (B, P/4), and those that it hides (B, 3P/4).

        Drawn on the CPU wherever images are, so that every device hides the same.
        """
        from lightly.models.utils import random_token_mask

        drawn = random_token_mask((b, self.patches), MASKED, mask_class_token=True)
        seen, hidden = (part.to(on) for part in drawn)
        return seen, hidden

    def reconstruct(self, images: Tensor, seen: Tensor) -> Tensor:
        """Pixels (B, P, 3SS) of all patches, from those seen (B, P/4) alone."""
        from lightly.models.utils import repeat_token, set_at_index

        b = len(images)
        first = torch.arange(self.prefix, device=seen.device).expand(b, -1)
        kept = torch.cat((first, seen + self.prefix), dim=1)
        encoded = self.bridge(self.masked.encode(images, idx_keep=kept))  # (B, prefix + P/4, C)
        blank = repeat_token(self.decoder.mask_token, (b, self.prefix + self.patches))
        tokens = set_at_index(blank.to(encoded.dtype), kept, encoded)  # (B, T, C)
        pixels: Tensor = self.paint(self.decoder(tokens)[:, self.prefix :])
        return pixels


def _transformer(encoder: Backbone) -> Any:
    """timm's vision transformer in the encoder, if it is one that patches can be dropped from."""
    from timm.layers import PatchEmbed
    from timm.models.vision_transformer import VisionTransformer

    net: Any = getattr(encoder, "net", None)
    # Of exactly this class: those derived from it have tokens that lightly does not know of.
    known = type(net) is VisionTransformer and type(net.patch_embed) is PatchEmbed
    if not known or net.pos_embed is None:
        raise UserError(
            "pretrain.objective is mae, which needs a vision transformer as pretrain.encoder, "
            "such as timm:vit_tiny_patch16_224"
        )
    if net.patch_embed.num_patches < FEWEST:
        raise UserError(
            f"pretrain.objective is mae, which hides three quarters of an image's patches, but "
            f"pretrain.encoder makes {net.patch_embed.num_patches} of an image: raise "
            f"corpus.image_size, or choose an encoder with smaller patches"
        )
    return net
