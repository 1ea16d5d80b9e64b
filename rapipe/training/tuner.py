"""What can be found before a training: its batch size, then its learning rate.

Both are found by Lightning's Tuner on steps that leave no trace, and are stored beside
the checkpoints, so that a training that is resumed goes on with the same ones.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable
from contextlib import nullcontext, redirect_stderr
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.tuner.tuning import Tuner
from torch import Tensor

from rapipe.device import device
from rapipe.errors import ArgumentError
from rapipe.io.tables import read_checksummed, write_checksummed
from rapipe.progress import is_interactive, say
from rapipe.training.module import TrainingModule, preserving_state

MakeTrainer = Callable[..., pl.Trainer]
Curve = list[dict[str, float]]
"""Rows of learning_rate and loss, the rate rising."""
RATES = (1e-6, 1.0)
"""Learning rates that are tried."""
RATE_STEPS = 100
"""Steps in which the learning rate rises through them."""
SKIPPED = 10
"""First of these steps, in which the smoothed loss still settles."""
ROUNDING = 1e-6
"""Slopes of the loss that are no fall."""
CPU_BYTES = 2 << 30
"""What a step on a CPU may keep for its backward pass."""
LEAST_STEPS = 8
"""An epoch keeps at least as many, however much memory there is for larger batches."""


class Tuned(NamedTuple):
    """What was found before a training."""

    values: dict[str, float]
    """By the name of the recipe's field."""
    curve: Curve
    """What the learning rate was found on: smoothed losses. Empty if it was not looked for."""


def learning_rate(module: TrainingModule, trainer: MakeTrainer) -> tuple[float, Curve]:
    """Finds the learning rate at which the loss falls fastest while it rises from step to step.

    Lightning's own suggestion takes the slope against the rate rather than its logarithm,
    which is steepest where rates are so small that only noise is left; so it is not used.

    Raises:
        ArgumentError: the loss does not fall anywhere.

    Source: Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017.
    """
    tuner = Tuner(trainer())
    with nullcontext() if is_interactive() else redirect_stderr(io.StringIO()):  # Lightning's bar
        finder = tuner.lr_find(
            module, min_lr=RATES[0], max_lr=RATES[1], num_training=RATE_STEPS, update_attr=False
        )
    results: dict[str, list[float]] = finder.results if finder else {"lr": [], "loss": []}
    curve = finite(results["lr"][SKIPPED:-1], results["loss"][SKIPPED:-1])
    return steepest(curve), curve


def finite(rates: Iterable[float], losses: Iterable[float]) -> Curve:
    """The rates that have a finite loss, each with it."""
    pairs = zip(rates, losses, strict=True)
    return [{"learning_rate": rate, "loss": loss} for rate, loss in pairs if math.isfinite(loss)]


def steepest(curve: Curve) -> float:
    """The rate at which the loss falls fastest against the rate's logarithm, to two digits."""
    x, y = np.log([row["learning_rate"] for row in curve]), np.array([r["loss"] for r in curve])
    slopes = np.gradient(y, x) if len(x) > 1 else np.zeros(1)
    if slopes.min() > -ROUNDING:
        raise ArgumentError(
            "`tune` names learning_rate, but the loss falls at no rate "
            f"from {RATES[0]:g} to {RATES[1]:g}: take it out, and set `learning_rate`"
        )
    return float(f"{math.exp(x[slopes.argmin()]):.1e}")


def batch_size(module: TrainingModule, trainer: MakeTrainer) -> tuple[int, Curve]:
    """Finds the largest batch that fits into memory, by doubling the one that is set.

    An epoch keeps at least 8 steps. On a GPU each size is tried until memory ends. On a CPU,
    where a process that takes too much is killed, sizes end where what a step keeps would be
    more than 2 GiB, whatever is free: so each seed finds the same.

    Source: McCandlish et al., "An Empirical Model of Large-Batch Training", arXiv 2018
    (on what larger batches are good for).
    """
    smallest = module.batch_size
    largest = module.epoch_size / (LEAST_STEPS * module.recipe.accumulate)
    if device().type == "cpu":
        largest = min(largest, CPU_BYTES / bytes_an_image(module))
    doublings = max(0, math.floor(math.log2(max(1.0, largest / smallest))))
    tuner = Tuner(trainer(accumulate_grad_batches=1))
    size = tuner.scale_batch_size(
        module, init_val=smallest, max_trials=1 + doublings, max_val=1 << 40
    )
    return size or smallest, []


def bytes_an_image(module: TrainingModule) -> float:
    """What the forward pass of a batch keeps for the backward pass, for each image of it."""
    sizes: dict[int, int] = {}

    def record(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    batch = next(iter(module.train_dataloader()))
    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        loss = module.training_step(batch, 0)
    del loss
    return max(1, sum(sizes.values())) / module.batch_size


TUNERS: dict[str, Callable[[TrainingModule, MakeTrainer], tuple[float, Curve]]] = {
    "batch_size": batch_size,
    "learning_rate": learning_rate,
}
"""In the order in which they are used: the rate is of the batch size."""


def tune(module: TrainingModule, trainer: MakeTrainer, stored: Path) -> Tuned:
    """Find what `recipe.tune` names and set it in the recipe, or set what was found before.

    Args:
        trainer: makes a Trainer that writes nothing.
        stored: file of what was found, read if it is there.
    """
    facts = read_checksummed(stored)
    values, curve = facts.get("values", {}), facts.get("curve", [])
    names = module.recipe.tune
    for name, tuner in TUNERS.items():
        if name not in names:
            continue
        if name not in values:
            with preserving_state(module):
                values[name], points = tuner(module, trainer)
            curve = points or curve
            say(f"found {name} {values[name]:g}")
        module.recipe = replace(module.recipe, **{name: values[name]})
    if names:
        write_checksummed(stored, {"values": values, "curve": curve})
    return Tuned(values, curve)
