"""Learning rates by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from trainings import Each, plain_training

from rapipe.specs import TrainingRecipe
from rapipe.training.loop import fit
from rapipe.training.schedules import scheduler


def rates(recipe: TrainingRecipe, steps: int) -> list[float]:
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 2.0)
    schedule, seen = scheduler(optimiser, steps, recipe), []
    for _ in range(steps):
        seen.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    return seen


@pytest.mark.parametrize(
    ("recipe", "by_hand"),
    [
        (TrainingRecipe(), [2, 1 + 0.5**0.5, 1, 1 - 0.5**0.5]),
        (TrainingRecipe(schedule="linear"), [2, 1.5, 1, 0.5]),
        (TrainingRecipe(schedule="constant"), [2, 2, 2, 2]),
        (TrainingRecipe(schedule="step"), [2, 2, 0.2, 0.02]),
        (TrainingRecipe(schedule="linear", warmup=0.5), [2 / 3, 4 / 3, 2, 1]),
        (TrainingRecipe(warmup=0.5), [2 / 3, 4 / 3, 2, 1]),
        (TrainingRecipe(schedule="constant", warmup=1.0), [0.4, 0.8, 1.2, 1.6]),
    ],
)
def test_schedules_by_hand(recipe: TrainingRecipe, by_hand: list[float]) -> None:
    assert rates(recipe, 4) == pytest.approx(by_hand)


def test_schedules_count_optimiser_steps(tmp_path: Path) -> None:
    seen: list[float] = []
    module = plain_training(TrainingRecipe(accumulate=3, schedule="linear"), epochs=4)
    note = Each(lambda m: seen.append(m.optimizers().param_groups[0]["lr"]))
    fit(module, [note], tmp_path / "c")
    assert seen[2::3] == pytest.approx([0.0075, 0.005, 0.0025, 0])
