"""The fifteen corruptions: what holds for each, and each against slow and obvious code."""

from __future__ import annotations

import colorsys
import io
import zlib

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from scipy import ndimage

from rapipe.batches import transforms
from rapipe.errors import ArgumentError
from rapipe.evaluation.corruptions import CORRUPTIONS, blur, digital, filters, lookup, parse
from rapipe.evaluation.corruptions.base import CHUNK, SEVERITIES, Draws
from rapipe.evaluation.corruptions.contact_sheet import contact_sheet
from rapipe.evaluation.corruptions.textures import frost_texture, plasma
from rapipe.records import Pixels

Array = npt.NDArray[np.float64]

FIXED = {"defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"}
"""Those that draw nothing."""
RANDOM = [name for name in CORRUPTIONS if name not in FIXED]
NOT_MONOTONE = {"glass_blur", "motion_blur", "frost", "elastic_transform"}
"""Those whose published constants do not lead further away with each severity."""
FROST = ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))
"""Published weights of the image and of the frost."""
MORE = 40
"""Images over which a mean of pixels settles."""


def pictures(n: int, side: int = 32) -> Pixels:
    """Smooth colours with a darker rectangle in each, the same ones at every side."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, :side] / side
    pixels = np.empty((n, side, side, 3), np.uint8)
    for image in pixels:
        waves, phases = rng.uniform(-9, 9, (2, 3)), rng.uniform(0, 6, 3)
        image[:] = 130 + 90 * np.sin(x[..., None] * waves[0] + y[..., None] * waves[1] + phases)
        top, left = (rng.uniform(0.1, 0.5, 2) * side).astype(int)
        image[top : top + side // 3, left : left + side // 4] //= 3
    return pixels


def distance(corrupted: Pixels, clean: Pixels) -> float:
    """Mean absolute difference of pixels, of 255."""
    return float(np.abs(corrupted.astype(int) - clean).mean())


def assert_close(corrupted: Pixels, expected: Array, off_by: float = 1e-3) -> None:
    """Pixels are these numbers of [0, 1] times 255, rounded, when they are computed this well."""
    differences = np.abs(corrupted - np.clip(expected, 0, 1) * 255)
    assert differences.max() <= 0.5 + off_by


# What holds for each


def test_the_published_ones_in_the_published_order() -> None:
    assert list(CORRUPTIONS) == [
        *("gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur"),
        *("motion_blur", "zoom_blur", "snow", "frost", "fog", "brightness", "contrast"),
        *("elastic_transform", "pixelate", "jpeg_compression"),
    ]
    assert [corrupt.__name__ for corrupt in CORRUPTIONS.values()] == list(CORRUPTIONS)


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("severity", [1, 5])
def test_an_image_is_corrupted_alike_whatever_stands_beside_it(name: str, severity: int) -> None:
    corrupt, pixels = CORRUPTIONS[name], pictures(CHUNK + 5)
    ids = np.random.default_rng(1).integers(-(2**62), 2**62, len(pixels))
    before = pixels.copy()
    corrupted = corrupt(pixels, ids, severity, 3)
    assert (pixels == before).all()
    assert corrupted.shape == pixels.shape
    assert corrupted.dtype == np.uint8
    for rows in ([CHUNK + 2], [7, 3, CHUNK]):
        assert (corrupt(pixels[rows], ids[rows], severity, 3) == corrupted[rows]).all()
    assert corrupt(pixels[:0], ids[:0], severity, 3).shape == (0, 32, 32, 3)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_random_ones_depend_on_seed_and_id_and_others_on_neither(name: str) -> None:
    corrupt, pixels, ids = CORRUPTIONS[name], pictures(3), np.arange(3)
    pixels[1] = pixels[0]
    corrupted = corrupt(pixels, ids, 3, 0)
    assert (corrupt(pixels, ids, 3, 0) == corrupted).all()
    other = corrupt(pixels, ids, 3, 1)
    assert (other != corrupted).any() == (name in RANDOM)
    assert (corrupted[0] != corrupted[1]).any() == (name in RANDOM)


def test_corruptions_and_severities_draw_other_numbers() -> None:
    keys = [(0, name, severity) for name in (1, 2) for severity in SEVERITIES]
    drawn = np.stack([Draws(np.arange(2), key).uniform(0, 1) for key in keys])
    assert len(np.unique(drawn)) == 2 * len(keys)
    draws = Draws(np.arange(2), (0,))
    assert (draws.uniform(0, 1, 4) != draws.uniform(0, 1, 4)).all()


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_higher_severity_leads_further_away(name: str) -> None:
    pixels, ids = pictures(MORE), np.arange(MORE)
    distances = [distance(CORRUPTIONS[name](pixels, ids, s, 0), pixels) for s in SEVERITIES]
    assert min(distances) > 0.3
    if name not in NOT_MONOTONE:
        assert distances == sorted(distances)
    elif name == "glass_blur":  # pixels are displaced once at 1 to 3, and twice at 4 and 5
        assert max(distances[:3]) < min(distances[3:])
    elif name == "motion_blur":  # 3 and 4 differ where sigma 2 has faded out: at 12 to 16 steps
        assert distances[3] == pytest.approx(distances[2], rel=0.1)
        assert [*distances[:3], distances[4]] == sorted((*distances[:3], distances[4]))
    elif name == "frost":  # from 3 on the image fades, which makes the sum no brighter
        assert distances[0] < min(distances[1:])
        ratios = [frost / image for image, frost in FROST]
        assert ratios == sorted(ratios)
    else:  # the affine map, which moves pixels furthest, shrinks as local distortion grows
        assert distances == sorted(distances, reverse=True)


def test_local_distortion_grows_although_pixels_stay_nearer() -> None:
    """Ratio of a step in displacement to the distance over which it is made."""
    constants = ((0.05, 0.2), (0.08, 0.06), (0.1, 0.04), (0.1, 0.03))
    noise = np.random.default_rng(0).uniform(-1, 1, (4, 32, 32, 1)).astype(np.float32)
    slopes = []
    for reach, sigma in constants:
        steps = 32 * reach * filters.gaussian(noise, 32 * sigma, mode="reflect", truncate=3)
        slopes.append(np.abs(np.diff(steps, axis=1)).mean())
    assert slopes == sorted(slopes)


@pytest.mark.parametrize("severity", [1, 5])
def test_flat_grey_stays_where_nothing_is_added(severity: int) -> None:
    grey, ids = np.full((2, 32, 32, 3), 100, np.uint8), np.arange(2)
    blurs = ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur")
    for name in (*blurs, "contrast", "elastic_transform", "pixelate", "jpeg_compression"):
        corrupted = CORRUPTIONS[name](grey, ids, severity, 0)
        assert distance(corrupted, grey) <= (1 if name == "jpeg_compression" else 0), name
    lift = (0.05, 0.1, 0.15, 0.2, 0.3)[severity - 1]
    assert_close(CORRUPTIONS["brightness"](grey, ids, severity, 0), np.array(100 / 255 + lift))
    assert (CORRUPTIONS["snow"](grey, ids, severity, 0) >= 100).all()
    assert (CORRUPTIONS["fog"](grey, ids, severity, 0) <= 100).all()


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_severities_outside_the_table_are_refused(name: str) -> None:
    for severity in (0, 6, -1):
        with pytest.raises(ArgumentError, match=f"`severity`: {severity} is none of 1, 2, 3, 4, 5"):
            CORRUPTIONS[name](pictures(1), np.arange(1), severity, 0)


def test_names_with_severities() -> None:
    assert parse("fog:3") == ("fog", 3)
    assert lookup("fog") is CORRUPTIONS["fog"]
    with pytest.raises(ArgumentError, match=r"'smog' is none of gaussian_noise, .*jpeg"):
        parse("smog:3")
    with pytest.raises(ArgumentError, match="'fog' has no severity: write fog:1 to fog:5"):
        parse("fog")
    for severity in ("0", "6", "", "03", "x"):
        with pytest.raises(ArgumentError, match=f"'{severity}' is none of 1, 2, 3, 4, 5"):
            parse(f"fog:{severity}")


# Noise


def test_gaussian_noise_is_that_of_a_noise_level() -> None:
    pixels, ids = pictures(3), np.array([5, -6, 7])
    for severity, std in zip(SEVERITIES, (0.04, 0.06, 0.08, 0.09, 0.10), strict=True):
        expected = transforms.gaussian_noise(pixels, ids, std, 2)
        assert (CORRUPTIONS["gaussian_noise"](pixels, ids, severity, 2) == expected).all()


def test_shot_noise_has_the_mean_and_variance_of_photons() -> None:
    for severity, photons in ((1, 500), (5, 50)):
        grey = np.full((MORE, 32, 32, 3), 102, np.uint8)  # .4
        values = CORRUPTIONS["shot_noise"](grey, np.arange(MORE), severity, 0) / 255
        assert values.mean() == pytest.approx(0.4, abs=2e-3)
        assert values.var() == pytest.approx(0.4 / photons, rel=0.03)
    black = np.zeros((1, 32, 32, 3), np.uint8)
    assert not CORRUPTIONS["shot_noise"](black, np.arange(1), 5, 0).any()


def test_impulse_noise_hits_a_share_of_values_half_of_them_white() -> None:
    grey = np.full((MORE, 32, 32, 3), 100, np.uint8)
    for severity, share in ((1, 0.01), (5, 0.07)):
        values = CORRUPTIONS["impulse_noise"](grey, np.arange(MORE), severity, 0)
        assert set(np.unique(values).tolist()) == {0, 100, 255}
        assert (values == 0).mean() == pytest.approx(share / 2, rel=0.1)
        assert (values == 255).mean() == pytest.approx(share / 2, rel=0.1)


# Blur


def test_defocus_is_a_convolution_with_a_soft_disk() -> None:
    pixels = pictures(1)
    kernel = np.zeros((5, 5))  # of severity 5: every pixel within 1.5 of the middle
    kernel[1:4, 1:4] = 1 / 9
    soft = np.exp(-(np.arange(-1, 2) ** 2) / (2 * 0.1**2))
    kernel = ndimage.convolve(kernel, np.outer(soft, soft) / soft.sum() ** 2, mode="constant")
    np.testing.assert_allclose(blur.disk(1.5, 0.1, 1), kernel, atol=1e-12)
    image = np.pad(pixels[0] / 255, ((2, 2), (2, 2), (0, 0)), mode="reflect")
    expected = np.zeros((32, 32, 3))
    for row in range(32):
        for column in range(32):
            for down in range(5):
                for right in range(5):
                    value = image[row + down, column + right]
                    expected[row, column] += kernel[down, right] * value
    assert_close(CORRUPTIONS["defocus_blur"](pixels, np.arange(1), 5, 0)[0], expected)


def test_glass_displaces_pixels_as_the_published_loop_does(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = np.random.default_rng(0).integers(-1, 1, (1, 2, 30, 30))
    monkeypatch.setattr(Draws, "integers", lambda *args: steps)
    pixels = pictures(1)
    expected = pixels[0].copy()
    for _ in range(2):  # severity 4
        for row in range(31, 1, -1):
            for column in range(31, 1, -1):
                down, right = steps[0, :, row - 2, column - 2]
                expected[row, column] = expected[row + down, column + right]
    monkeypatch.setattr(blur, "gaussian", lambda images, sigma: images.copy())
    assert (CORRUPTIONS["glass_blur"](pixels, np.arange(1), 4, 0)[0] == expected).all()


@pytest.mark.parametrize(("angle", "row", "column"), [(0, 0, -1), (45, -1, -1), (-45, 1, -1)])
def test_a_dot_in_motion_is_a_line_that_fades(angle: int, row: int, column: int) -> None:
    dot = np.zeros((1, 33, 33, 1), np.float32)
    dot[0, 16, 16] = 1
    line = filters.motion(dot, np.array([angle], np.float32), radius=6, sigma=2)[0, :, :, 0]
    weights = np.exp(-(np.arange(13) ** 2) / 8)
    along = weights / weights.sum()
    distances = np.arange(13) / (1 if angle == 0 else np.sqrt(2))
    expected = np.zeros((33, 33))
    for weight, way in zip(along, np.ceil(distances - 0.5).astype(int), strict=True):
        expected[16 + row * way, 16 + column * way] += weight
    np.testing.assert_allclose(line, expected, atol=1e-6)


def test_motion_blur_keeps_its_angle_within_45_degrees_of_level() -> None:
    dots = np.zeros((MORE, 33, 33, 3), np.uint8)
    dots[:, 16, 16] = 255
    blurred = CORRUPTIONS["motion_blur"](dots, np.arange(MORE), 5, 0)[..., 0]
    down, right = np.mgrid[-16:17, -16:17]
    assert not blurred[:, (right > 0) | (abs(down) > abs(right))].any()
    assert blurred[:, down > 0].any()
    assert blurred[:, down < 0].any()


def test_zoom_blur_is_a_mean_of_enlargements() -> None:
    pixels = pictures(2)
    for severity, last in ((1, 1.06), (5, 1.26)):
        factors = np.arange(1, last, 0.01)
        for row, image in enumerate(pixels / 255):
            total = image.copy()
            for factor in factors:
                crop = int(np.ceil(32 / factor))
                top = (32 - crop) // 2
                middle = image[top : top + crop, top : top + crop]
                large = ndimage.zoom(middle, (factor, factor, 1), order=1)
                cut = (len(large) - 32) // 2
                total += large[cut : cut + 32, cut : cut + 32]
            corrupted = CORRUPTIONS["zoom_blur"](pixels, np.arange(2), severity, 0)[row]
            assert_close(corrupted, total / (len(factors) + 1))


# Weather


def test_snow_is_the_peaks_of_noise_blurred_and_turned() -> None:
    """Severity 3, pixel by pixel, against SciPy's zoom."""
    pixels, ids = pictures(1), np.array([5])
    draws = Draws(ids, (7, zlib.crc32(b"snow"), 3))
    noise = 0.15 + 0.3 * draws.normal(32, 32, 1)[0, ..., 0]
    radians = np.deg2rad(draws.uniform(-135, -45)[0])
    flakes = ndimage.zoom(noise[6:25, 6:25], 1.75, order=1)[:32, :32]  # 19 to 33 pixels
    flakes = np.where(flakes < 0.55, 0, np.minimum(flakes, 1))
    weights = np.exp(-(np.arange(21) ** 2) / (2 * 4**2))
    fallen = np.zeros((32, 32))
    for row, column, step in np.ndindex(32, 32, 21):
        down = min(max(row + int(np.ceil(step * np.sin(radians) - 0.5)), 0), 31)
        right = min(max(column + int(np.ceil(step * np.cos(radians) - 0.5)), 0), 31)
        fallen[row, column] += weights[step] / weights.sum() * flakes[down, right]
    image = pixels[0] / 255
    grey = image @ (0.299, 0.587, 0.114)
    pale = 0.9 * image + 0.1 * np.maximum(image, grey[..., None] * 1.5 + 0.5)
    expected = pale + (fallen + fallen[::-1, ::-1])[..., None]
    assert_close(CORRUPTIONS["snow"](pixels, ids, 3, 7)[0], expected, off_by=0.01)


