"""Averages of weights against slow loops."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from trainings import Each, equal, plain_training, state

from rapipe.batches.transforms import to_float
from rapipe.specs import TrainingRecipe
from rapipe.training.averaging import SWA
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


def test_swa_is_the_mean_along_the_last_quarter_even_of_a_short_training(tmp_path: Path) -> None:
    """Of 6 epochs of 3 steps the weights after steps 14 to 18, at the rate of step 13."""
    steps: list[dict[str, Tensor]] = []
    rates: list[float] = []
    measured: list[dict[str, Tensor]] = []

    def note(module: Any) -> None:
        steps.append(state(module))
        rates.append(module.optimizers().param_groups[0]["lr"])

    def measure(module: Any) -> dict[str, float]:
        measured.append(state(module))
        if len(measured) == 6:
            check_statistics(module)
        return {"score": 1.0}

    module = plain_training(TrainingRecipe(average="swa"), epochs=6)
    history = History(measure)
    best = BestEpoch(module.network, history, "score")
    fit(module, [Each(note), history, best], tmp_path / "c")
    assert all(equal(steps[3 * i + 2], measured[i]) for i in range(4))
    weights = [name for name, _ in module.network.named_parameters()]
    for name in weights:
        for epoch, last in ((4, 15), (5, 18)):
            slow = torch.stack([step[name] for step in steps[13:last]]).mean(0)
            torch.testing.assert_close(measured[epoch][name], slow, msg=name)
        assert not torch.equal(measured[5][name], steps[17][name]), name
    assert equal(state(module), measured[5])
    assert equal(best.best["weights"], measured[4]), "the first of equals that has an average"
    assert len(set(rates[:12])) == 12, "those of steps 2 to 13"
    assert set(rates[11:]) == {rates[11]}, "it falls no further"
    assert 0 < rates[11] < 0.3 * rates[0]


def check_statistics(module: Any) -> None:
    """BatchNorm's statistics are those of the averaged weights, over the training images."""
    slow = copy.deepcopy(module.network)
    norms = [layer for layer in slow.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    for layer in norms:
        layer.reset_running_stats()
        layer.momentum = None
    with torch.no_grad():
        for _, pixels, *_ in module.train_dataloader():
            slow.train()(to_float(pixels), None)
    assert norms
    for name, value in slow.named_buffers():
        torch.testing.assert_close(module.network.get_buffer(name), value, msg=name)


def test_in_a_long_training_swa_takes_a_snapshot_an_epoch() -> None:
    def snapshots(steps: int, an_epoch: int) -> list[int]:
        average = SWA(steps, an_epoch)
        assert not average.should_update(epoch_idx=99)
        return [step + 1 for step in range(steps) if average.should_update(step_idx=step)]

    assert snapshots(300 * 7, 7) == [7 * epoch for epoch in range(226, 301)]
    assert len(snapshots(6 * 54, 54)) >= 10
    assert snapshots(6 * 54, 54)[-1] == 6 * 54
    assert snapshots(1, 1) == [1]


def test_a_copy_for_averages_has_no_data() -> None:
    module = plain_training()
    assert copy.deepcopy(module).loader is None
    assert module.loader is not None
