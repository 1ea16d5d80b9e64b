"""Generators: formulas against slow references, and what interruptions and seeds change."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from conftest import make_images

from rapipe.errors import ArgumentError, UserError
from rapipe.evaluation.generated import (
    Memorisation,
    features,
    frechet_distance,
    kernel_distance,
)
from rapipe.generation import GENERATORS, GeneratorSpec, pictures
from rapipe.generation import generate as generating
from rapipe.generation.acgan import ACGAN
from rapipe.generation.ddpm import DDPM, scheduler
from rapipe.generation.generate import generate, is_grey, to_pixels
from rapipe.generation.module import GenerationModule
from rapipe.records import Images
from rapipe.specs import GenerationRecipe

RECIPE = GenerationRecipe(images=2, width=4, epochs=2, batch_size=8, steps=2)
IMAGES = make_images(24, size=8)


def spec(method: str, channels: int = 1) -> GeneratorSpec:
    return GeneratorSpec(method, 8, channels, 3, 4)


def generated(method: str, folder: Path | None = None, seed: int = 0, **more: Any) -> Images:
    recipe = replace(RECIPE, method=method, **more)
    return generate(IMAGES, recipe, seed=seed, precision="fp32", checkpoints=folder).images


def test_guidance_is_the_formula_of_its_paper() -> None:
    """One image after the other, with the class and without."""
    torch.manual_seed(0)
    network = DDPM(spec("ddpm")).eval()
    images, labels, step = torch.randn(2, 1, 8, 8), torch.tensor([0, 2]), torch.tensor(700)
    with torch.no_grad():
        guided = network.guided(images, step, labels, 1.5)
        unguided = network.guided(images, step, labels, 0.0)
        for i in range(2):
            with_class = network.unet(images[i : i + 1], 700, class_labels=labels[i : i + 1])
            without = network.unet(images[i : i + 1], 700, class_labels=torch.tensor([3]))
            slow = 2.5 * with_class.sample[0] - 1.5 * without.sample[0]
            torch.testing.assert_close(guided[i], slow, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(unguided[i], with_class.sample[0], atol=1e-5, rtol=1e-4)


def test_noise_is_added_as_in_its_paper_and_labels_are_hidden() -> None:
    """The loss of a network that says 0, for black images: the square of the noise that is left."""
    torch.manual_seed(0)
    network = DDPM(spec("ddpm"))
    alphas = network.diffusion.alphas_cumprod
    assert alphas[0] > 0.999
    assert alphas[-1] < 1e-4, "the last step is noise alone"
    seen: list[torch.Tensor] = []

    def record(images: torch.Tensor, steps: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        seen.append(labels)
        return torch.zeros_like(images)

    network.velocity = record  # type: ignore[method-assign]
    labels = torch.zeros(4000, dtype=torch.int64)
    loss = network(torch.zeros(4000, 1, 8, 8), labels)["velocity"]
    assert float(loss) == pytest.approx(float(alphas.mean()), abs=0.03)
    assert set(seen[0].tolist()) == {0, 3}
    assert float((seen[0] == 3).float().mean()) == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_the_reverse_process_finds_the_image_that_the_noise_hides(sampler: str) -> None:
    """A network that knows the velocity of one image brings any noise back to that image."""
    network = DDPM(spec("ddpm"))
    image = torch.linspace(-1, 1, 64).view(1, 1, 8, 8)
    alphas = scheduler(sampler).alphas_cumprod

    def velocity(images: torch.Tensor, steps: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        alpha = alphas[steps].view(-1, 1, 1, 1)
        noise = (images - alpha.sqrt() * image) / (1 - alpha).sqrt()
        return alpha.sqrt() * noise - (1 - alpha).sqrt() * image

    network.velocity = velocity  # type: ignore[method-assign]
    recipe = replace(RECIPE, sampler=sampler, steps=20)
    frames: list[torch.Tensor] = []
    rng = torch.Generator().manual_seed(0)
    sampled = network.sample(torch.tensor([0, 1]), recipe, rng, frames.append)
    torch.testing.assert_close(sampled, image.expand(2, 1, 8, 8), atol=0.02, rtol=0)
    assert len(frames) == 20
    assert (frames[0] - image).abs().mean() > 0.3


def test_no_loss_of_acgan_reaches_the_other_network() -> None:
    network = ACGAN(spec("acgan"))
    images, labels = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 0])

    def gradients(*names: str) -> dict[str, torch.Tensor]:
        torch.manual_seed(1)
        network.load_state_dict(state)
        network.zero_grad()
        losses = network(images, labels)
        sum(losses[name] for name in names).backward()  # type: ignore[union-attr]
        found = {n: p.grad for n, p in network.named_parameters()}
        return {n: torch.zeros(()) if g is None else g.clone() for n, g in found.items()}

    state = {name: value.clone() for name, value in network.state_dict().items()}
    both = gradients("discriminator", "generator")
    for loss, part, other in (
        ("discriminator", "discriminator", "decoder"),
        ("generator", "decoder", "discriminator"),
    ):
        alone = gradients(loss)
        for name, gradient in alone.items():
            if name.startswith(part):
                torch.testing.assert_close(gradient, both[name])
            else:
                assert name.startswith(other)
                assert not gradient.any()


@pytest.mark.parametrize("method", GENERATORS)
def test_same_seed_same_images(method: str, tmp_path: Path) -> None:
    """And what was interrupted, in training or between samples, ends with the same."""
    first = generated(method)
    assert first.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert first.pixels.std() > 1
    assert len(np.unique(first.ids)) == 6
    assert (generated(method, seed=1).pixels != first.pixels).any()
    with pytest.MonkeyPatch.context() as patch:
        stop_in_epoch(patch, 2)
        with pytest.raises(RuntimeError, match="stop"):
            generated(method, tmp_path / "c")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generating, "_reverse", stop)
        with pytest.raises(RuntimeError, match="stop"):
            generated(method, tmp_path / "c")
    with pytest.MonkeyPatch.context() as patch:
        stop_in_epoch(patch, 1)
        again = generated(method, tmp_path / "c")
    assert again.pixels.tobytes() == first.pixels.tobytes()


def stop(*_: Any) -> None:
    raise RuntimeError("stop")


def stop_in_epoch(patch: pytest.MonkeyPatch, epoch: int) -> None:
    """Break off the training of a generator in this epoch, or a later one."""
    step = GenerationModule.training_step

    def training_step(module: Any, batch: Any, batch_idx: int) -> Any:
        if module.current_epoch + 1 >= epoch:
            stop()
        return step(module, batch, batch_idx)

    patch.setattr(GenerationModule, "training_step", training_step)


def test_batches_that_were_sampled_are_not_sampled_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generating, "VALUES_AT_ONCE", 4 * 64)
    network, labels, sizes = ACGAN(spec("acgan")).eval(), np.arange(6) % 3, []
    sample = network.sample

    def counted(labels: torch.Tensor, *more: Any) -> torch.Tensor:
        if len(sizes) == 1:
            sizes.append(0)
            stop()
        sizes.append(len(labels))
        return sample(labels, *more)

    expected = generating._sample(network, labels, RECIPE, 0, None)
    network.sample = counted  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="stop"):
        generating._sample(network, labels, RECIPE, 0, tmp_path)
    pixels = generating._sample(network, labels, RECIPE, 0, tmp_path)
    assert sizes == [4, 0, 2], "the first batch was kept"
    assert pixels.tobytes() == expected.tobytes()


def test_grey_images_stay_grey() -> None:
    grey = replace(IMAGES, pixels=IMAGES.pixels[..., :1].repeat(3, axis=3))
    assert is_grey(grey.pixels)
    assert not is_grey(IMAGES.pixels)
    recipe = replace(RECIPE, method="acgan", epochs=1)
    result = generate(grey, recipe, precision="fp32")
    assert result.generator.spec.channels == 1
    assert is_grey(result.images.pixels)
    assert result.history[-1]["loss"] == pytest.approx(
        result.history[-1]["generator_loss"] + result.history[-1]["discriminator_loss"], rel=1e-5
    )


def test_what_a_generator_cannot_make_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArgumentError, match=r"^`image_size` is 30, but `method` .*: choose 28 or"):
        GENERATORS["acgan"].check(30)
    for size in (8, 28, 32, 96, 224):
        ACGAN.check(size)
    with pytest.raises(ArgumentError, match="`images` without labels teach nothing"):
        generate(replace(IMAGES, labels=np.full(24, -1)), RECIPE)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(UserError, match=r"ddpm needs the package diffusers, .*rapipe\[generation"):
        DDPM.check(32)


def test_pictures_of_the_reverse_process(tmp_path: Path) -> None:
    from PIL import Image

    frames = np.random.default_rng(0).integers(0, 256, (12, 3, 8, 8, 3), dtype=np.uint8)
    pictures.strip(frames, ["a", "b" * 40, "c"], tmp_path / "strip.png")
    pictures.film(frames, tmp_path / "film.gif")
    with Image.open(tmp_path / "film.gif") as film:
        assert film.n_frames == 12
    with Image.open(tmp_path / "strip.png") as strip:
        corner = strip.getpixel((strip.width - 2 * pictures.MARGIN - 1, 4 + 63))
    assert corner == tuple(frames[-1, 0, -1, -1]), "the last frame ends the line of the first class"


def test_pixels_are_rounded_and_cut_off() -> None:
    values = torch.tensor([-1.5, -1.0, 0.0, 1.0, 2.0]).view(1, 1, 1, 5)
    assert to_pixels(values)[0, 0].tolist() == [[0] * 3, [0] * 3, [128] * 3, [255] * 3, [255] * 3]


def with_moments(mean: Any, covariance: Any, n: int) -> np.ndarray:
    """Points with exactly these moments."""
    rng = np.random.default_rng(n)
    points = rng.standard_normal((n, len(mean)))
    points -= points.mean(axis=0)
    points = points @ np.linalg.inv(np.linalg.cholesky(np.cov(points.T))).T
    return points @ np.linalg.cholesky(np.array(covariance)).T + mean


def test_frechet_distance_of_known_gaussians() -> None:
    """Of covariances that commute each deviation has its difference; else scipy's root is right."""
    one = with_moments([0.0, 0.0], np.diag([4.0, 9.0]), 30)
    other = with_moments([3.0, 4.0], np.diag([1.0, 1.0]), 50)
    assert frechet_distance(one, other) == pytest.approx(25 + 1 + 4)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-9)
    covariances = [[2.0, 0.6], [0.6, 1.0]], [[1.0, -0.5], [-0.5, 3.0]]
    one, other = (with_moments([0.0, 0.0], covariance, 40) for covariance in covariances)
    root = scipy.linalg.sqrtm(np.array(covariances[0]) @ np.array(covariances[1]))
    assert frechet_distance(one, other) == pytest.approx(7 - 2 * np.trace(root).real)


