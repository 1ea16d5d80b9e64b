"""Does a map say anything of the classifier? Three checks, each with its control.

A map may look well and say nothing: edges of the image can be seen without any network.

Letters: P pixels of an image, S side in pixels, N images.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rapipe import metrics
from rapipe.classifier.classifier import Classifier
from rapipe.evaluation.measures.attribution_maps.subject import Subject

CURVE_STEPS = 16
"""Equal parts of the pixels that are deleted one after the other."""
RANDOM_ORDERS = 2


def randomised(classifier: Classifier, seed: int) -> Classifier:
    """The same network with the weights that it would have before any training.

    Source: Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018 (all layers at once).
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Classifier(classifier.spec).to(classifier.device).eval()


def map_correlation(maps: Sequence[Tensor], others: Sequence[Tensor]) -> float | None:
    """Mean of Spearman's rank correlations between the pixels of maps (S, S), one an image.

    None where no pair of maps has one, as where a map is constant.
    """
    rows = [torch.stack([*group]).flatten(1).cpu().numpy() for group in (maps, others)]
    rho = metrics.rank_correlation(*rows)
    return None if np.isnan(rho).all() else float(np.nanmean(rho))


def deletion_area(subject: Subject, order: npt.NDArray[np.int64]) -> float:
    """Area, 0 to 1, under the probability of the class while pixels take the baseline's colour.

    Low where the first pixels of the order matter most. Insertion of pixels into the baseline
    passes through the same images backwards, so its area in an order is that of the deletion in
    the reversed order.

    Args:
        order: (P,) pixels, row by row, the first to be deleted first.

    Source: Petsiuk, Das, Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box
    Models", BMVC 2018; the baseline stands for its grey and its blurred image.
    """
    count, side = len(order), subject.image.shape[-1]
    rank = np.empty(count, np.int64)
    rank[order] = np.arange(count)
    deleted = np.linspace(0, count, CURVE_STEPS + 1).round()  # pixels, step by step
    mask = torch.from_numpy(rank < deleted[:, None]).view(-1, 1, side, side)
    images = torch.where(mask.to(subject.image.device), subject.baseline, subject.image)
    probability = subject.logits(images).softmax(dim=1)[:, subject.target]
    return float(np.trapezoid(probability.cpu().numpy(), dx=1 / CURVE_STEPS))


def areas(subject: Subject, map_: Tensor) -> tuple[float, float, float]:
    """Areas of deletion and of insertion in the order of a map, and of random orders.

    A random order reversed is random too: one control serves both.
    """
    values = map_.flatten().cpu().numpy()
    order = np.argsort(-values, kind="stable")
    rng = np.random.default_rng(subject.seed)
    random = [deletion_area(subject, rng.permutation(len(order))) for _ in range(RANDOM_ORDERS)]
    return (
        deletion_area(subject, order),
        deletion_area(subject, order[::-1]),
        float(np.mean(random)),
    )
