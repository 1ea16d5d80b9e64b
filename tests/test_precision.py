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
from rapipe.io.tables import parse_checksummed, write_checksummed
from rapipe.training import precision
from rapipe.training.callbacks import History
from rapipe.training.compilation import compile_network, preserving_state
from rapipe.training.loop import fit
from rapipe.training.module import TrainingModule
from rapipe.training.precision import known_precision, precision_of

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
    assert compiled == pytest.approx(exact, rel=1e-5, abs=1e-6)
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


@pytest.fixture
def unmeasured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's cache file that does not exist yet, on a machine whose speed is not known."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(precision, "native_bf16", lambda: None)
    monkeypatch.setattr(precision, "_speedups", {})
    return tmp_path / "cache/rapipe/precision.json"


def clock(fp32: float, bf16: float, undisturbed: tuple[int, ...] = ()) -> Any:
    """A probe that says so many seconds, and nine times as many in rounds that are disturbed."""
    rounds = {"fp32": 0, "bf16": 0}

    def step(precision: Precision) -> float:
        rounds[precision] += 1
        slower = 9 if undisturbed and rounds[precision] not in undisturbed else 1
        return slower * {"fp32": fp32, "bf16": bf16}[precision]

    step.rounds = rounds  # type: ignore[attr-defined]
    return step


@pytest.mark.parametrize(
    ("fp32", "bf16", "chosen"), [(2.0, 1.0, "bf16"), (1.4, 1.0, "fp32"), (1.0, 2.0, "fp32")]
)
def test_a_machine_is_measured_once_for_all_projects(
    fp32: float,
    bf16: float,
    chosen: str,
    unmeasured: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert known_precision("auto") is None
    assert not unmeasured.exists(), "to ask what is known measures nothing"
    monkeypatch.setattr(precision, "_probe", lambda: clock(fp32, bf16, undisturbed=(3,)))
    assert precision_of("auto", tmp_path / "project.json") == chosen
    monkeypatch.setattr(precision, "_probe", None)
    monkeypatch.setattr(precision, "_speedups", {})  # as in another process
    for project in (None, tmp_path / "another.json"):
        assert precision_of("auto", project) == known_precision("auto", project) == chosen
    assert not (tmp_path / "project.json").exists()
    monkeypatch.setattr(precision, "processor", lambda: "another")
    assert known_precision("auto") is None
    monkeypatch.setattr(precision, "_probe", lambda: clock(1.0, 1.0))
    assert precision_of("auto") == "fp32"
    assert len(parse_checksummed(unmeasured.read_text())) == 2
    for damaged in ("{", "[]", '{"a": "b"}'):
        unmeasured.write_text(damaged)
        assert precision_of("auto") == "fp32"


def test_rounds_end_when_it_is_clear_or_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def rounds(fp32: float, bf16: float, hours: float = 0.0) -> int:
        step, now = clock(fp32, bf16), iter(hours * 3600 * n for n in range(99))
        monkeypatch.setattr(precision, "_probe", lambda: step)
        monkeypatch.setattr("time.perf_counter", lambda: next(now))
        assert precision._measure() == pytest.approx(fp32 / bf16)
        return int(step.rounds["fp32"])

    assert rounds(2.0, 1.0) == rounds(1.0, 1.0) == 1 + precision.LEAST_ROUNDS
    assert rounds(1.5, 1.0) == 1 + precision.ROUNDS
    assert rounds(1.5, 1.0, hours=1.0) == 1


@pytest.mark.parametrize("home", ["a file", "not set"])
def test_where_there_is_no_home_the_project_remembers_or_the_process(
    home: str, unmeasured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if home == "a file":
        unmeasured.parent.parent.write_text("no folder")
    else:
        monkeypatch.delenv("XDG_CACHE_HOME")

        def homeless() -> Path:
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.setattr(Path, "home", homeless)
    project, nowhere = tmp_path / "data/precision.json", tmp_path / "file/precision.json"
    nowhere.parent.write_text("no folder")
    monkeypatch.setattr(precision, "_probe", lambda: clock(2.0, 1.0))
    assert precision_of("auto", project) == "bf16"
    monkeypatch.setattr(precision, "_probe", None)
    for kept in (project, nowhere, None):
        assert precision_of("auto", kept) == known_precision("auto", kept) == "bf16"
    monkeypatch.setattr(precision, "_speedups", {})
    assert precision_of("auto", project) == "bf16"
    assert known_precision("auto", nowhere) is None


def test_a_project_stays_with_the_precision_that_it_holds(
    unmeasured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checksummed(tmp_path / "precision.json", {precision._machine(): 2.0})
    monkeypatch.setattr(precision, "_probe", lambda: clock(1.0, 1.0))
    assert precision_of("auto") == "fp32"
    assert precision_of("auto", tmp_path / "precision.json") == "bf16"


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
        for choose in (precision_of, known_precision):
            assert choose("auto", tmp_path / "p") == ("bf16" if native else "fp32")
            for ask in ("bf16", "fp32"):
                assert choose(ask, tmp_path / "p") == ask
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
