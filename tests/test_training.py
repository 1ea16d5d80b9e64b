"""Pretraining and training: what is learned, and that interruptions change nothing."""

from __future__ import annotations

import hashlib
import os
import pickle
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_embeddings
from trainings import Stop, plain_training, pretraining, training

from rapipe.batches.loader import CPU, ArrayField, BatchLoader, RowField
from rapipe.classifier.module import ClassifierModule
from rapipe.classifier.neighbour_batch import DeviceBank, NeighbourField
from rapipe.errors import UserError
from rapipe.training.callbacks import BestEpoch, History
from rapipe.training.checkpoint import ChecksummedIO
from rapipe.training.loop import fit
from rapipe.training.module import EpochBatches, epoch_rows


def averaged() -> ClassifierModule:
    """A training with every trick but those that find something, and a mean of weights."""
    tricks = {"accumulate": 2, "clip": 0.5, "average": "ema", "patience": 9, "warmup": 0.5}
    tricks |= {"schedule": "linear", "label_smoothing": 0.1, "mixup": 0.4}
    return training(n=70, backbone="resnet18", **tricks)


def swa() -> ClassifierModule:
    return training(epochs=4, backbone="resnet18", average="swa", schedule="step")


def measure(module: Any) -> dict[str, float]:
    return {"score": float(sum(p.detach().double().abs().sum() for p in module.parameters()))}


def run(module: Any, folder: Path, stop: int | None = None) -> tuple[History, BestEpoch]:
    history = History(measure, 1)
    best = BestEpoch(module, history, "score")
    if stop:
        with pytest.raises(RuntimeError, match="killed"):
            fit(module, [history, best, Stop(stop)], folder)
    else:
        fit(module, [history, best], folder)
    return history, best


@pytest.mark.parametrize("make", [pretraining, training, averaged, swa])
def test_resumed_equals_uninterrupted(make: Any, tmp_path: Path) -> None:
    whole = make()
    history, best = run(whole, tmp_path / "whole")
    assert not (tmp_path / "whole").exists()
    epochs = whole.recipe.epochs
    run(make(), tmp_path / "cut", stop=1)
    assert (tmp_path / "cut/last.ckpt").exists()
    run(make(), tmp_path / "cut", stop=epochs - 1)
    resumed = make()
    again, best_again = run(resumed, tmp_path / "cut")
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert again.rows == history.rows
    assert best_again.best["row"] == best.best["row"]
    assert len(history.rows) == 2 + 2 + (epochs - 2)


def test_checkpoints_are_written_where_it_is_measured(tmp_path: Path) -> None:
    """Else the loss of the first row after it resumes would be that of fewer steps."""

    def rows(name: str, stop: int | None = None) -> list[Any]:
        history = History(measure, measure_every=3)
        if stop is None:
            fit(training(epochs=8), [history], tmp_path / name)
            return history.rows
        with pytest.raises(RuntimeError, match="killed"):
            fit(training(epochs=8), [history, Stop(stop)], tmp_path / name)
        return history.rows

    whole = rows("whole")
    assert [row["epoch"] for row in whole] == [3, 6, 8]
    rows("cut", stop=1)
    assert not (tmp_path / "cut/last.ckpt").exists()
    rows("cut", stop=4)
    assert ChecksummedIO().load_checkpoint(tmp_path / "cut/last.ckpt")["epoch"] == 2
    assert rows("cut") == whole


@pytest.mark.parametrize("make", [pretraining, training])
def test_same_seed_same_numbers_other_seed_others(make: Any, tmp_path: Path) -> None:
    rows = [run(make(seed=seed), tmp_path / "c")[0].rows for seed in (0, 0, 1)]
    assert rows[0] == rows[1]
    assert rows[0][-1]["loss"] != rows[2][-1]["loss"]


def test_checkpoints_cannot_run_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "harm"),)

    buffer = BytesIO()
    torch.save({"state_dict": Evil()}, buffer)
    forged = buffer.getvalue()
    forged += hashlib.sha256(forged).digest()
    with pytest.raises(pickle.UnpicklingError):
        ChecksummedIO().load_checkpoint(_put(tmp_path / "c/last.ckpt", forged))
    fit(training(), [], tmp_path / "c")
    assert not (tmp_path / "harm").exists()
    assert "c/last.ckpt is damaged, so this training starts again" in capsys.readouterr().err


@pytest.mark.parametrize("way", ["cut short", "a flipped bit", "empty", "another's"])
def test_a_damaged_checkpoint_is_not_resumed_from(
    way: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = training(epochs=2)
    fit(whole, [], tmp_path / "w", keep=True)
    data = (tmp_path / "w/last.ckpt").read_bytes()
    middle = len(data) // 2
    damaged = {
        "cut short": data[:middle],
        "a flipped bit": data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :],
        "empty": b"",
        "another's": b"PK" + data[2:],
    }[way]
    if way == "another's":
        damaged = damaged[:-1] + bytes([damaged[-1] ^ 1])
    again = training(epochs=2)
    _put(tmp_path / "c/last.ckpt", damaged)
    fit(again, [], tmp_path / "c")
    assert "starts again" in capsys.readouterr().err
    for one, other in zip(
        whole.network.state_dict().values(), again.network.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other)


