"""A contact sheet of corruptions: a line for each, beside its name, under clean images."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rapipe.evaluation.corruptions import CORRUPTIONS
from rapipe.records import Pixels

SEVERITIES = (1, 3, 5)
"""Those that are shown of each image, side by side."""
THUMB = 64
"""Images are enlarged to about this side, by an integer factor, without blur."""
MARGIN = 6
TITLES = 150


def contact_sheet(pixels: Pixels, seed: int) -> Image.Image:
    """Draw every image at severities 1, 3 and 5 of every corruption.

    Args:
        pixels: (N, H, W, 3) of a few images, whose ids are 0 to N - 1.
        seed: of the corruptions.
    """
    ids = np.arange(len(pixels))
    lines = {"clean": [pixels] * len(SEVERITIES)}
    for name, corrupt in CORRUPTIONS.items():
        lines[name] = [corrupt(pixels, ids, severity, seed) for severity in SEVERITIES]
    side = pixels.shape[1] * max(1, THUMB // pixels.shape[1])
    step = side + MARGIN
    columns = len(pixels) * len(SEVERITIES)
    size = (TITLES + columns * step + MARGIN, MARGIN + step * len(lines))
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for line, (name, shown) in enumerate(lines.items()):
        top = MARGIN + line * step
        draw.text((MARGIN, top), name, "black", font)
        for column, image in enumerate(np.stack(shown, axis=1).reshape(-1, *pixels.shape[1:])):
            thumb = Image.fromarray(image).resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(thumb, (TITLES + column * step, top))
    return sheet
