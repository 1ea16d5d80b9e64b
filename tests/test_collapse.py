"""Collapse is told from a small spread, from few images, and from what two labels look like."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_images

from rapipe.encoder.encoder import EncoderSpec
from rapipe.errors import ArgumentError
from rapipe.pretraining import collapse
from rapipe.pretraining.collapse import CollapseCheck
from rapipe.pretraining.pretrain import pretrain
from rapipe.records import Images, Vectors
from rapipe.specs import PretrainingRecipe

IMAGES = make_images(60)


class Fixed:
    """An encoder that gives row `i` to the image whose first pixel is `i`."""

    def __init__(self, features: np.ndarray) -> None:
        self.vectors = features / np.linalg.norm(features, axis=1, keepdims=True)

    def embed(self, pixels: np.ndarray) -> Vectors:
        return self.vectors[pixels[:, 0, 0, 0]].astype(np.float32)


def numbered(n: int = 60) -> Images:
    images = make_images(n)
    images.pixels[:, 0, 0, 0] = np.arange(n)
    return images


def cloud(spread: float, dimensions: int = 16, n: int = 60) -> np.ndarray:
    """Features that spread around one direction, in so many others."""
    features = np.zeros((n, 32))
    features[:, 0] = 1
    features[:, 1 : 1 + dimensions] = spread * np.random.default_rng(1).standard_normal(
        (n, dimensions)
    )
    return features


def informative(n: int = 60) -> np.ndarray:
    """Features of random weights that tell labels apart a little."""
    features = cloud(0.3, n=n)
    features[np.arange(n), 20 + np.arange(n) % 3] = 0.7
    return features


def module(epoch: int = 5, epochs: int = 50, steps: int = 500, may_collapse: bool = True) -> Any:
    return SimpleNamespace(
        current_epoch=epoch - 1,
        global_step=steps,
        batch_size=16,
        epoch_size=60,
        recipe=PretrainingRecipe(epochs=epochs, batch_size=16),
        network=SimpleNamespace(may_collapse=may_collapse),
    )


def refused_after(
    features: np.ndarray, images: Images | None = None, epochs: int = 9, **more: Any
) -> int:
    """The epoch of `epochs` in which a training with such features ends; 0 if it goes on."""
    images = numbered() if images is None else images
    check = CollapseCheck(images, Fixed(informative(len(images))))  # type: ignore[arg-type]
    for epoch in range(1, 1 + epochs):
        try:
            check.refuse(Fixed(features), module(epoch, epochs, **more))  # type: ignore[arg-type]
        except ArgumentError:
            return epoch
    return 0


@pytest.mark.parametrize("spread", [1.0, 0.03, 0.001])
def test_a_small_spread_is_no_collapse(spread: float) -> None:
    assert not refused_after(cloud(spread))


def test_a_point_or_a_line_is_refused_when_it_stays() -> None:
    point, line = cloud(1e-5), cloud(1.0, dimensions=1)
    assert refused_after(point) == refused_after(line) == collapse.PATIENCE
    assert refused_after(point, epochs=2) == 2, "the last epoch tells what will be used"
    assert refused_after(point, steps=3) == 9, "BatchNorm's statistics may still settle"
    assert refused_after(line, steps=3) == 0
    assert not refused_after(point, may_collapse=False)


def test_features_may_recover() -> None:
    check = CollapseCheck(numbered(), Fixed(cloud(1.0)))  # type: ignore[arg-type]
    for epoch in range(1, 20):
        features = cloud(1.0 if epoch % 3 == 0 else 1e-6)
        check.refuse(Fixed(features), module(epoch))  # type: ignore[arg-type]
    assert check.epochs == 1


@pytest.mark.parametrize("n", [1, 2, 3, 8, 12])
def test_few_images_lie_on_a_line_whatever_encodes_them(n: int) -> None:
    images = numbered(n)
    assert not refused_after(cloud(1.0, dimensions=1, n=n), images)
    assert bool(refused_after(cloud(1e-6, n=n), images)) is (n > 1)


def test_what_lies_on_a_line_for_a_reason_is_not_refused() -> None:
    """Two labels that were learned, and images that differ in brightness alone."""
    images = numbered()
    labels = np.arange(60) % 2
    learned = cloud(0.0)
    learned[:, 1] = np.where(labels, 1.0, -1.0) + 0.01 * np.random.default_rng(0).random(60)
    assert not refused_after(learned, replace(images, labels=labels))
    grey = images.pixels.copy()
    grey[:] = np.arange(60, dtype=np.uint8)[:, None, None, None]
    grey[:, 1:, 1:] = 90
    assert not refused_after(cloud(1.0, dimensions=1), replace(images, pixels=grey))


@pytest.mark.parametrize(
    ("features", "steps", "advice"),
    [
        (cloud(1e-6), 500, r"same to within rounding .*lower `learning_rate`, now 0\.2, raise"),
        (
            cloud(1.0, 1),
            500,
            r"line \(effective rank 1\.\d+\).*choose other `views` than affine",
        ),
        (cloud(1e-6), 2, r"step 2\).*too few steps, so raise `epochs`, now 1, lower `batch_size`"),
    ],
)
def test_the_advice_fits_the_cause(features: np.ndarray, steps: int, advice: str) -> None:
    check = CollapseCheck(numbered(), Fixed(informative()))  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=f"collapsed: after epoch 1 .*{advice}"):
        check.refuse(Fixed(features), module(1, 1, steps))  # type: ignore[arg-type]


def test_images_that_hardly_differ_are_named_as_the_cause() -> None:
    images = make_images(20)
    images.pixels[:] = 200
    images.pixels[:, 0, 0, 0] = np.arange(20)
    check = CollapseCheck(images, Fixed(cloud(1.0)))  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="the images themselves hardly differ"):
        check.refuse(Fixed(cloud(1e-7)), module(1, 1))  # type: ignore[arg-type]


def test_labelled_images_are_looked_at_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collapse, "ROWS", 10)
    images = numbered(30)
    images = replace(images, labels=np.where(np.arange(30) < 24, -1, 1))
    twice = images.take(np.tile(np.arange(30), 2))
    sample = CollapseCheck(twice, Fixed(cloud(1.0))).images  # type: ignore[arg-type]
    assert len(np.unique(sample.ids)) == len(sample) == 10
    assert (sample.labels == 1).sum() == 6


def coloured(n: int) -> Images:
    """Squares of two colours, on noise."""
    rng, images = np.random.default_rng(0), make_images(n, classes=2)
    images.pixels[:] = rng.integers(0, 80, images.pixels.shape)
    for row, pixels in enumerate(images.pixels):
        x, y = rng.integers(0, 8, 2)
        pixels[x : x + 8, y : y + 8, row % 2] = 250
    return images


@pytest.mark.parametrize(
    ("rate", "outcome"), [(0.05, ""), (60.0, "collapsed: .*lower `learning_rate`, now 60")]
)
def test_a_rate_that_is_far_too_high_ends_a_training(rate: float, outcome: str) -> None:
    images, validation = coloured(96), make_images(8, seed=1, classes=2)
    spec = EncoderSpec.of(images, "alexnet", 4)
    recipe = PretrainingRecipe(epochs=9, batch_size=16, learning_rate=rate, head=(16, 16))
    torch.manual_seed(0)
    if not outcome:
        assert pretrain(images, validation, spec, recipe, precision="fp32").scores
        return
    with pytest.raises(ArgumentError, match=outcome):
        pretrain(images, validation, spec, recipe, precision="fp32")


@pytest.mark.parametrize("validation", [1, 2])
def test_few_validation_images_are_no_collapse(validation: int) -> None:
    images = coloured(12)
    recipe = PretrainingRecipe(epochs=2, batch_size=4, learning_rate=0.02, head=(16, 16))
    spec = EncoderSpec.of(images, width=4)
    few = make_images(validation, seed=1, classes=2)
    history = pretrain(images, few, spec, recipe, precision="fp32").history
    assert [row["effective_rank"] for row in history] == pytest.approx([1.0, 1.0], abs=1e-3)
    assert all(np.isfinite(list(row.values())).all() for row in history)