def _put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_training_learns_from_neighbours_alone(tmp_path: Path) -> None:
    """Labels that only the neighbours show are learned; with all dropped they are not."""
    scores = {}
    for dropout in (0.0, 1.0):
        module = training(epochs=4, rate=0.01, dropout=dropout, n=96)
        noise = np.random.default_rng(5).integers(0, 256, (96, 16, 16, 3), dtype=np.uint8)
        labels = np.random.default_rng(6).integers(0, 3, 96)
        bank = make_embeddings(20)
        same = [np.flatnonzero(bank.labels == label)[:4] for label in labels]
        table = NeighbourField(np.stack(same).astype(np.int32), DeviceBank(bank, 3, CPU))
        images_and_labels = ArrayField(noise, CPU), ArrayField(labels, CPU)
        module.loader = BatchLoader(CPU, RowField(), *images_and_labels, table)
        module.augment = torch.nn.Identity()
        history = History(lambda m: {"train": m.pop_mean("correct")})
        fit(module, [history], tmp_path / "c")
        scores[dropout] = history.rows[-1]["train"]
    assert scores[0.0] > 0.95
    assert scores[1.0] < 0.6


def test_divergence_is_told(tmp_path: Path) -> None:
    module = pretraining(rate=50.0)
    torch.nn.init.constant_(next(module.network.encoder.parameters()), float("nan"))
    with pytest.raises(UserError, match=r"loss became nan in epoch 1 .*`learning_rate`, now 50"):
        fit(module, [History(lambda m: {})], tmp_path / "c")


def test_one_value_of_a_feature_is_a_sentence(tmp_path: Path) -> None:
    """A ResNet ends with a map of one pixel here, which BatchNorm cannot normalise alone."""
    message = "training: an epoch has 1 image, but two are needed, since BatchNorm"
    with pytest.raises(UserError, match=message):
        fit(plain_training(n=1), [History(lambda m: {})], tmp_path / "c")
    fit(plain_training(n=1, backbone="perceiver"), [History(lambda m: {})], tmp_path / "d")


def test_a_tiny_batch_is_named_where_a_training_diverges() -> None:
    with pytest.raises(UserError, match="or add images: BatchNorm of 3 is unstable"):
        training(n=3).refuse_divergence("the loss became nan")


def seen(weights: np.ndarray, seed: int = 0, epoch: int = 0) -> list[int]:
    """The rows of an epoch in batches of 16."""
    order = epoch_rows(weights, np.random.default_rng([seed, epoch]))
    feed = BatchLoader(CPU, ArrayField(np.arange(len(weights)), CPU))
    epoch = EpochBatches(feed, order, 16)
    assert len(epoch) == len(list(epoch))
    return torch.cat([rows for (rows,) in epoch]).tolist()


def test_batches_hold_every_image_once_and_follow_seed_and_epoch() -> None:
    ones = np.ones(50)
    assert len(seen(ones)) == len(set(seen(ones))) == 48
    assert seen(ones) == seen(ones)
    assert seen(ones) != seen(ones, epoch=1) != seen(ones, 1, 1)


def test_weights_say_how_often_an_epoch_sees_an_image() -> None:
    weights = np.repeat([0, 0.25, 1, 2.5], [16, 64, 16, 32])
    epochs = [np.bincount(seen(weights, epoch=e), minlength=128) for e in range(40)]
    for counts in epochs:
        assert counts.sum() == 0 + 16 + 16 + 80
        assert (counts[:16] == 0).all()
        assert set(counts[16:80]) == {0, 1}
        assert (counts[80:96] == 1).all()
        assert set(counts[96:]) == {2, 3}
    mean = np.mean(epochs, 0)
    assert mean[16:80] == pytest.approx(0.25, abs=0.25)
    assert mean[96:] == pytest.approx(2.5, abs=0.3)


def test_pretraining_steps_follow_the_weights() -> None:
    assert pretraining(weight=2.5).steps_an_epoch == 100 // 16
    assert pretraining(weight=0.25).batch_size == 10
    few = r"an epoch has 0 images, of 40 \(made: 40 of weight 0.001\)"
    with pytest.raises(UserError, match=f"pretraining: {few}: raise `weights`"):
        pretraining(weight=0.001)
    with pytest.raises(UserError, match=r"an epoch has 1 image, .*BYOL compares images: raise"):
        pretraining(weight=0.025)


def test_a_batch_larger_than_the_set_is_the_whole_set() -> None:
    module = training(n=10)
    assert len(module.train_dataloader()) == module.steps_an_epoch == 1
    assert len(next(iter(module.train_dataloader()))[0]) == 10


def test_best_keeps_the_first_of_equal_epochs() -> None:
    network, history = torch.nn.Linear(1, 1), History(lambda m: {})
    best = BestEpoch(network, history, "score")
    for value, score in ((1.0, 0.5), (2.0, 0.9), (3.0, 0.9), (4.0, 0.7)):
        torch.nn.init.constant_(network.weight, value)
        history.rows.append({"score": score, "epoch": value})
        now = SimpleNamespace(callbacks=[], global_step=value)
        best.on_train_epoch_end(now, SimpleNamespace(measured_step=value))  # type: ignore[arg-type]
    assert best.restore()["epoch"] == 2
    assert network.weight.item() == 2
