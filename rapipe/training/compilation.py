"""Networks that torch compiles."""

from __future__ import annotations

import torch

from rapipe.device import Precision, autocast, device
from rapipe.errors import ArgumentError, first_line
from rapipe.training.module import TrainingModule, preserving_state


def compile_network(module: TrainingModule, precision: Precision) -> None:
    """Let torch compile the network, and try it on one step.

    Raises:
        ArgumentError: torch cannot compile it here.
    """
    module.to(device())
    module.network.compile(options={"fallback_random": True})  # dropout draws as it would
    try:
        with preserving_state(module):
            batch = next(iter(module.train_dataloader()))
            with autocast(device(), precision):
                loss = module.training_step(batch, 0)
            loss.backward()  # type: ignore[no-untyped-call]
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise ArgumentError(
            "`compile` is true, but torch cannot compile the network here "
            f"({first_line(error)}): set it to false"
        ) from error
