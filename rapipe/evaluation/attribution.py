"""Which neighbours does a classifier attend to, and which of them help?

A neighbour's effect is what leaving it out takes away: the probability of the
image's class with all neighbours, less that without this one. It is measured on
validation images, so that a memory can be pruned by it and then be tested.

Letters: Q images, K neighbours, N bank rows.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rapipe import metrics
from rapipe.classifier.classifier import Classifier
from rapipe.classifier.neighbour_batch import DeviceBank
from rapipe.evaluation.statistics import interval_of_mean
from rapipe.progress import track
from rapipe.records import Indices, Labels, Pixels

Effects = npt.NDArray[np.float64]  # (Q, K)


class Attribution(NamedTuple):
    """Attention to each neighbour of each image, and the effect of each."""

    indices: Indices  # (Q, K), rows of the bank
    attention: npt.NDArray[np.float32]  # (Q, K), rows sum to 1
    effect: Effects


def attribute(
    classifier: Classifier, pixels: Pixels, targets: Labels, bank: DeviceBank, indices: Indices
) -> Attribution:
    """Leave each neighbour out once, K predictions of all images.

    Args:
        targets: (Q,) the class whose probability counts.
    """
    _, k = indices.shape
    own = np.arange(len(targets))

    def probability(shown: Indices) -> npt.NDArray[np.float64]:
        with_bank = (bank, shown) if shown.shape[1] else (None, None)
        chances = metrics.softmax(classifier.predict(pixels, *with_bank))
        return np.asarray(chances[own, targets])

    every = probability(indices)
    without = [
        probability(np.delete(indices, j, axis=1)) for j in track(range(k), "leaving out", k)
    ]
    attention = classifier.attention(pixels, bank, indices)
    return Attribution(indices, attention, every[:, None] - np.stack(without, axis=1))


def summary(found: Attribution, seed: int) -> dict[str, float]:
    """Attention in a few numbers.

    Returns:
        `attention_entropy`: mean over images, as a share of the entropy of
        attending to all K alike (1 = alike, 0 = to one). `agreement`: Spearman's
        correlation, within an image, of attention with the size of the effect;
        mean over images, with low and high (95 %). `largest_effect`: mean
        over images of the largest effect of one neighbour, in probability.
    """
    _, k = found.indices.shape
    shares = np.maximum(found.attention.astype(np.float64), metrics.FLOOR)
    entropy = -(shares * np.log(shares)).sum(axis=1)
    agreement = metrics.rank_correlation(found.attention, np.abs(found.effect))
    defined = agreement[~np.isnan(agreement)]
    facts = {
        "images": len(found.indices),
        "attention_entropy": float(entropy.mean() / np.log(k)) if k > 1 else 0.0,
        "largest_effect": float(np.abs(found.effect).max(axis=1).mean()),
    }
    if len(defined):
        interval = interval_of_mean(defined[None], seed)
        facts |= {"agreement": float(defined.mean()), "low": interval.low, "high": interval.high}
    return facts


class Influence(NamedTuple):
    """What each row of the memory did, in all its appearances together."""

    rows: npt.NDArray[np.int64]  # rows of the bank that appeared, the most harmful first
    shown: npt.NDArray[np.int64]  # times
    effect: npt.NDArray[np.float64]  # summed over appearances; below 0: it harmed


def influence(found: Attribution) -> Influence:
    """The rows that were looked up, from the most harmful to the most helpful."""
    rows, place, shown = np.unique(found.indices, return_inverse=True, return_counts=True)
    effect = np.zeros(len(rows))
    np.add.at(effect, place.reshape(-1), found.effect.reshape(-1))
    order = np.argsort(effect, kind="stable")
    return Influence(rows[order].astype(np.int64), shown[order], effect[order])


def most_harmful(blamed: Influence, share: float, bank_size: int, k: int) -> npt.NDArray[np.int64]:
    """The rows that harmed most: at most this share of the memory, and only such as harmed.

    At least k rows of the memory are left.
    """
    harmed = blamed.rows[blamed.effect < 0]
    return np.asarray(harmed[: max(0, min(int(share * bank_size), bank_size - k))])
