"""Images of any size as a network wants them: against Pillow, and the same for every image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import make_images, make_spec
from PIL import Image

from rapipe.batches.preprocess import Preprocess, resize
from rapipe.batches.transforms import Normalise, gaussian_noise, to_float
from rapipe.classifier.classifier import Classifier
from rapipe.classifier.train import train_classifier
from rapipe.encoder.encoder import Encoder, EncoderSpec
from rapipe.evaluation.measures.noise_levels import predict_levels
from rapipe.records import Images
from rapipe.specs import TrainingRecipe

PLAIN = (0.5,) * 3, (0.3,) * 3
SPLITS = ("train", "validation")
PILLOW = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
TOLERANCE = 2 / 255
"""Pillow rounds weights and the result of each of its two passes; nothing here is rounded."""


def smooth_images(n: int = 3, size: int = 48) -> Images:
    """Waves and edges, as photographs have them, besides noise."""
    images = make_images(n, size=size)
    y, x = np.mgrid[:size, :size] / size
    for row in range(n):
        wave = 127 + 120 * np.sin(2 * np.pi * (row + 1) * (x + 0.3 * row * y))
        images.pixels[row, ..., 0] = wave
        images.pixels[row, ..., 1] = np.where(x > y, 255, 0)
    return images


@pytest.mark.parametrize("interpolation", PILLOW)
@pytest.mark.parametrize("size", [16, 31, 48, 64, 96])
def test_resizing_is_pillow_s(interpolation: str, size: int) -> None:
    pixels = smooth_images().pixels
    resized = resize(to_float(torch.from_numpy(pixels)), size, interpolation)
    for image, result in zip(pixels, resized, strict=True):
        expected = Image.fromarray(image).resize((size, size), PILLOW[interpolation])
        difference = np.abs(result.permute(1, 2, 0).numpy() - np.asarray(expected) / 255)
        assert difference.max() < TOLERANCE


def test_an_image_that_is_made_smaller_shows_no_pattern_of_its_own() -> None:
    stripes = np.zeros((1, 64, 64, 3), np.uint8)
    stripes[:, :, ::2] = 255  # to the eye grey; without antialiasing all white or black
    resized = resize(to_float(torch.from_numpy(stripes)), 16)
    assert (resized - 0.5).abs().max() < 0.1


def test_a_crop_is_the_centre_of_the_resized_image() -> None:
    images = to_float(torch.from_numpy(smooth_images(size=40).pixels))
    cut = resize(images, 28, crop=0.875)
    assert torch.equal(cut, resize(images, 32)[..., 2:30, 2:30])


def test_images_that_are_as_they_should_be_are_only_normalised() -> None:
    images = to_float(torch.from_numpy(make_images(2).pixels))
    assert torch.equal(Preprocess(16, *PLAIN)(images), Normalise(*PLAIN)(images))


def test_an_image_does_not_depend_on_the_others() -> None:
    images = make_images(70, size=24)
    encoder = Encoder(EncoderSpec("resnet18", 8, "half", 40, *PLAIN, crop=0.8))
    together = encoder.embed(images.pixels)
    alone = encoder.embed(images.pixels[7:8])
    assert np.array_equal(together[7:8], alone)


def test_large_images_are_predicted_in_small_batches() -> None:
    sizes = {size: Preprocess(size, *PLAIN).batch_size for size in (16, 32, 64, 128, 224, 1024)}
    assert sizes == {16: 512, 32: 256, 64: 64, 128: 16, 224: 4, 1024: 1}


def test_bfloat16_is_near_float32() -> None:
    images = make_images(8, size=24)
    torch.manual_seed(0)
    exact = Encoder(EncoderSpec("resnet18", 8, "half", 24, *PLAIN))
    rounded = Encoder(replace(exact.spec, precision="bf16"), exact.backbone)
    one, other = exact.embed(images.pixels), rounded.embed(images.pixels)
    assert not np.array_equal(one, other)
    assert (one * other).sum(1).min() > 0.99


def test_noise_is_on_the_stored_image_whatever_size_networks_see() -> None:
    """Encoder and classifier see the same noisy image, each resized as it wants."""
    images = replace(make_images(6, size=32), labels=np.arange(6) % 3)
    spec = make_spec(attend="")
    classifier = Classifier(replace(spec, network=replace(spec.network, image_size=16))).eval()
    clean, noisy = predict_levels(classifier, images, (0.0, 0.2), None, None, seed=0)
    stored = gaussian_noise(images.pixels, images.ids, 0.2, 0)
    assert np.array_equal(noisy.pixels, stored)
    assert stored.shape == images.pixels.shape
    assert np.array_equal(noisy.logits, classifier.predict(stored))
    assert not np.array_equal(clean.logits, noisy.logits)


def test_classifiers_learn_from_larger_images_as_from_the_same_made_smaller() -> None:
    large = {
        split: make_images(24, seed, size=32) for seed, split in enumerate(("train", "validation"))
    }
    preprocess = Preprocess(16, *PLAIN)
    small = {split: preprocess.shrink(images) for split, images in large.items()}
    assert small["train"].pixels.shape == (24, 16, 16, 3)
    assert np.array_equal(small["train"].ids, large["train"].ids)
    network = EncoderSpec("alexnet", 4, "half", 16, *PLAIN)
    recipe = TrainingRecipe(epochs=2, batch_size=8, precision="fp32")
    one, other = (
        train_classifier(images, network=network, recipe=recipe).classifier
        for images in (large, small)
    )
    weights = other.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in one.state_dict().items())


def test_noise_in_training_is_on_the_stored_image() -> None:
    """So its images are not made smaller beforehand: noise would be averaged away, or not be."""
    images = {
        split: make_images(16, seed, size=32) for seed, split in enumerate(("train", "validation"))
    }
    network = EncoderSpec("alexnet", 4, "half", 16, *PLAIN)
    recipe = TrainingRecipe(epochs=1, batch_size=8, precision="fp32")
    seen: list[int] = []
    original = Preprocess.forward

    def record(self: Preprocess, batch: torch.Tensor) -> torch.Tensor:
        seen.append(batch.shape[-1])
        return original(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Preprocess, "forward", record)
        train_classifier(images, network=network, recipe=recipe, noise_std=0.1)
    assert set(seen) == {32}


def test_smaller_images_stay_as_they_are() -> None:
    images = make_images(3, size=16)
    assert Preprocess(64, *PLAIN).shrink(images) is images
