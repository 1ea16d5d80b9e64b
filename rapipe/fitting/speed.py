"""How a training computes: in which precision, and whether compiled. Neither changes what.

Precision and compilation change results by rounding only
(`tests/test_speed.py`), so both may be chosen for speed.
"""

from __future__ import annotations

import copy
import json
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from rapipe.device import Precision, autocast, device, native_bf16, processor
from rapipe.errors import UserError
from rapipe.fitting.base import Fit
from rapipe.progress import say

WORTH = 1.2
"""How many times faster bfloat16 must be to be worth its rounding."""
REPEATS = 3


def prepare(module: Fit, ask: str, compiled: bool, remembered: Path) -> Precision:
    """The precision to train in; compiles the network if asked.

    Args:
        ask: bf16, fp32, or auto: what `native_bf16` knows, else what is measured on the network.
        remembered: file of earlier measurements, so that a machine always decides alike.

    Raises:
        UserError: torch cannot compile the network here.
    """
    module.to(device())
    surely = native_bf16()
    precision: Precision
    if ask != "auto":
        precision = "bf16" if ask == "bf16" else "fp32"
    elif surely is not None:
        precision = "bf16" if surely else "fp32"
    else:
        precision = _measured(module, remembered)
    if compiled:
        module.network.compile(options={"fallback_random": True})  # dropout draws as it would
        try:
            with rehearsal(module):
                step_seconds(module, precision)
        except Exception as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(
                f"train.compile is true, but torch cannot compile the network here ({reason}): "
                "set it to false"
            ) from error
    return precision


@contextmanager
def rehearsal(module: Fit) -> Iterator[None]:
    """Steps made inside leave no trace: not in weights, nor in statistics or random numbers."""
    state = copy.deepcopy(module.network.state_dict())
    with torch.random.fork_rng([0] if device().type == "cuda" else []):
        yield
    module.network.load_state_dict(state)
    module.network.zero_grad(set_to_none=True)
    module.seen.clear()


def step_seconds(module: Fit, precision: Precision) -> float:
    """Seconds of one forward and backward pass on the first batch of the training."""
    batch = next(iter(module.train_dataloader()))
    start = time.perf_counter()
    with autocast(device(), precision):
        loss = module.training_step(batch, 0)
    loss.backward()  # type: ignore[no-untyped-call]
    return time.perf_counter() - start


def _measured(module: Fit, remembered: Path) -> Precision:
    parameters = sum(p.numel() for p in module.network.parameters())
    key = (
        f"{processor()}, torch {torch.__version__}, {type(module.network).__name__} of "
        f"{parameters} parameters, batches of {module.batch_size}"
    )
    known = _known(remembered)
    if key not in known:
        seconds: dict[Precision, list[float]] = {"fp32": [], "bf16": []}
        with rehearsal(module):
            for _ in range(1 + REPEATS):  # the first warms up
                for precision, times in seconds.items():
                    times.append(step_seconds(module, precision))
        ratio = statistics.median(seconds["fp32"][1:]) / statistics.median(seconds["bf16"][1:])
        chosen = "bf16" if ratio >= WORTH else "fp32"
        known[key] = {"precision": chosen, "bf16 is faster by": round(ratio, 3)}
        remembered.parent.mkdir(parents=True, exist_ok=True)
        partial = remembered.with_name(remembered.name + ".part")
        partial.write_text(json.dumps(known, indent=2) + "\n")
        partial.replace(remembered)
    found = known[key]
    say(f"precision {found['precision']}: bf16 is {found['bf16 is faster by']} times as fast")
    return "bf16" if found["precision"] == "bf16" else "fp32"


def _known(remembered: Path) -> dict[str, Any]:
    try:
        known: dict[str, Any] = json.loads(remembered.read_text())
    except (OSError, ValueError):
        return {}
    return known
