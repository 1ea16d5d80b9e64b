"""What is found before a training leaves no trace."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_images
from trainings import Killed, equal, plain_training, state

from rapipe.errors import UserError
from rapipe.io.tables import parse_checksummed
from rapipe.specs import TrainingRecipe
from rapipe.training import tuner
from rapipe.training.callbacks import History
from rapipe.training.loop import fit


def test_a_falling_loss_is_steepest_where_it_is_placed() -> None:
    rates = np.logspace(-6, 0, 90)
    losses = 2 - 1 / (1 + (0.003 / rates) ** 2)  # half way down at .003
    noise = np.where(np.arange(90) % 2, 1e-3, -1e-3) * (rates < 1e-4)

    def curve(seen: Any) -> tuner.Curve:
        return [{"learning_rate": r, "loss": y} for r, y in zip(rates, seen, strict=False)]

    for seen in (losses + noise, losses[rates <= 0.5]):
        assert tuner.steepest(curve(seen)) == pytest.approx(0.003, rel=0.15)
    for flat in ([1.0] * 90, []):
        with pytest.raises(UserError, match=r"`tune` names learning_rate, but"):
            tuner.steepest(curve(flat))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuner, "RATE_STEPS", 30)


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_finders_leave_no_trace_and_resume_with_what_they_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trained on with what was found, given from the start, it is the same training."""
    images = make_images(300)
    pixels = images.pixels // 4 + 80 * images.labels[:, None, None, None]  # can be learned
    images = replace(images, pixels=pixels.astype(np.uint8))
    recipe = TrainingRecipe(tune=("learning_rate", "batch_size"), average="ema", accumulate=2)
    module = plain_training(recipe, 4, epochs=2, images=images)
    before, random = state(module), torch.random.get_rng_state()
    seen: list[Any] = []

    class Start(Killed):
        def on_train_start(self, trainer: Any, module: Any) -> None:
            seen.append((equal(before, state(module)), torch.random.get_rng_state()))

    history = History(lambda m: {})
    with pytest.raises(RuntimeError, match="killed"):
        fit(module, [history, Start(1)], tmp_path / "c")
    assert seen[0][0]
    assert torch.equal(seen[0][1], random)
    stored = parse_checksummed((tmp_path / "c/tuned.json").read_text())
    found = stored["values"]
    rates = [row["learning_rate"] for row in stored["curve"]]
    assert rates == sorted(rates)
    assert len(rates) == 30 - tuner.SKIPPED - 1
    assert tuner.steepest(stored["curve"]) == found["learning_rate"]
    assert found["batch_size"] == 16, "8 steps of 2 batches of 16 are 256 images, of 32 are 512"
    assert 1e-6 < found["learning_rate"] < 1
    said = capsys.readouterr().err
    assert f"found learning_rate {found['learning_rate']:g}" in said
    assert "Finding" not in said, "Lightning's own bar"

    module = plain_training(recipe, 4, epochs=2, images=images)
    history = History(lambda m: {})
    assert fit(module, [history], tmp_path / "c") == (found, stored["curve"])
    given = plain_training(
        replace(recipe, tune=()), 16, epochs=2, rate=found["learning_rate"], images=images
    )
    again = History(lambda m: {})
    fit(given, [again], tmp_path / "d")
    assert again.rows == history.rows
    assert equal(state(given), state(module))


@pytest.mark.slow
def test_on_a_cpu_batches_end_with_what_a_step_may_keep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = TrainingRecipe(tune=("batch_size",))
    one = tuner.bytes_an_image(plain_training(batch=4, n=300))
    monkeypatch.setattr(tuner, "CPU_BYTES", one * 9)
    assert fit(plain_training(recipe, batch=4, n=300), [], tmp_path / "c").values == {
        "batch_size": 8
    }
    assert fit(plain_training(recipe, batch=16, n=300), [], tmp_path / "c").values == {
        "batch_size": 16
    }
