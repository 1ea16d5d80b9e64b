"""How a training computes: in which precision, and whether compiled. Neither changes what.

Precision and compilation change results by rounding only
(`tests/test_precision.py`), so both may be chosen for speed.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from rapipe.device import Precision, autocast, device, native_bf16, processor
from rapipe.encoder.backbones import build
from rapipe.io.locks import file_lock
from rapipe.io.tables import read_checksummed, write_checksummed
from rapipe.progress import say

WORTH = 1.5
"""How many times faster bfloat16 must be to be worth its rounding."""
CLEAR = 1.1
"""A speedup this many times above or below `WORTH` needs no further rounds."""
ROUNDS = 6
"""Times that each precision is measured; the fastest counts, since others were disturbed."""
LEAST_ROUNDS = 2
SECONDS = 3.0
"""After which no round is begun."""
PROBED = ("resnet18", "perceiver")
"""Convolutions; linear layers and attention."""
PROBED_SIZE = (32, "half", 32)
"""Width, stem and image size."""
PROBED_BATCH = 64
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")

_speedups: dict[str, float] = {}
"""What this process measured, by machine: for where no file can be written."""


def precision_of(precision: str, project_file: Path | None = None) -> Precision:
    """The precision to train in.

    `auto` is decided once for a machine, not for each network: classifiers that are compared
    must not differ in it. What was measured once is kept in the user's cache folder, and holds
    for all projects.

    Args:
        precision: `bf16`, `fp32`, or `auto`: what `native_bf16` knows, else what is measured.
        project_file: keeps what was measured if the user's cache cannot. What it holds counts
            first, so that a project stays with its precision.
    """
    known = known_precision(precision, project_file)
    return known or _choose(_measure_and_keep(project_file))


def known_precision(precision: str, project_file: Path | None = None) -> Precision | None:
    """The same if it is known without measuring; None if it is not."""
    if precision != "auto":
        return "bf16" if precision == "bf16" else "fp32"
    if (is_native := native_bf16()) is not None:
        return "bf16" if is_native else "fp32"
    speedup = _kept_speedup(project_file)
    return None if speedup is None else _choose(speedup)


def cache_file() -> Path | None:
    """Where a user keeps what was measured; None where there is no home."""
    folder = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not folder.is_absolute():  # such a one is to be ignored, says its specification
        try:
            folder = Path.home() / ".cache"
        except RuntimeError:
            return None
    return folder / "rapipe" / "precision.json"


def _choose(speedup: float) -> Precision:
    return "bf16" if speedup >= WORTH else "fp32"


def _machine() -> str:
    return f"{processor()}, torch {torch.__version__}"


def _kept_speedup(project_file: Path | None) -> float | None:
    for file in filter(None, (project_file, cache_file())):
        with suppress(OSError):  # such as a home of somebody else
            if speedup := read_checksummed(file).get(_machine()):
                return float(speedup)
    return _speedups.get(_machine())


def _measure_and_keep(project_file: Path | None) -> float:
    """How many times faster bfloat16 is here; kept in the first file that can be written."""
    for file in filter(None, (cache_file(), project_file)):
        with (
            suppress(OSError, NotImplementedError),  # cannot be written, or not locked
            file_lock(file.with_suffix(".lock"), "measures how fast bfloat16 is here"),
        ):
            kept = read_checksummed(file)
            if _machine() not in kept:
                kept[_machine()] = _speedup()
                write_checksummed(file, kept)
            return float(kept[_machine()])
    return _speedup()


def _speedup() -> float:
    """How many times faster bfloat16 is here, measured once by a process."""
    if _machine() not in _speedups:
        _speedups[_machine()] = _measure()
        say(
            f"networks train {_speedups[_machine()]:.2f} times as fast in bf16 as in fp32 on "
            f"{_machine()}"
        )
    return _speedups[_machine()]


def _measure() -> float:
    """Rounds of a step in each precision, until it is clear or time is up.

    The first round warms up; it counts only if there is no time for a second.
    """
    start = time.perf_counter()
    step = _probe()
    seconds: dict[Precision, float] = {precision: step(precision) for precision in PRECISIONS}
    for number in range(1, 1 + ROUNDS):
        speedup = seconds["fp32"] / seconds["bf16"]
        is_clear = number > LEAST_ROUNDS and not WORTH / CLEAR < speedup < WORTH * CLEAR
        if is_clear or time.perf_counter() - start > SECONDS:
            break
        for precision in PRECISIONS:
            before = seconds[precision] if number > 1 else float("inf")
            seconds[precision] = min(before, step(precision))
    return round(seconds["fp32"] / seconds["bf16"], 3)


def _probe() -> Any:
    """A function of a precision: seconds of forward and backward passes of small networks."""
    with torch.random.fork_rng([]):
        networks = [build(name, *PROBED_SIZE).to(device()) for name in PROBED]
        side = PROBED_SIZE[-1]
        images = torch.rand(PROBED_BATCH, 3, side, side, device=device())
    images = images.contiguous(memory_format=torch.channels_last)

    def step(precision: Precision) -> float:
        start = time.perf_counter()
        for network in networks:
            with autocast(device(), precision):
                features = network(images)
            features.float().sum().backward()
        return time.perf_counter() - start

    return step
