"""Averages of weights against slow loops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor
from trainings import Each, equal, plain_training, state

from rapipe.specs import TrainingRecipe
from rapipe.training.callbacks import BestEpoch, History
from rapipe.training.loop import fit


def test_moving_average_is_a_slow_loops(tmp_path: Path) -> None:
    """It is measured and kept, BatchNorm's statistics with it; training goes on as without."""
    weights: list[dict[str, Tensor]] = []
    module = plain_training(TrainingRecipe(average="ema"), epochs=2)
    measured: list[dict[str, Tensor]] = []
    history = History(lambda m: {"score": float(measured.append(state(m)) or len(measured))})
    best = BestEpoch(module.network, history, "score")
    fit(module, [Each(lambda m: weights.append(state(m))), history, best], tmp_path / "c")
    without: list[dict[str, Tensor]] = []
    fit(plain_training(epochs=2), [Each(lambda m: without.append(state(m)))], tmp_path / "c")
    assert len(weights) == len(without) == 6
    assert all(equal(one, other) for one, other in zip(weights, without, strict=True))

    slow = weights[0]
    for n, new in enumerate(weights[1:], 1):
        keep = min(0.999, (1 + n) / (10 + n))
        slow = {name: keep * slow[name] + (1 - keep) * new[name] for name in new}
        if n == 2:
            first = slow
    for name, value in measured[1].items():
        if value.is_floating_point():
            torch.testing.assert_close(value, slow[name], msg=name)
            torch.testing.assert_close(measured[0][name], first[name], msg=name)
    assert equal(best.best["weights"], measured[1])
    assert equal(state(module), measured[1]), "the average is what is left"


def test_swa_is_the_mean_of_the_last_epochs_weights(tmp_path: Path) -> None:
    ends: list[dict[str, Tensor]] = []
    measured: list[dict[str, Tensor]] = []

    class Ends(Callback):
        def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
            ends.append(state(module))

    module = plain_training(TrainingRecipe(average="swa"), epochs=8)
    history = History(lambda m: {"n": float(measured.append(state(m)) or 0)})
    fit(module, [Ends(), history], tmp_path / "c")
    assert all(equal(ends[i], measured[i]) for i in range(7)), "one is its own mean"
    for name, value in measured[7].items():
        if value.is_floating_point():
            torch.testing.assert_close(value, (ends[6][name] + ends[7][name]) / 2, msg=name)
    assert not equal(ends[7], measured[7])
    assert equal(state(module), measured[7])


def test_a_copy_for_averages_has_no_data() -> None:
    import copy

    module = plain_training()
    assert copy.deepcopy(module).loader is None
    assert module.loader is not None
