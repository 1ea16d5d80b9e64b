"""Tricks of training, each by what it does; finders and loggers."""

from __future__ import annotations

import csv
import sys
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_images
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor, nn
from torch.nn import functional as F

from rapipe.classifier.classifier import Classifier, ClassifierSpec
from rapipe.classifier.module import ClassifierModule
from rapipe.device import Precision
from rapipe.errors import UserError
from rapipe.io.tables import parse_checksummed
from rapipe.methods import TRICKS
from rapipe.training import loggers as logs
from rapipe.training import tuner
from rapipe.training.averaging import AVERAGES
from rapipe.training.callbacks import BestEpoch, History
from rapipe.training.loop import fit
from rapipe.training.mixing import label_smoothing, mixup
from rapipe.training.module import Schedule
from rapipe.training.recipe import Tricks
from rapipe.training.schedules import SCHEDULES, scheduler
from rapipe.training.tuner import TUNERS

GREY = ((0.5,) * 3, (0.3,) * 3)


def training(
    tricks: Tricks = Tricks(),  # noqa: B008
    batch: int = 16,
    epochs: int = 1,
    n: int = 48,
    rate: float = 0.01,
    backbone: str = "resnet18",
    **more: Any,
) -> ClassifierModule:
    torch.manual_seed(0)
    classifier = Classifier(ClassifierSpec(backbone, 4, "half", 16, 3, *GREY, "none", 0, ""))
    schedule = Schedule(epochs, batch, rate, 0)
    images = more.pop("images", None) or make_images(n)
    return ClassifierModule(
        classifier, nn.Identity(), images, None, None, schedule, 0.0, 0.0, tricks, **more
    )


def plain(module: ClassifierModule) -> ClassifierModule:
    """The same without BatchNorm and dropout, so that a batch may be taken in parts; with SGD."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 3))
    module.network.forward = lambda images, retrieved=None: net(images)  # type: ignore[method-assign]
    module.network.net = net
    module.configure_optimizers = lambda: torch.optim.SGD(net.parameters(), 0.1)  # type: ignore[method-assign]
    return module


class Each(Callback):
    """Calls a function after each optimiser step."""

    def __init__(self, note: Any) -> None:
        self.note = note

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        self.note(module)


def state(module: Any) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.network.state_dict().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_each_trick_says_what_it_does_and_where_it_is_from() -> None:
    for name, trick in {**TRICKS, **AVERAGES, **SCHEDULES, **TUNERS, **logs.LOGGERS}.items():
        assert trick.__doc__, name
        assert trick.__doc__.splitlines()[0].endswith("."), name
        assert "Source: " in trick.__doc__, name


def test_two_batches_of_8_step_as_one_of_16(tmp_path: Path) -> None:
    found = []
    for tricks, batch in ((Tricks(accumulate=2), 8), (Tricks(), 16)):
        torch.manual_seed(0)
        module = plain(training(tricks, batch, epochs=2, n=60))
        history = History(lambda m: {}, 1)
        fit(module, [history], tmp_path / "c")
        found.append((state(module), history.rows))
    for name, value in found[0][0].items():
        torch.testing.assert_close(value, found[1][0][name], msg=name)
    for one, other in zip(found[0][1], found[1][1], strict=True):
        assert one == pytest.approx(other, rel=1e-5)
    assert [row["images_seen"] for row in found[0][1]] == [16, 32, 48, 64, 80, 96]


def test_an_epoch_with_fewer_batches_than_a_step_wants_is_one_step() -> None:
    module = training(Tricks(accumulate=100))
    assert (module.accumulate, module.steps_an_epoch, len(module.train_dataloader())) == (3, 1, 3)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_clipping_bounds_the_norm(precision: Precision, tmp_path: Path) -> None:
    norms: list[float] = []

    def note(module: ClassifierModule) -> None:
        gradients = [p.grad.flatten() for p in module.parameters() if p.grad is not None]
        norms.append(float(torch.cat(gradients).norm()))

    for clip in (0.0, 0.01):
        fit(training(), [Each(note)], tmp_path / "c", precision, Tricks(clip=clip))
    assert min(norms[:3]) > 0.1
    assert norms[3:] == pytest.approx([0.01] * 3, rel=1e-3)


def test_moving_average_is_a_slow_loops(tmp_path: Path) -> None:
    """It is measured and kept, BatchNorm's statistics with it; training goes on as without."""
    weights: list[dict[str, Tensor]] = []
    module = training(Tricks(average="ema"), epochs=2)
    measured: list[dict[str, Tensor]] = []
    history = History(lambda m: {"score": float(measured.append(state(m)) or len(measured))})
    best = BestEpoch(module.network, history, "score")
    fit(module, [Each(lambda m: weights.append(state(m))), history, best], tmp_path / "c")
    without: list[dict[str, Tensor]] = []
    fit(training(epochs=2), [Each(lambda m: without.append(state(m)))], tmp_path / "c")
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
    assert equal(best.kept["weights"], measured[1])
    assert equal(state(module), measured[1]), "the average is what is left"


