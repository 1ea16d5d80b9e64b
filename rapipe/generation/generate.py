"""`generate`: labelled images -> images of the same classes that nobody has seen.

Letters: N images, S side in pixels, C channels, F frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rapipe.device import device
from rapipe.errors import ArgumentError
from rapipe.generation import GENERATORS, Generator, GeneratorSpec
from rapipe.generation.module import GenerationModule
from rapipe.io.checksums import image_id, is_intact
from rapipe.io.folders import atomic_folder
from rapipe.records import Images, Labels, Pixels
from rapipe.specs import GenerationRecipe
from rapipe.training.callbacks import BestEpoch, History, Row
from rapipe.training.loop import fit
from rapipe.training.precision import precision_of

SOURCE = "generated"
VALUES_AT_ONCE = 2**18
"""Pixels that are sampled at once: 256 images of 32 by 32."""
SHOWN, FRAMES = 10, 24
"""Classes whose reverse process is shown, and frames of it."""
BLOCK = 8192
"""Images that are looked at at once."""


@dataclass(frozen=True)
class Generated:
    """Images of every class, and what made them."""

    images: Images
    """By class, as many of each."""
    generator: Generator
    history: list[Row]
    """A row an epoch: epoch, step, images_seen, loss, and the parts of the loss."""
    reverse: npt.NDArray[np.uint8]  # (F, classes, S, S, 3)
    """Images as they come out of noise, one of each class; F is 0 where there are no steps."""


def generate(
    images: Images,
    recipe: GenerationRecipe | None = None,
    *,
    seed: int = 0,
    precision: str = "auto",
    checkpoints: Path | None = None,
) -> Generated:
    """Train a generator on labelled images, and sample from it.

        >>> sampled = generate(splits["train"], GenerationRecipe(images=10)).images

    Args:
        images: N of them, all labelled; never any that something is tested on.
        precision: of the training: `bf16`, `fp32`, or `auto`: whichever is faster here.
        checkpoints: a folder of this training alone, from which it goes on if it was
            interrupted, and which the caller removes; nothing is kept unless given.

    Raises:
        ArgumentError: an image has no label, the method cannot make such images, or training
            diverges.
        UserError: a package is missing.
    """
    recipe = recipe or GenerationRecipe()
    if not len(images) or (images.labels < 0).any():
        raise ArgumentError("`images` without labels teach nothing of a class: leave them out")
    torch.manual_seed(seed)
    generator = GENERATORS[recipe.method](_spec(images, recipe))
    module = GenerationModule(generator, images, recipe, seed)
    history = History(_parts_of_loss)
    last = BestEpoch(generator, history, "epoch")  # with its averaged weights
    fit(module, [history, last], checkpoints, precision_of(precision), keep=True)
    last.restore()
    generator.to(device()).eval()
    labels = np.repeat(np.arange(len(images.classes), dtype=np.int64), recipe.images)
    pixels = _sample(generator, labels, recipe, seed, checkpoints)
    sampled = Images(
        np.array([image_id(image.tobytes()) for image in pixels], np.int64),
        pixels,
        labels,
        np.full(len(labels), SOURCE),
        images.classes,
    )
    return Generated(sampled, generator.cpu(), history.rows, _reverse(generator, recipe, seed))


def is_grey(pixels: Pixels) -> bool:
    """Whether all three channels are the same."""
    starts = range(0, len(pixels), BLOCK)
    blocks = (pixels[start : start + BLOCK] for start in starts)
    return all((block == block[..., :1]).all() for block in blocks)


def _spec(images: Images, recipe: GenerationRecipe) -> GeneratorSpec:
    channels = 1 if is_grey(images.pixels) else 3
    size = images.pixels.shape[1]
    return GeneratorSpec(recipe.method, size, channels, len(images.classes), recipe.width)


def _parts_of_loss(module: GenerationModule) -> Row:
    names = [name for name in module.step_metrics if name != "loss"]
    return {name: module.pop_mean(name) for name in names}


def _sample(
    generator: Generator,
    labels: Labels,
    recipe: GenerationRecipe,
    seed: int,
    checkpoints: Path | None,
) -> Pixels:
    """Images (N, S, S, 3), batch by batch; batches that lie in `checkpoints` are not made again."""
    size = max(1, VALUES_AT_ONCE // generator.spec.image_size**2)
    batches = []
    for number, start in enumerate(range(0, len(labels), size)):
        folder = checkpoints / f"samples-{number}" if checkpoints else None
        if folder and is_intact(folder):
            batches.append(np.load(folder / "pixels.npy", allow_pickle=False))
            continue
        on = torch.from_numpy(labels[start : start + size]).to(device())
        images = generator.sample(on, recipe, _rng(seed, number + 1))
        batches.append(to_pixels(images))
        if folder:
            with atomic_folder(folder) as part:
                np.save(part / "pixels.npy", batches[-1], allow_pickle=False)
    return np.concatenate(batches)


def _reverse(generator: Generator, recipe: GenerationRecipe, seed: int) -> Pixels:
    """The reverse process of an image of each of the first classes, from noise on."""
    frames: list[Pixels] = []
    labels = torch.arange(min(SHOWN, generator.spec.classes))
    generator.sample(labels, recipe, _rng(seed, 0), lambda images: frames.append(to_pixels(images)))
    if not frames:
        return np.empty((0, len(labels), *generator.shape[1:], 3), np.uint8)
    shown = np.linspace(0, len(frames) - 1, min(FRAMES, len(frames))).round().astype(int)
    return np.stack([frames[i] for i in shown])


def to_pixels(images: Tensor) -> Pixels:
    """Images (B, C, S, S) from -1 to 1 -> pixels (B, S, S, 3)."""
    values = (images.float().clamp(-1, 1) + 1).mul(127.5).round().to(torch.uint8)
    return np.ascontiguousarray(values.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).cpu().numpy())


def _rng(seed: int, number: int) -> torch.Generator:
    """Random numbers of a batch; they do not depend on the batches before it."""
    draw = np.random.default_rng([seed, number]).integers(2**63)
    return torch.Generator().manual_seed(int(draw))
