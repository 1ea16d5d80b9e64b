"""A conditional diffusion model: images come out of noise, step by step.

Letters: B batch, C channels, S side in pixels, T steps of the diffusion.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rapipe.errors import UserError, first_line
from rapipe.generation.base import Generator, GeneratorSpec, Trace, halvings
from rapipe.progress import track
from rapipe.specs import GenerationRecipe

STEPS = 1000
"""T."""
UNCONDITIONAL = 0.1
"""Share of the labels that are hidden in training, so that the network is of both kinds."""
HEAD = 8
"""Channels of an attention head."""
EXTRA = "pip install 'rapipe[generation]'"


class DDPM(Generator):
    """Removes noise step by step, guided by the class: a denoising diffusion model.

    A U-Net with attention at its smallest stage learns the velocity a e - b x of an image x that
    became a x + b e with noise e: of short trainings noise alone leaves grey backgrounds. Labels
    are hidden in a tenth of training, so that the same network knows images of any class.

    Source: Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models", NeurIPS 2020; Nichol,
    Dhariwal, "Improved Denoising Diffusion Probabilistic Models", ICML 2021 (cosine schedule);
    Salimans, Ho, "Progressive Distillation for Fast Sampling of Diffusion Models", ICLR 2022
    (velocity); Song, Meng, Ermon, "Denoising Diffusion Implicit Models", ICLR 2021; Ho, Salimans,
    "Classifier-Free Diffusion Guidance", NeurIPS workshop 2021.
    """

    def __init__(self, spec: GeneratorSpec) -> None:
        super().__init__(spec)
        width, levels = spec.width, halvings(spec.image_size)
        self.unet: Any = diffusers().UNet2DModel(
            sample_size=spec.image_size,
            in_channels=spec.channels,
            out_channels=spec.channels,
            layers_per_block=1,
            block_out_channels=(width, *[2 * width] * levels),
            down_block_types=(*["DownBlock2D"] * levels, "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", *["UpBlock2D"] * levels),
            attention_head_dim=HEAD,
            norm_num_groups=width // 4,
            num_class_embeds=spec.classes + 1,  # the last is of hidden labels
        )
        self.diffusion: Any = scheduler("ddpm")

    @classmethod
    def check(cls, image_size: int) -> None:
        super().check(image_size)
        diffusers()

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Mean squared error of the velocity, at a random step for each image."""
        noise = torch.randn_like(images)
        steps = torch.randint(STEPS, labels.shape, device=labels.device)
        noisy = self.diffusion.add_noise(images, noise, steps)
        hidden = torch.rand(labels.shape, device=labels.device) < UNCONDITIONAL
        labels = labels.masked_fill(hidden, self.spec.classes)
        velocity = self.diffusion.get_velocity(images, noise, steps)
        return {"velocity": F.mse_loss(self.velocity(noisy, steps, labels).float(), velocity)}

    def velocity(self, images: Tensor, steps: Tensor, labels: Tensor) -> Tensor:
        """Of noisy images (B, C, S, S) at these steps (B,), as the network sees it."""
        velocity: Tensor = self.unet(images, steps, class_labels=labels).sample
        return velocity

    def guided(self, images: Tensor, step: Tensor, labels: Tensor, weight: float) -> Tensor:
        """(1 + w) times the velocity given the class, less w times that of any class.

        In its paper it is the noise that is guided so; at a step one is linear in the other.

        Args:
            step: (), from T - 1 down.
            weight: w; with 0 the class alone counts.
        """
        steps = step.expand(len(images)).to(images.device)
        if not weight:
            return self.velocity(images, steps, labels)
        hidden = torch.full_like(labels, self.spec.classes)
        both = self.velocity(
            images.repeat(2, 1, 1, 1), steps.repeat(2), torch.cat([labels, hidden])
        )
        conditional, unconditional = both.chunk(2)
        return (1 + weight) * conditional - weight * unconditional

    @torch.inference_mode()
    def sample(
        self,
        labels: Tensor,
        recipe: GenerationRecipe,
        rng: torch.Generator,
        trace: Trace = lambda images: None,
    ) -> Tensor:
        reverse = scheduler(recipe.sampler)
        reverse.set_timesteps(recipe.steps)
        images = torch.randn((len(labels), *self.shape), generator=rng).to(labels.device)
        label = f"generating {len(labels)} images"
        # Guidance leaves the range of pixels: noise must be that of the image that was cut off.
        options = {"use_clipped_model_output": True} if recipe.sampler == "ddim" else {}
        for step in track(reverse.timesteps, label, recipe.steps):
            velocity = self.guided(images, step, labels, recipe.guidance)
            images = reverse.step(velocity, step, images, generator=rng, **options).prev_sample
            trace(images)
        return images


def scheduler(name: str) -> Any:
    """The diffusion, and how it is reversed: `ddpm` or `ddim`."""
    kind = {"ddpm": "DDPMScheduler", "ddim": "DDIMScheduler"}[name]
    options = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}
    return getattr(diffusers(), kind)(STEPS, **options)


def diffusers() -> Any:
    """The package; `UserError` if it is not there, or does not load."""
    try:
        import diffusers
        from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel  # noqa: F401  loaded late
    except (ImportError, RuntimeError) as error:  # as it says what does not load
        raise UserError(
            f"the method ddpm needs the package diffusers, which does not load "
            f"({first_line(error)}): {EXTRA}, or choose the method acgan"
        ) from None
    return diffusers
