"""A contact sheet: a line of images for each class, beside its name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from rapipe.records import Images

Indices = npt.NDArray[np.int64]

COLUMNS = 12
MAX_ROWS = 40
THUMB = 64
"""Small images are enlarged to about this side, by an integer factor, without blur."""
LARGE_THUMB = 96
"""Large images are reduced to this side."""
MARGIN = 6
TITLES = 190


def contact_sheet(images: Images, path: Path, seed: int) -> None:
    """Draw some images of each class, and of each source without labels, as a PNG.

    Args:
        seed: of the draw of the images.
    """
    lines, omitted = _lines(images)
    size = images.pixels.shape[1]
    side = min(size * max(1, THUMB // size), LARGE_THUMB)
    step = side + MARGIN
    height = MARGIN + step * len(lines) + (step // 2 if omitted else 0)
    sheet = Image.new("RGB", (TITLES + COLUMNS * step + MARGIN, height), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    rng = np.random.default_rng(seed)
    for line, (name, rows) in enumerate(lines):
        top = MARGIN + line * step
        drawn = np.sort(rng.permutation(rows)[:COLUMNS])
        draw.text((MARGIN, top), _short(name), "black", font)
        draw.text((MARGIN, top + 18), f"{len(rows):,} images", "#5b6470", font)
        for column, row in enumerate(drawn):
            thumb = Image.fromarray(images.pixels[row])
            enlarged = Image.Resampling.NEAREST if side >= size else Image.Resampling.BICUBIC
            thumb = thumb.resize((side, side), enlarged)
            sheet.paste(thumb, (TITLES + column * step, top))
    if omitted:
        more = f"and {omitted} classes more"
        draw.text((MARGIN, height - step // 2), more, "#5b6470", font)
    sheet.save(path)


def _lines(images: Images) -> tuple[list[tuple[str, Indices]], int]:
    """Name and rows for each line of the sheet, and the number of classes left out.

    Unlabelled images come first, by source, then the classes that have images.
    """
    unlabelled = images.labels < 0
    lines = [
        (f"{name}, unlabelled", np.flatnonzero(unlabelled & (images.sources == name)))
        for name in dict.fromkeys(images.sources[unlabelled].tolist())
    ][:MAX_ROWS]
    present = np.unique(images.labels[~unlabelled]).tolist()
    room = MAX_ROWS - len(lines)
    lines += [
        (images.classes[label], np.flatnonzero(images.labels == label)) for label in present[:room]
    ]
    return lines, len(present[room:])


def _short(name: str) -> str:
    """A name that fits beside its line."""
    name = " ".join(name.split())
    return name if len(name) <= 24 else name[:23] + "…"
