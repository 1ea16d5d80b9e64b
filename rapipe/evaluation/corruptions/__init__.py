"""The fifteen common corruptions of CIFAR-10-C, each at five severities, in the published order.

A corruption is a function of pixels (N, H, W, 3), ids (N,), a severity from 1 to 5 and a seed.
What it makes of an image depends on nothing but these, its own name, and the image: never on
the images beside it. To add a corruption is to add a function and a line here.

The constants are those of the authors' `make_cifar_c.py` (github.com/hendrycks/robustness), for
images of 32 pixels. In larger or smaller ones every length in pixels grows or shrinks with the
side, so that a blur hides the same share of the picture; in images of 8 pixels the weakest blurs
hide nothing. Three things differ from the published images:

- A value is rounded to 8 bits, where the authors' code cuts off what follows the point.
- What ImageMagick blurs there is blurred here by the same kernel, without 8 bits in between.
- `frost` has a computed texture in place of photographs, so its numbers cannot be compared.

Source: Hendrycks & Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions
and Perturbations", ICLR 2019.
"""

from __future__ import annotations

from rapipe.errors import ArgumentError
from rapipe.evaluation.corruptions.base import SEVERITIES, Corruption, check_severity
from rapipe.evaluation.corruptions.blur import defocus_blur, glass_blur, motion_blur, zoom_blur
from rapipe.evaluation.corruptions.digital import (
    contrast,
    elastic_transform,
    jpeg_compression,
    pixelate,
)
from rapipe.evaluation.corruptions.noise import gaussian_noise, impulse_noise, shot_noise
from rapipe.evaluation.corruptions.weather import brightness, fog, frost, snow

CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": gaussian_noise,
    "shot_noise": shot_noise,
    "impulse_noise": impulse_noise,
    "defocus_blur": defocus_blur,
    "glass_blur": glass_blur,
    "motion_blur": motion_blur,
    "zoom_blur": zoom_blur,
    "snow": snow,
    "frost": frost,
    "fog": fog,
    "brightness": brightness,
    "contrast": contrast,
    "elastic_transform": elastic_transform,
    "pixelate": pixelate,
    "jpeg_compression": jpeg_compression,
}


def lookup(name: str) -> Corruption:
    """The corruption of this name.

    Raises:
        ArgumentError: there is none.
    """
    if name not in CORRUPTIONS:
        raise ArgumentError(f"`corruption`: {name!r} is none of {', '.join(CORRUPTIONS)}")
    return CORRUPTIONS[name]


def parse(text: str) -> tuple[str, int]:
    """Name and severity of a corruption that is written NAME:SEVERITY.

        >>> parse("fog:3")
        ('fog', 3)

    Raises:
        ArgumentError: the name is not in the table, or the severity is none of 1 to 5.
    """
    name, colon, severity = text.partition(":")
    lookup(name)
    if not colon:
        raise ArgumentError(f"`corruption`: {text!r} has no severity: write {name}:1 to {name}:5")
    if severity not in map(str, SEVERITIES):
        check_severity(severity)
    return name, int(severity)
