"""A frozen backbone and its preprocessing: pixels -> unit vectors.

Letters: N images, D embedding (the backbone's penultimate features).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from rapipe.batches.loader import ArrayField, BatchLoader, pad_rows
from rapipe.batches.transforms import Normalise, to_float
from rapipe.encoder.backbones import Backbone, build
from rapipe.errors import UserError
from rapipe.io import weights
from rapipe.progress import track
from rapipe.records import Images, Pixels, Vectors, channel_moments

CHUNK = 512
"""Images at once; a multiple of `loader.ROW_MULTIPLE`."""
SHORTEST = 1e-12
"""Features below it have no direction; torch does not bring them to unit length."""


@dataclass(frozen=True)
class EncoderSpec:
    """What is needed to build the network again, and to prepare its input."""

    backbone: str
    """Its name in the table of backbones."""
    width: int
    """Channels of its first stage."""
    stem: str
    """Its first convolution: `cifar`, `half` or `imagenet`."""
    image_size: int
    """Side of the square images in pixels."""
    mean: tuple[float, ...]
    """Of each channel over the training images, on [0, 1]: (3,)."""
    std: tuple[float, ...]

    @classmethod
    def of(
        cls, images: Images, backbone: str = "resnet18", width: int = 16, stem: str = "half"
    ) -> EncoderSpec:
        """A network for such images, of the given size: 64 is the published width.

        >>> EncoderSpec.of(images, "perceiver", width=32)
        """
        counts = np.zeros((3, 256), np.int64)
        for start in range(0, len(images), CHUNK):
            block = images.pixels[start : start + CHUNK]
            counts += [np.bincount(block[..., c].ravel(), minlength=256) for c in range(3)]
        mean, std = channel_moments(counts)
        return cls(backbone, width, stem, images.pixels.shape[1], tuple(mean), tuple(std))


class NotFinite(UserError):
    """An encoder's features are no numbers."""


class Encoder(nn.Module):
    """Frozen: always in evaluation mode, in float32, without gradients."""

    def __init__(self, spec: EncoderSpec, backbone: Backbone | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.backbone = backbone or build(spec.backbone, spec.width, spec.stem, spec.image_size)
        self.normalise = Normalise(spec.mean, spec.std)
        self.requires_grad_(False).eval()

    @property
    def features(self) -> int:
        """D, the length of its vectors."""
        return self.backbone.features

    def train(self, mode: bool = True) -> Encoder:
        """A frozen encoder stays in evaluation mode, so its BatchNorm never moves."""
        return super().train(False)

    @torch.inference_mode()
    def embed(self, pixels: Pixels, progress: str = "") -> Vectors:
        """Unit vectors (N, D) of images (N, H, W, 3); a bar of this name if `progress` is one.

        That of an image does not depend on which others there are, nor on how many. An image
        without features, all of which a ReLU has cut off, has the same as other such images.

        Raises:
            NotFinite: a feature or its length is not finite.
        """
        device = self.normalise.scale.device
        loader = BatchLoader(device, ArrayField(pixels, device, resident=False))
        batches = loader.batches(pad_rows(len(pixels)), CHUNK)
        if progress:
            batches = iter(track(batches, progress, -(-len(pixels) // CHUNK)))
        chunks = [self.backbone(self.normalise(to_float(images))).float() for (images,) in batches]
        features = torch.cat(chunks)[: len(pixels)].cpu()
        lengths = features.norm(dim=1)
        if not torch.isfinite(lengths).all():  # of huge features the length alone is not
            raise NotFinite(
                "the encoder gave features that are not finite: pretrain it again (rapipe "
                "pretrain), with a lower learning rate"
            )
        features[lengths < SHORTEST] = 1.0
        return np.asarray(F.normalize(features, dim=1).numpy())

    def write(self, folder: Path, facts: dict[str, Any]) -> None:
        """Write the weights, and a card with the spec and facts about the training."""
        weights.write(folder, self.backbone, self.spec, facts)

    @classmethod
    def read(cls, folder: Path) -> Encoder:
        """Load what `write` wrote; `UserError` if it is missing, damaged or mixed up."""
        card = weights.read_card(folder, "pretrain")
        encoder = cls(EncoderSpec(**card["spec"]))
        weights.fill(encoder.backbone, folder, card, "pretrain")
        return encoder
