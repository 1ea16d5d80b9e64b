"""Two devices compute the same within stated tolerances; a CPU stands in for the second one.

With RAPIPE_TEST_GPU=1 the GPU is compared too, in a process of its own: here CUDA is hidden.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings

import pytest
import torch
from conftest import ROOT

from rapipe.device import deterministic
from rapipe.errors import UserError
from tests.faults import device
from tests.faults.device import BACKBONES, STAND_INS, Platform, compare


@pytest.mark.parametrize("name", STAND_INS)
@pytest.mark.parametrize(
    "backbone",
    [
        name if name == "alexnet" else pytest.param(name, marks=pytest.mark.slow)
        for name in BACKBONES
    ],
)
def test_a_stand_in_agrees_within_the_tolerances(
    name: str, backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "N", 16)
    monkeypatch.setattr(device, "K", 8)
    differences = list(compare(*STAND_INS[name], (backbone,)))
    assert len(differences) == 2 + 2 * 5
    assert [row for row in differences if not row.within] == []


def test_what_has_no_deterministic_algorithm_is_said_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Inside alone; other warnings stay warnings, and what was set before is set again."""
    before = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    with deterministic(True):
        assert torch.are_deterministic_algorithms_enabled()
        assert (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark) == (True, False)
        for _ in range(2):
            torch.zeros(3).put_(torch.tensor([0, 0]), torch.ones(2))
        with pytest.warns(UserWarning, match="another"):
            warnings.warn("another", UserWarning, stacklevel=1)
    assert not torch.are_deterministic_algorithms_enabled()
    assert (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark) == before
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "put_ has no deterministic algorithm here, so results may differ in last digits"
    ]
    with deterministic(False):
        assert not torch.are_deterministic_algorithms_enabled()


def test_what_differs_is_beyond_its_tolerance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "N", 16)
    monkeypatch.setattr(device, "K", 8)
    right = device._images

    def wrong() -> torch.Tensor:
        wrong.calls += 1  # type: ignore[attr-defined]
        return right() * (1 + 0.01 * (wrong.calls % 2))  # type: ignore[attr-defined]

    wrong.calls = 0  # type: ignore[attr-defined]
    monkeypatch.setattr(device, "_images", wrong)
    differences = list(compare(*STAND_INS["another number of threads"], ("alexnet",)))
    assert not any(row.within for row in differences if row.kind in ("embeddings", "logits"))


def test_one_device_is_not_compared_with_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="cannot be compared with itself"):
        next(compare(Platform("cpu"), Platform("cpu")))
    assert device.main([]) == 2
    assert "there is no cuda here: run this on a machine with a GPU" in capsys.readouterr().err


@pytest.mark.skipif(os.environ.get("RAPIPE_TEST_GPU") != "1", reason="RAPIPE_TEST_GPU is not 1")
def test_a_gpu_agrees_within_the_tolerances() -> None:
    env = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    command = [sys.executable, "-m", "tests.faults.device", "--json"]
    process = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr
    assert all(row["within"] for row in json.loads(process.stdout)["differences"]["GPU"])
