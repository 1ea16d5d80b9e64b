"""Which device to compute on, and how precisely to train there."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Literal

import torch


def device() -> torch.device:
    """The first GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def training_autocast() -> AbstractContextManager[None]:
    """The precision of training, for what is measured while it runs."""
    return torch.autocast(
        device().type, torch.bfloat16, enabled=training_precision() == "bf16-mixed"
    )


def training_precision() -> Literal["bf16-mixed", "32-true"]:
    """bfloat16 autocast where the hardware multiplies it natively, else float32.

    Emulated bfloat16 is slower than float32. Embedding and evaluation are
    always float32.
    """
    if torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.cpu._is_avx512_bf16_supported()
    return "bf16-mixed" if native else "32-true"
