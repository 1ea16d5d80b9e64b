"""Attribution maps over their images, and what their sanity checks say.

Letters: N images, H height and W width in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from rapipe.errors import shortened
from rapipe.evaluation.evidence import Evidence
from rapipe.evaluation.results import searches
from rapipe.records import Pixels
from rapipe.report.material import Material
from rapipe.report.pictures import Tile, short, tiles
from rapipe.report.style import PALETTE, styled
from rapipe.report.tables import NOTHING, Table

Map = npt.NDArray[np.float32]  # (H, W)
BRIGHTEST = 99
"""Percentile of the sizes of a map's pixels that has the full colour."""
GREY_RANGE = 0.3, 0.8
"""Of the image below a map, so that neither colour is lost on it."""


class Column(NamedTuple):
    """The map of one classifier."""

    classifier: str
    prediction: str
    map: Map


def overlay(image: Pixels, map_: Map) -> Pixels:
    """The image (H, W, 3) in grey; orange where a pixel speaks for the class, blue against it."""
    low, high = GREY_RANGE
    grey = low + (high - low) * image.mean(axis=2, keepdims=True) / 255  # (H, W, 1)
    scale = np.percentile(np.abs(map_), BRIGHTEST) or 1.0
    share = np.clip(np.abs(map_) / scale, 0, 1)[..., None]
    colour = np.where(map_[..., None] > 0, to_rgb(PALETTE[0]), to_rgb(PALETTE[1]))
    return np.asarray(np.round(255 * ((1 - share) * grey + share * colour)), np.uint8)


@styled
def columns(image: Pixels, label: str, maps: Sequence[Column], method: str) -> Figure:
    """An image, and beside it the map of each classifier with what it predicts.

    Args:
        label: class of the image; "" if nobody knows.
    """
    size = (2.3 * (1 + len(maps)), 3.1)
    figure, grid = plt.subplots(1, 1 + len(maps), figsize=size, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    grid[0, 0].imshow(image)
    grid[0, 0].set_title(f"image\n{short(label) or '?'}", fontsize=8)
    for axes, column in zip(grid[0, 1:], maps, strict=True):
        axes.imshow(overlay(image, column.map))
        axes.set_title(f"{shortened(column.classifier, 32)}\n{column.prediction}", fontsize=8)
    figure.suptitle(f"{method}: for (orange) and against (blue) what is predicted", fontsize=9)
    figure.subplots_adjust(wspace=0.06, top=0.8, bottom=0.02, left=0.01, right=0.99)
    return figure


def pictures(material: Material) -> Figure | None:
    """Maps of test images by every classifier, without neighbours and with those it looked up.

    Orange pixels speak for the class that the classifier predicts, blue ones against it. Above
    each image the class and its probability; dashed frames are wrong. The neighbours stay those
    of the clean image, so a map says what its pixels do given these neighbours. Integrated
    gradients from the mean colour of the training images, of the first seed.
    """
    if not material.attribution_maps:
        return None
    row_of = {image_id: row for row, image_id in enumerate(material.test.ids.tolist())}
    first = next(iter(material.attribution_maps.values()))
    test = material.test.take(np.array([row_of[i] for i in first.ids.tolist()]))
    names = test.classes
    lines = {
        "image": [
            Tile(image, short(names[label]), True)
            for image, label in zip(test.pixels, test.labels, strict=True)
        ]
    }
    several = material.with_neighbours()
    for condition, maps in material.attribution_maps.items():
        if condition.retrieval != "none" and not searches(condition.retrieval):
            continue  # the controls have the table
        lines[f"{condition.backbone}\n{condition.retrieval if several else ''}"] = [
            Tile(overlay(image, map_), f"{short(names[p])} {100 * share:.0f} %", p == label)
            for image, map_, p, share, label in zip(
                test.pixels, maps.maps, maps.predicted, maps.probability, test.labels, strict=True
            )
        ]
    return tiles(lines, "Which pixels speak for the class that is predicted?")


def sanity(evidence: Evidence) -> Table:
    """Do the maps say anything of the classifiers?

    Means over images and seeds. Correlation: Spearman's, of the map with that of the same network
    before any training (Adebayo et al., 2018); near 1 the map would say nothing of what was
    learned. Completeness error: how far the sum of a map is from f(image) - f(baseline), as a
    share of it; 5 % pass. DeepLIFT does not apply where there is a dash. The last columns are
    areas under the probability of the class while pixels are deleted, or inserted into the mean
    colour, the most important ones first (Petsiuk et al., 2018). A good map deletes below, and
    inserts above, a random order.
    """
    names = {
        "images": "images",
        "randomised_correlation": "correlation with untrained",
        "completeness_error": "completeness error, IG, %",
        "deep_lift_completeness_error": "DeepLIFT, %",
        "deletion": "deletion",
        "insertion": "insertion",
        "random_order": "random order",
    }
    rows = []
    for condition, runs in evidence.runs.items():
        seeds = [run["maps"] for run in runs if "maps" in run]
        if not seeds:
            continue
        cells = []
        for name in names:
            values = [seed[name] for seed in seeds if seed[name] is not None]
            factor, digits = (100, 1) if name.endswith("_error") else (1, 3)
            digits = 0 if name == "images" else digits
            cells.append(f"{factor * np.mean(values):.{digits}f}" if values else NOTHING)
        rows.append([condition.backbone, condition.retrieval, *cells])
    table = Table(["classifier", "retrieval", *names.values()], rows)
    return table if evidence.with_neighbours() else table.without("retrieval")