def test_fog_is_added_and_the_sum_scaled_back() -> None:
    pixels, ids = pictures(2), np.arange(2)
    mist = plasma(32, 1.75, Draws(ids, (7, zlib.crc32(b"fog"), 5)))
    for row, image in enumerate(pixels / 255):
        expected = (image + 1.5 * mist[row, ..., None]) * image.max() / (image.max() + 1.5)
        assert_close(CORRUPTIONS["fog"](pixels, ids, 5, 7)[row], expected)


def test_brightness_lifts_the_value_of_hsv() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1, 12, 12, 3), dtype=np.uint8)
    pixels[0, 0, 0] = 0
    for severity, lift in ((1, 0.05), (5, 0.3)):
        corrupted = CORRUPTIONS["brightness"](pixels, np.arange(1), severity, 0)
        for before, after in zip(pixels.reshape(-1, 3), corrupted.reshape(-1, 3), strict=True):
            hue, saturation, value = colorsys.rgb_to_hsv(*before / 255)
            expected = colorsys.hsv_to_rgb(hue, saturation, min(value + lift, 1))
            assert_close(after, np.array(expected))


def test_plasma_is_diamond_square() -> None:
    noise = np.random.default_rng(0).uniform(-1, 1, (8, 8))
    heights = np.zeros((8, 8))
    step, strength = 8, 1.0
    while step >= 2:
        half = step // 2
        for row in range(half, 8, step):
            for column in range(half, 8, step):
                ends = ((-half, -half), (-half, half), (half, -half), (half, half))
                mean = np.mean([heights[(row + a) % 8, (column + b) % 8] for a, b in ends])
                heights[row, column] = mean + strength * noise[row, column]
        for row in range(0, 8, half):
            for column in range(0, 8, half):
                if (row // half + column // half) % 2:
                    ends = ((-half, 0), (half, 0), (0, -half), (0, half))
                    mean = np.mean([heights[(row + a) % 8, (column + b) % 8] for a, b in ends])
                    heights[row, column] = mean + strength * noise[row, column]
        step, strength = half, strength / 2.5**2
    heights -= heights.min()
    draws = Draws(np.arange(1), (0,))
    draws.uniform = lambda *args: noise[None]  # type: ignore[method-assign, assignment, return-value]
    np.testing.assert_allclose(plasma(8, 2.5, draws)[0], heights / heights.max(), atol=1e-6)


def test_textures_fill_any_side() -> None:
    for side in (8, 32, 48):
        fractal = plasma(side, 2, Draws(np.arange(3), (0,)))
        ice = frost_texture(side, Draws(np.arange(3), (0,)))
        assert fractal.shape == (3, side, side)
        assert ice.shape == (3, side, side, 3)
        assert fractal.min() >= 0
        assert fractal.max() <= 1
        assert (np.diff(ice.mean(axis=(0, 1, 2))) > 0).all()  # blue
    assert frost_texture(32, Draws(np.arange(MORE), (0,))).mean() == pytest.approx(0.5, abs=0.03)


# Digital


def test_contrast_shrinks_towards_the_mean_of_a_channel() -> None:
    pixels = pictures(2)
    for severity, factor in ((1, 0.75), (5, 0.15)):
        corrupted = CORRUPTIONS["contrast"](pixels, np.arange(2), severity, 0)
        for row, channel in np.ndindex(2, 3):
            values = pixels[row, ..., channel] / 255
            expected = values.mean() + factor * (values - values.mean())
            assert_close(corrupted[row, ..., channel], expected)


@pytest.mark.parametrize("edge_twice", [True, False])
def test_warped_is_bilinear_and_mirrored(edge_twice: bool) -> None:
    image = np.random.default_rng(0).random((1, 9, 9, 2)).astype(np.float32)
    x, y = np.random.default_rng(1).uniform(-4, 12, (2, 1, 9, 9))
    pad = np.pad(image[0], ((9, 9), (9, 9), (0, 0)), "symmetric" if edge_twice else "reflect")
    expected = np.empty((9, 9, 2))
    for row, column in np.ndindex(9, 9):
        left, top = int(np.floor(x[0, row, column])), int(np.floor(y[0, row, column]))
        right, down = x[0, row, column] - left, y[0, row, column] - top
        near = pad[top + 9 : top + 11, left + 9 : left + 11]
        upper = (1 - right) * near[0, 0] + right * near[0, 1]
        lower = (1 - right) * near[1, 0] + right * near[1, 1]
        expected[row, column] = (1 - down) * upper + down * lower
    np.testing.assert_allclose(filters.warped(image, x, y, edge_twice)[0], expected, atol=1e-5)


def test_elastic_is_an_affine_map_and_then_smooth_steps() -> None:
    """Against SciPy, image by image, at severity 3."""
    pixels, ids = pictures(2), np.array([4, 9])
    corrupted = CORRUPTIONS["elastic_transform"](pixels, ids, 3, 7)
    draws = Draws(ids, (7, zlib.crc32(b"elastic_transform"), 3))
    shifts = draws.uniform(-0.06 * 32, 0.06 * 32, 3, 2)
    noise = draws.uniform(-1, 1, 32, 32, 2)
    y, x = np.mgrid[:32, :32].astype(float)
    for row, image in enumerate(pixels / 255):
        corners = np.array(((26, 26), (26, 6), (6, 6)), float)
        forth = np.linalg.solve(np.c_[corners, np.ones(3)], corners + shifts[row])  # (3, 2)
        back = np.linalg.inv(np.c_[forth, (0, 0, 1)])  # of rows (x, y, 1)
        ones = np.ones_like(x)
        source_x, source_y, _ = np.moveaxis(np.stack((x, y, ones), -1) @ back, -1, 0)
        mapped = [
            ndimage.map_coordinates(image[..., c], (source_y, source_x), order=1, mode="mirror")
            for c in range(3)
        ]
        right, down = (
            32 * 0.08 * ndimage.gaussian_filter(noise[row, ..., i], 32 * 0.06, truncate=3)
            for i in (0, 1)
        )
        slow = [
            ndimage.map_coordinates(channel, (y + down, x + right), order=1, mode="reflect")
            for channel in mapped
        ]
        assert_close(corrupted[row], np.stack(slow, -1), off_by=0.01)


def test_affine_map_takes_shifted_corners_back() -> None:
    shifts = np.random.default_rng(0).uniform(-2, 2, (2, 3, 2)).astype(np.float32)
    corners = np.array(((26, 26), (26, 6), (6, 6)), float)
    back = digital.inverse_affine(32, shifts)
    for row in range(2):
        shifted = np.c_[corners + shifts[row], np.ones(3)]
        np.testing.assert_allclose(shifted @ back[row], corners, atol=1e-9)


def test_pillow_does_the_rest() -> None:
    pixels, ids = pictures(2), np.arange(2)
    for severity, small, quality in ((1, 30, 80), (3, 27, 58), (5, 20, 40)):
        pixelated = CORRUPTIONS["pixelate"](pixels, ids, severity, 0)
        compressed = CORRUPTIONS["jpeg_compression"](pixels, ids, severity, 0)
        for row in range(2):
            image, file = Image.fromarray(pixels[row]), io.BytesIO()
            image.save(file, "JPEG", quality=quality)
            assert (np.asarray(Image.open(file)) == compressed[row]).all()
            box = Image.Resampling.BOX
            expected = image.resize((small, small), box).resize((32, 32), box)
            assert (np.asarray(expected) == pixelated[row]).all()


# Other sides


@pytest.mark.parametrize("side", [16, 64])
def test_lengths_grow_with_the_side(side: int) -> None:
    """The same pictures, smaller or larger, are changed by about as much."""
    ids = np.arange(MORE)
    for name in ("defocus_blur", "motion_blur", "zoom_blur", "snow", "frost", "fog"):
        usual, other = (
            distance(CORRUPTIONS[name](pixels, ids, 5, 0), pixels)
            for pixels in (pictures(MORE), pictures(MORE, side))
        )
        assert other == pytest.approx(usual, rel=0.4), name


def test_kernels_at_64_pixels_are_twice_as_wide() -> None:
    dots = np.zeros((1, 64, 64, 3), np.uint8)
    dots[:, 32, 32] = 255
    expected = filters.filtered(dots[..., :1] / np.float32(255), blur.disk(3, 0.2, 2))
    blurred = CORRUPTIONS["defocus_blur"](dots, np.arange(1), 5, 0)[..., :1]
    assert_close(blurred, expected)
    assert (np.nonzero(blurred[0].any(axis=(0, 2)))[0] == np.arange(29, 36)).all()
    streak = CORRUPTIONS["motion_blur"](dots, np.arange(1), 5, 0)[0, ..., 0]
    reach = 32 - np.nonzero(streak.any(axis=0))[0].min()
    small = np.zeros((1, 32, 32, 3), np.uint8)
    small[:, 16, 16] = 255
    usual = CORRUPTIONS["motion_blur"](small, np.arange(1), 5, 0)[0, ..., 0]
    assert reach == pytest.approx(2 * (16 - np.nonzero(usual.any(axis=0))[0].min()), abs=2)


def test_frost_is_a_sum_with_the_published_weights() -> None:
    pixels, ids = pictures(2), np.arange(2)
    for severity, (of_image, of_frost) in zip(SEVERITIES, FROST, strict=True):
        ice = frost_texture(32, Draws(ids, (0, zlib.crc32(b"frost"), severity)))
        corrupted = CORRUPTIONS["frost"](pixels, ids, severity, 0)
        assert_close(corrupted, of_image * (pixels / 255) + of_frost * ice)


def test_a_shrunk_kernel_keeps_its_sum_and_covers_less() -> None:
    kernel = blur.disk(1.5, 0.1, 1)
    np.testing.assert_allclose(blur.shrunk(kernel, 1), kernel)
    shares = np.array((0, 1 / 6, 2 / 3, 1 / 6, 0))  # three squares of a half on three pixels
    np.testing.assert_allclose(
        blur.shrunk(np.pad(np.full((3, 3), 1 / 9), 1), 0.5)[2], shares * 2 / 3
    )
    assert blur.shrunk(kernel, 0.25).sum() == pytest.approx(1)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_any_side_is_corrupted(name: str) -> None:
    for side in (8, 48):
        pixels = pictures(2, side)
        assert CORRUPTIONS[name](pixels, np.arange(2), 5, 0).shape == pixels.shape


def test_contact_sheet_shows_every_corruption() -> None:
    sheet = np.asarray(contact_sheet(pictures(2), 0))
    assert sheet.shape == (6 + 70 * 16, 150 + 70 * 6 + 6, 3)
    clean = sheet[6:70, 150:214]
    assert (clean[::2, ::2] == pictures(2)[0]).all()
    last = CORRUPTIONS["jpeg_compression"](pictures(2), np.arange(2), 5, 0)[1]
    assert (sheet[6 + 70 * 15 : 70 * 16 : 2, 150 + 70 * 5 : 150 + 70 * 5 + 64 : 2] == last).all()
