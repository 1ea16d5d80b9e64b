"""Which neighbours does a classifier attend to, and which of them help?

An image's own vector, where it is shown too, is none of them: it is never left out, and the
attention to it does not count.

A neighbour's effect is what leaving it out takes away: the probability of the
image's class with all neighbours, less that without this one. It is measured on
validation images, so that a bank can be pruned by it and then be tested.

Letters: Q images, K neighbours, N bank rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rapipe import metrics
from rapipe.classifier.classifier import Classifier
from rapipe.classifier.neighbour_batch import DeviceBank, Shown
from rapipe.evaluation.statistics import interval_of_mean
from rapipe.records import Indices, Labels, Neighbours, Pixels

Effects = npt.NDArray[np.float64]  # (Q, K)


class Attribution(NamedTuple):
    """Attention to each neighbour of each image, and the effect of each."""

    indices: Indices  # (Q, K), rows of the bank
    attention: npt.NDArray[np.float32]  # (Q, K), rows sum to 1
    effect: Effects
    head_entropy: list[npt.NDArray[np.float32]]  # (Q, heads), one a stage; none where K is 1


def attribute(
    classifier: Classifier,
    pixels: Pixels,
    targets: Labels,
    bank: DeviceBank,
    neighbours: Neighbours,
) -> Attribution:
    """Leave each neighbour out once: 1 + K predictions of all images.

    Args:
        targets: (Q,) the class whose probability counts.
        neighbours: (Q, K), rows of the bank; K is at least 1.
    """
    shown, k = Shown.of(bank, neighbours), neighbours.k
    images = np.arange(len(targets))
    sets = [shown, *(shown.without(j) for j in range(k))]
    every, attention = classifier.predict_with_attention(pixels, sets)
    with_all, *without = (metrics.softmax(logits)[images, targets] for logits in every)
    if neighbours.with_self:  # shares among the neighbours
        attention = attention[:, -k:]
        total = attention.sum(axis=1, keepdims=True)
        attention = attention / np.maximum(total, metrics.MIN_PROBABILITY)
    entropy = classifier.attention_entropy(pixels, shown) if k > 1 else []
    return Attribution(
        neighbours.indices, attention, with_all[:, None] - np.stack(without, axis=1), entropy
    )


def summary(attribution: Attribution, seed: int) -> dict[str, Any]:
    """Attention in a few numbers.

    Returns:
        `attention_entropy_by_head`: of each head, a list a stage; mean over images and
        tokens, as a share of the entropy of attending to all K alike (1 = alike, 0 = to
        one). It is no entropy of mean attention: heads that each attend to another neighbour
        would have a high one. `agreement`: Spearman's
        correlation, within an image, of attention with the size of the effect;
        mean over images, with low and high (95 %). `largest_effect`: mean
        over images of the largest effect of one neighbour, in probability.
    """
    agreement = metrics.rank_correlation(attribution.attention, np.abs(attribution.effect))
    defined = agreement[~np.isnan(agreement)]
    facts = {
        "images": len(attribution.indices),
        "attention_entropy_by_head": [
            stage.mean(axis=0).tolist() for stage in attribution.head_entropy
        ],
        "largest_effect": float(np.abs(attribution.effect).max(axis=1).mean()),
    }
    if len(defined):
        interval = interval_of_mean(defined[None], seed)
        facts |= {"agreement": float(defined.mean()), "low": interval.low, "high": interval.high}
    return facts


class Influence(NamedTuple):
    """What each row of the bank did, in all its appearances together."""

    rows: npt.NDArray[np.int64]  # rows of the bank that appeared, the most harmful first
    appearances: npt.NDArray[np.int64]
    effect: npt.NDArray[np.float64]  # summed over appearances; below 0: it harmed


def influence(attribution: Attribution) -> Influence:
    """The rows that were retrieved, from the most harmful to the most helpful."""
    rows, row_of, appearances = np.unique(
        attribution.indices, return_inverse=True, return_counts=True
    )
    effect = np.zeros(len(rows))
    np.add.at(effect, row_of.reshape(-1), attribution.effect.reshape(-1))
    order = np.argsort(effect, kind="stable")
    return Influence(rows[order].astype(np.int64), appearances[order], effect[order])


def most_harmful(
    influence: Influence, share: float, bank_size: int, k: int
) -> npt.NDArray[np.int64]:
    """The rows that harmed most: at most this share of the bank, and only such as harmed.

    At least k rows of the bank are left.
    """
    harmful = influence.rows[influence.effect < 0]
    return np.asarray(harmful[: max(0, min(int(share * bank_size), bank_size - k))])
