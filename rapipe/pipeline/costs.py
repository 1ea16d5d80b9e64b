"""What a stage takes: seconds and memory, kept apart from its artefacts.

An artefact is the same bytes each time; what it took is not. So costs have
cards of their own, which no stage depends on.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from rapipe import paths
from rapipe.pipeline.inputs import write_json
from rapipe.progress import say

GB = 1e9


@contextmanager
def counted(name: str) -> Iterator[None]:
    """Say what the work inside took, and write it into `data/costs/<name>.json`."""
    start = time.perf_counter()
    yield
    card = {"stage": name, "seconds": round(time.perf_counter() - start, 2), **peaks()}
    write_json(paths.COSTS / f"{name}.json", card)
    gpu = f", {card['gpu_gb']} GB of the GPU's" if "gpu_gb" in card else ""
    memory = f", peak memory {card['peak_gb']} GB" if "peak_gb" in card else ""
    say(f"{name}: {card['seconds']} s{memory}{gpu}")


def peaks() -> dict[str, float]:
    """Peak memory in gigabytes of this process so far, of its largest worker, and of the GPU."""
    found: dict[str, float] = {}
    with suppress(ImportError):  # Windows has no such count
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        whose = {"peak_gb": resource.RUSAGE_SELF, "worker_gb": resource.RUSAGE_CHILDREN}
        most = {key: resource.getrusage(who).ru_maxrss * unit for key, who in whose.items()}
        found = {key: round(peak / GB, 2) for key, peak in most.items() if peak}
    torch = sys.modules.get("torch")  # imported by those who compute with it
    if torch and torch.cuda.is_available():
        found["gpu_gb"] = round(torch.cuda.max_memory_allocated() / GB, 2)
    return found


def rows() -> list[dict[str, Any]]:
    """What each stage took when it last ran here, in the order in which they ended."""
    files = sorted(paths.COSTS.glob("*.json"), key=lambda file: file.stat().st_mtime)
    keys = ("stage", "seconds", "peak_gb", "worker_gb", "gpu_gb")
    cards = [json.loads(file.read_text()) for file in files]
    return [{key: card.get(key, "") for key in keys} for card in cards]
