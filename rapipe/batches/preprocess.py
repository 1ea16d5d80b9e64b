"""How a network wants its images: resized, cut and normalised, on the device where they live.

Letters: B batch, S side of an image as it is stored, H side as the network sees it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rapipe.batches.loader import ArrayField, BatchLoader
from rapipe.batches.transforms import Normalise, to_float
from rapipe.records import Images

CHUNK = 512
"""Images at once, at most; a multiple of `loader.ROW_MULTIPLE`."""
CHUNK_PIXELS = {"cpu": 2**18, "cuda": 2**22}
"""Pixels that a network sees at once, at most, by device. On a CPU, where activations outgrow
caches and are allocated anew in each layer, EfficientNet-Lite0 at 128 pixels is half as fast with
batches of 128 images as with 16."""


def resize(images: Tensor, size: int, interpolation: str = "bicubic", crop: float = 1.0) -> Tensor:
    """Square images (B, 3, S, S) in [0, 1] of any size -> (B, 3, size, size), clipped to [0, 1].

    As Pillow resizes: antialiased, since an image made smaller would show patterns that it does
    not have, and features of pretrained networks suffer; and first across, then down, clipped
    after each. Each image is resized alone, in float32. What has the size already is not changed.

    Args:
        interpolation: `bicubic` or `bilinear`.
        crop: share of the side that is left: images are resized to `size / crop`, and their
            centre is cut out, as in the evaluation of classifiers of ImageNet.
    """
    side = side_before_crop(size, crop)
    if images.shape[-1] != side:
        for size_of_pass in ((images.shape[-2], side), (side, side)):
            resized = F.interpolate(images, size_of_pass, mode=interpolation, antialias=True)
            images = resized.clamp_(0, 1)
    start = (side - size) // 2
    return images[..., start : start + size, start : start + size]


def side_before_crop(size: int, crop: float) -> int:
    """Side to which images are resized before their centre is cut out."""
    return round(size / crop)


class Preprocess(nn.Module):
    """(B, 3, S, S) in [0, 1] -> (B, 3, H, H), resized, and normalised by channel.

    Args:
        image_size: H.
        mean, std: of each channel on [0, 1].
        interpolation, crop: as of `resize`.
    """

    def __init__(
        self,
        image_size: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        interpolation: str = "bicubic",
        crop: float = 1.0,
    ) -> None:
        super().__init__()
        self.image_size, self.interpolation, self.crop = image_size, interpolation, crop
        self.normalise = Normalise(mean, std)

    @property
    def device(self) -> torch.device:
        """Where it is, and wants its images."""
        return self.normalise.scale.device

    @property
    def batch_size(self) -> int:
        """Images that a network sees at once: a power of two, fewer if they are large."""
        fitting = max(1, CHUNK_PIXELS[self.device.type] // self.image_size**2)
        return min(CHUNK, 1 << (fitting.bit_length() - 1))

    def forward(self, images: Tensor) -> Tensor:
        resized = resize(images, self.image_size, self.interpolation, self.crop)
        normalised: Tensor = self.normalise(resized)
        return normalised

    def shrink(self, images: Images) -> Images:
        """Larger images resized once, rounded to uint8, so that a training need not at each step.

        Others stay as they are.
        """
        side = side_before_crop(self.image_size, self.crop)
        if images.pixels.shape[1] <= side:
            return images
        pixels = np.empty((len(images), side, side, 3), np.uint8)
        loader = BatchLoader(self.device, ArrayField(images.pixels, self.device, resident=False))
        batches = loader.batches(np.arange(len(images)), CHUNK)
        for start, (stored,) in zip(range(0, len(images), CHUNK), batches, strict=True):
            resized = resize(to_float(stored), side, self.interpolation)
            rounded = (resized * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
            pixels[start : start + CHUNK] = rounded.cpu().numpy()
        return replace(images, pixels=pixels)
