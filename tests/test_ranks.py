"""Several processes that train one network: the batches, losses and weights of one device."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import ranked
import torch
from trainings import training

from rapipe.errors import ArgumentError, UserError
from rapipe.pipeline.running.ranks import launch, on_ranks
from rapipe.specs import TrainingRecipe
from rapipe.training import ranks
from rapipe.training.loop import fit

ROUNDING = 1e-5
"""Relative, after a few steps: sums of float32 come in another order."""
BARLOW_ROUNDING = 3e-5
"""Of losses that sum squares of a whole matrix of correlations."""
BATCHNORM = 0.05
"""Of losses, where each rank normalises over its half of a batch of 16."""


@pytest.fixture(scope="module")
def on_two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Histories of all trainings on two ranks, and their folder."""
    folder = tmp_path_factory.mktemp("ranks")
    ranked.rows("classifier", folder / ranked.ONE_FIRST, stop=1)
    launch(ranked.each, 2, folder)
    return folder, json.loads((folder / "histories.json").read_text())


def check_equal(alone: list[Any], together: list[Any], rounding: float = ROUNDING) -> None:
    assert len(alone) == len(together) > 1
    for one, other in zip(alone, together, strict=True):
        assert other == pytest.approx(one, rel=rounding, nan_ok=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in ranked.TRAININGS if "batchnorm" not in n])
def test_two_ranks_learn_what_one_device_does(name: str, on_two: Any, tmp_path: Path) -> None:
    """Noise, mixing, neighbours that are dropped, masks and queues are those of whole batches."""
    rounding = BARLOW_ROUNDING if name == "barlow-twins" else ROUNDING
    check_equal(ranked.rows(name, tmp_path / "alone"), on_two[1][name], rounding)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in ranked.TRAININGS if "batchnorm" in n])
def test_with_batchnorm_losses_are_close(name: str, on_two: Any, tmp_path: Path) -> None:
    alone = [row["loss"] for row in ranked.rows(name, tmp_path / "alone")]
    together = [row["loss"] for row in on_two[1][name]]
    assert together == pytest.approx(alone, rel=BATCHNORM, abs=BATCHNORM)


@pytest.mark.slow
def test_it_resumes_with_another_number_of_ranks(on_two: Any, tmp_path: Path) -> None:
    folder, histories = on_two
    alone = ranked.rows("classifier", tmp_path / "alone")
    check_equal(alone, histories[ranked.ONE_FIRST])
    assert (folder / ranked.TWO_FIRST / "last.ckpt").exists()
    check_equal(alone, ranked.rows("classifier", folder / ranked.TWO_FIRST))


@pytest.mark.slow
def test_a_rank_that_is_killed_ends_the_others() -> None:
    start = time.monotonic()
    with pytest.raises(UserError, match="process of rank 1 was ended by signal 9, as systems do"):
        launch(ranked.fail, 2, "killed")
    assert time.monotonic() - start < 55, "rank 0 would have slept for a minute"


@pytest.mark.slow
def test_what_all_ranks_refuse_is_said_once(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        launch(ranked.fail, 2, "refused")
    assert end.value.code == 2
    assert capfd.readouterr().err == "error: nobody wants this\n"


def test_alone_nothing_is_shared() -> None:
    part = torch.arange(3.0)
    assert (ranks.rank(), ranks.count(), ranks.share(8)) == (0, 1, slice(0, 8))
    assert ranks.gathered(part) is ranks.collected(part) is ranks.mean(part) is part
    before = torch.get_rng_state()
    with ranks.apart():
        pass
    assert torch.equal(torch.get_rng_state(), before)


def test_processes_that_nobody_began_are_told() -> None:
    with pytest.raises(ArgumentError, match=r"`devices` is 2 .* alone: .* --nproc-per-node 2"):
        ranks.join(2, 1)
    with pytest.raises(ArgumentError, match=r"`nodes` is 2: .* torchrun --nnodes 2 "):
        on_ranks(ranked.fail, TrainingRecipe(nodes=2), "")
    assert not on_ranks(ranked.fail, TrainingRecipe(), "")


def test_as_many_as_torchrun_began(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ArgumentError, match=r"which is 2 processes, but torchrun started 3"):
        ranks.join(2, 1)


def test_what_ranks_cannot_share_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "count", lambda: 3)
    with pytest.raises(ArgumentError, match=r"`batch_size` is 16, .*a multiple of 3 from 6 on"):
        training()
    monkeypatch.setattr(ranks, "count", lambda: 2)
    with pytest.raises(ArgumentError, match=r"`tune` names learning_rate, .* but 2 train"):
        fit(training(tune=("learning_rate",)), [])
