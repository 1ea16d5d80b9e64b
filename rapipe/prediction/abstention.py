"""When a classifier should rather not answer: a threshold of confidence, chosen on validation.

Letters: N images.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rapipe.errors import ArgumentError

Confidence = npt.NDArray[np.floating]  # (N,), the largest probability, 0 to 1
Mask = npt.NDArray[np.bool_]  # (N,)


@dataclass(frozen=True)
class Abstention:
    """From which confidence on a classifier answers, and what that was on the images it is from."""

    risk: float
    """Accepted share of errors among the images answered, 0 to 1."""
    threshold: float | None
    """The least confidence of an answer; None: no threshold has so few errors, all abstain."""
    coverage: float
    """Share of the images that was answered, 0 to 1."""
    errors: float
    """Share of errors among these, 0 to 1; 0 where none was answered."""
    images: int
    """N, how many images it was chosen on."""

    def abstains(self, confidence: Confidence) -> Mask:
        """Which predictions (N,) are too unsure to be answers."""
        if self.threshold is None:
            return np.ones(len(confidence), np.bool_)
        return np.asarray(confidence < self.threshold)

    def __str__(self) -> str:
        """What comes after a classifier's name in a sentence."""
        accepted = f"at most {self.risk:.1%} errors"
        if self.threshold is None:
            return (
                "abstains from everything: there is no confidence from which on it has "
                f"{accepted} among {self.images:,} validation images"
            )
        return (
            f"answers from a confidence of {self.threshold:.3f} on: of {self.images:,} validation "
            f"images that is {self.coverage:.1%}, with {self.errors:.1%} errors ({accepted})"
        )


def choose(confidence: Confidence, correct: Mask, risk: float) -> Abstention:
    """The lowest threshold whose share of errors is at most `risk` on these images.

    Images of equal confidence are answered together. It is the point of the risk-coverage curve
    that lies farthest to the right and not above `risk`. New images of the same kind have about
    that share of errors, not surely at most that: the paper adds a margin for chance, which needs
    far more validation images than there usually are.

    Source: Geifman and El-Yaniv, "Selective Classification for Deep Neural Networks",
    NeurIPS 2017.

    Args:
        confidence: (N,) of held-out images, none of which was trained on.
        correct: (N,) whether each was right.
        risk: accepted share of errors among the images answered, 0 to 1.

    Raises:
        ArgumentError: `risk` is no share, or there are no images.
    """
    if not 0 <= risk <= 1:
        raise ArgumentError(f"`risk` is {risk}; it must be from 0 to 1")
    n = len(confidence)
    if not n:
        raise ArgumentError("`images` are none, so no threshold can be chosen on them")
    order = np.argsort(-confidence, kind="stable")
    ordered = confidence[order]
    answered = np.arange(1, n + 1)
    errors = (~correct[order]).cumsum() / answered  # (N,) among the first so many
    last_of_equals = np.append(ordered[:-1] != ordered[1:], True)
    fitting = np.flatnonzero(last_of_equals & (errors <= risk))
    if not len(fitting):
        return Abstention(risk, None, 0.0, 0.0, n)
    end = fitting[-1]
    return Abstention(risk, float(ordered[end]), float(answered[end] / n), float(errors[end]), n)