def test_swa_is_the_mean_of_the_last_epochs_weights(tmp_path: Path) -> None:
    ends: list[dict[str, Tensor]] = []
    measured: list[dict[str, Tensor]] = []

    class Ends(Callback):
        def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
            ends.append(state(module))

    module = training(Tricks(average="swa"), epochs=8)
    history = History(lambda m: {"n": float(measured.append(state(m)) or 0)})
    fit(module, [Ends(), history], tmp_path / "c")
    assert all(equal(ends[i], measured[i]) for i in range(7)), "one is its own mean"
    for name, value in measured[7].items():
        if value.is_floating_point():
            torch.testing.assert_close(value, (ends[6][name] + ends[7][name]) / 2, msg=name)
    assert not equal(ends[7], measured[7])
    assert equal(state(module), measured[7])


def test_a_copy_for_averages_has_no_data() -> None:
    import copy

    module = training()
    assert copy.deepcopy(module).feed is None
    assert module.feed is not None


SCORES = [0.1, 0.5, 0.4, 0.5, 0.3, 0.9]


def told(module: ClassifierModule, scores: list[float]) -> tuple[History, BestEpoch]:
    left = iter(scores)
    history = History(lambda m: {"score": next(left)})
    return history, BestEpoch(module.network, history, "score")


def test_training_stops_when_patience_ends(tmp_path: Path) -> None:
    """.4, and .5 again, and .3 are not better than .5: the fifth epoch is the last."""
    module = training(Tricks(patience=3), epochs=6)
    history, best = told(module, SCORES)
    fit(module, [history, best], tmp_path / "c")
    assert [row["score"] for row in history.rows] == SCORES[:5]
    assert best.restore()["epoch"] == 2


@pytest.mark.parametrize(("every", "measured"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4, 5]), (9, [5])])
def test_epochs_between_measurements_and_the_last_one(
    every: int, measured: list[int], tmp_path: Path
) -> None:
    """Only what was measured can be the best: the last epoch here, each better than before."""
    module = training(epochs=5)
    seen: list[torch.Tensor] = []

    def measure(own: ClassifierModule) -> dict[str, float]:
        seen.append(next(own.network.parameters()).detach().clone())
        return {"score": float(len(seen))}

    history = History(measure, epochs=every)
    best = BestEpoch(module.network, history, "score")
    fit(module, [history, best], tmp_path / "c")
    assert [row["epoch"] for row in history.rows] == measured
    assert best.restore()["epoch"] == 5
    assert torch.equal(next(module.network.parameters()), seen[-1])


def test_patience_counts_measured_epochs(tmp_path: Path) -> None:
    """Measured after 2, 4, 6 and 8 epochs; the best is the first: two more are waited for."""
    module = training(Tricks(patience=2), epochs=20)
    left = iter([0.5, 0.4, 0.4, 0.9])
    history = History(lambda m: {"score": next(left)}, epochs=2)
    best = BestEpoch(module.network, history, "score")
    fit(module, [history, best], tmp_path / "c")
    assert [row["epoch"] for row in history.rows] == [2, 4, 6]
    assert best.restore()["epoch"] == 2


class Killed(Callback):
    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        if trainer.current_epoch == self.epoch:
            raise RuntimeError("killed")

    def on_train_end(self, trainer: Any, module: Any) -> None:
        raise RuntimeError("killed")


@pytest.mark.parametrize("epoch", [3, 99])
def test_patience_goes_on_where_it_was(epoch: int, tmp_path: Path) -> None:
    """Killed while it waits, or after the last epoch's checkpoint and before the end."""
    module = training(Tricks(patience=3), epochs=6)
    history, best = told(module, SCORES)
    with pytest.raises(RuntimeError, match="killed"):
        fit(module, [history, best, Killed(epoch)], tmp_path / "c")
    module = training(Tricks(patience=3), epochs=6)
    history, best = told(module, SCORES[epoch:])
    fit(module, [history, best], tmp_path / "c")
    assert [row["score"] for row in history.rows] == SCORES[:5]
    assert best.restore()["epoch"] == 2


def test_patience_without_a_score_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="patience needs a Best"):
        fit(training(Tricks(patience=3)), [], tmp_path / "c")


