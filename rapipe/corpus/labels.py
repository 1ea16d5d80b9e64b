"""Which labels are known where only a share of them is to be.

Only labels are withheld: the images stay where they are, and may be looked up.

Letters: N images.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from rapipe.records import Ids, Labels


def visible_label_mask(
    ids: Ids, labels: Labels, fraction: float, seed: int
) -> npt.NDArray[np.bool_]:
    """Whether each image's label is known (N,): the same share of every class, at least one.

    Equal images share their fate, and what a smaller share knows, a larger one knows.

    Args:
        ids: (N,), in any order.
        labels: (N,), -1 = none, which is never known.
        fraction: more than 0, up to 1.
    """
    kept = np.zeros(len(ids), bool)
    for label in np.unique(labels[labels >= 0]).tolist():
        own = labels == label
        images = np.unique(ids[own])
        drawn = np.random.default_rng([seed, label]).permutation(images)
        kept |= own & np.isin(ids, drawn[: math.ceil(fraction * len(images))])
    return kept
