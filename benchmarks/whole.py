"""`dvc repro` of a fresh clone, beside the same stages in one process that has imported everything.

    python -m benchmarks.whole [--json] [--quick]

Each has a clone of its own, of what is committed here, where nothing has been made yet. What the
ratio shows is what starting processes, DVC and hashing cost, less what is gained by classifiers
that are trained side by side. `--quick` runs the preset `tiny`. The peak is that of the
largest process that trains a classifier.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.common import (
    Result,
    clocked,
    machine,
    parse_arguments,
    print_result,
    target,
)
from rapipe.io.tables import read_json

ROOT = Path(__file__).parent.parent
OVERHEAD = 1.1
PEAK_GB = 1.0
IN_ONE_PROCESS = """
import time
from pathlib import Path
from rapipe.config.loading import load
from rapipe.pipeline.running.whole import STAGES, run_all
import kornia.augmentation, lancedb, lightly.loss, lightly.models.modules.heads
import matplotlib.pyplot, pytorch_lightning, sklearn, timm
for stage in STAGES:
    __import__(f"rapipe.pipeline.{stage}")
start = time.perf_counter()
run_all(load(Path("params.yaml")))
print(time.perf_counter() - start)
"""


def main() -> None:
    """Print both times, or JSON."""
    options = parse_arguments(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        clones = [Path(folder, name) for name in ("dvc", "process")]
        for clone in clones:
            subprocess.run(["git", "clone", "-q", ROOT, clone], check=True)
            if options.quick:
                run(clone, "-m", "rapipe", "preset", "tiny")
        by_dvc = clocked(lambda: run(clones[0], "-m", "dvc", "repro"))
        in_one = float(run(clones[1], "-c", IN_ONE_PROCESS).splitlines()[-1])
        cards = [read_json(p, "train") for p in (clones[0] / "data/costs").glob("train-*.json")]
    peak = max(card["peak_gb"] for card in cards)
    result: Result = {
        "machine": machine("torch", "dvc"),
        "seconds": {"dvc repro": round(by_dvc, 1), "in one process": round(in_one, 1)},
        "targets": [
            target("dvc repro / in one process", by_dvc / in_one, OVERHEAD),
            target("peak GB of a training", peak, PEAK_GB),
        ],
    }
    lines = [f"{name:16}{seconds:8.1f} s" for name, seconds in result["seconds"].items()]
    print_result(result, lines, options.json)


def run(clone: Path, *arguments: str) -> str:
    """What Python prints, run in a clone with its code."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=clone,
        env={**os.environ, "PYTHONPATH": str(clone)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout


if __name__ == "__main__":
    main()