def rates(tricks: Tricks, steps: int) -> list[float]:
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 2.0)
    schedule, seen = scheduler(optimiser, steps, tricks), []
    for _ in range(steps):
        seen.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    return seen


@pytest.mark.parametrize(
    ("tricks", "by_hand"),
    [
        (Tricks(), [2, 1 + 0.5**0.5, 1, 1 - 0.5**0.5]),
        (Tricks(schedule="linear"), [2, 1.5, 1, 0.5]),
        (Tricks(schedule="constant"), [2, 2, 2, 2]),
        (Tricks(schedule="step"), [2, 2, 0.2, 0.02]),
        (Tricks(schedule="linear", warmup=0.5), [2 / 3, 4 / 3, 2, 1]),
        (Tricks(warmup=0.5), [2 / 3, 4 / 3, 2, 1]),
        (Tricks(schedule="constant", warmup=1.0), [0.4, 0.8, 1.2, 1.6]),
    ],
)
def test_schedules_by_hand(tricks: Tricks, by_hand: list[float]) -> None:
    assert rates(tricks, 4) == pytest.approx(by_hand)


def test_schedules_count_optimiser_steps(tmp_path: Path) -> None:
    seen: list[float] = []
    module = training(Tricks(accumulate=3, schedule="linear"), epochs=4)
    note = Each(lambda m: seen.append(m.optimizers().param_groups[0]["lr"]))
    fit(module, [note], tmp_path / "c")
    assert seen[2::3] == pytest.approx([0.0075, 0.005, 0.0025, 0])


def test_label_smoothing_is_the_slow_formula() -> None:
    logits, labels = torch.randn(6, 3), torch.arange(6) % 3
    slow = 0.0
    for row, label in zip(logits, labels, strict=True):
        p = row.exp() / row.exp().sum()
        for c in range(3):
            target = 0.9 * (c == int(label)) + 0.1 / 3
            slow -= target * p[c].log().item() / 6
    assert label_smoothing(logits, labels, 0.1).item() == pytest.approx(slow, rel=1e-5)
    one_hot = F.one_hot(labels, 3).float()
    assert label_smoothing(logits, one_hot, 0.1).item() == pytest.approx(slow, rel=1e-5)
    assert torch.equal(label_smoothing(logits, labels, 0.0), F.cross_entropy(logits, labels))


def test_mixup_mixes_with_another_and_keeps_most_of_an_image() -> None:
    torch.manual_seed(0)
    images, weights = torch.rand(8, 3, 4, 4), []
    for _ in range(300):
        mixed, others, own = mixup(images, 0.4)
        torch.testing.assert_close(mixed, own * images + (1 - own) * images[others])
        assert sorted(others.tolist()) == list(range(8))
        weights.append(own)
    assert min(weights) >= 0.5
    drawn = np.random.default_rng(0).beta(0.4, 0.4, 100_000)
    assert np.mean(weights) == pytest.approx(np.maximum(drawn, 1 - drawn).mean(), abs=0.03)


