"""Linear classifiers of frozen features: multinomial logistic regression.

Source: Kornblith, Shlens, Le, "Do Better ImageNet Models Transfer Better?", CVPR 2019.

Letters: N rows, D features, C classes.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rapipe.records import Labels, Vectors

ROWS = 50_000
"""Rows that are learned from, at most: minutes, with a thousand features of each."""
STEPS = 300


class LinearClassifier(Protocol):
    """What scikit-learn fits."""

    def predict(self, vectors: Vectors) -> Labels:
        """The most likely class of each vector (N, D): (N,)."""
        ...

    def predict_proba(self, vectors: Vectors) -> Any:
        """Probabilities (N, C) of the classes that it has learned."""
        ...


def fit_linear(
    vectors: Vectors,
    labels: Labels,
    rows: npt.NDArray[np.int64],
    strengths: Sequence[float] = (1.0,),
) -> Iterator[LinearClassifier]:
    """A classifier of standardised features for each of scikit-learn's `C`, the inverse of L2.

    Each starts from the one before, so that rising strengths take the fewest steps. Of many
    rows, ROWS are drawn.

    Args:
        vectors: (N, D).
        labels: (N,).
        rows: those that may be learned from, with a label of 0 or more; at least one.
    """
    from sklearn.dummy import DummyClassifier  # seconds: only for those who use it
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows = rows[np.sort(np.random.default_rng(0).permutation(len(rows))[:ROWS])]
    vectors, labels = vectors[rows], labels[rows]
    if len(np.unique(labels)) < 2:  # there is nothing to tell apart
        constant = DummyClassifier(strategy="most_frequent").fit(vectors, labels)
        yield from (constant for _ in strengths)
        return
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=STEPS, warm_start=True))
    for strength in strengths:
        model.set_params(logisticregression__C=strength)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the last step counts
            warnings.filterwarnings("ignore", "The number of unique classes")  # few images of each
            model.fit(vectors, labels)
        yield copy.deepcopy(model)
