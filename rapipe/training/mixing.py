"""Targets and images that are mixed.

Letters: B batch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def label_smoothing(logits: Tensor, targets: Tensor, share: float) -> Tensor:
    """Gives a share of each target to all classes alike, against overconfidence.

    Returns the cross entropy.

    Args:
        logits: (B, classes).
        targets: (B,) labels, or (B, classes) probabilities.

    Source: Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016.
    """
    return F.cross_entropy(logits, targets, label_smoothing=share)


def mixup(images: Tensor, alpha: float) -> tuple[Tensor, Tensor, float]:
    """Mixes each image, and its target, with another of the batch.

    All images of a batch are mixed by one weight from Beta(alpha, alpha), drawn on the CPU.
    It is at least 1/2, which only swaps roles in a pair: so a mixed image is mostly
    itself, and its own neighbours and label fit it.

    Args:
        images: (B, 3, H, W).

    Returns:
        Mixed images, (B,) rows of the others, and the weight of the image itself.

    Source: Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018.
    """
    sample = float(torch.distributions.Beta(alpha, alpha).sample())
    weight = max(sample, 1 - sample)
    others = torch.randperm(len(images)).to(images.device, non_blocking=True)
    return torch.lerp(images[others], images, weight), others, weight
