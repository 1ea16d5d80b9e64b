"""What the benchmarks share: the machine, targets, and measuring peers in turns."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

from rapipe.cores import cores

Result = dict[str, Any]
Seconds = dict[str, list[float]]


def parse_arguments(doc: str | None, **options: tuple[Any, str]) -> argparse.Namespace:
    """The command line: `--json`, `--quick`, and options with their defaults."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--quick", action="store_true", help="headline figures in 50 seconds")
    for name, (default, text) in options.items():
        description = f"{text}; by default {default}"
        parser.add_argument(f"--{name}", type=type(default), default=default, help=description)
    return parser.parse_args()


def machine(*packages: str) -> Result:
    """The machine of the measurement."""
    from rapipe.device import processor

    return {
        "processor": processor(),
        "cores": cores(),
        **gpu(),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def precision() -> Any:
    """What `train.precision: auto` chooses here."""
    from rapipe.training.precision import precision_of

    return precision_of("auto")


def gpu() -> dict[str, str]:
    """Name of the GPU, if there is one."""
    import torch

    return {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}


def in_turns(rounds: int, peers: Mapping[str, Callable[[], float]]) -> Seconds:
    """What each peer returns, round after round, so that all see the same noise of the machine.

    Every other round goes backwards, so that none always comes after the same one.
    """
    seconds: Seconds = {name: [] for name in peers}
    for number in range(rounds):
        for name in list(peers)[:: -1 if number % 2 else 1]:
            seconds[name].append(peers[name]())
    return seconds


def clocked(run: Callable[[], object]) -> float:
    """Seconds that a call takes, with the work that it queued on the GPU."""
    start = now()
    run()
    return now() - start


def now() -> float:
    """The time in seconds, when the GPU has done all its queued work."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def ratio(over: list[float], under: list[float]) -> float:
    """The median of the ratios of each round."""
    return statistics.median(a / b for a, b in zip(over, under, strict=True))


def target(name: str, value: float, limit: float, at_least: bool = False) -> Result:
    """A figure that should not be above its target, or not below it."""
    met = value >= limit if at_least else value <= limit
    return {"name": name, "value": round(value, 3), "target": limit, "met": met}


def spread(values: list[float], scale: float = 1, digits: int = 1) -> str:
    """Median, and lowest to highest."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return " ".join(
        (
            f"{middle * scale:.{digits}f}",
            f"({low * scale:.{digits}f} to {high * scale:.{digits}f})",
        )
    )


def print_result(result: Result, lines: list[str], as_json: bool) -> None:
    """Print the result as JSON, or the lines and how the targets were met."""
    if as_json:
        print(json.dumps(result, indent=2))
        return
    print(result["machine"], *lines, sep="\n")
    for goal in result["targets"]:
        met = "met" if goal["met"] else "MISSED"
        print(f"{goal['name']}: {goal['value']} (target {goal['target']}: {met})")
