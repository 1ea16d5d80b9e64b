"""Augmentation and noise on whole batches, on the device where the batch lives.

Letters: B batch, H height, W width. Images are float (B, 3, H, W) in [0, 1]
unless said otherwise. Randomness is torch's global generator, but for
`gaussian_noise`, which is seeded per image.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from rapipe.records import Ids, Pixels


def to_float(pixels: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) -> float32 (B, 3, H, W) in [0, 1], channels last in memory."""
    return pixels.permute(0, 3, 1, 2).to(torch.float32).div_(255)


class Normalise(nn.Module):
    """(B, 3, H, W) in [0, 1] -> zero mean, unit variance a channel."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std


def gaussian_noise(pixels: Pixels, ids: Ids, std: float, seed: int) -> Pixels:
    """Add Gaussian noise as CIFAR-10-C does: on [0, 1], clipped, rounded to uint8.

    The noise of an image depends on `seed`, its id and `std` alone, so it is
    the same in every batch and for every classifier.

    Args:
        pixels: (N, H, W, 3) uint8.
        ids: (N,) ids of the images.
        std: standard deviation where white is 1; 0 returns the pixels as they are.
        seed: of the whole run.

    Source: Hendrycks & Dietterich, "Benchmarking Neural Network Robustness to
    Common Corruptions and Perturbations", ICLR 2019.
    """
    if std == 0:
        return pixels
    noisy = np.empty_like(pixels)
    for row, (image, own) in enumerate(zip(pixels, ids, strict=True)):
        rng = np.random.default_rng([seed, int(own) & (2**64 - 1), round(std * 1e9)])
        noise = rng.standard_normal(image.shape, np.float32)
        noisy[row] = np.rint(np.clip(image / np.float32(255) + std * noise, 0, 1) * 255)
    return noisy


def none(size: int) -> nn.Module:
    """Images as they are."""
    return nn.Identity()


def affine(size: int) -> nn.Module:
    """For glyphs and other drawings, where colour and crops carry no meaning.

    Rotation 15 degrees, shift 10 %, scale .85 to 1.15, shear 10 degrees, blur, noise.
    Stronger ones (20 degrees, scale .75 to 1.25) left BYOL's features of digits
    at a kNN accuracy of .75 after 20 epochs, these at .83.
    """
    import kornia.augmentation as K

    return nn.Sequential(
        K.RandomAffine(15.0, (0.1, 0.1), (0.85, 1.15), 10.0, p=1.0),
        K.RandomGaussianBlur((3, 3), (0.3, 1.2), p=0.3),
        K.RandomGaussianNoise(0.0, 0.1, p=0.5),
    )


def crop(size: int) -> nn.Module:
    """For photographs, as in SimCLR at 32 pixels: crop, flip, jitter of half strength, grey.

    Without blur (Chen et al., "A Simple Framework for Contrastive Learning of
    Visual Representations", ICML 2020, appendix B.9).
    """
    import kornia.augmentation as K

    return nn.Sequential(
        K.RandomResizedCrop((size, size), scale=(0.2, 1.0), p=1.0),
        K.RandomHorizontalFlip(p=0.5),
        K.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
        K.RandomGrayscale(p=0.2),
    )


def shift(size: int) -> nn.Module:
    """For training classifiers on glyphs: rotation 10 degrees, shift 10 %."""
    import kornia.augmentation as K

    return nn.Sequential(K.RandomAffine(10.0, (0.1, 0.1), p=1.0))


def flip(size: int) -> nn.Module:
    """For training classifiers on photographs: shift by up to an eighth, and mirror."""
    import kornia.augmentation as K

    return nn.Sequential(
        K.RandomCrop((size, size), padding=size // 8), K.RandomHorizontalFlip(p=0.5)
    )


VIEWS: dict[str, Callable[[int], nn.Module]] = {
    "none": none,
    "affine": affine,
    "crop": crop,
    "shift": shift,
    "flip": flip,
}
