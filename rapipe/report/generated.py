"""Generated images: some of each class, how they come about, and whether they are copies."""

from __future__ import annotations

import html

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from rapipe.report.material import Material
from rapipe.report.pictures import Tile, pixels_by_id, short, tiles
from rapipe.report.style import PALETTE, styled
from rapipe.report.tables import Table

PAIRS = 10
"""Generated images that are shown beside the nearest training image."""


def sheet(material: Material) -> bytes | str:
    """Some generated images of each class, drawn at random.

    Made from the training images alone. They are learned, looked up or both, as the role of their
    source says, and never in validation or test.
    """
    return material.generated.sheet if material.generated else ""


def reverse(material: Material) -> bytes | str:
    """How an image of each class comes out of noise.

    From left to right: noise, from which a network takes what it sees as noise, step by step.
    The film is <code>data/generated/reverse.gif</code>.
    """
    return material.generated.reverse if material.generated else ""


def quality(material: Material) -> str:
    """FID and KID by the memory's encoder.

    Distances between the features of two sets of images, 0 if they are distributed alike: the
    Fr&eacute;chet distance (FID) and the squared kernel distance (KID, without bias, so that it may
    be below 0). FID grows as sets become smaller; so as many training images, drawn at random,
    stand beside the generated ones. The features are those of the memory's encoder, so these
    figures compare with no others.
    """
    if not material.generated or not material.generated.quality["fid"]:
        return ""
    facts = material.generated.quality
    rows = [
        [name, f"{facts['compared'][name]:,}", *(f"{facts[k][name]:.4f}" for k in ("fid", "kid"))]
        for name in ("generated", "training")
    ]
    heads = ["images", "how many", "FID", "KID"]
    words = (
        f"against {facts['compared']['validation']:,} validation images; features of "
        f"{facts['dimension']} dimensions. {_recipe(material)}"
    )
    return f"<p>{html.escape(words)}</p>{Table(heads, rows).html()}"


def _recipe(material: Material) -> str:
    assert material.generated
    card = material.generated.card
    recipe = {key.removeprefix("generate."): value for key, value in card["params"].items()}
    return (
        f"Method {recipe['method']}, {recipe['epochs']} epochs of "
        f"{card['training_images']:,} training images."
    )


@styled
def memorisation(material: Material) -> Figure | None:
    """Distance to the nearest training image.

    Cosine distance of generated images to the nearest training image, beside that of validation
    images, which nobody can have copied. Left of the line lie one in a hundred validation images:
    of generated images that are no copies about as many, of memorised ones more.
    """
    if not material.generated:
        return None
    facts = material.generated.quality["memorisation"]
    figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
    share = f"{100 * facts['near_share']:.1f} % of the generated images are left of the line"
    figure.suptitle(f"Memorised? {share}", fontsize=11, fontweight="bold")
    for name, colour, style in (("validation", PALETTE[0], "--"), ("generated", PALETTE[1], "-")):
        counts = np.asarray(facts[f"{name}_histogram"])
        shares = counts / counts.sum()
        axes.stairs(shares, facts["edges"], label=name, color=colour, ls=style, lw=1.6)
    axes.axvline(facts["threshold"], color="black", ls=":", label="1 % of validation")
    axes.set(xlabel="cosine distance to the nearest training image", ylabel="share of images")
    axes.legend(loc="upper right")
    return figure


def pairs(material: Material) -> Figure | None:
    """The generated images nearest to a training image, above that image.

    With the distance. Look: copies, or only much alike?
    """
    if not material.generated or not material.generated.pairs:
        return None
    rows = material.generated.pairs[:PAIRS]
    lines: dict[str, list[Tile]] = {"generated": [], "training": []}
    for line, column in (("generated", "class"), ("training", "training_class")):
        ids = np.array([int(row[f"{line}_id"]) for row in rows])
        for row, image in zip(rows, pixels_by_id(material.train, ids), strict=True):
            title = short(row[column])
            title += f" {float(row['distance']):.4f}" if line == "generated" else ""
            lines[line].append(Tile(image, title, row["class"] == row["training_class"]))
    return tiles(lines, "Generated images, and the nearest training image (solid: same class)")
