"""Labels that something contradicts: how many, which, and what they look like."""

from __future__ import annotations

import html

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from rapipe.errors import shortened
from rapipe.report.material import Material
from rapipe.report.pictures import draw, pixels_by_id, short
from rapipe.report.style import styled
from rapipe.report.tables import NOTHING, Table

NAMED = 10
"""Classes and conflicts that a sentence names."""
LONGEST = 60
"""Letters of a location in the table."""
SIDE_BY_SIDE = 2
"""Images with their neighbours in a line of pictures."""


def findings(material: Material) -> str:
    """How many labels something contradicts, and what the splits lack.

    What speaks against labels that the images came with, and what no figure can speak of.
    """
    errors, corpus = material.leakage["label_errors"], material.corpus
    words = [_votes(errors)]
    if errors["by_near_duplicate"]:
        words.append(
            f"{errors['by_near_duplicate']:,} images, also of test, are nearly a copy of one of "
            "another class in the memory."
        )
    if conflicts := corpus["conflicts"]:
        words += _conflicts(conflicts)
    if errors["listed"]:
        words.append("results/label_errors.csv lists all, with the file or row of each.")
    for split, absent in corpus["absent_classes"].items():
        if absent:
            names = ", ".join(absent[:NAMED]) + (", ..." if len(absent) > NAMED else "")
            words.append(
                f"{len(absent):,} of {len(corpus['classes']):,} classes have no {split} image, so "
                f"no figure of that split says anything of them: {names}."
            )
    return f"<p>{html.escape(' '.join(words))}</p>"


def _votes(errors: dict[str, float]) -> str:
    if errors["validation_top1"] is None:
        return "No neighbour has a label, so none votes on the labels of images."
    return (
        f"The nearest {errors['k']} neighbours of each training and validation image voted on its "
        f"label, and contradict {errors['by_votes']:,} of {errors['judged']:,}. They name the "
        f"class of {errors['validation_top1']:.1%} of the validation images; always to name the "
        f"commonest would be right for {errors['validation_commonest']:.1%}. So where votes are "
        "often wrong, most of these labels are right, and their images hard. Nothing voted on "
        "test images."
    )


def _conflicts(conflicts: dict[str, object]) -> list[str]:
    if not conflicts["ids"]:
        return []
    fate = f"{conflicts['left_out']:,} were left out" if conflicts["left_out"] else "they were kept"
    return [
        f"The sources have {conflicts['images']:,} images whose pixels are in another class too, "
        f"and {fate} (corpus.on_conflict)."
    ]


@styled
def pictures(material: Material) -> Figure | None:
    """The images whose labels are most suspicious, with their nearest neighbours.

    Above each image its number in the table below, the class that it is given, and the one that is
    suggested. Then its nearest neighbours with their similarity; a solid frame: of the given class.
    Look: is the label wrong, or the image hard?
    """
    rows = material.label_errors[: len(material.leakage["label_errors"]["neighbours"])]
    if not rows:
        return None
    neighbours = material.leakage["label_errors"]["neighbours"]
    splits = {"train": material.train, "validation": material.validation, "test": material.test}
    most = max(map(len, neighbours))
    lines, columns = -(-len(rows) // SIDE_BY_SIDE), SIDE_BY_SIDE * (most + 1)
    size = (1.15 * columns, 0.5 + 1.4 * lines)
    figure, grid = plt.subplots(lines, columns, figsize=size, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    cells = grid.reshape(-1, most + 1)
    for i, (row, near) in enumerate(zip(rows, neighbours, strict=True)):
        image, *others = cells[i]
        image.imshow(splits[row["split"]].pixels[int(row["row"])])
        title = f"{i + 1}. {short(row['class'])}\n→ {short(row['suggested'])}?"
        image.set_title(title, fontsize=7, fontweight="bold", pad=3)
        pixels = pixels_by_id(material.train, np.array([other["id"] for other in near]))
        for axes, picture, other in zip(others, pixels, near, strict=False):
            name = f"{short(other['class'])}\n{other['similarity']:.3f}"
            draw(axes, picture, name, other["class"] == row["class"])
    figure.suptitle("Is the label right?", fontsize=11, fontweight="bold")
    figure.subplots_adjust(
        wspace=0.15, hspace=0.6, top=1 - 0.75 / size[1], bottom=0.02, left=0.01, right=0.99
    )
    return figure


def table(material: Material) -> Table:
    """The same images: where they come from, and what contradicts their label.

    The share of the votes for the given and for the suggested class; the most suspicious first.
    """
    heads = ["", "image", "split", "given", "suggested", "votes for it", "for that", "because of"]
    shown = len(material.leakage["label_errors"]["neighbours"])
    rows = [
        [
            str(i + 1),
            shortened(row["location"], LONGEST),
            row["split"],
            row["class"],
            row["suggested"],
            _percent(row["confidence"]),
            _percent(row["suggested_confidence"]),
            row["reason"].replace("+", ", "),
        ]
        for i, row in enumerate(material.label_errors[:shown])
    ]
    return Table(heads, rows)


def _percent(share: str) -> str:
    return f"{100 * float(share):.0f} %" if share else NOTHING
