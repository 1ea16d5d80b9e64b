"""How the learning rate changes from step to step."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler

from rapipe.training.recipe import Tricks


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