def test_kernel_distance_is_a_slow_loops_and_has_no_bias() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.standard_normal((5, 3)), rng.standard_normal((4, 3)) + 1

    def k(x: Any, y: Any) -> float:
        return float((x @ y / 3 + 1) ** 3)

    within = sum(k(one[i], one[j]) for i in range(5) for j in range(5) if i != j) / 20
    within += sum(k(other[i], other[j]) for i in range(4) for j in range(4) if i != j) / 12
    between = sum(k(x, y) for x in one for y in other) / 20
    assert kernel_distance(one, other) == pytest.approx(within - 2 * between)
    drawn = [
        kernel_distance(rng.standard_normal((10, 3)), rng.standard_normal((10, 3)))
        for _ in range(400)
    ]
    assert abs(np.mean(drawn)) < 3 * np.std(drawn) / 20
    assert min(drawn) < 0


def test_features_have_a_mean_square_of_one() -> None:
    vectors = np.full((2, 16), 0.25, np.float32)
    assert (features(vectors) ** 2).mean() == pytest.approx(1)


def test_copies_of_training_images_are_nearer_than_validation_images() -> None:
    validation = np.linspace(0.1, 0.5, 200)
    independent = Memorisation(validation + 1e-4, validation).summary()
    assert independent["near_share"] <= 0.01
    copied = Memorisation(np.concatenate([np.zeros(50), validation[:50]]), validation)
    assert copied.near.sum() >= 50
    facts = copied.summary()
    assert facts["near"] == copied.near.sum()
    assert sum(facts["generated_histogram"]) == 100
    assert sum(facts["validation_histogram"]) == 200
    assert facts["median"]["validation"] == pytest.approx(0.3)
