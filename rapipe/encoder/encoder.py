"""A frozen backbone and its preprocessing: pixels -> unit vectors.

Letters: N images, D embedding (the backbone's penultimate features).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rapipe.batches.loader import ArrayField, BatchLoader, pad_rows
from rapipe.batches.preprocess import Preprocess
from rapipe.batches.transforms import to_float
from rapipe.device import Precision, autocast
from rapipe.encoder.backbones import Backbone, build
from rapipe.errors import UserError
from rapipe.io import weights
from rapipe.progress import track
from rapipe.records import Images, Pixels, Vectors, channel_moments

BLOCK = 512
"""Images whose values are counted at once."""
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
    """Side in pixels of the squares that the network sees; images of other sizes are resized."""
    mean: tuple[float, ...]
    """Of each channel on [0, 1]: (3,); over the training images, or a checkpoint's constants."""
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    """How images are resized: `bicubic` or `bilinear`, both antialiased."""
    crop: float = 1.0
    """Share of the side that is left when the centre of the resized image is cut out."""
    pool: str = "model"
    """What becomes of tokens: `model` (as it was trained), `cls`, `mean` or `cls+mean`."""
    config: str = ""
    """The architecture as JSON, where its name does not say all of it."""
    precision: Precision = "fp32"
    """In which an encoder embeds: `fp32` or `bf16`. Classifiers are trained in another's."""

    def build(self) -> Backbone:
        """The network, with random weights."""
        size = (self.width, self.stem, self.image_size)
        return build(self.backbone, *size, self.pool, self.config)

    def preprocess(self) -> Preprocess:
        """What brings images of any size to what the network wants."""
        size = (self.image_size, self.mean, self.std)
        return Preprocess(*size, self.interpolation, self.crop)

    @classmethod
    def of(
        cls, images: Images, backbone: str = "resnet18", width: int = 16, stem: str = "half"
    ) -> EncoderSpec:
        """A network that sees such images as they are; 64 is the published width.

        >>> EncoderSpec.of(images, "perceiver", width=32)
        """
        counts = np.zeros((3, 256), np.int64)
        for start in range(0, len(images), BLOCK):
            block = images.pixels[start : start + BLOCK]
            counts += [np.bincount(block[..., c].ravel(), minlength=256) for c in range(3)]
        mean, std = channel_moments(counts)
        return cls(backbone, width, stem, images.pixels.shape[1], tuple(mean), tuple(std))


class NotFinite(UserError):
    """An encoder's features are no numbers."""


class Encoder(nn.Module):
    """Frozen: always in evaluation mode, without gradients, its weights in float32."""

    def __init__(self, spec: EncoderSpec, backbone: Backbone | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.backbone = backbone or spec.build()
        self.preprocess = spec.preprocess()
        self.requires_grad_(False).eval()

    @property
    def features(self) -> int:
        """D, the length of its vectors."""
        return self.backbone.features

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.preprocess.device

    def train(self, mode: bool = True) -> Encoder:
        """A frozen encoder stays in evaluation mode, so its BatchNorm never moves."""
        return super().train(False)

    @torch.inference_mode()
    def embed(self, pixels: Pixels, progress: str = "") -> Vectors:
        """Unit vectors (N, D) of square images (N, S, S, 3); `progress` names a bar.

        That of an image does not depend on which others there are, nor on how many. An image
        without features, all of which a ReLU has cut off, has the same as other such images.

        Raises:
            NotFinite: a feature or its length is not finite.
        """
        device, size = self.device, self.preprocess.batch_size
        loader = BatchLoader(device, ArrayField(pixels, device, resident=False))
        batches = loader.batches(pad_rows(len(pixels)), size)
        if progress:
            batches = iter(track(batches, progress, -(-len(pixels) // size)))
        chunks = [self._features(images).float() for (images,) in batches]
        features = torch.cat(chunks)[: len(pixels)].cpu()
        lengths = features.norm(dim=1)
        if not torch.isfinite(lengths).all():  # of huge features the length alone is not
            raise NotFinite(
                "the encoder gave features that are not finite: pretrain it again (rapipe "
                "pretrain), with a lower learning rate"
            )
        features[lengths < SHORTEST] = 1.0
        return np.asarray(F.normalize(features, dim=1).numpy())

    def _features(self, pixels: Tensor) -> Tensor:
        """Pixels (B, S, S, 3) uint8 -> features (B, D)."""
        images = self.preprocess(to_float(pixels))
        with autocast(images.device, self.spec.precision):
            features: Tensor = self.backbone(images)
        return features

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
