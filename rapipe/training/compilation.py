"""Networks that torch compiles."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from rapipe.device import Precision, autocast, device
from rapipe.errors import UserError, first_line
from rapipe.training.module import TrainingModule


def compile_network(module: TrainingModule, precision: Precision) -> None:
    """Let torch compile the network, and try it on one step.

    Raises:
        UserError: torch cannot compile it here.
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
        raise UserError(
            "train.compile is true, but torch cannot compile the network here "
            f"({first_line(error)}): set it to false"
        ) from error


@contextmanager
def preserving_state(module: TrainingModule) -> Iterator[None]:
    """Steps made inside leave no trace: not in weights, nor in statistics or random numbers."""
    state = copy.deepcopy(module.network.state_dict())
    with torch.random.fork_rng([0] if device().type == "cuda" else []):
        yield
    module.network.load_state_dict(state)
    module.network.zero_grad(set_to_none=True)
    module.seen.clear()
