"""How a training computes: in which precision, and whether compiled. Neither changes what.

Precision and compilation change results by rounding only
(`tests/test_precision.py`), so both may be chosen for speed.
"""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path
from typing import Any

import torch

from rapipe.device import Precision, autocast, device, native_bf16, processor
from rapipe.encoder.backbones import build
from rapipe.io.atomic import atomic_write
from rapipe.io.locks import file_lock
from rapipe.io.tables import checksummed_json, parse_checksummed
from rapipe.progress import say

WORTH = 1.5
"""How many times faster bfloat16 must be to be worth its rounding."""
PROBES = 6
"""Times that each precision is measured; the fastest counts, since others were disturbed."""
PROBED = ("resnet18", 32, "half", 32)
PROBED_BATCH = 128


def precision_of(precision: str, measurements: Path | None = None) -> Precision:
    """The precision to train in.

    `auto` is decided once for a machine, not for each network: classifiers that are
    compared must not differ in it.

    Args:
        precision: `bf16`, `fp32`, or `auto`: what `native_bf16` knows, else what is measured.
        measurements: file that remembers them, so that a machine always decides alike; without
            one it is measured anew in each process.
    """
    if precision == "auto":
        is_native = native_bf16()
        is_faster = _speedup(measurements) >= WORTH if is_native is None else is_native
        return "bf16" if is_faster else "fp32"
    return "bf16" if precision == "bf16" else "fp32"


def _speedup(measurements: Path | None) -> float:
    """How many times faster bfloat16 is here, measured once for a machine."""
    if measurements is None:
        return _measure_once()
    machine = f"{processor()}, torch {torch.__version__}"
    with file_lock(measurements.with_suffix(".lock"), "measures how fast bfloat16 is here"):
        speedups = _stored(measurements)
        if machine not in speedups:
            speedups[machine] = _measure()
            atomic_write(measurements, checksummed_json(speedups).encode())
            say(
                f"a ResNet-18 trains {speedups[machine]} times as fast in bf16 as in fp32 on "
                f"{machine}"
            )
        return speedups[machine]


@cache
def _measure_once() -> float:
    return _measure()


def _measure() -> float:
    seconds: dict[Precision, float] = {"fp32": float("inf"), "bf16": float("inf")}
    step = _probe()
    for _ in range(1 + PROBES):
        for precision in seconds:
            seconds[precision] = min(seconds[precision], step(precision))
    return round(seconds["fp32"] / seconds["bf16"], 3)


def _probe() -> Any:
    """A function of a precision: seconds of a forward and backward pass of a small ResNet-18."""
    with torch.random.fork_rng([]):
        network = build(*PROBED).to(device())
        images = torch.rand(PROBED_BATCH, 3, PROBED[3], PROBED[3], device=device())
    images = images.contiguous(memory_format=torch.channels_last)

    def step(precision: Precision) -> float:
        start = time.perf_counter()
        with autocast(device(), precision):
            features = network(images)
        features.float().sum().backward()
        return time.perf_counter() - start

    return step


def _stored(measurements: Path) -> dict[str, float]:
    try:
        return parse_checksummed(measurements.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
