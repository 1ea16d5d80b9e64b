"""Training a classifier: a teacher in place of labels, and what learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_embeddings, make_images, make_neighbours
from trainings import plain_training, training

import rapipe
from rapipe.classifier.module import Teacher
from rapipe.classifier.neighbour_batch import NeighbourBatch
from rapipe.errors import ArgumentError
from rapipe.training.loop import fit


def test_a_teacher_stands_in_for_labels_which_are_only_compared_with() -> None:
    """What the loss is, and whom the accuracy counts: labelled images, however batches fall."""
    images = make_images(8)
    labels = images.labels.copy()
    labels[[0, 1, 2, 3, 5]] = -1
    soft = np.eye(3, dtype=np.float32)[np.arange(8) % 3] * 5
    module = plain_training(batch=4, images=replace(images, labels=labels), teacher=Teacher(soft))
    module.eval()
    for batch in module.loader.batches(np.arange(8), 4):
        module.training_step(batch, 0)
    logits = torch.from_numpy(module.network.predict(images.pixels))
    slow = -(torch.from_numpy(soft).softmax(1) * logits.log_softmax(1)).sum(1).mean()
    assert module.pop_loss() == pytest.approx(slow.item(), rel=1e-5)
    right = (logits.argmax(1).numpy() == labels)[[4, 6, 7]].mean()
    assert module.pop_mean("correct") == pytest.approx(right)
    batch = next(iter(module.loader.batches(np.arange(4), 4)))
    module.training_step(batch, 0)
    assert np.isnan(module.pop_mean("correct"))


def test_a_student_learns_what_its_teacher_says(tmp_path: Path) -> None:
    soft = np.eye(3, dtype=np.float32)[np.arange(48) % 3] * 8
    images = make_images(48)
    unlabelled = replace(images, labels=np.full(48, -1))
    module = plain_training(
        batch=16, epochs=25, images=unlabelled, teacher=Teacher(soft), backbone="alexnet"
    )
    fit(module, [], tmp_path / "c")
    assert (module.network.predict(images.pixels).argmax(1) == images.labels).mean() > 0.9


def test_only_what_learns_is_given_to_the_optimiser(tmp_path: Path) -> None:
    module = plain_training()
    module.network.backbone.requires_grad_(False)
    given = module.configure_optimizers()["optimizer"].param_groups[0]["params"]
    assert len(given) == len(list(module.network.head.parameters()))


@pytest.mark.parametrize("noise_std", [0.0, 0.1])
@pytest.mark.parametrize("copied", [True, False])
def test_half_of_the_images_of_an_epoch_are_copies(
    noise_std: float, copied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies see the neighbours of copies, and have noise where there is some; no others do."""
    other = make_neighbours(np.full((96, 4), 7)) if copied else None
    module = training(n=96, noise_std=noise_std, noisy_neighbours=other)
    module.augment = torch.nn.Identity()
    seen: list[tuple[torch.Tensor, NeighbourBatch]] = []
    forward = module.network.forward
    monkeypatch.setattr(
        module.network, "forward", lambda *parts: seen.append(parts) or forward(*parts)
    )
    rows = []
    for batch in module.train_dataloader():
        rows.append(batch[0])
        module.training_step(batch, 0)
    order = torch.cat(rows).numpy()
    copies = order >= 96 if copied or noise_std else np.zeros(96, bool)
    assert sorted(order % 96) == list(range(96))
    assert bool(copies.any()) is (copied or noise_std > 0)
    assert copies.sum() < 80
    stored = torch.from_numpy(make_images(96).pixels[order % 96]).permute(0, 3, 1, 2) / 255
    noisy = (torch.cat([images for images, _ in seen]) != stored).flatten(1).any(1).numpy()
    assert np.array_equal(noisy, copies if noise_std else np.zeros(96, bool))
    labels = torch.cat([shown.labels for _, shown in seen]).numpy()
    of_copies = (labels == make_embeddings(20).labels[7]).all(axis=1)
    assert not copied or of_copies[copies].all()
    assert not of_copies[~copies].all()


def test_neighbours_of_copies_must_be_of_the_same_images() -> None:
    images = {"train": make_images(48), "validation": make_images(24, seed=1)}
    tables = {
        name: replace(make_neighbours(np.zeros((len(i), 4))), query_ids=i.ids)
        for name, i in images.items()
    }
    bank = make_embeddings(20)
    fewer = make_neighbours(np.zeros((48, 3)))
    with pytest.raises(
        ArgumentError, match="show 3 rows of `bank`, but `neighbours` of train show 4"
    ):
        rapipe.train_classifier(images, tables, bank, noisy_neighbours=fewer)
    strangers = replace(tables["train"], query_ids=images["train"].ids + 1)
    with pytest.raises(ArgumentError, match="`noisy_neighbours` are of other images"):
        rapipe.train_classifier(images, tables, bank, noisy_neighbours=strangers)
