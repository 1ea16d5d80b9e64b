"""Precision and compilation change what is computed by rounding only, and are chosen alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from trainings import pretraining, training

from rapipe import device as device_module
from rapipe.batches.loader import CPU
from rapipe.device import Precision, autocast
from rapipe.encoder.backbones import BACKBONES
from rapipe.errors import UserError
from rapipe.io.tables import parse_checksummed
from rapipe.training import precision
from rapipe.training.callbacks import History
from rapipe.training.compilation import compile_network, preserving_state
from rapipe.training.loop import fit
from rapipe.training.module import TrainingModule
from rapipe.training.precision import precision_of

BF16 = 2.0**-8
"""Relative rounding of bfloat16."""


def gradients(module: TrainingModule, precision: Precision) -> tuple[float, torch.Tensor]:
    """Loss and gradient of the first batch."""
    module.network.zero_grad()
    with preserving_state(module):
        torch.manual_seed(0)
        batch = next(iter(module.train_dataloader()))
        loss: Any
        with autocast(CPU, precision):
            loss = module.training_step(batch, 0)
        loss.backward()
        slopes = [p.grad for p in module.network.parameters() if p.grad is not None]
    return loss.item(), torch.cat([slope.flatten() for slope in slopes])


@pytest.mark.parametrize("name", [*BACKBONES, "byol"])
def test_bf16_is_fp32_but_for_rounding(name: str) -> None:
    module = pretraining() if name == "byol" else training(backbone=name)
    exact, slope = gradients(module, "fp32")
    rounded, rough = gradients(module, "bf16")
    assert rounded == pytest.approx(exact, rel=10 * BF16, abs=10 * BF16)
    assert rounded != exact, "nothing was computed in bfloat16"
    assert torch.nn.functional.cosine_similarity(slope, rough, dim=0) > 0.98
    assert (rough - slope).norm() / slope.norm() < 0.2


@pytest.mark.slow  # a minute of compiling
@pytest.mark.parametrize("name", [*BACKBONES, "byol"])
def test_compiled_is_the_same_but_for_rounding(name: str) -> None:
    module = pretraining() if name == "byol" else training(backbone=name)
    exact, slope = gradients(module, "fp32")
    before = set(module.network.state_dict())
    compile_network(module, "fp32")
    compiled, other = gradients(module, "fp32")
    assert compiled == pytest.approx(exact, rel=1e-5)
    torch.testing.assert_close(other, slope, rtol=1e-3, atol=1e-5)
    assert set(module.network.state_dict()) == before, "a compiled network is stored as it was"


@pytest.mark.parametrize("make", [pretraining, training])
def test_rehearsals_leave_no_trace(make: Any, tmp_path: Path) -> None:
    trained = []
    for rehearsed in (False, True):
        module = make()
        torch.manual_seed(5)
        if rehearsed:
            with preserving_state(module):
                for batch in module.train_dataloader():
                    module.training_step(batch, 0).backward()  # type: ignore[no-untyped-call]
        assert torch.rand(1).item() == pytest.approx(0.8303, abs=1e-4)
        assert all(p.grad is None for p in module.network.parameters())
        history = History(lambda m: {})
        fit(module, [history], tmp_path / "c")
        trained.append((module.network.state_dict(), history.rows))
    assert trained[0][1] == trained[1][1]
    for name, value in trained[0][0].items():
        assert torch.equal(value, trained[1][0][name]), name


@pytest.mark.parametrize(
    ("fp32", "bf16", "chosen"), [(2.0, 1.0, "bf16"), (1.4, 1.0, "fp32"), (1.0, 2.0, "fp32")]
)
def test_what_is_not_known_is_measured_once(
    fp32: float, bf16: float, chosen: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Precision] = []

    def clock(precision: Precision) -> float:
        """Disturbed but once."""
        asked.append(precision)
        return {"fp32": fp32, "bf16": bf16}[precision] * (1 if len(asked) in (5, 8) else 9)

    monkeypatch.setattr(precision, "_probe", lambda: clock)
    monkeypatch.setattr(precision, "native_bf16", lambda: None)
    file = tmp_path / "cache/precision.json"
    assert precision_of("auto", file) == chosen
    times = len(asked)
    assert asked.count("fp32") == asked.count("bf16") == times / 2
    monkeypatch.setattr(precision, "_probe", None)
    assert precision_of("auto", file) == chosen, "a machine decides once, for all networks"
    monkeypatch.setattr(precision, "processor", lambda: "another")
    monkeypatch.setattr(precision, "_probe", lambda: lambda precision: 1.0)
    assert precision_of("auto", file) == "fp32"
    assert len(parse_checksummed(file.read_text())) == 2
    for damaged in ("{", "[]", '{"a": "b"}'):
        file.write_text(damaged)
        assert precision_of("auto", file) == "fp32"


def test_the_probe_trains_a_network_in_the_precision_asked_for() -> None:
    state = torch.random.get_rng_state()
    step = precision._probe()
    assert step("fp32") > 0
    assert step("bf16") > 0
    assert torch.equal(torch.random.get_rng_state(), state)


def test_what_is_known_or_asked_for_is_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "_probe", None)
    for native in (True, False):
        monkeypatch.setattr(precision, "native_bf16", lambda native=native: native)
        assert precision_of("auto", tmp_path / "p") == ("bf16" if native else "fp32")
        for ask in ("bf16", "fp32"):
            assert precision_of(ask, tmp_path / "p") == ask
    assert not (tmp_path / "p").exists()


def test_processors_without_bf16_compute_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for supported, known in ((False, False), (True, None)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda own=supported: own)
        assert device_module.native_bf16() is known


def test_a_network_that_does_not_compile_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    module = training()

    def fails(batch: Any, batch_idx: int) -> torch.Tensor:
        raise RuntimeError("no C++ compiler\nmore")

    monkeypatch.setattr(module, "training_step", fails)
    with pytest.raises(UserError, match=r"`compile` is true, .*\(no C\+\+ compiler\): set"):
        compile_network(module, "fp32")
