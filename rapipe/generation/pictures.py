"""Pictures of the reverse process: a strip and a film.

Letters: F frames, N images, S side in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rapipe.records import Pixels

COLUMNS = 9
"""Frames of the strip."""
THUMB, MARGIN, TITLES = 64, 4, 110
"""Small images are enlarged to about this side, by an integer factor; space; width of names."""
LETTERS = 14
"""Of a name beside a line."""
SECONDS, LAST = 0.12, 2.0
"""A frame is shown, and the last."""


def strip(frames: Pixels, classes: Sequence[str], path: Path) -> None:
    """Draw the reverse process (F, N, S, S, 3) as a PNG: a line a class, from noise on."""
    shown = np.linspace(0, len(frames) - 1, min(COLUMNS, len(frames))).round().astype(int)
    step = _side(frames.shape[2]) + MARGIN
    lines = frames.shape[1]
    size = (TITLES + MARGIN + step * len(shown), MARGIN + step * lines)
    sheet = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for line in range(lines):
        top = MARGIN + line * step
        name = " ".join(classes[line].split())
        short = name if len(name) <= LETTERS else f"{name[: LETTERS - 1]}…"
        draw.text((MARGIN, top + step // 3), short, "black", font)
        for column, frame in enumerate(shown.tolist()):
            sheet.paste(_enlarged(frames[frame, line]), (TITLES + column * step, top))
    sheet.save(path)


def film(frames: Pixels, path: Path) -> None:
    """Draw the reverse process (F, N, S, S, 3) as a GIF: all classes side by side."""
    step = _side(frames.shape[2]) + MARGIN
    columns = min(5, frames.shape[1])
    size = (MARGIN + step * columns, MARGIN + step * -(-frames.shape[1] // columns))
    pictures = []
    for images in frames:
        picture = Image.new("RGB", size, "white")
        for i, image in enumerate(images):
            corner = (MARGIN + step * (i % columns), MARGIN + step * (i // columns))
            picture.paste(_enlarged(image), corner)
        pictures.append(picture)
    durations = [round(1000 * SECONDS)] * (len(pictures) - 1) + [round(1000 * LAST)]
    first, *others = pictures
    first.save(path, save_all=True, append_images=others, duration=durations, loop=0)


def _side(size: int) -> int:
    return size * max(1, THUMB // size)


def _enlarged(image: Pixels) -> Image.Image:
    side = _side(image.shape[0])
    return Image.fromarray(image).resize((side, side), Image.Resampling.NEAREST)
