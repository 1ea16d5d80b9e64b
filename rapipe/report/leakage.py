"""What the audit found, and the test images that are nearly copies of one in the memory."""

from __future__ import annotations

import html

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from rapipe.evaluation.evidence import Evidence
from rapipe.evaluation.results import Row, without_self
from rapipe.report.material import Material
from rapipe.report.pictures import Tile, pixels_by_id, tiles
from rapipe.report.style import PALETTE, styled
from rapipe.report.tables import Table, level_words

PICTURES = 8
"""Near duplicates that are shown."""


def findings(material: Material) -> str:
    """What the audit found, as a paragraph.

    What must never happen, and how like the memory the test is.
    """
    facts = material.leakage
    checks = ", ".join(
        f"{name.replace('_', ' ')} {check['found']} of {check['checked']:,}"
        for name, check in facts["checks"].items()
    )
    if facts["threshold"] is None:
        return (
            f"<p>Found, of how many checked: {html.escape(checks)}. The memory has no two classes "
            "with labels, so nothing says how alike a near duplicate is, and none is listed.</p>"
        )
    return (
        f"<p>Found, of how many checked: {html.escape(checks)}. {facts['near_duplicates']} of "
        f"{facts['test_images']:,} test images are more like an image of the memory than "
        f"{facts['threshold']:.4f}, {facts['near_duplicates_of_same_class']} of them one of its "
        f"class. Of {facts['validation_images']:,} validation images, {_above(facts)} more like an "
        "image of another class, which is no copy if its label is right: so likeness up to there "
        "proves nothing, and beyond it an image may be a copy, or merely much alike.</p>"
    )


def _above(facts: Row) -> str:
    """How many validation images may lie above the threshold."""
    most = int(facts["validation_images"] * (1 - facts["quantile"]) + 1e-9)
    return f"at most {most} are" if most else "none is"


@styled
def similarity(material: Material) -> Figure | None:
    """Similarity of test images to the memory, beside that of images of different classes.

    Similarity of test images to the nearest of the memory, and of validation images to the
    nearest of another class. Beyond the threshold a test image may be nearly a copy; images
    of one class may be as much alike without.
    """
    threshold = material.leakage["threshold"]
    if threshold is None:
        return None
    histogram = material.leakage["histogram"]
    figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
    figure.suptitle("How like the memory are the test images?", fontsize=11, fontweight="bold")
    for name, label, colour, style in (
        ("validation", "validation, nearest of another class", PALETTE[0], "--"),
        ("test", "test, nearest of all", PALETTE[1], "-"),
    ):
        counts = np.asarray(histogram[name])
        shares = counts / max(1, counts.sum())
        axes.stairs(shares, histogram["edges"], label=label, color=colour, ls=style, lw=1.6)
    axes.axvline(threshold, color="black", ls=":", label=f"threshold {threshold:.4f}")
    axes.set(xlabel="cosine similarity", ylabel="share of images")
    axes.legend(loc="upper left")
    return figure


def near_duplicates(material: Material) -> Figure | None:
    """The test images that are most like the memory, above what they are like.

    Above the image of the memory that each is like, with the similarity. Look: copies, or
    only much alike?
    """
    rows = material.duplicates[:PICTURES]
    if not rows:
        return None
    copies = pixels_by_id(material.train, np.array([int(row["bank_id"]) for row in rows]))
    lines: dict[str, list[Tile]] = {"test": [], "memory": []}
    for row, copy in zip(rows, copies, strict=True):
        solid = row["same_class"] == "1"
        lines["test"].append(Tile(material.test.pixels[int(row["test_row"])], "", solid))
        lines["memory"].append(Tile(copy, f"{float(row['similarity']):.4f}", solid))
    return tiles(lines, "Test images most like the memory (solid frame: same class)")


def accuracy_without(evidence: Evidence) -> Table:
    """Every accuracy without the near duplicates; no rows if there are none, or nothing else.

    Percent of the test split without the images listed above, all of them, copies or not.
    """
    heads = ["classifier", "retrieval", *map(level_words, evidence.levels)]
    if not evidence.near_duplicates.any() or evidence.near_duplicates.all():
        return Table(heads, [])

    def percents(correct: npt.NDArray[np.bool_]) -> list[str]:
        levels = range(len(evidence.levels))
        return [f"{100 * evidence.without_near_duplicates(correct[:, i]):.1f}" for i in levels]

    votes: dict[str, list[str]] = {}
    rows = []
    for condition, stack in evidence.stacks.items():
        vote = f"best vote of {without_self(condition.retrieval)}"
        if stack.vote_correct is not None and vote not in votes:
            votes[vote] = ["no training", vote, *percents(stack.vote_correct)]
        rows.append([condition.backbone, condition.retrieval, *percents(stack.correct)])
    return Table(heads, [*votes.values(), *rows])
