"""The words of each section: at most two sentences, what was found and how the figure is read.

A lead is plain text. Those at the end are of a study without retrieval.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from rapipe.evaluation.learning_curves import area
from rapipe.evaluation.results import Condition
from rapipe.records import OTHER_IMAGE
from rapipe.report import verdicts
from rapipe.report.counterfactuals import edit_rows
from rapipe.report.material import Material
from rapipe.report.tables import count, level_words

NAMED = 4
"""Classifiers that a sentence names."""


def accuracy(material: Material) -> str:
    return _joined(
        verdicts.answer(verdicts.cards(material, material.comparisons)),
        "A dot is the accuracy with neighbours minus that of a baseline on the same test images; "
        "hollow dots show no difference.",
    )


def efficiency(material: Material) -> str:
    gains = []
    for condition in material.searching() if material.histories else ():
        plain = material.conditions(condition.backbone)["none"]
        both = ([area(h) for h in material.histories[key]] for key in (condition, plain))
        with_neighbours, without = map(np.mean, both)
        gains.append(f"{_name(material, condition)} {with_neighbours - without:+.3f}")
    return _joined(
        gains and f"Neighbours add to the area under test accuracy (0 to 1): {_list(gains)}.",
        "Lines are test accuracy against steps; a band is the standard deviation over seeds.",
    )


def shift(material: Material) -> str:
    level = material.clean_and_noisiest[-1]
    std, changes = material.levels[level], []
    for condition in material.searching() if std else ():
        plain = material.conditions(condition.backbone)["none"]
        top1 = (material.stacks[key].correct[:, level].mean() for key in (condition, plain))
        change = 100 * float(np.subtract(*top1))
        changes.append(f"{_name(material, condition)} {change:+.1f}")
    return _joined(
        changes and f"Points that neighbours add at {level_words(std)}: {_list(changes)}.",
        "Lines are test accuracy as noise grows, dotted ones the best vote of the neighbours.",
    )


def neighbours(material: Material) -> str:
    reliances = []
    for condition in material.searching():
        stacks = material.counterfactuals_at(condition)
        if OTHER_IMAGE in stacks:
            reliance = float(stacks[OTHER_IMAGE].total_variation.mean())
            reliances.append(f"{_name(material, condition)} {reliance:.2f}")
    return _joined(
        reliances
        and "With the neighbours of another image predictions move by the reliance, 0 to 1: "
        f"{_list(reliances)}.",
        "What is used shows between neighbours of the right class and of a wrong one.",
    )


def pixels(material: Material) -> str:
    return (
        "Orange pixels speak for the class that is predicted, blue ones against it. The checks "
        "below say whether such maps mean anything."
    )


def trust(material: Material) -> str:
    parts = []
    for condition in material.searching()[:1]:
        rows = material.runs[condition][0]["rows"]
        if len(rows) > 1 and "purity" in rows[0] and "purity" in rows[-1]:
            clean, noisy = (100 * row["purity"] for row in (rows[0], rows[-1]))
            parts.append(
                f"Of the neighbours {clean:.0f} % have the class of a clean image, and "
                f"{noisy:.0f} % at {level_words(rows[-1]['noise_std'])}."
            )
    return _joined(*parts, "A classifier that knows when to trust them relies on them less then.")


def leakage(material: Material) -> str:
    facts = material.leakage
    leaks = sum(check["found"] for check in facts["checks"].values())
    first = f"The audit found {leaks or 'no'} leak{'s' if leaks > 1 else ''}"
    if facts["threshold"] is None:
        return f"{first}."
    return (
        f"{first}, and {facts['near_duplicates']:,} of {facts['test_images']:,} test images that "
        "are more like one in the memory than images of different classes are. These lie right of "
        "the dotted line: copies, or merely much alike."
    )


def labels(material: Material) -> str:
    errors = material.leakage["label_errors"]
    return (
        f"The nearest neighbours contradict {errors['by_votes']:,} of {errors['judged']:,} labels. "
        "Look: is the label wrong, or the image hard?"
    )


def memory(material: Material) -> str:
    rows, sentences = edit_rows(material.counterfactual_rows), []
    if rows:
        worst = min(rows, key=lambda row: row["change"])
        sentences.append(
            f"The worst of these edits, {worst['swap']}, changes {worst['backbone']} with "
            f"{worst['retrieval']} by {100 * worst['change']:+.1f} points "
            f"({level_words(worst['noise_std'])})."
        )
    return _joined(*sentences, "The classifiers are the same, and nothing was trained again.")


def training(material: Material) -> str:
    return (
        "Each classifier is the epoch that was best on validation images. The test loss was used "
        "for nothing."
    )


def ablations(material: Material) -> str:
    keys = [" and ".join(ablation.keys) for ablation in material.ablations]
    differing = f"in {_list(keys)} alone" if keys else "in k or in the size of the memory alone"
    return (
        f"Results of these classifiers that differ {differing}. Choose by validation: the test is "
        "then still unseen."
    )


def encoder(material: Material) -> str:
    if not material.pretraining:
        return "Accuracy by epochs of pretraining, of the encoders that were kept on the way."
    scores = material.pretraining[-1]
    others = [
        f"{words} {100 * scores[name]:.1f} %"
        for name, words in (
            ("random_init_knn_top1", "random initialisation"),
            ("raw_pixels_knn_top1", "raw pixels"),
        )
        if name in scores
    ]
    return (
        f"A vote of the nearest training images is right for {100 * scores['knn_top1']:.1f} % of "
        f"validation ({_list(others)}). Rank or spread of the features near zero would be collapse."
    )


def generated(material: Material) -> str:
    return "Images made from the training images alone. None is in validation or test."


def data(material: Material) -> str:
    splits = material.corpus["splits"]
    counts = ", ".join(f"{split['images']:,} {name}" for name, split in splits.items())
    return (
        f"{len(material.corpus['classes']):,} classes; images by split: {counts}. The picture "
        "shows some, drawn at random."
    )


def plain_accuracy(material: Material) -> str:
    shown = sum(c.words in (verdicts.BETTER, verdicts.WORSE) for c in material.comparisons)
    return _joined(
        f"Of {count(len(material.comparisons), 'comparison')} {shown} show a difference.",
        "A dot is the accuracy of one classifier minus that of another on the same test images.",
    )


def plain_efficiency(material: Material) -> str:
    areas = [
        f"{condition.backbone} {np.mean([area(history) for history in histories]):.3f}"
        for condition, histories in material.histories.items()
    ]
    return _joined(
        f"The area under test accuracy (0 to 1) is {_list(areas)}.",
        "Lines are test accuracy against steps; a band is the standard deviation over seeds.",
    )


def plain_shift(material: Material) -> str:
    return "Lines are test accuracy as noise grows. Bands are 95 % intervals."


def plain_trust(material: Material) -> str:
    return "On the diagonal confidence is honest. Below it a classifier is too sure of itself."


def _name(material: Material, condition: Condition) -> str:
    """The backbone, and its strategy where there are several."""
    several = len({other.retrieval for other in material.searching()}) > 1
    return f"{condition.backbone} with {condition.retrieval}" if several else condition.backbone


def _joined(*sentences: str | Sequence[str] | None) -> str:
    return " ".join(str(sentence) for sentence in sentences if sentence)


def _list(parts: Iterable[str]) -> str:
    """The first of them, and how many more there are."""
    listed = list(parts)
    more = len(listed) - NAMED
    return ", ".join(listed[:NAMED]) + (f" and {more} more" if more > 0 else "")
