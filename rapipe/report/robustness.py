"""Accuracy against noise: of every condition, what neighbours add, and noise in training."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from rapipe.evaluation.evidence import Evidence
from rapipe.evaluation.results import CONTROL, searches, without_self
from rapipe.report.style import VOTE, Line, Panels, curves_over_noise, points_of, strategy_looks


def accuracy_over_noise(evidence: Evidence) -> Figure | None:
    """Accuracy of each condition and of its best vote.

    Test accuracy as noise grows. Classifiers saw no noise in training but for those with
    +noise, and for a train.augment that adds it; the encoder that finds neighbours may have,
    in its views (affine: noisy). Dotted: the best vote of the neighbours.
    """
    look = strategy_looks(evidence)
    panels: Panels = {}
    for condition, stack in evidence.stacks.items():
        strategy = condition.retrieval
        panel = panels.setdefault(condition.backbone, {})
        panel[strategy] = Line(points_of(evidence, stack.correct), look[strategy])
        if stack.vote_correct is not None and searches(strategy):
            label = f"vote of {without_self(strategy)}"
            style = {**VOTE, "color": look[strategy]["color"]}
            if label not in panel:
                panel[label] = Line(points_of(evidence, stack.vote_correct[:1]), style)
    title = "Test accuracy against noise, with 95 % intervals"
    return curves_over_noise(panels, title, "test accuracy")


def differences(evidence: Evidence) -> Figure | None:
    """What each strategy adds to the accuracy of the same classifier without neighbours.

    Accuracy with neighbours minus that of the same classifier without, on the same test
    images. Each interval stands for itself: among so many some miss the truth by chance, and
    what may be claimed is in the table of claims.
    """
    look = strategy_looks(evidence)
    panels: Panels = {}
    for condition in evidence.with_neighbours():
        backbone, strategy = condition.backbone, condition.retrieval
        plain = evidence.stacks[evidence.conditions(backbone)["none"]].correct.astype(np.float64)
        points = points_of(evidence, evidence.stacks[condition].correct - plain, 100)
        panels.setdefault(backbone, {})[strategy] = Line(points, look[strategy])
    title = "Accuracy with neighbours minus without, with 95 % intervals"
    return curves_over_noise(panels, title, "difference, points", zero=True)


def noise_augmentation(evidence: Evidence) -> Figure | None:
    """{neighbours or not} x {noise in training or not}, for backbones that have both.

    The same classifier in four ways: with neighbours or without, trained on clean images or
    with noise on half of them. Robustness that noise in training gives alone is no merit of
    retrieval. In training with noise, neighbours are still those of the clean image; in the
    test they are those of the noisy one, and worse than it has learned to expect.
    """
    look, several = strategy_looks(evidence), evidence.with_neighbours()
    panels: Panels = {}
    for backbone, noisy in evidence.noise_augmented.items():
        for strategy, clean in evidence.conditions(backbone).items():
            if strategy == CONTROL:
                continue
            labels = (strategy, f"{strategy}, noise in training")
            if not several:
                labels = ("clean images in training", "noise in training")
            both = (clean, evidence.conditions(noisy)[strategy])
            for condition, label, dashes in zip(both, labels, ("-", "--"), strict=True):
                points = points_of(evidence, evidence.stacks[condition].correct)
                style = {**look[strategy], "ls": dashes}
                panels.setdefault(backbone, {})[label] = Line(points, style)
    title = f"Test accuracy: {'neighbours or not, ' if several else ''}noise in training or not"
    return curves_over_noise(panels, title, "test accuracy")
