"""A conditional generative adversarial network whose discriminator also classifies.

Letters: B batch, C channels, S side in pixels, Z noise.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from rapipe.generation.base import Generator, GeneratorSpec, Trace, halvings
from rapipe.specs import GenerationRecipe

NOISE = 100
"""Z."""
SLOPE = 0.2
"""Of leaky ReLUs, below 0."""


class ACGAN(Generator):
    """Two networks compete: one draws images of a class, one tells real from fake, and the class.

    Both take each step at once. The weights of the discriminator are normalised by their spectra,
    which keeps such small trainings stable.

    Source: Odena, Olah, Shlens, "Conditional Image Synthesis with Auxiliary Classifier GANs",
    ICML 2017; Miyato et al., "Spectral Normalization for Generative Adversarial Networks",
    ICLR 2018.
    """

    betas = (0.5, 0.999)

    def __init__(self, spec: GeneratorSpec) -> None:
        super().__init__(spec)
        self.decoder = Decoder(spec)
        self.discriminator = Discriminator(spec)

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Losses of both; the gradients of one's do not reach the other."""
        noise = torch.randn(len(labels), NOISE, device=labels.device)
        fakes = self.decoder(noise, labels)
        real_source, real_class = self.discriminator(images)
        fake_source, fake_class = self.discriminator(fakes.detach())
        with frozen(self.discriminator):
            fooled_source, fooled_class = self.discriminator(fakes)
        return {
            "discriminator": (
                F.softplus(-real_source).mean()
                + F.softplus(fake_source).mean()
                + F.cross_entropy(real_class, labels)
                + F.cross_entropy(fake_class, labels)
            ),
            "generator": F.softplus(-fooled_source).mean() + F.cross_entropy(fooled_class, labels),
        }

    @torch.inference_mode()
    def sample(
        self,
        labels: Tensor,
        recipe: GenerationRecipe,
        rng: torch.Generator,
        trace: Trace = lambda images: None,
    ) -> Tensor:
        noise = torch.randn(len(labels), NOISE, generator=rng).to(labels.device)
        images: Tensor = self.decoder(noise, labels)
        return images


class Decoder(nn.Module):
    """Noise (B, Z), times a vector of the class -> images (B, C, S, S)."""

    def __init__(self, spec: GeneratorSpec) -> None:
        super().__init__()
        levels = halvings(spec.image_size)
        channels = [spec.width * 2**level for level in range(levels, -1, -1)]
        self.classes = nn.Embedding(spec.classes, NOISE)
        self.side = spec.image_size >> levels
        self.start = nn.Linear(NOISE, channels[0] * self.side**2)
        stages: list[nn.Module] = [nn.BatchNorm2d(channels[0]), nn.ReLU()]
        for before, after in pairwise(channels):
            stages += [
                nn.Upsample(scale_factor=2),
                nn.Conv2d(before, after, 3, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
            ]
        self.stages = nn.Sequential(*stages, nn.Conv2d(spec.width, spec.channels, 3, padding=1))

    def forward(self, noise: Tensor, labels: Tensor) -> Tensor:
        start = self.start(noise * self.classes(labels))  # (B, channels * side * side)
        images: Tensor = self.stages(start.view(len(noise), -1, self.side, self.side))
        return images.tanh()


class Discriminator(nn.Module):
    """Images (B, C, S, S) -> how real they are (B,), and logits of their classes (B, classes)."""

    def __init__(self, spec: GeneratorSpec) -> None:
        super().__init__()
        levels = halvings(spec.image_size)
        channels = [spec.channels, *(spec.width * 2**level for level in range(levels + 1))]
        stages: list[nn.Module] = []
        for level, (before, after) in enumerate(pairwise(channels)):
            stride = 1 if level == 0 else 2
            convolution = nn.Conv2d(before, after, 3, stride, padding=1)
            stages += [spectral_norm(convolution), nn.LeakyReLU(SLOPE)]
        self.stages = nn.Sequential(*stages, nn.Flatten())
        features = channels[-1] * (spec.image_size >> levels) ** 2
        self.source = spectral_norm(nn.Linear(features, 1))
        self.classes = nn.Linear(features, spec.classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.stages(images)
        return self.source(features)[:, 0].float(), self.classes(features).float()


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """What is computed inside gives its weights no gradient."""
    network.requires_grad_(False)
    try:
        yield
    finally:
        network.requires_grad_(True)
