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
from conftest import make_embeddings, make_images

from rapipe.batches import loader as feed_module
from rapipe.batches.loader import CPU, PREFETCHED, ArrayField, BatchLoader, prefetch
from rapipe.classifier.classifier import Classifier, ClassifierSpec
from rapipe.classifier.neighbour_batch import DeviceBank, NeighbourField
from rapipe.io import memory_map
from rapipe.records import Embeddings, Images

MEAN, STD = (0.5, 0.5, 0.5), (0.3, 0.3, 0.3)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Images, Embeddings]:
    """Images and a bank that are mapped from files."""
    make_images(50).write(tmp_path / "images.arrow")
    make_embeddings(20).write(tmp_path / "bank")
    return Images.read(tmp_path / "images.arrow"), Embeddings.read(tmp_path / "bank")


def room(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Only what has at most so many bytes fits."""
    monkeypatch.setattr(feed_module, "room", lambda on: most)


ORDERS = {
    "all": np.arange(50),
    "shuffled": np.random.default_rng(0).permutation(50),
    "with repeats": np.random.default_rng(1).integers(0, 50, 77),
    "one": np.array([7]),
    "none": np.arange(0),
}


@pytest.mark.parametrize("order", ORDERS)
def test_batches_are_the_rows_asked_for_wherever_they_lie(
    order: str, files: tuple[Images, Embeddings], monkeypatch: pytest.MonkeyPatch
) -> None:
    images, rows = files[0], ORDERS[order]
    made = {}
    for where in ("device", "file"):
        if where == "file":
            room(monkeypatch, 0)
        columns = [ArrayField(images.pixels, CPU), ArrayField(images.labels, CPU)]
        assert [column.resident for column in columns] == [where == "device"] * 2
        made[where] = list(BatchLoader(CPU, *columns).batches(rows, 16))
    for batches in made.values():
        assert [len(labels) for _, labels in batches] == [
            len(rows[start : start + 16]) for start in range(0, len(rows), 16)
        ]
        for start, (pixels, labels) in enumerate(batches):
            own = rows[start * 16 : start * 16 + 16]
            assert np.array_equal(pixels.numpy(), images.pixels[own])
            assert np.array_equal(labels.numpy(), images.labels[own])


@pytest.mark.parametrize("bank_fits", [True, False])
@pytest.mark.parametrize("table_fits", [True, False])
def test_neighbours_are_gathered_wherever_bank_and_table_lie(
    bank_fits: bool,
    table_fits: bool,
    files: tuple[Images, Embeddings],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bank = files[1]
    table = np.random.default_rng(0).integers(0, 20, (50, 4)).astype(np.int32)
    table.setflags(write=False)  # as tables are that are mapped
    room(monkeypatch, 1 << 30 if bank_fits else 0)
    memory = DeviceBank(bank, 2, CPU)
    room(monkeypatch, 1 << 30 if table_fits else 0)
    part = NeighbourField(table, memory)
    assert (part.indices.resident, memory.vectors.resident) == (table_fits and bank_fits, bank_fits)
    order = np.random.default_rng(1).permutation(50)
    for start, (found,) in enumerate(BatchLoader(CPU, part).batches(order, 16)):
        own = table[order[start * 16 : start * 16 + 16]]
        assert np.array_equal(found.vectors.numpy(), bank.vectors[own])
        assert np.array_equal(found.labels.numpy(), np.where(bank.labels < 2, bank.labels, -1)[own])
        assert found.present.all()


def test_what_is_in_memory_is_not_copied_and_what_is_mapped_is() -> None:
    array = np.arange(10)
    column = ArrayField(array, CPU, stay=False)
    array[3] = 77
    assert column.resident
    assert column.place(column.fetch(torch.tensor([3]))).item() == 77


def test_a_column_that_does_not_stay_is_streamed(files: tuple[Images, Embeddings]) -> None:
    assert memory_map.is_mapped(files[0].pixels)
    assert not ArrayField(files[0].pixels, CPU, stay=False).resident


def test_training_is_the_same_from_memory_and_from_files(
    files: tuple[Images, Embeddings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rapipe.batches.transforms import VIEWS
    from rapipe.classifier.module import ClassifierModule
    from rapipe.records import Neighbours
    from rapipe.training.loop import fit
    from rapipe.training.module import Schedule

    images, bank = files
    table = np.random.default_rng(0).integers(0, 20, (50, 4)).astype(np.int32)
    neighbours = Neighbours(images.ids, table, np.zeros((50, 4), np.float32))
    states = []
    for fits in (True, False):
        if not fits:
            room(monkeypatch, 0)
        torch.manual_seed(0)
        spec = ClassifierSpec("perceiver", 4, "half", 16, 3, MEAN, STD, "knn", 8, "both")
        memory = DeviceBank(bank, 3, CPU)
        classifier = Classifier(spec)
        module = ClassifierModule(
            classifier, VIEWS["flip"](16), images, neighbours, memory, Schedule(2, 16, 1e-3, 0),
            0.01, 0.5,
        )  # fmt: skip
        assert all(part.resident for part in module.feed.parts[::2]) is fits
        fit(module, [], tmp_path / "c")
        states.append(
            (classifier.state_dict(), classifier.predict(images.pixels, memory, table)),
        )
    for name, value in states[0][0].items():
        assert torch.equal(value, states[1][0][name]), name
    assert np.array_equal(states[0][1], states[1][1])


def test_ahead_works_while_the_caller_does_and_no_further() -> None:
    made: list[int] = []

    def source() -> Iterator[tuple[torch.Tensor]]:
        for number in range(10):
            made.append(number)
            yield (torch.tensor(number),)

    batches = prefetch(source(), CPU)
    assert next(batches)[0].item() == 0
    deadline = time.monotonic() + 5
    while len(made) < 1 + PREFETCHED and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    assert made == list(range(1 + PREFETCHED))
    assert [batch[0].item() for batch in batches] == list(range(1, 10))


def test_ahead_hands_on_errors_and_leaves_no_thread() -> None:
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
