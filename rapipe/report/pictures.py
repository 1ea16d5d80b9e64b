"""Pictures of images: neighbourhoods, rows of the memory, near duplicates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rapipe.errors import shortened
from rapipe.evaluation.results import Row
from rapipe.records import Embeddings, Ids, Images, Neighbours, Pixels
from rapipe.report.style import PALETTE, styled

LETTERS = 12
"""Of a name above a picture."""
LETTER = 0.083
"""Inches of a row of pictures that a letter above one of them takes."""
EXAMPLES, NEIGHBOURS = 6, 8
"""Test images in the gallery, and neighbours of each."""


@dataclass(frozen=True)
class Neighbourhood:
    """A test image and its nearest neighbours, for the gallery."""

    image: Pixels  # (H, W, 3)
    label: str
    neighbours: Pixels  # (K, H, W, 3)
    labels: tuple[str, ...]
    similarities: tuple[float, ...]


def neighbourhoods_of(
    test: Images,
    neighbours: Neighbours,
    bank: Embeddings,
    bank_classes: Sequence[str],
    train: Images,
) -> list[Neighbourhood]:
    """Examples of test images and their neighbours, of as many classes as there is room for.

    Args:
        bank_classes: names of the classes of the bank.
        train: the images that the bank is made of.
    """
    _, firsts = np.unique(test.labels, return_index=True)
    spread = np.linspace(0, len(firsts) - 1, min(EXAMPLES, len(firsts))).round().astype(int)
    examples = []
    for query in firsts[spread]:
        rows = neighbours.indices[query, :NEIGHBOURS]
        labels = zip(bank.labels[rows], bank.sources[rows], strict=True)
        examples.append(
            Neighbourhood(
                test.pixels[query],
                test.classes[test.labels[query]],
                pixels_by_id(train, bank.ids[rows]),
                tuple(
                    bank_classes[label] if label >= 0 else f"({source})" for label, source in labels
                ),
                tuple(neighbours.similarities[query, :NEIGHBOURS].tolist()),
            )
        )
    return examples


def pixels_by_id(images: Images, ids: Ids) -> Pixels:
    """Pixels (N, H, W, 3) of images by id; grey where there is no such image."""
    row_of = {image_id: row for row, image_id in enumerate(images.ids.tolist())}
    pixels = np.full((len(ids), *images.pixels.shape[1:]), 128, np.uint8)
    for i, image_id in enumerate(ids.tolist()):
        if image_id in row_of:
            pixels[i] = images.pixels[row_of[image_id]]
    return pixels


@styled
def gallery(examples: Sequence[Neighbourhood]) -> Figure:
    """Images, each with its neighbours; a solid frame: same class, a dashed one: another."""
    columns = 1 + max(len(example.labels) for example in examples)
    names = [short(name) for example in examples for name in (example.label, *example.labels)]
    width = max(1.0, LETTER * (len(max(names, key=len)) + len("  0.00")))
    size = (width * columns, 1.15 * len(examples))
    figure, grid = plt.subplots(len(examples), columns, figsize=size, squeeze=False)
    for axes_row, example in zip(grid, examples, strict=True):
        for axes in axes_row:
            axes.axis("off")
        axes_row[0].imshow(example.image)
        axes_row[0].set_title(f"{short(example.label)}?", fontsize=8, fontweight="bold", pad=3)
        neighbours = zip(example.neighbours, example.labels, example.similarities, strict=True)
        for axes, (image, label, similarity) in zip(axes_row[1:], neighbours, strict=False):
            draw(axes, image, f"{short(label)}  {similarity:.2f}", label == example.label)
    title = "Test images, and their nearest neighbours in the memory with cosine similarity"
    figure.suptitle(title, fontsize=11, fontweight="bold", y=0.94)
    figure.subplots_adjust(wspace=0.12, hspace=0.35)
    return figure


@styled
def query_and_neighbours(
    image: Pixels, title: str, neighbours: Pixels, rows: Sequence[Row], label: str, same: str
) -> Figure:
    """One image and its neighbours, with similarity, attention and effect under each.

    Args:
        neighbours: (K, H, W, 3).
        rows: K of them, with similarity and class; attention and effect where known.
        label: class of the image; `?` if nobody knows.
        same: the class whose neighbours have a solid frame.
    """
    columns = min(len(rows), 8)
    lines = -(-len(rows) // columns)
    size = (1.1 * (columns + 1), 0.6 + 1.55 * lines)
    figure, grid = plt.subplots(lines, columns + 1, figsize=size, squeeze=False)
    figure.suptitle(shortened(title, 200), fontsize=9, fontweight="bold")
    for axes in grid.flat:
        axes.axis("off")
    grid[0, 0].imshow(image)
    grid[0, 0].set_title(f"query: {short(label)}", fontsize=7, fontweight="bold", pad=3)
    for axes, pixels, row in zip(grid[:, 1:].flat, neighbours, rows, strict=False):
        draw(axes, pixels, f"{short(row['class'])}  {row['similarity']:.3f}", row["class"] == same)
        if "attention" in row:
            text = f"attention {row['attention']:.3f}\neffect {row['effect']:+.4f}"
            axes.text(
                0.5, -0.06, text, transform=axes.transAxes, ha="center", va="top", fontsize=6.5
            )
    figure.subplots_adjust(
        wspace=0.12,
        hspace=0.45,
        top=1 - 0.55 / size[1],
        bottom=0.35 / size[1],
        left=0.02,
        right=0.98,
    )
    return figure


def short(name: str) -> str:
    """A name of a class or a source that fits above a small picture."""
    return shortened(" ".join(name.split()), LETTERS)


def draw(axes: Axes, image: Pixels, title: str, solid: bool) -> None:
    """An image in a frame: solid and blue, or dashed and orange."""
    colour = PALETTE[1] if solid else PALETTE[0]
    axes.axis("off")
    axes.imshow(image)
    axes.set_title(title, fontsize=7, pad=3, color=colour)
    h, w, _ = image.shape
    style = "-" if solid else (0, (3, 2))
    edge = mpl.patches.Rectangle(
        (-0.5, -0.5), w, h, fill=False, lw=2.5, ls=style, color=colour, clip_on=False
    )
    axes.add_patch(edge)


class Tile(NamedTuple):
    """A picture with its title, and whether its frame is solid."""

    image: Pixels
    title: str
    solid: bool


@styled
def tiles(lines: Mapping[str, Sequence[Tile]], title: str) -> Figure:
    """Rows of pictures, each row with its name at the left."""
    columns = max(len(line) for line in lines.values())
    size = (1.4 + 1.05 * columns, 0.5 + 1.25 * len(lines))
    figure, grid = plt.subplots(len(lines), columns, figsize=size, squeeze=False)
    figure.suptitle(title, fontsize=11, fontweight="bold", y=1 - 0.1 / size[1])
    for axes_row, (name, line) in zip(grid, lines.items(), strict=True):
        for axes in axes_row:
            axes.axis("off")
        for axes, tile in zip(axes_row, line, strict=False):
            draw(axes, *tile)
        axes_row[0].text(
            -0.15, 0.5, name, transform=axes_row[0].transAxes, ha="right", va="center", fontsize=8
        )
    figure.subplots_adjust(
        wspace=0.15,
        hspace=0.4,
        top=1 - 0.6 / size[1],
        bottom=0.1 / size[1],
        left=1.4 / size[0],
        right=0.99,
    )
    return figure