@pytest.mark.parametrize("taught", [False, True])
def test_mixed_images_have_mixed_targets(taught: bool) -> None:
    """The loss is the slow cross entropy with the same mixture of what is to be said."""
    images = make_images(8)
    soft = np.random.default_rng(1).standard_normal((8, 3)).astype(np.float32) * 3
    tricks = Tricks(mixup=1.0, label_smoothing=0.1)
    more = {"soft": soft, "temperature": 2.0} if taught else {}
    module = training(tricks, 8, images=images, **more)
    module.eval()
    batch = next(iter(module.feed.batches(np.arange(8), 8)))
    torch.manual_seed(3)
    loss = module.training_step(batch, 0)
    torch.manual_seed(3)
    mixed, others, own = mixup(torch.from_numpy(images.pixels).permute(0, 3, 1, 2) / 255, 1.0)
    logits, labels = module.network(mixed), torch.from_numpy(images.labels)
    t = 2.0 if taught else 1.0
    targets = (torch.from_numpy(soft) / t).softmax(1) if taught else F.one_hot(labels, 3).float()
    targets = 0.9 * (own * targets + (1 - own) * targets[others]) + 0.1 / 3
    slow = -(targets * (logits / t).log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(loss, slow)
    right = (logits.argmax(1) == labels).float().mean()
    assert module.take("correct") == pytest.approx(right.item())


def test_a_teacher_stands_in_for_labels_which_are_only_compared_with() -> None:
    """What the loss is, and whom the accuracy counts: labelled images, however batches fall."""
    images = make_images(8)
    labels = images.labels.copy()
    labels[[0, 1, 2, 3, 5]] = -1
    soft = np.eye(3, dtype=np.float32)[np.arange(8) % 3] * 5
    module = training(batch=4, images=replace(images, labels=labels), soft=soft)
    module.eval()
    for batch in module.feed.batches(np.arange(8), 4):
        module.training_step(batch, 0)
    logits = torch.from_numpy(module.network.predict(images.pixels))
    slow = -(torch.from_numpy(soft).softmax(1) * logits.log_softmax(1)).sum(1).mean()
    assert module.take_loss() == pytest.approx(slow.item(), rel=1e-5)
    right = (logits.argmax(1).numpy() == labels)[[4, 6, 7]].mean()
    assert module.take("correct") == pytest.approx(right)
    batch = next(iter(module.feed.batches(np.arange(4), 4)))
    module.training_step(batch, 0)
    assert np.isnan(module.take("correct"))


def test_a_student_learns_what_its_teacher_says(tmp_path: Path) -> None:
    soft = np.eye(3, dtype=np.float32)[np.arange(48) % 3] * 8
    images = make_images(48)
    unlabelled = replace(images, labels=np.full(48, -1))
    module = training(batch=16, epochs=25, images=unlabelled, soft=soft, backbone="alexnet")
    fit(module, [], tmp_path / "c")
    assert (module.network.predict(images.pixels).argmax(1) == images.labels).mean() > 0.9


def test_only_what_learns_is_given_to_the_optimiser(tmp_path: Path) -> None:
    module = training()
    module.network.backbone.requires_grad_(False)
    given = module.configure_optimizers()["optimizer"].param_groups[0]["params"]
    assert len(given) == len(list(module.network.head.parameters()))


def test_a_falling_loss_is_steepest_where_it_is_placed() -> None:
    rates = np.logspace(-6, 0, 90)
    losses = 2 - 1 / (1 + (0.003 / rates) ** 2)  # half way down at .003
    noise = np.where(np.arange(90) % 2, 1e-3, -1e-3) * (rates < 1e-4)
    for seen in (losses + noise, np.where(rates > 0.5, np.nan, losses)):
        assert tuner.steepest([*rates], [*seen]) == pytest.approx(0.003, rel=0.15)
    for flat in ([1.0] * 90, []):
        with pytest.raises(UserError, match=r"train\.tune names learning_rate, but"):
            tuner.steepest([*rates][: len(flat)], flat)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuner, "RATE_STEPS", 30)


@pytest.mark.usefixtures("quick")
def test_finders_leave_no_trace_and_resume_with_what_they_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trained on with what was found, given from the start, it is the same training."""
    images = make_images(300)
    pixels = images.pixels // 4 + 80 * images.labels[:, None, None, None]  # can be learned
    images = replace(images, pixels=pixels.astype(np.uint8))
    tricks = Tricks(tune=("learning_rate", "batch_size"), average="ema", accumulate=2)
    module = training(tricks, 4, epochs=2, images=images)
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
    found = parse_checksummed((tmp_path / "c/found.json").read_text())
    assert found["batch_size"] == 16, "8 steps of 2 batches of 16 are 256 images, of 32 are 512"
    assert 1e-6 < found["learning_rate"] < 1
    said = capsys.readouterr().err
    assert f"found learning_rate {found['learning_rate']:g}" in said
    assert "Finding" not in said, "Lightning's own bar"

    module = training(tricks, 4, epochs=2, images=images)
    history = History(lambda m: {})
    assert fit(module, [history], tmp_path / "c") == found
    given = training(
        replace(tricks, tune=()), 16, epochs=2, rate=found["learning_rate"], images=images
    )
    again = History(lambda m: {})
    fit(given, [again], tmp_path / "d")
    assert again.rows == history.rows
    assert equal(state(given), state(module))


def test_on_a_cpu_batches_end_with_what_a_step_may_keep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tricks = Tricks(tune=("batch_size",))
    one = tuner.bytes_an_image(training(batch=4, n=300))
    monkeypatch.setattr(tuner, "CPU_BYTES", one * 9)
    assert fit(training(batch=4, n=300), [], tmp_path / "c", tricks=tricks) == {"batch_size": 8}
    assert fit(training(batch=16, n=300), [], tmp_path / "c", tricks=tricks) == {"batch_size": 16}


def table(path: Path) -> list[dict[str, float]]:
    with path.open() as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def test_the_csv_file_is_the_history_also_when_resumed(tmp_path: Path) -> None:
    file = tmp_path / "logs/one/csv/metrics.csv"

    def once(epochs: int, stop: int) -> History:
        module, history = training(epochs=epochs), History(lambda m: {"score": 0.5}, 1)
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
            match=f"train.loggers names {name}, which is not installed: pip install {package}",
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
    fit(training(), [history], tmp_path / "c", loggers=given[:1] + given[2:])
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
