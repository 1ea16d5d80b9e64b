"""The data path: the same batches wherever the data lie."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_embeddings, make_images, make_spec

from rapipe.batches import loader
from rapipe.batches.loader import CPU, PREFETCHED, ArrayField, BatchLoader, prefetch
from rapipe.classifier.classifier import Classifier
from rapipe.classifier.neighbour_batch import DeviceBank, NeighbourField, standardise
from rapipe.io import memory_map
from rapipe.records import Embeddings, Images

MEAN, STD = (0.5, 0.5, 0.5), (0.3, 0.3, 0.3)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Images, Embeddings]:
    """Images and a bank that are mapped from files."""
    make_images(50).write(tmp_path / "images.arrow")
    make_embeddings(20).write(tmp_path / "bank")
    return Images.read(tmp_path / "images.arrow"), Embeddings.read(tmp_path / "bank")


def set_budget(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Let only arrays of at most so many bytes fit."""
    monkeypatch.setattr(loader, "memory_budget", lambda device: size)


ORDERS = {
    "all": np.arange(50),
    "shuffled": np.random.default_rng(0).permutation(50),
    "with repeats": np.random.default_rng(1).integers(0, 50, 77),
    "one": np.array([7]),
    "none": np.arange(0),
}


@pytest.mark.parametrize("order", ORDERS)
def test_batches_are_the_same_rows_from_device_and_file(
    order: str, files: tuple[Images, Embeddings], monkeypatch: pytest.MonkeyPatch
) -> None:
    images, rows = files[0], ORDERS[order]
    for storage in ("device", "file"):
        if storage == "file":
            set_budget(monkeypatch, 0)
        fields = [ArrayField(images.pixels, CPU), ArrayField(images.labels, CPU)]
        assert [field.resident for field in fields] == [storage == "device"] * 2
        batches = list(BatchLoader(CPU, *fields).batches(rows, 16))
        assert [len(labels) for _, labels in batches] == [
            len(rows[start : start + 16]) for start in range(0, len(rows), 16)
        ]
        for start, (pixels, labels) in enumerate(batches):
            batch_rows = rows[start * 16 : start * 16 + 16]
            assert np.array_equal(pixels.numpy(), images.pixels[batch_rows])
            assert np.array_equal(labels.numpy(), images.labels[batch_rows])


@pytest.mark.parametrize("bank_fits", [True, False])
@pytest.mark.parametrize("table_fits", [True, False])
def test_neighbours_are_the_same_from_device_and_file(
    bank_fits: bool,
    table_fits: bool,
    files: tuple[Images, Embeddings],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bank = files[1]
    table = np.random.default_rng(0).integers(0, 20, (50, 4)).astype(np.int32)
    table.setflags(write=False)  # as tables are that are mapped
    set_budget(monkeypatch, 1 << 30 if bank_fits else 0)
    device_bank = DeviceBank(bank, 2, CPU)
    assert device_bank.vectors.resident == bank_fits
    set_budget(monkeypatch, 1 << 30 if table_fits else 0)
    field = NeighbourField(table, device_bank)
    assert field.indices.resident == (table_fits and bank_fits)
    order = np.random.default_rng(1).permutation(50)
    labels = np.where(bank.labels < 2, bank.labels, -1)
    for start, (neighbours,) in enumerate(BatchLoader(CPU, field).batches(order, 16)):
        indices = table[order[start * 16 : start * 16 + 16]]
        expected = standardise(torch.from_numpy(bank.vectors[indices]))
        assert torch.equal(neighbours.vectors, expected)
        assert np.array_equal(neighbours.labels.numpy(), labels[indices])
        assert neighbours.present.all()


def test_what_is_in_memory_is_not_copied_and_what_is_mapped_is() -> None:
    array = np.arange(10)
    field = ArrayField(array, CPU, resident=False)
    array[3] = 77
    assert field.resident
    assert field.assemble(field.fetch(torch.tensor([3]))).item() == 77


def test_a_field_that_is_not_resident_is_streamed(files: tuple[Images, Embeddings]) -> None:
    assert memory_map.is_mapped(files[0].pixels)
    assert not ArrayField(files[0].pixels, CPU, resident=False).resident


def test_training_is_the_same_from_memory_and_from_files(
    files: tuple[Images, Embeddings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rapipe.classifier.module import ClassifierModule
    from rapipe.records import Neighbours
    from rapipe.specs import TrainingRecipe
    from rapipe.training.loop import fit

    images, bank = files
    table = np.random.default_rng(0).integers(0, 20, (50, 4)).astype(np.int32)
    neighbours = Neighbours(images.ids, table, np.zeros((50, 4), np.float32))
    states = []
    for fits in (True, False):
        if not fits:
            set_budget(monkeypatch, 0)
        torch.manual_seed(0)
        spec = make_spec("perceiver", mean=MEAN, std=STD)
        memory = DeviceBank(bank, 3, CPU)
        classifier = Classifier(spec)
        recipe = TrainingRecipe(epochs=2, batch_size=16, learning_rate=1e-3, augment="flip")
        module = ClassifierModule(classifier, images, neighbours, memory, recipe, 0)
        assert all(part.resident for part in module.loader.fields[::2]) is fits
        fit(module, [], tmp_path / "c")
        states.append(
            (classifier.state_dict(), classifier.predict(images.pixels, memory, table)),
        )
    for name, value in states[0][0].items():
        assert torch.equal(value, states[1][0][name]), name
    assert np.array_equal(states[0][1], states[1][1])


def test_prefetch_is_two_batches_ahead_of_the_caller() -> None:
    numbers: list[int] = []

    def source() -> Iterator[tuple[torch.Tensor]]:
        for number in range(10):
            numbers.append(number)
            yield (torch.tensor(number),)

    batches = prefetch(source(), CPU)
    assert next(batches)[0].item() == 0
    deadline = time.monotonic() + 5
    while len(numbers) < 1 + PREFETCHED and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert numbers == list(range(1 + PREFETCHED))
    assert [batch[0].item() for batch in batches] == list(range(1, 10))


def test_prefetch_raises_errors_and_leaves_no_thread() -> None:
    def source() -> Iterator[Any]:
        yield (torch.tensor(1),)
        raise OSError("the disk is gone")

    threads = threading.active_count()
    with pytest.raises(OSError, match="the disk is gone"):
        list(prefetch(source(), CPU))
    endless = prefetch(iter(lambda: (torch.tensor(1),), None), CPU)
    next(endless)
    endless.close()  # type: ignore[attr-defined]
    assert threading.active_count() == threads
