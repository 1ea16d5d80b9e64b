"""Steps, measurements and patience."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from trainings import Each, Killed, plain_training, state

from rapipe.classifier.module import ClassifierModule
from rapipe.device import Precision
from rapipe.methods import TRICKS
from rapipe.specs import TrainingRecipe
from rapipe.training import loggers as logs
from rapipe.training.averaging import AVERAGES
from rapipe.training.callbacks import BestEpoch, History
from rapipe.training.loop import fit
from rapipe.training.schedules import SCHEDULES
from rapipe.training.tuner import TUNERS


def plain(module: ClassifierModule) -> ClassifierModule:
    """The same without BatchNorm and dropout, so that a batch may be taken in parts; with SGD."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 3))
    module.network.forward = lambda images, retrieved=None: net(images)  # type: ignore[method-assign]
    module.network.net = net
    module.configure_optimizers = lambda: torch.optim.SGD(net.parameters(), 0.1)  # type: ignore[method-assign]
    return module


def test_each_trick_says_what_it_does_and_where_it_is_from() -> None:
    for name, trick in {**TRICKS, **AVERAGES, **SCHEDULES, **TUNERS, **logs.LOGGERS}.items():
        assert trick.__doc__, name
        assert trick.__doc__.splitlines()[0].endswith("."), name
        assert "Source: " in trick.__doc__, name


def test_two_batches_of_8_step_as_one_of_16(tmp_path: Path) -> None:
    found = []
    for recipe, batch in ((TrainingRecipe(accumulate=2), 8), (TrainingRecipe(), 16)):
        torch.manual_seed(0)
        module = plain(plain_training(recipe, batch, epochs=2, n=60))
        history = History(lambda m: {}, 1)
        fit(module, [history], tmp_path / "c")
        found.append((state(module), history.rows))
    for name, value in found[0][0].items():
        torch.testing.assert_close(value, found[1][0][name], msg=name)
    for one, other in zip(found[0][1], found[1][1], strict=True):
        assert one == pytest.approx(other, rel=1e-5)
    assert [row["images_seen"] for row in found[0][1]] == [16, 32, 48, 64, 80, 96]


def test_an_epoch_with_fewer_batches_than_a_step_wants_is_one_step() -> None:
    module = plain_training(TrainingRecipe(accumulate=100))
    assert (module.accumulate, module.steps_an_epoch, len(module.train_dataloader())) == (3, 1, 3)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_clipping_bounds_the_norm(precision: Precision, tmp_path: Path) -> None:
    norms: list[float] = []

    def note(module: ClassifierModule) -> None:
        gradients = [p.grad.flatten() for p in module.parameters() if p.grad is not None]
        norms.append(float(torch.cat(gradients).norm()))

    for clip in (0.0, 0.01):
        fit(plain_training(TrainingRecipe(clip=clip)), [Each(note)], tmp_path / "c", precision)
    assert min(norms[:3]) > 0.1
    assert norms[3:] == pytest.approx([0.01] * 3, rel=1e-3)


SCORES = [0.1, 0.5, 0.4, 0.5, 0.3, 0.9]


def told(module: ClassifierModule, scores: list[float]) -> tuple[History, BestEpoch]:
    left = iter(scores)
    history = History(lambda m: {"score": next(left)})
    return history, BestEpoch(module.network, history, "score")


def test_training_stops_when_patience_ends(tmp_path: Path) -> None:
    """.4, and .5 again, and .3 are not better than .5: the fifth epoch is the last."""
    module = plain_training(TrainingRecipe(patience=3), epochs=6)
    history, best = told(module, SCORES)
    fit(module, [history, best], tmp_path / "c")
    assert [row["score"] for row in history.rows] == SCORES[:5]
    assert best.restore()["epoch"] == 2


@pytest.mark.parametrize(("every", "measured"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (9, [5])])
def test_epochs_between_measurements_and_the_last_one(
    every: int, measured: list[int], tmp_path: Path
) -> None:
    """Only what was measured can be the best: the last epoch here, each better than before."""
    module = plain_training(epochs=5)
    seen: list[torch.Tensor] = []

    def measure(own: ClassifierModule) -> dict[str, float]:
        seen.append(next(own.network.parameters()).detach().clone())
        return {"score": float(len(seen))}

    history = History(measure, measure_every=every)
    best = BestEpoch(module.network, history, "score")
    fit(module, [history, best], tmp_path / "c")
    assert [row["epoch"] for row in history.rows] == measured
    assert best.restore()["epoch"] == 5
    assert torch.equal(next(module.network.parameters()), seen[-1])


def test_patience_counts_measured_epochs(tmp_path: Path) -> None:
    """Measured after 2, 4, 6 and 8 epochs; the best is the first: two more are waited for."""
    module = plain_training(TrainingRecipe(patience=2), epochs=20)
    left = iter([0.5, 0.4, 0.4, 0.9])
    history = History(lambda m: {"score": next(left)}, measure_every=2)
    best = BestEpoch(module.network, history, "score")
    fit(module, [history, best], tmp_path / "c")
    assert [row["epoch"] for row in history.rows] == [2, 4, 6]
    assert best.restore()["epoch"] == 2


@pytest.mark.parametrize("epoch", [3, 99])
def test_patience_goes_on_where_it_was(epoch: int, tmp_path: Path) -> None:
    """Killed while it waits, or after the last epoch's checkpoint and before the end."""
    module = plain_training(TrainingRecipe(patience=3), epochs=6)
    history, best = told(module, SCORES)
    with pytest.raises(RuntimeError, match="killed"):
        fit(module, [history, best, Killed(epoch)], tmp_path / "c")
    module = plain_training(TrainingRecipe(patience=3), epochs=6)
    history, best = told(module, SCORES[epoch:])
    fit(module, [history, best], tmp_path / "c")
    assert [row["score"] for row in history.rows] == SCORES[:5]
    assert best.restore()["epoch"] == 2


def test_patience_without_a_score_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="patience needs a Best"):
        fit(plain_training(TrainingRecipe(patience=3)), [], tmp_path / "c")
