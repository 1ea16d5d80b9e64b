"""Averages of the weights over a training: one class each, one line each in `AVERAGES`.

Averaged weights are what is measured and kept: `History` and `BestEpoch` work `within` them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import get_ema_multi_avg_fn

from rapipe.device import device, fork_rng
from rapipe.training.schedules import swa_start

DECAY = 0.999
"""Of the moving average of weights, once there were enough steps."""
SNAPSHOTS = 10
"""Of the weights that `swa` averages, at least, where there are as many steps."""


class Averaging(WeightAveraging):
    """Lightning's averages of weights, which are also put in place while they are measured.

    BatchNorm's running statistics are averaged like the weights.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(device=device(), use_buffers=True, **options)

    @property
    def has_begun(self) -> bool:
        """Whether there is an average yet."""
        return self._average_model is not None and bool(self._average_model.n_averaged > 0)

    @contextmanager
    def within(self, module: Any) -> Iterator[None]:
        """Let the module have the averaged weights, and then its own again, bit by bit."""
        has_begun = self.has_begun
        if has_begun:
            self._swap_models(module)
        try:
            yield
        finally:
            if has_begun:
                self._swap_models(module)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if self.has_begun:  # else, as before `swa` begins, it is what the training began with
            super().on_train_end(trainer, pl_module)


class EMA(Averaging):
    """Measures and keeps a moving average of the weights, in which late steps count most.

    The average after step n keeps min(.999, (1 + n) / (10 + n)) of the one before, as in
    TensorFlow, so that a short training is not averaged with its random start.

    Source: Polyak & Juditsky, "Acceleration of Stochastic Approximation by Averaging",
    SIAM Journal on Control and Optimization 1992.
    """

    def __init__(self, steps: int, steps_an_epoch: int) -> None:
        super().__init__(multi_avg_fn=self._blend)

    def _blend(self, averaged: Any, current: Any, _: Any) -> None:
        n = self._latest_update_step
        blend = get_ema_multi_avg_fn(min(DECAY, (1 + n) / (10 + n)))  # type: ignore[no-untyped-call]
        blend(averaged, current, _)


class SWA(Averaging):
    """Measures and keeps the mean of weights along the last quarter of the steps.

    There the learning rate stays what it was before, so that the weights go on moving. A
    snapshot is taken after each epoch, as in the paper; where these would be fewer than ten, as
    in a short training, after so many steps that there are ten. BatchNorm's statistics are then
    those of the averaged weights, by one more pass over the training images an epoch.

    Source: Izmailov et al., "Averaging Weights Leads to Wider Optima and Better
    Generalization", UAI 2018.
    """

    def __init__(self, steps: int, steps_an_epoch: int) -> None:
        super().__init__()
        self.first, self.last = swa_start(steps), steps - 1
        self.every = max(1, min(steps_an_epoch, (steps - self.first) // SNAPSHOTS))

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        if step_idx is None or step_idx < self.first:
            return False
        return (self.last - step_idx) % self.every == 0

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        norms = [
            layer
            for layer in pl_module.network.modules()
            if isinstance(layer, _BatchNorm) and layer.training  # those of frozen parts stay
        ]
        if self.has_begun and norms:
            with self.within(pl_module), trainer.precision_plugin.forward_context():
                _renew_statistics(pl_module, norms)


def _renew_statistics(module: Any, norms: list[_BatchNorm]) -> None:
    """Set BatchNorm's statistics to the means over the batches of one epoch; no other trace."""
    momenta, metrics = [layer.momentum for layer in norms], module.step_metrics
    module.step_metrics = defaultdict(list)
    for layer in norms:
        layer.reset_running_stats()
        layer.momentum = None  # torch's way to say: the mean of all batches
    with torch.no_grad(), fork_rng():
        for batch in module.train_dataloader():
            module.training_step(batch, 0)
    module.step_metrics = metrics
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum


def no_average(steps: int, steps_an_epoch: int) -> None:
    """Measures and keeps the weights as they are.

    Source: this project.
    """


AVERAGES: dict[str, Callable[[int, int], Averaging | None]] = {
    "none": no_average,
    "ema": EMA,
    "swa": SWA,
}
"""By name; each is made of the steps of the training, and those of an epoch."""
