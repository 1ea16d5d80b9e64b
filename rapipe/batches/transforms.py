"""Augmentation and noise on whole batches, on the device where the batch lives.

Letters: B batch, H height, W width. Images are float (B, 3, H, W) in [0, 1]
unless another shape is given. Random numbers are those of torch's global generator on
the CPU; only `gaussian_noise` is seeded per image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rapipe.records import Ids, Pixels


def to_float(pixels: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) -> float32 (B, 3, H, W) in [0, 1], channels last in memory."""
    return pixels.permute(0, 3, 1, 2).true_divide(255)


class Normalise(nn.Module):
    """(B, 3, H, W) in [0, 1] -> zero mean, unit variance a channel, in one pass."""

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        scale = 1 / torch.tensor(std, dtype=torch.float64).view(1, 3, 1, 1)
        shift = -torch.tensor(mean, dtype=torch.float64).view(1, 3, 1, 1) * scale
        self.register_buffer("scale", scale.float(), persistent=False)
        self.register_buffer("shift", shift.float(), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return torch.addcmul(self.shift, images, self.scale)


def gaussian_noise(pixels: Pixels, ids: Ids, std: float, seed: int) -> Pixels:
    """Add Gaussian noise as CIFAR-10-C does: on [0, 1], clipped, rounded to uint8.

    The noise of an image depends only on `seed`, its id and `std`, so it is
    the same in every batch and for every classifier.

    Args:
        pixels: (N, H, W, 3) uint8.
        ids: (N,) ids of the images.
        std: standard deviation where white is 1; 0 returns the pixels as they are.
        seed: of the run.

    Source: Hendrycks & Dietterich, "Benchmarking Neural Network Robustness to
    Common Corruptions and Perturbations", ICLR 2019.
    """
    if std == 0:
        return pixels
    noisy = np.empty_like(pixels)
    for row, (image, image_id) in enumerate(zip(pixels, ids, strict=True)):
        rng = np.random.default_rng([seed, int(image_id) & (2**64 - 1), round(std * 1e9)])
        noise = rng.standard_normal(image.shape, np.float32)
        noisy[row] = np.rint(np.clip(image / np.float32(255) + std * noise, 0, 1) * 255)
    return noisy


def noisy_copies(pixels: Pixels, ids: Ids, most: float, seed: int) -> Pixels:
    """Each image with `gaussian_noise` of its own standard deviation, uniform from 0 to `most`."""
    noisy = np.empty_like(pixels)
    for row, image_id in enumerate(ids):
        rng = np.random.default_rng([seed, int(image_id) & (2**64 - 1)])
        one = slice(row, row + 1)
        noisy[one] = gaussian_noise(pixels[one], ids[one], most * rng.random(), seed)
    return noisy


class Views(nn.Sequential):
    """Steps of an augmentation, which draw their random numbers on the CPU on every device.

    So every device computes the same views. kornia would draw on the device that the module
    is moved to, and then wait for it, since it computes boxes and angles on the CPU.
    """

    def _apply(self, *args: Any, **kwargs: Any) -> Views:
        super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        for step in self.modules():
            set_rng: Any = getattr(step, "set_rng_device_and_dtype", None)
            if set_rng:
                set_rng(torch.device("cpu"), torch.float32)
        return self


YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))
"""RGB to YIQ (NTSC): luma, and the plane of chrominance, in which hue is an angle."""


