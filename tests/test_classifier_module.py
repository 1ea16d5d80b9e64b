"""Training a classifier: a teacher in place of labels, and what learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_images
from trainings import plain_training

from rapipe.classifier.module import Teacher
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
