from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import make_images

from rapipe.batches.transforms import (
    VIEWS,
    YIQ,
    ColourJitter,
    Normalise,
    RandAugment,
    RandomGaussianNoise,
    gaussian_noise,
    to_float,
)


def grey(n: int = 40, size: int = 32) -> tuple[np.ndarray, np.ndarray]:
    return np.full((n, size, size, 3), 128, np.uint8), np.arange(n) - n // 2


def test_to_float() -> None:
    images = make_images(3)
    x = to_float(torch.from_numpy(images.pixels.copy()))
    assert (x.shape, x.dtype) == ((3, 3, 16, 16), torch.float32)
    assert x[1, 2, 3, 4] == pytest.approx(images.pixels[1, 3, 4, 2] / 255)
    assert x.is_contiguous(memory_format=torch.channels_last)


def test_normalise() -> None:
    x = torch.rand(50, 3, 8, 8)
    mean, std = tuple(x.mean((0, 2, 3)).tolist()), tuple(x.std((0, 2, 3)).tolist())
    normal = Normalise(mean, std)(x)
    assert torch.allclose(normal.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(normal.std((0, 2, 3)), torch.ones(3), atol=1e-3)


@pytest.mark.parametrize("std", [0.04, 0.1, 0.2])
def test_noise_has_the_stated_deviation_and_no_bias(std: float) -> None:
    pixels, ids = grey()
    noise = gaussian_noise(pixels, ids, std, 0).astype(float) / 255 - 128 / 255
    assert noise.std() == pytest.approx(std, rel=0.02)
    assert noise.mean() == pytest.approx(0, abs=std / 50)
    channels = noise.reshape(-1, 3)
    assert np.abs(np.corrcoef(channels.T) - np.eye(3)).max() < 0.02


def test_noise_in_training_is_on_half_of_the_images() -> None:
    torch.manual_seed(0)
    images = torch.full((400, 3, 8, 8), 0.5)
    noisy = RandomGaussianNoise(0.1)(images)
    changed = (noisy != images).any(dim=(1, 2, 3))
    assert 160 < changed.sum() < 240
    assert (noisy - images)[changed].std().item() == pytest.approx(0.1, rel=0.02)
    assert torch.equal(images, torch.full((400, 3, 8, 8), 0.5))
    noisy = RandomGaussianNoise(1.0)(images)
    assert (noisy.min(), noisy.max()) == (0, 1)


def test_noise_is_clipped_and_rounded_as_in_cifar_10_c() -> None:
    black = np.zeros((20, 32, 32, 3), np.uint8)
    noisy = gaussian_noise(black, np.arange(20), 0.1, 0)
    assert noisy.dtype == np.uint8
    assert (noisy == 0).mean() == pytest.approx(0.5, abs=0.01 + 0.4 / 25.5)
    assert noisy.max() > 60


def test_noise_is_seeded_per_image() -> None:
    pixels, ids = grey()
    noisy = gaussian_noise(pixels, ids, 0.1, 0)
    assert np.array_equal(gaussian_noise(pixels[5:9], ids[5:9], 0.1, 0), noisy[5:9])
    assert len(np.unique(noisy.reshape(len(ids), -1), axis=0)) == len(ids)
    assert not np.array_equal(gaussian_noise(pixels, ids, 0.1, 1), noisy)
    assert np.array_equal(gaussian_noise(pixels, ids, 0.0, 0), pixels)
    double = (gaussian_noise(pixels, ids, 0.2, 0).astype(float) - 128) / 2 + 128
    assert np.abs(double - noisy).mean() > 5, "levels share no noise"


@pytest.mark.parametrize("name", VIEWS)
def test_views_keep_shape_and_follow_the_seed(name: str) -> None:
    x = to_float(torch.from_numpy(make_images(12, size=32).pixels.copy()))
    views = VIEWS[name](32)
    torch.manual_seed(0)
    one = views(x)
    torch.manual_seed(0)
    same = views(x)
    other = views(x)
    assert one.shape == x.shape
    assert torch.isfinite(one).all()
    assert torch.equal(one, same)
    assert torch.equal(one, other) is (name == "none")


@pytest.mark.parametrize("name", [name for name in VIEWS if name != "none"])
def test_views_differ_from_image_to_image(name: str) -> None:
    """The same picture twelve times in one batch does not stay the same picture."""
    x = to_float(torch.from_numpy(make_images(1, size=32).pixels.copy())).repeat(12, 1, 1, 1)
    augmented = VIEWS[name](32)(x).reshape(12, -1)
    assert len(torch.unique((augmented * 1000).round(), dim=0)) > 6


@pytest.mark.parametrize("size", [16, 28, 96])
def test_randaugment_takes_each_image_its_own_steps(size: int) -> None:
    torch.manual_seed(0)
    ramp = torch.linspace(0.1, 0.7, size).repeat(3, size, 1)[None].repeat(200, 1, 1, 1)
    views = VIEWS["randaugment"](size)
    augmented = views(ramp)
    assert augmented.shape == ramp.shape
    assert augmented.min() >= 0
    assert augmented.max() <= 1
    assert len(torch.unique((augmented.reshape(200, -1) * 1000).round(), dim=0)) > 60
    assert torch.equal(ramp[0], ramp[1]), "what is given stays as it is"
    assert not any(p.requires_grad for p in views.parameters())


def test_each_step_of_randaugment_is_kornias() -> None:
    """One step that needs no random number, taken by all images."""
    views = RandAugment(1, 9)
    images = torch.rand(5, 3, 16, 16)
    views.choices = views.choices[2:3]  # invert
    torch.testing.assert_close(views(images), 1 - images)


def jitter() -> ColourJitter:
    return ColourJitter(0.4, 0.4, 0.4, 0.1, p=0.8, grey=0.2)


@pytest.mark.parametrize("what", ["brightness", "contrast", "saturation"])
def test_each_factor_is_kornias(what: str) -> None:
    """Away from 0 and 1, where kornia clips after each step and the matrix only at the end."""
    from kornia import enhance

    reference = {
        "brightness": enhance.adjust_brightness_accumulative,
        "contrast": enhance.adjust_contrast_with_mean_subtraction,
        "saturation": enhance.adjust_saturation_with_gray_subtraction,
    }[what]
    images, factor = torch.rand(30, 3, 8, 8) / 2 + 0.25, torch.linspace(0.8, 1.2, 30)
    factors = {name: torch.ones(30) for name in ("brightness", "contrast", "saturation")}
    changed = jitter().recolour(images, **{**factors, what: factor}, hue=torch.zeros(30))
    torch.testing.assert_close(changed, reference(images, factor), atol=1e-5, rtol=0)


def test_hue_turns_the_colour_plane_of_yiq_in_the_direction_of_hsv() -> None:
    """Brightness and distance from grey stay, the angle grows by the turn."""
    import colorsys

    colours, turns = torch.rand(200, 3, 1, 1) / 4 + 0.4, torch.linspace(-0.1, 0.1, 200)
    one = torch.ones(200)
    turned = jitter().recolour(colours, one, one, one, turns)
    plane = torch.tensor([[0.299, 0.587, 0.114], *YIQ[1:]])
    before, after = (plane @ c[:, :, 0, 0].T for c in (colours, turned))  # (3, N)
    torch.testing.assert_close(after[0], before[0])
    torch.testing.assert_close(after[1:].norm(dim=0), before[1:].norm(dim=0))
    angles = torch.atan2(after[1], after[2]) - torch.atan2(before[1], before[2])
    differences = (angles / (2 * torch.pi) + 0.5) % 1 - 0.5
    torch.testing.assert_close(differences, turns, atol=2e-3, rtol=0)
    for old, new, turn in zip(colours, turned, turns.tolist(), strict=True):
        hues = [colorsys.rgb_to_hsv(*c.flatten().tolist())[0] for c in (old, new)]
        assert ((hues[1] - hues[0] + 0.5) % 1 - 0.5) * turn > 0


@pytest.mark.parametrize("name", [name for name in VIEWS if name != "none"])
def test_what_views_draw_does_not_move_with_them(name: str) -> None:
    """kornia would draw on the device, and in the precision, that the module is moved to."""
    views = VIEWS[name](32).to(torch.float64)
    drawn = {
        (str(step.device), step.dtype)
        for step in views.modules()
        if hasattr(step, "set_rng_device_and_dtype")
    }
    assert drawn == {("cpu", torch.float32)}


def test_steps_of_colour_are_taken_in_their_order() -> None:
    images, drawn = torch.rand(9, 3, 4, 4) / 4 + 0.4, torch.rand(4, 9) * 0.1 + 1
    one, zero = torch.ones(9), torch.zeros(9)
    step = jitter().recolour
    by_steps = step(images, drawn[0], one, one, zero)
    by_steps = step(by_steps, one, drawn[1], one, zero)
    by_steps = step(by_steps, one, one, drawn[2], zero)
    by_steps = step(by_steps, one, one, one, drawn[3] - 1)
    torch.testing.assert_close(step(images, *drawn[:3], drawn[3] - 1), by_steps)


def test_shares_of_images_that_are_changed_and_grey() -> None:
    torch.manual_seed(0)
    images = torch.rand(1, 3, 4, 4).repeat(4000, 1, 1, 1)
    augmented = jitter()(images)
    assert augmented.min() >= 0
    assert augmented.max() <= 1
    grey = (augmented - augmented.mean(1, keepdim=True)).abs().amax((1, 2, 3)) < 1e-4
    same = (augmented - images).abs().amax((1, 2, 3)) < 1e-4
    assert grey.float().mean() == pytest.approx(0.2, abs=0.02)
    assert same.float().mean() == pytest.approx(0.2 * 0.8, abs=0.02)


def test_crops_cut_and_scale_without_bending() -> None:
    """A crop of a ramp is a ramp, of at most the same slope: (no) shear, turn or squeeze at all."""
    ramp = torch.linspace(0.2, 0.8, 32).repeat(3, 32, 1)[None].repeat(50, 1, 1, 1)
    cropped = VIEWS["crop"](32)[0](ramp)
    steps = cropped.diff(dim=3)[..., 1:-1]
    assert (cropped.diff(dim=2).abs() < 1e-5).all()
    assert (steps > 0).all()
    assert (steps <= 0.6 / 31 + 1e-4).all()
    assert steps.amin((1, 2, 3)).max() > 2 * steps.amin((1, 2, 3)).min()


def test_a_noisy_crop_is_a_crop_with_noise_on_half_of_the_images() -> None:
    images = torch.full((400, 3, 16, 16), 0.5)
    torch.manual_seed(0)
    clean = VIEWS["crop"](16)(images)
    torch.manual_seed(0)
    noise = VIEWS["noisy-crop"](16)(images) - clean
    spread = noise.flatten(1).std(dim=1)
    noisy = spread > 0
    assert 150 < noisy.sum() < 250
    assert spread[noisy].median() == pytest.approx(0.1, abs=0.01)
