"""A contact sheet: some images of each class in a row, beside its name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from rapipe.records import Images

Indices = npt.NDArray[np.int64]

COLUMNS = 12
MOST_ROWS = 40
THUMB = 64
"""Small images are enlarged to about this side, by whole factors, unblurred."""
LARGE_THUMB = 96
"""Large images are reduced to this side."""
MARGIN = 6
TITLES = 190


def contact_sheet(images: Images, path: Path, seed: int) -> None:
    """Draw classes, and sources of unlabelled images, as a PNG; which images, `seed` decides."""
    shown, left = _rows(images)
    size = images.pixels.shape[1]
    side = min(size * max(1, THUMB // size), LARGE_THUMB)
    step = side + MARGIN
    height = MARGIN + step * len(shown) + (step // 2 if left else 0)
    sheet = Image.new("RGB", (TITLES + COLUMNS * step + MARGIN, height), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    rng = np.random.default_rng(seed)
    for line, (name, own) in enumerate(shown):
        top = MARGIN + line * step
        drawn = np.sort(rng.permutation(own)[:COLUMNS])
        draw.text((MARGIN, top), _short(name), "black", font)
        draw.text((MARGIN, top + 18), f"{len(own):,} images", "#5b6470", font)
        for column, row in enumerate(drawn):
            thumb = Image.fromarray(images.pixels[row])
            enlarged = Image.Resampling.NEAREST if side >= size else Image.Resampling.BICUBIC
            thumb = thumb.resize((side, side), enlarged)
            sheet.paste(thumb, (TITLES + column * step, top))
    if left:
        more = f"and {left} classes more"
        draw.text((MARGIN, height - step // 2), more, "#5b6470", font)
    sheet.save(path)


def _rows(images: Images) -> tuple[list[tuple[str, Indices]], int]:
    """Names and rows of what is shown, and how many classes are not.

    Unlabelled images come first, by source, then the classes that have images.
    """
    unlabelled = images.labels < 0
    rows = [
        (f"{name}, unlabelled", np.flatnonzero(unlabelled & (images.sources == name)))
        for name in dict.fromkeys(images.sources[unlabelled].tolist())
    ][:MOST_ROWS]
    present = np.unique(images.labels[~unlabelled]).tolist()
    room = MOST_ROWS - len(rows)
    rows += [
        (images.classes[label], np.flatnonzero(images.labels == label)) for label in present[:room]
    ]
    return rows, len(present[room:])


def _short(name: str) -> str:
    """A name that fits beside the row, with what the font cannot draw left as it is."""
    name = " ".join(name.split())
    return name if len(name) <= 24 else name[:23] + "…"
