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
    rows = _rows(images)
    shown = rows[:MOST_ROWS]
    size = images.pixels.shape[1]
    side = min(size * max(1, THUMB // size), LARGE_THUMB)
    step = side + MARGIN
    height = MARGIN + step * len(shown) + (step // 2 if len(rows) > len(shown) else 0)
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
    if len(rows) > len(shown):
        more = f"and {len(rows) - len(shown)} classes more"
        draw.text((MARGIN, height - step // 2), more, "#5b6470", font)
    sheet.save(path)


def _rows(images: Images) -> list[tuple[str, Indices]]:
    """Names and rows of the classes that have images, then of unlabelled images by source."""
    labelled = [
        (name, np.flatnonzero(images.labels == label)) for label, name in enumerate(images.classes)
    ]
    unlabelled = images.labels < 0
    others = [
        (f"{name}, unlabelled", np.flatnonzero(unlabelled & (images.sources == name)))
        for name in dict.fromkeys(images.sources[unlabelled].tolist())
    ]
    return [(name, own) for name, own in (*others, *labelled) if len(own)]


def _short(name: str) -> str:
    """A name that fits beside the row, with what the font cannot draw left as it is."""
    name = " ".join(name.split())
    return name if len(name) <= 24 else name[:23] + "…"
