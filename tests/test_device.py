"""Two devices compute the same within stated tolerances; a CPU stands in for the second one.

With RAPIPE_TEST_GPU=1 the GPU is compared too, in a process of its own: here CUDA is hidden.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT

from rapipe.errors import UserError
from tests.faults import device
from tests.faults.device import BACKBONES, STAND_INS, Place, compare


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
    found = list(compare(*STAND_INS[name], (backbone,)))
    assert len(found) == 2 + 2 * 5
    assert [own for own in found if not own.within] == []


def test_what_differs_is_beyond_its_tolerance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "N", 16)
    monkeypatch.setattr(device, "K", 8)
    right = device._images

    def wrong() -> torch.Tensor:
        wrong.calls += 1  # type: ignore[attr-defined]
        return right() * (1 + 0.01 * (wrong.calls % 2))  # type: ignore[attr-defined]

    wrong.calls = 0  # type: ignore[attr-defined]
    monkeypatch.setattr(device, "_images", wrong)
    found = list(compare(*STAND_INS["another number of threads"], ("alexnet",)))
    assert not any(own.within for own in found if own.kind in ("embeddings", "logits"))


def test_one_device_is_not_compared_with_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="cannot be compared with itself"):
        next(compare(Place("cpu"), Place("cpu")))
    assert device.main([]) == 2
    assert "there is no cuda here: run this on a machine with a GPU" in capsys.readouterr().err


@pytest.mark.skipif(os.environ.get("RAPIPE_TEST_GPU") != "1", reason="RAPIPE_TEST_GPU is not 1")
def test_a_gpu_agrees_within_the_tolerances() -> None:
    seen = {name: own for name, own in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    command = [sys.executable, "-m", "tests.faults.device", "--json"]
    done = subprocess.run(command, cwd=ROOT, env=seen, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(own["within"] for own in json.loads(done.stdout)["differences"]["GPU"])
