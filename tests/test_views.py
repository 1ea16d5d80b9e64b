from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import make_images

from rapipe.views import VIEWS, Normalise, gaussian_noise, to_float


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


def test_noise_is_clipped_and_rounded_as_in_cifar_10_c() -> None:
    black = np.zeros((20, 32, 32, 3), np.uint8)
    noisy = gaussian_noise(black, np.arange(20), 0.1, 0)
    assert noisy.dtype == np.uint8
    assert (noisy == 0).mean() == pytest.approx(0.5, abs=0.01 + 0.4 / 25.5)
    assert noisy.max() > 60


def test_noise_is_seeded_per_image() -> None:
    pixels, ids = grey()
    whole = gaussian_noise(pixels, ids, 0.1, 0)
    assert np.array_equal(gaussian_noise(pixels[5:9], ids[5:9], 0.1, 0), whole[5:9])
    assert len(np.unique(whole.reshape(len(ids), -1), axis=0)) == len(ids)
    assert not np.array_equal(gaussian_noise(pixels, ids, 0.1, 1), whole)
    assert np.array_equal(gaussian_noise(pixels, ids, 0.0, 0), pixels)
    double = (gaussian_noise(pixels, ids, 0.2, 0).astype(float) - 128) / 2 + 128
    assert np.abs(double - whole).mean() > 5, "levels share no noise"


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
    seen = VIEWS[name](32)(x).reshape(12, -1)
    assert len(torch.unique((seen * 1000).round(), dim=0)) > 6
