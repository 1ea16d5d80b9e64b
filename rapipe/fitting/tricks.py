"""Tricks of training: what each does, where it is from, and the function that does it.

Most are Lightning's or torch's; a function here says what it is called there. The
defaults of `Tricks` change nothing. Averaged weights are what is measured and kept:
`History` and `Best` work `within` them.

Letters: B batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from pytorch_lightning.callbacks import EarlyStopping, WeightAveraging
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler
from torch.optim.swa_utils import get_ema_multi_avg_fn

from rapipe.device import device
from rapipe.fitting.finders import TUNED as TUNED  # the tables stand here

DECAY = 0.999
"""Of the moving average of weights, once there were enough steps."""
SWA_FROM = 0.75
"""Share of the epochs after which `swa` begins to average."""


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


class Averaging(WeightAveraging):
    """Lightning's averages of weights, which are also put in place while they are measured.

    BatchNorm's running statistics are averaged like the weights: no second pass over
    the images is needed, so an epoch can be measured at its end.
    """

    def __init__(self, **how: Any) -> None:
        super().__init__(device=device(), use_buffers=True, **how)

    @property
    def begun(self) -> bool:
        """Whether there is an average yet."""
        return self._average_model is not None and bool(self._average_model.n_averaged > 0)

    @contextmanager
    def within(self, module: Any) -> Iterator[None]:
        """Let the module have the averaged weights, and then its own again, bit by bit."""
        begun = self.begun
        if begun:
            self._swap_models(module)
        try:
            yield
        finally:
            if begun:
                self._swap_models(module)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if self.begun:  # stopped before `swa` began, the average would be what training began with
            super().on_train_end(trainer, pl_module)


class EMA(Averaging):
    """Measures and keeps a moving average of the weights, in which late steps count most.

    The average after step n keeps min(.999, (1 + n) / (10 + n)) of the one before, as in
    TensorFlow, so that a short training is not averaged with its random start.

    Source: Polyak & Juditsky, "Acceleration of Stochastic Approximation by Averaging",
    SIAM Journal on Control and Optimization 1992.
    """

    def __init__(self, epochs: int) -> None:
        super().__init__(multi_avg_fn=self._blend)

    def _blend(self, averaged: Any, current: Any, _: Any) -> None:
        n = self._latest_update_step
        blend = get_ema_multi_avg_fn(min(DECAY, (1 + n) / (10 + n)))  # type: ignore[no-untyped-call]
        blend(averaged, current, _)


class SWA(Averaging):
    """Measures and keeps the mean of the weights after each epoch of the last quarter.

    It averages most where the learning rate stays up: with the schedules `constant` and
    `step` rather than `cosine`.

    Source: Izmailov et al., "Averaging Weights Leads to Wider Optima and Better
    Generalization", UAI 2018.
    """

    def __init__(self, epochs: int) -> None:
        super().__init__()
        self.first = int(SWA_FROM * epochs)

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return epoch_idx is not None and epoch_idx >= self.first


def no_average(epochs: int) -> None:
    """Measures and keeps the weights as they are.

    Source: this project.
    """


AVERAGES: dict[str, Callable[[int], Averaging | None]] = {
    "none": no_average,
    "ema": EMA,
    "swa": SWA,
}


class Patience(EarlyStopping):
    """Stops when the validation accuracy has not risen for some epochs; the best epoch is kept.

    Only epochs that end with a measurement are counted.

    Args:
        score: name of what `History` records.

    Source: Prechelt, "Early Stopping - But When?", Neural Networks: Tricks of the Trade 1998.
    """

    def __init__(self, score: str, epochs: int) -> None:
        super().__init__(score, patience=epochs, mode="max", check_on_train_epoch_end=True)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Looks at what was measured just now; else there is nothing to look at."""
        if pl_module.measured == trainer.global_step:
            super().on_train_epoch_end(trainer, pl_module)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Stays stopped if it was, and the process was killed before it could say so."""
        trainer.should_stop = trainer.should_stop or self.wait_count >= self.patience


def cosine(done: float) -> float:
    """The learning rate falls to 0 along half a cosine.

    Source: Loshchilov & Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017.
    """
    return (1 + math.cos(math.pi * done)) / 2


def linear(done: float) -> float:
    """The learning rate falls to 0 along a line.

    Source: Li et al., "Budgeted Training: Rethinking Deep Neural Network Training Under Resource
    Constraints", ICLR 2020.
    """
    return 1 - done


def constant(done: float) -> float:
    """The learning rate stays as it is.

    Source: this project.
    """
    return 1.0


def step(done: float) -> float:
    """The learning rate falls to a tenth after half of the steps, and again after three quarters.

    Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.
    """
    return float(0.1 ** ((done >= 0.5) + (done >= 0.75)))


SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": cosine,
    "linear": linear,
    "constant": constant,
    "step": step,
}
"""Functions of the share of the steps that is done: what the learning rate is times."""


def warmup(at: int, rising: int) -> float:
    """The learning rate rises along a line from 0, and then follows its schedule.

    Args:
        at: step, from 0. The line is at 0 before the first step, which would else be for nothing.
        rising: steps in which it rises.

    Source: Goyal et al., "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour",
    arXiv 2017.
    """
    return min(1.0, (at + 1) / (rising + 1))


def scheduler(optimiser: Optimizer, steps: int, tricks: Tricks) -> LRScheduler:
    """The learning rate of each of `steps` optimiser steps."""
    rising = round(tricks.warmup * steps)
    if tricks.schedule == "cosine" and not rising:
        return CosineAnnealingLR(optimiser, steps)  # rounds otherwise than the formula below
    shape = SCHEDULES[tricks.schedule]

    def factor(at: int) -> float:
        done = max(0, at - rising) / max(1, steps - rising)
        return warmup(at, rising) * shape(min(1.0, done))

    return LambdaLR(optimiser, factor)


def label_smoothing(logits: Tensor, targets: Tensor, share: float) -> Tensor:
    """Gives a share of each target to all classes alike, against overconfidence.

    Returns the cross entropy.

    Args:
        logits: (B, classes).
        targets: (B,) labels, or (B, classes) probabilities.

    Source: Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016.
    """
    return F.cross_entropy(logits, targets, label_smoothing=share)


def mixup(images: Tensor, alpha: float) -> tuple[Tensor, Tensor, float]:
    """Mixes each image, and what is to be said of it, with another of the batch.

    All images of a batch are mixed by one weight from Beta(alpha, alpha), drawn on the CPU.
    It is at least 1/2, which only swaps roles in a pair: so a mixed image is mostly
    itself, and its own neighbours and label fit it.

    Args:
        images: (B, 3, H, W).

    Returns:
        Mixed images, (B,) rows of the others, and the weight of the image itself.

    Source: Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018.
    """
    drawn = float(torch.distributions.Beta(alpha, alpha).sample())
    own = max(drawn, 1 - drawn)
    others = torch.randperm(len(images)).to(images.device, non_blocking=True)
    return torch.lerp(images[others], images, own), others, own


TRICKS: dict[str, Callable[..., Any]] = {
    "accumulate": accumulation,
    "clip": clipping,
    "patience": Patience,
    "warmup": warmup,
    "label_smoothing": label_smoothing,
    "mixup": mixup,
}
"""Those that are asked for by a number, by their key in `params.yaml`; the others have tables."""
