"""How far the classifiers can be trusted: calibration, abstention, and what leaked.

Letters: S seeds, N test images.
"""

from __future__ import annotations

import html
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from rapipe.evaluation import calibration
from rapipe.evaluation.evidence import CONTROL, Evidence, Stack, level_words
from rapipe.pipeline.inputs import pictures
from rapipe.records import Images
from rapipe.report import figures as drawn
from rapipe.report import pictures as shown
from rapipe.report import tables
from rapipe.report.style import looks


def reliability_figure(found: Evidence) -> Figure:
    """Accuracy against confidence, clean above the strongest noise."""
    look = looks(strategy for _, strategy in found.stacks)
    panels: dict[str, dict[str, Any]] = {}
    for level in found.ends:
        for (backbone, strategy), own in found.stacks.items():
            bins = calibration.reliability(
                own.confidence[:, level].reshape(-1), own.correct[:, level].reshape(-1)
            )
            panel = panels.setdefault(f"{backbone}, {level_words(found.levels[level])}", {})
            panel[strategy] = ([b for b in bins if b.samples >= FEWEST], look[strategy])
    return drawn.reliability_diagrams(panels, len(found.ends))


SCORES = {"confidence": "softmax", "similarity": "similarity", "vote_entropy": "vote entropy"}
"""What a classifier can abstain by, and what we call it."""
DASHES = {"confidence": "-", "similarity": "--", "vote_entropy": ":"}
FEWEST = 10
"""Images of a bin below which its accuracy says nothing."""


def _answer_first(own: Stack, name: str, level: int) -> npt.NDArray[np.float64]:
    """A score (S, N) that is highest where an answer is safest."""
    score = getattr(own, name)[:, level].astype(np.float64)
    return np.asarray(-score if name == "vote_entropy" else score)


def risk_figure(found: Evidence) -> Figure:
    """Risk against coverage of what looks something up, by each score; and of none, by softmax.

    Colours are of strategies, dashes of scores.
    """
    look = looks(strategy for _, strategy in found.stacks)
    panels: dict[str, dict[str, Any]] = {}
    for level in found.ends:
        for (backbone, strategy), own in found.stacks.items():
            if strategy == CONTROL:
                continue
            panel = panels.setdefault(f"{backbone}, {level_words(found.levels[level])}", {})
            for name, said in SCORES.items():
                if getattr(own, name) is None:
                    continue
                score = _answer_first(own, name, level)[0]
                curve = calibration.risk_coverage(score, own.correct[0, level])
                panel[f"{strategy}: {said}"] = (*curve, {**look[strategy], "ls": DASHES[name]})
    return drawn.risk_coverage_curves(panels, len(found.ends))


def trust_table(found: Evidence) -> str:
    """ECE and area under risk-coverage at each noise level."""
    heads = ["classifier", "retrieval", "measure", *(level_words(level) for level in found.levels)]
    lines = []
    for (backbone, strategy), own in found.stacks.items():
        measures: dict[str, list[float]] = {}
        for place in range(len(found.levels)):
            right = own.correct[:, place]
            runs = [run["rows"][place]["ece"] for run in found.runs[backbone, strategy]]
            measures.setdefault("ECE", []).append(float(np.mean(runs)))
            measures.setdefault("errors when all are answered", []).append(float(1 - right.mean()))
            if own.voted is not None:
                wrong = float(1 - own.voted[:, place].mean())
                measures.setdefault("errors of the best vote", []).append(wrong)
            for name, said in SCORES.items():
                if getattr(own, name) is None:
                    continue
                score = _answer_first(own, name, place)
                areas = [calibration.aurc(s, c) for s, c in zip(score, right, strict=True)]
                measures.setdefault(f"AURC by {said}", []).append(float(np.mean(areas)))
        for said, values in measures.items():
            names = [html.escape(backbone), html.escape(strategy), said]
            lines.append([*names, *(f"{value:.3f}" for value in values)])
    return tables.table_of(heads, lines)


def leakage_words(found: Evidence) -> str:
    """What the audit found, as a paragraph."""
    facts = found.leakage
    looked = ", ".join(
        f"{name.replace('_', ' ')} {own['found']} of {own['checked']:,}"
        for name, own in facts["checks"].items()
    )
    if facts["threshold"] is None:
        return (
            f"<p>Found, of how many checked: {html.escape(looked)}. The memory has no two classes "
            "with labels, so nothing says how alike a near copy is, and none is listed.</p>"
        )
    return (
        f"<p>Found, of how many checked: {html.escape(looked)}. {facts['near_duplicates']} of "
        f"{facts['test_images']:,} test images are more like an image of the memory than "
        f"{facts['threshold']:.4f}, {facts['near_duplicates_of_same_class']} of them one of its "
        f"class. Of {facts['validation_images']:,} validation images, {_few(facts)} more like an "
        "image of another class, which is no copy if its label is right: so likeness up to there "
        "proves nothing, and beyond it an image may be a copy, or merely much alike.</p>"
    )


def _few(facts: dict[str, Any]) -> str:
    """How many validation images may lie above the threshold."""
    most = int(facts["validation_images"] * (1 - facts["quantile"]) + 1e-9)
    return f"at most {most} are" if most else "none is"


def leakage_figure(found: Evidence) -> Figure | None:
    """How like the memory test images are, and the threshold."""
    facts = found.leakage
    if facts["threshold"] is None:
        return None
    own = facts["histogram"]
    return drawn.likeness_histogram(
        own["edges"], own["test"], own["validation"], facts["threshold"]
    )


def lookalikes_figure(found: Evidence, train: Images, test: Images) -> Figure | None:
    """The test images that are most like the memory, above what they are like."""
    rows = found.duplicates[:8]
    if not rows:
        return None
    ids = np.array([int(row["bank_id"]) for row in rows])
    same = [row["same_class"] == "1" for row in rows]
    theirs = pictures(train, ids)
    lines = {
        "test": [
            shown.Tile(test.pixels[int(row["test_row"])], "", solid)
            for row, solid in zip(rows, same, strict=True)
        ],
        "memory": [
            shown.Tile(image, f"{float(row['similarity']):.4f}", solid)
            for image, row, solid in zip(theirs, rows, same, strict=True)
        ],
    }
    return shown.tiles(lines, "Test images most like the memory (solid frame: same class)")
