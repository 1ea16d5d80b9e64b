"""How the learning rate changes: one function each, one line each in `SCHEDULES`."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler

from rapipe.specs import TrainingRecipe


def cosine(progress: float) -> float:
    """The learning rate falls to 0 along half a cosine.

    Source: Loshchilov & Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017.
    """
    return (1 + math.cos(math.pi * progress)) / 2


def linear(progress: float) -> float:
    """The learning rate falls to 0 along a line.

    Source: Li et al., "Budgeted Training: Rethinking Deep Neural Network Training Under Resource
    Constraints", ICLR 2020.
    """
    return 1 - progress


def constant(progress: float) -> float:
    """The learning rate stays as it is.

    Source: this project.
    """
    return 1.0


def step(progress: float) -> float:
    """The learning rate falls to a tenth after half of the steps, and again after three quarters.

    Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.
    """
    return float(0.1 ** ((progress >= 0.5) + (progress >= 0.75)))


SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": cosine,
    "linear": linear,
    "constant": constant,
    "step": step,
}
"""Factors of the learning rate, as functions of the share of the steps that is done."""


SWA_FROM = 0.75
"""Share of the steps after which `average: swa` averages, and holds the learning rate."""


def swa_start(steps: int) -> int:
    """The first step, from 0, whose weights `swa` may average: in the last quarter."""
    return min(int(SWA_FROM * steps), steps - 1)


def warmup(step: int, warmup_steps: int) -> float:
    """The learning rate rises along a line from 0, and then follows its schedule.

    Args:
        step: from 0. The line is at 0 before the first step, which would else be for nothing.
        warmup_steps: steps in which it rises.

    Source: Goyal et al., "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour",
    arXiv 2017.
    """
    return min(1.0, (step + 1) / (warmup_steps + 1))


def scheduler(optimiser: Optimizer, steps: int, recipe: TrainingRecipe) -> LRScheduler:
    """The learning rate of each of `steps` optimiser steps.

    With `average: swa` it stays, from where that begins, what it was one step before.
    """
    warmup_steps, averaged = round(recipe.warmup * steps), recipe.average == "swa"
    if recipe.schedule == "cosine" and not warmup_steps and not averaged:
        return CosineAnnealingLR(optimiser, steps)  # rounds otherwise than the formula below
    shape = SCHEDULES[recipe.schedule]
    last = max(0, swa_start(steps) - 1) if averaged else steps

    def factor(step: int) -> float:
        step = min(step, last)
        progress = max(0, step - warmup_steps) / max(1, steps - warmup_steps)
        return warmup(step, warmup_steps) * shape(min(1.0, progress))

    return LambdaLR(optimiser, factor)