class ColourJitter(nn.Module):
    """Random brightness, contrast, saturation and hue for each image; some turn grey.

    All of these are linear maps of colours that keep greys grey, so an image
    gets one matrix for all of them, as in Karras et al., "Training Generative
    Adversarial Networks with Limited Data", NeurIPS 2020, appendix B. kornia's
    `ColorJitter` takes one step after the other, and hue by way of HSV, which
    takes more than 20 times as long.

    Args:
        brightness, contrast, saturation: x, for factors from 1 - x to 1 + x.
        hue: x, for turns from -x to x, where 1 is 360 degrees.
        p: probability that an image is changed.
        grey: probability that it becomes grey.
    """

    ranges: Tensor
    to_yiq: Tensor
    from_yiq: Tensor

    def __init__(
        self,
        brightness: float,
        contrast: float,
        saturation: float,
        hue: float,
        p: float,
        grey: float,
    ) -> None:
        super().__init__()
        self.p = p
        self.grey = grey
        ranges = torch.tensor((brightness, contrast, saturation, hue)).view(4, 1)
        self.register_buffer("ranges", ranges, persistent=False)
        self.register_buffer("to_yiq", torch.tensor(YIQ), persistent=False)
        self.register_buffer("from_yiq", torch.linalg.inv(torch.tensor(YIQ)), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        drawn = torch.rand(6, len(images)).to(images.device, non_blocking=True)  # (6, B)
        offsets = (2 * drawn[:4] - 1) * self.ranges * (drawn[4] < self.p)  # (4, B)
        brightness, contrast, saturation = 1 + offsets[:3]
        coloured = drawn[5] >= self.grey
        return self.recolour(images, brightness, contrast, saturation * coloured, offsets[3])

    def recolour(
        self, images: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor, hue: Tensor
    ) -> Tensor:
        """Images (B, 3, H, W) changed by factors (B,) and turns (B,), clipped to [0, 1]."""
        b, c, h, w = images.shape
        colours = images.reshape(b, c, h * w)
        angle = 2 * torch.pi * hue
        turn = torch.zeros(b, 3, 3, device=images.device)
        turn[:, 0, 0] = 1
        turn[:, 1, 1] = turn[:, 2, 2] = saturation * angle.cos()
        turn[:, 1, 2] = saturation * angle.sin()  # from red towards yellow, as in HSV
        turn[:, 2, 1] = -turn[:, 1, 2]
        matrix = self.from_yiq @ turn @ self.to_yiq * (brightness * contrast)[:, None, None]
        mean = colours.mean(dim=2) @ self.to_yiq[0]  # (B,), of the brightness
        lift = ((1 - contrast) * brightness * mean)[:, None, None]
        return torch.baddbmm(lift, matrix, colours).clamp_(0, 1).view(b, c, h, w)


class RandomGaussianNoise(nn.Module):
    """Gaussian noise on a random half of the images, clipped to [0, 1].

    Half of a batch stays clean, as in Rusak et al., "A simple way to make neural
    networks robust against diverse image corruptions", ECCV 2020.

    Args:
        std: standard deviation where white is 1.
    """

    def __init__(self, std: float) -> None:
        super().__init__()
        self.std = std

    def forward(self, images: Tensor) -> Tensor:
        return noised(images, self.std, torch.rand(len(images)) < 0.5)


def noised(images: Tensor, std: float, noisy: Tensor) -> Tensor:
    """The images (B, 3, H, W), with Gaussian noise on those in `noisy` (B,), clipped to [0, 1]."""
    noise = torch.randn(images.shape) * std  # on the CPU, so the same on every device
    noise = noise.to(images.device, non_blocking=True)
    return (images + noise * noisy.to(images.device)[:, None, None, None]).clamp_(0, 1)


class RandAugment(nn.Module):
    """Steps drawn for each image from kornia's list of 15, of a given strength.

    kornia's class draws the steps once for all images of a batch, since its
    transforms are of batches; here each transform gets the images that drew it.

    Args:
        steps: number of steps for an image.
        strength: from 1 to 29.
    """

    def __init__(self, steps: int, strength: int) -> None:
        super().__init__()
        from kornia.augmentation import auto
        from kornia.augmentation.auto.rand_augment.rand_augment import default_policy

        self.steps = steps
        self.choices = nn.ModuleList(
            auto.RandAugment(1, strength, [choice]) for choice in default_policy
        ).requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        for _ in range(self.steps):
            images, inputs = images.clone(), images
            drawn = torch.randint(len(self.choices), (len(images),))  # (B,)
            for choice in sorted(set(drawn.tolist())):
                rows = (drawn == choice).nonzero().flatten()
                rows = rows.to(images.device, non_blocking=True)
                images[rows] = self.choices[choice](inputs[rows])
        return images.clamp_(0, 1)


def none(size: int) -> nn.Module:
    """Images as they are, without augmentation.

    Source: this project.
    """
    return nn.Identity()


def affine(size: int) -> nn.Module:
    """For glyphs and other drawings, where colours and crops mean nothing.

    Rotation 15 degrees, shift 10 %, scale .85 to 1.15, shear 10 degrees, blur, noise.
    Stronger ones (20 degrees, scale .75 to 1.25) left BYOL's features of digits
    at a kNN accuracy of .75 after 20 epochs, these at .83.

    Source: this project.
    """
    import kornia.augmentation as K

    return Views(
        K.RandomAffine(15.0, (0.1, 0.1), (0.85, 1.15), 10.0, p=1.0),
        K.RandomGaussianBlur((3, 3), (0.3, 1.2), p=0.3),
        K.RandomGaussianNoise(0.0, 0.1, p=0.5),
    )


def crop(size: int, scale: tuple[float, float] = (0.2, 1.0)) -> nn.Module:
    """For photographs, as in SimCLR at 32 pixels: crop, flip, jitter of half strength, grey.

    Without blur, as there in appendix B.9.

    Source: Chen et al., "A Simple Framework for Contrastive Learning of Visual
    Representations", ICML 2020.
    """
    import kornia.augmentation as K

    return Views(
        resized_crop(size, scale),
        K.RandomHorizontalFlip(p=0.5),
        ColourJitter(0.4, 0.4, 0.4, 0.1, p=0.8, grey=0.2),
    )


def resized_crop(size: int, scale: tuple[float, float]) -> nn.Module:
    """A random part of an image, of a share of its area from this range, resized to `size`."""
    import kornia.augmentation as K

    cut: nn.Module = K.RandomResizedCrop((size, size), scale=scale, p=1.0, cropping_mode="resample")
    return cut


def noisy_crop(size: int, scale: tuple[float, float] = (0.2, 1.0)) -> nn.Module:
    """`crop`, and Gaussian noise with a standard deviation of .1 on half of the images.

    For an encoder whose neighbours of a noisy image are those of the clean one.

    Source: this project.
    """
    return Views(crop(size, scale), RandomGaussianNoise(0.1))


def shift(size: int) -> nn.Module:
    """For training classifiers on glyphs: rotation 10 degrees, shift 10 %.

    Source: this project.
    """
    import kornia.augmentation as K

    return Views(K.RandomAffine(10.0, (0.1, 0.1), p=1.0))


def flip(size: int) -> nn.Module:
    """For training classifiers on photographs: shift by up to an eighth, and mirror.

    Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.
    """
    import kornia.augmentation as K

    return Views(
        K.RandomCrop((size, size), padding=size // 8, cropping_mode="resample"),
        K.RandomHorizontalFlip(p=0.5),
    )


def randaugment(size: int) -> nn.Module:
    """For training classifiers on photographs: two of 15 steps for each image.

    They turn, shear, shift, recolour, sharpen, invert, equalise or posterise it, each with
    strength 9 of 30.

    Source: Cubuk et al., "RandAugment: Practical Automated Data Augmentation with a Reduced
    Search Space", NeurIPS 2020.
    """
    return Views(RandAugment(2, 9))


VIEWS: dict[str, Callable[[int], nn.Module]] = {
    "none": none,
    "affine": affine,
    "crop": crop,
    "noisy-crop": noisy_crop,
    "shift": shift,
    "flip": flip,
    "randaugment": randaugment,
}
CROPS: dict[str, Callable[[int, tuple[float, float]], nn.Module]] = {
    "crop": crop,
    "noisy-crop": noisy_crop,
}
"""Those of `VIEWS` that begin with a crop."""
GLOBAL_SCALE, LOCAL_SCALE = (0.4, 1.0), (0.05, 0.4)
"""Share of an image that is left in a view, and in a small crop, where there are both."""


def multi_crop(name: str, size: int, local_side: int) -> tuple[nn.Module, nn.Module]:
    """The views of this name beside small crops of an image, and these crops.

    Views that do not begin with a crop stay as they are; small crops of them are cut out first.

    Args:
        size, local_side: of both, in pixels.

    Source: Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster
    Assignments", NeurIPS 2020; with DINO's shares (ICCV 2021).
    """
    if name in CROPS:
        return CROPS[name](size, GLOBAL_SCALE), CROPS[name](local_side, LOCAL_SCALE)
    local = Views(resized_crop(local_side, LOCAL_SCALE), VIEWS[name](local_side))
    return VIEWS[name](size), local
