"""How far the classifiers can be trusted: calibration, and abstention by risk and coverage.

Letters: S seeds, N test images.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from rapipe.evaluation.evidence import Evidence, Stack
from rapipe.evaluation.measures import calibration
from rapipe.evaluation.results import CONTROL
from rapipe.report.style import GREY, finish, panels_of, strategy_looks, styled
from rapipe.report.tables import Table, level_words

SCORES = {"confidence": "softmax", "similarity": "similarity", "vote_entropy": "vote entropy"}
"""What a classifier can abstain by, and what we call it."""
DASHES = {"confidence": "-", "similarity": "--", "vote_entropy": ":"}
FEWEST = 10
"""Images of a bin below which its accuracy says nothing."""


def _scores(stack: Stack, level: int) -> dict[str, npt.NDArray[np.float64]]:
    """By name, each score (S, N) that there is, highest where an answer is safest."""
    scores = {}
    for name in SCORES:
        values = getattr(stack, name)
        if values is not None:
            sign = -1 if name == "vote_entropy" else 1
            scores[name] = sign * values[:, level].astype(np.float64)
    return scores


@styled
def reliability(evidence: Evidence) -> Figure:
    """Accuracy against confidence, a point a bin; clean above the strongest noise.

    How often a prediction of some confidence is right. On the diagonal confidence is honest;
    below it a classifier is too sure of itself. Larger points hold more images; bins of fewer
    than ten are left out. All seeds together.
    """
    look, levels = strategy_looks(evidence), evidence.clean_and_noisiest
    names = _panel_names(evidence)
    title = "Reliability: accuracy against confidence, with 95 % intervals"
    figure, panels = panels_of(list(names.values()), title, len(levels))
    for axes in panels.values():
        axes.plot([0, 1], [0, 1], color=GREY, lw=0.8, ls="--")
        axes.set(xlabel="confidence", xlim=(0, 1.02), ylim=(0, 1.02))
    for level in levels:
        for condition, stack in evidence.stacks.items():
            if stack.confidence is None:
                continue
            axes, style = panels[names[level, condition.backbone]], look[condition.retrieval]
            bins = calibration.reliability(
                stack.confidence[:, level].reshape(-1), stack.correct[:, level].reshape(-1)
            )
            large = [group for group in bins if group.samples >= FEWEST]
            if not large:
                continue
            confidence, accuracy, images = zip(*large, strict=True)
            colour, marker = style["color"], style["marker"]
            axes.plot(confidence, accuracy, color=colour, lw=1)
            areas = 4 + 80 * np.array(images) / sum(images)
            dots = {"color": colour, "marker": marker, "alpha": 0.75}
            axes.scatter(confidence, accuracy, areas, label=condition.retrieval, lw=0.8, **dots)
            errors = 1.96 * np.sqrt(np.multiply(accuracy, np.subtract(1, accuracy)) / images)
            axes.errorbar(confidence, accuracy, yerr=errors, fmt="none", color=colour, lw=0.8)
    finish(panels, "accuracy")
    return figure


@styled
def risk_coverage(evidence: Evidence) -> Figure:
    """Share of errors among the images answered, against the share answered; first seed.

    Errors among the images that are answered, if the least certain are left out first:
    certain by the softmax, by the similarity of the neighbours, or by their unanimity. Colours
    are of strategies, dashes of scores. First seed.
    """
    look, levels = strategy_looks(evidence), evidence.clean_and_noisiest
    names = _panel_names(evidence)
    title, several = "Risk against coverage: what abstention buys", evidence.with_neighbours()
    figure, panels = panels_of(list(names.values()), title, len(levels))
    for level in levels:
        for condition, stack in evidence.stacks.items():
            if condition.retrieval == CONTROL:
                continue
            axes = panels[names[level, condition.backbone]]
            for name, score in _scores(stack, level).items():
                coverage, risk = calibration.risk_coverage(score[0], stack.correct[0, level])
                style = {**look[condition.retrieval], "ls": DASHES[name], "marker": None}
                label = f"{condition.retrieval}: {SCORES[name]}" if several else SCORES[name]
                axes.plot(coverage, risk, label=label, **style)
    for axes in panels.values():
        axes.set(xlabel="coverage: share of images answered", xlim=(0, 1))
        axes.xaxis.set_major_formatter(PercentFormatter(1))
        axes.set_ylim(bottom=0)  # after all lines: panels share their scale
    finish(panels, "risk: errors among them")
    return figure


def _panel_names(evidence: Evidence) -> dict[tuple[int, str], str]:
    """The titles of panels by level and backbone."""
    return {
        (level, backbone): f"{backbone}, {level_words(evidence.levels[level])}"
        for level in evidence.clean_and_noisiest
        for backbone in evidence.backbones
    }


def scores(evidence: Evidence) -> Table:
    """ECE and area under risk-coverage at each noise level.

    ECE is the expected gap between confidence and accuracy. AURC is the mean error rate over
    all shares answered; a score that knows nothing has that of answering all.
    """
    heads = ["classifier", "retrieval", "measure", *map(level_words, evidence.levels)]
    rows = []
    for condition, stack in evidence.stacks.items():
        measures: dict[str, list[float]] = {}
        for level in range(len(evidence.levels)):
            correct = stack.correct[:, level]
            eces = [run["rows"][level]["ece"] for run in evidence.runs[condition]]
            measures.setdefault("ECE", []).append(float(np.mean(eces)))
            risk = float(1 - correct.mean())
            measures.setdefault("errors when all are answered", []).append(risk)
            if stack.vote_correct is not None:
                vote_risk = float(1 - stack.vote_correct[:, level].mean())
                measures.setdefault("errors of the best vote", []).append(vote_risk)
            for name, score in _scores(stack, level).items():
                areas = [calibration.aurc(*seed) for seed in zip(score, correct, strict=True)]
                measures.setdefault(f"AURC by {SCORES[name]}", []).append(float(np.mean(areas)))
        names = (condition.backbone, condition.retrieval)
        for measure, values in measures.items():
            rows.append([*names, measure, *(f"{value:.3f}" for value in values)])
    return Table(heads, rows)
