"""Smoothed labels and mixed images, by the slow formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import make_images
from torch.nn import functional as F
from trainings import plain_training

from rapipe.classifier.module import Teacher
from rapipe.specs import TrainingRecipe
from rapipe.training.mixing import label_smoothing, mixup


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
    recipe = TrainingRecipe(mixup=1.0, label_smoothing=0.1)
    options = {"teacher": Teacher(soft, 2.0)} if taught else {}
    module = plain_training(recipe, 8, images=images, **options)
    module.eval()
    batch = next(iter(module.loader.batches(np.arange(8), 8)))
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
    assert module.pop_mean("correct") == pytest.approx(right.item())
