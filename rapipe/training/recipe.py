"""Tricks of training: what each does, where it is from, and the function that does it.

Most are Lightning's or torch's; a function here says what it is called there. The
defaults of `Tricks` change nothing. Averaged weights are what is measured and kept:
`History` and `Best` work `within` them.

Letters: B batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Tricks:
    """Which tricks a training uses; as given here, none."""

    accumulate: int = 1
    """Batches whose gradients are added up before a step."""
    clip: float = 0.0
    """Largest norm of the gradient; 0 = any."""
    average: str = "none"
    """Of the weights: a name of `AVERAGES`."""
    patience: int = 0
    """Epochs without a better score after which training stops; 0 = never."""
    tune: tuple[str, ...] = ()
    """What is found before training: names of `TUNED`."""
    schedule: str = "cosine"
    """Of the learning rate: a name of `SCHEDULES`."""
    warmup: float = 0.0
    """Share of the steps in which the learning rate rises from 0."""
    label_smoothing: float = 0.0
    """Share of each target that goes to all classes alike."""
    mixup: float = 0.0
    """Alpha of the Beta distribution that images are mixed by; 0 = they are not."""


def accumulation(batches: int) -> dict[str, Any]:
    """Adds up the gradients of several batches before a step, as if they were one larger batch.

    But for BatchNorm, which still sees one batch at a time. A batch that is left over at
    the end of an epoch is left out, so every step is of as many images. A Trainer's argument.

    Source: Goyal et al., "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour",
    arXiv 2017.
    """
    return {"accumulate_grad_batches": batches}


def clipping(norm: float) -> dict[str, Any]:
    """Scales a gradient down to the largest norm that is allowed, so that no step is wild.

    A Trainer's argument; 0 allows any norm.

    Source: Pascanu et al., "On the difficulty of training recurrent neural networks", ICML 2013.
    """
    return {"gradient_clip_val": norm or None}
