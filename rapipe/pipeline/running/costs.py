"""The costs of a stage: seconds and peak memory, in files apart from its artefacts.

An artefact is the same bytes each time; its costs are not. So they have cards of their own,
which no stage depends on.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rapipe import paths
from rapipe.io.tables import read_json, write_json
from rapipe.progress import is_muted, say

GB = 1e9


@contextmanager
def record_costs(name: str) -> Iterator[None]:
    """Print the costs of the work inside, and write them into `data/costs/<name>.json`."""
    _reset_peak_memory()
    start = time.perf_counter()
    yield
    if is_muted():  # another rank says what it took
        return
    card = {"stage": name, "seconds": round(time.perf_counter() - start, 2), **peak_memory()}
    try:
        write_json(paths.COSTS / f"{name}.json", card)
    except OSError as error:  # the artefacts are complete all the same
        say(f"{paths.COSTS / name}.json cannot be written: {error.strerror}")
    gpu = f", {card['gpu_gb']} GB of the GPU's" if "gpu_gb" in card else ""
    memory = f", peak memory {card['peak_gb']} GB" if "peak_gb" in card else ""
    say(f"{name}: {card['seconds']} s{memory}{gpu}")


def peak_memory() -> dict[str, float]:
    """Peak memory in gigabytes of this process (without its workers), and of the GPU."""
    peaks: dict[str, float] = {}
    with suppress(ImportError):  # Windows has no such count
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        peak = _linux_peak() or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        peaks["peak_gb"] = round(peak / GB, 2)
    torch = sys.modules.get("torch")  # imported by stages that compute with it
    if torch and torch.cuda.is_available():
        peaks["gpu_gb"] = round(torch.cuda.max_memory_allocated() / GB, 2)
    return peaks


def _linux_peak() -> int:
    """Bytes; `ru_maxrss` would count the memory of whoever started this process."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def _reset_peak_memory() -> None:
    """Start to count anew: a process may run several stages."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def read_costs() -> list[dict[str, Any]]:
    """The costs of the last run of each stage, in the order in which they ended."""
    files = sorted(paths.COSTS.glob("*.json"), key=lambda path: path.stat().st_mtime)
    keys = ("stage", "seconds", "peak_gb", "gpu_gb")
    cards = [read_json(file, file.stem.partition("-")[0]) for file in files]
    return [{key: card.get(key, "") for key in keys} for card in cards]
