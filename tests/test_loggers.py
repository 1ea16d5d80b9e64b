"""Loggers get the history, and end."""

from __future__ import annotations

import csv
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pytorch_lightning.loggers import CSVLogger
from trainings import Killed, plain_training

from rapipe.errors import UserError
from rapipe.training import loggers as logs
from rapipe.training.callbacks import History
from rapipe.training.loop import fit


def table(path: Path) -> list[dict[str, float]]:
    with path.open() as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def test_the_csv_file_is_the_history_also_when_resumed(tmp_path: Path) -> None:
    file = tmp_path / "logs/one/csv/metrics.csv"

    def once(epochs: int, stop: int) -> History:
        module, history = plain_training(epochs=epochs), History(lambda m: {"score": 0.5}, 1)
        stops = [Killed(stop)] if stop else []
        given = logs.loggers([], tmp_path / "logs", "one")
        fit(module, [history, *stops], tmp_path / "c", loggers=given)
        return history

    with pytest.raises(RuntimeError, match="killed"):
        once(3, 2)
    assert [row["step"] for row in table(file)] == [1, 2, 3, 4, 5, 6]
    history = once(3, 0)
    assert table(file) == [pytest.approx(row) for row in history.rows]
    assert [row["step"] for row in history.rows] == [1, 2, 3, 4, 5, 6, 9]
    assert len(once(1, 0).rows) == len(table(file)) == 3, "another training's file begins anew"


def test_a_logger_that_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, package in (("tensorboard", "tensorboard"), ("wandb-offline", "wandb")):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(
            UserError,
            match=f"`loggers` names {name}, which is not installed: pip install {package}",
        ):
            logs.loggers([name], Path("nowhere"), "one")
    with pytest.raises(UserError, match="names mlflow, but there are csv, tensorboard, wandb"):
        logs.loggers(["mlflow"], Path("nowhere"), "one")
    with pytest.raises(UserError, match="wandb and wandb-offline: choose one"):
        logs.loggers(["wandb", "wandb-offline"], Path("nowhere"), "one")


class Stub(CSVLogger):
    """Stands in for Lightning's loggers of packages that are not installed."""

    made: list[tuple[Any, Any]] = []  # noqa: RUF012

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(args[1] if kwargs.get("project") else args[0], "stub", "v")
        self.got: list[tuple[int, dict[str, float]]] = []
        self.made.append((args, kwargs))

    def log_metrics(self, metrics: Any, step: Any = None) -> None:
        self.got.append((step, metrics))


def installed(package: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """An empty module that seems to be installed."""
    module = ModuleType(package)
    module.__spec__ = ModuleSpec(package, None)
    monkeypatch.setitem(sys.modules, package, module)
    return module


def test_a_run_that_does_not_start_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class NoAccount(Stub):
        @property
        def experiment(self) -> Any:
            raise RuntimeError("no API key configured")

    installed("wandb", monkeypatch)
    monkeypatch.setattr(logs, "WandbLogger", NoAccount)
    with pytest.raises(UserError, match=r"wandb, which does not start \(no API key.*wandb-offline"):
        logs.loggers(["wandb"], tmp_path, "one")


def test_named_loggers_get_the_history_and_runs_are_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[bool] = []
    module = installed("wandb", monkeypatch)
    module.finish = lambda: ended.append(True)  # type: ignore[attr-defined]
    installed("tensorboard", monkeypatch)
    monkeypatch.setattr(logs, "WandbLogger", Stub)
    monkeypatch.setattr(logs, "TensorBoardLogger", Stub)
    Stub.made.clear()
    given = logs.loggers(["tensorboard", "wandb-offline", "csv"], tmp_path, "a+b.c")
    assert [type(log) for log in given] == [CSVLogger, Stub, Stub]
    assert Stub.made[0] == (
        (tmp_path, "a+b.c"),
        {"version": "tensorboard", "default_hp_metric": False},
    )
    assert Stub.made[1] == (
        ("a+b.c", tmp_path, "a-b-c", True),
        {"project": "rapipe", "mode": "offline"},
    )
    history = History(lambda m: {"score": 0.5}, 2)
    fit(plain_training(), [history], tmp_path / "c", loggers=given[:1] + given[2:])
    assert ended == [True]
    for (step, metrics), row in zip(given[2].got, history.rows, strict=True):  # type: ignore[attr-defined]
        assert {**metrics, "step": step} == row
    assert len(history.rows) == 2


def test_online_is_only_what_is_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    installed("wandb", monkeypatch)
    monkeypatch.setattr(logs, "WandbLogger", Stub)
    Stub.made.clear()
    logs.loggers(["wandb"], tmp_path, "one")
    logs.loggers(["wandb-offline"], tmp_path, "one")
    assert [kwargs.get("mode") for _, kwargs in Stub.made] == [None, "offline"]
    assert [args[3] for args, _ in Stub.made] == [False, True]
