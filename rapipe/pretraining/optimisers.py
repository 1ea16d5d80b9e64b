"""Optimisers of pretraining: one function each, one line each in `OPTIMISERS`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

Parameters = list[nn.Parameter]


def sgd(parameters: Parameters, rate: float) -> Optimizer:
    """Steps along the gradient with momentum; for convolutional networks.

    Momentum .85 to .95, highest where the learning rate is lowest; weight decay 5e-4.

    Source: Sutskever et al., "On the importance of initialization and momentum in deep
    learning", ICML 2013.
    """
    return torch.optim.SGD(parameters, rate, momentum=0.9, weight_decay=5e-4, fused=True)


def adam(parameters: Parameters, rate: float) -> Optimizer:
    """Steps of about the same size for every weight, without weight decay.

    Betas .9 and .999; rates are about a hundredth of SGD's.

    Source: Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015.
    """
    return torch.optim.Adam(parameters, rate, fused=True)


def adamw(parameters: Parameters, rate: float) -> Optimizer:
    """Steps of the same size for every weight, whatever its gradient; for transformers.

    Betas .9 and .95, weight decay .05 (none for biases and normalisation), as in MAE;
    rates are about a hundredth of SGD's.

    Source: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.
    """
    return torch.optim.AdamW(_groups(parameters, 0.05), rate, (0.9, 0.95), fused=True)


def lars(parameters: Parameters, rate: float) -> Optimizer:
    """Steps that are a fixed share of each layer's weights; for batches of thousands.

    Momentum .9, weight decay 1e-6 (biases and normalisation step as with SGD), as in SimCLR.

    Source: You et al., "Large Batch Training of Convolutional Networks", arXiv 2017.
    """
    from lightly.utils.lars import LARS  # seconds: only for those who use it

    optimiser: Optimizer = LARS(_groups(parameters, 1e-6), rate, momentum=0.9)
    return optimiser


def _groups(parameters: Parameters, decay: float) -> list[dict[str, Any]]:
    """Two groups: matrices, kernels and tokens decay; biases and normalisation do not."""
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


OPTIMISERS: dict[str, Callable[[Parameters, float], Optimizer]] = {
    "sgd": sgd,
    "adam": adam,
    "adamw": adamw,
    "lars": lars,
}
