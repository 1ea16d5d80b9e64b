"""Averages of the weights over a training: one class each, one line each in `AVERAGES`.

Averaged weights are what is measured and kept: `History` and `BestEpoch` work `within` them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pytorch_lightning.callbacks import WeightAveraging
from torch.optim.swa_utils import get_ema_multi_avg_fn

from rapipe.device import device

DECAY = 0.999
"""Of the moving average of weights, once there were enough steps."""
SWA_FROM = 0.75
"""Share of the epochs after which `swa` begins to average."""


class Averaging(WeightAveraging):
    """Lightning's averages of weights, which are also put in place while they are measured.

    BatchNorm's running statistics are averaged like the weights: no second pass over
    the images is needed, so an epoch can be measured at its end.
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
