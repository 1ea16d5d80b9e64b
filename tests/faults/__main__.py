"""Injects faults for a bounded time, and counts how many were survived.

python -m tests.faults --minutes 60                       all parts
python -m tests.faults --minutes 10 --only kill disk      these
python -m tests.faults --json FILE                        also write the counts to FILE
python -m tests.faults --seed 7 --only kill --trial 17    repeat one trial of seed 7
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import platform
import random
import shutil
import sys
import tempfile
import time
from multiprocessing.queues import Queue
from pathlib import Path
from queue import Empty
from typing import Any

from rapipe import __version__
from rapipe.io.atomic import atomic_write
from tests.faults.outcome import Setting
from tests.faults.reference import build
from tests.faults.summary import Summary
from tests.faults.warm import ProcessGroup
from tests.faults.worker import PARTS, Worker

GRACE = 300.0
"""Seconds that a worker may take to end its last trial."""


def main() -> None:
    """Print a table; exit code 1 if anything was not survived."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, help="a new one by default")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--trial", type=int, help="only the one with this number")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.seed is None:
        arguments.seed = random.SystemRandom().randrange(10**6)
    print(f"seed {arguments.seed}", flush=True)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    start, summary = time.time(), Summary()
    with contextlib.suppress(KeyboardInterrupt):  # what there is, is printed
        run(arguments, start, summary)
    summary.print()
    if arguments.json:
        facts = {
            "rapipe": __version__,
            "python": platform.python_version(),
            "machine": f"{platform.system()} {platform.machine()}",
            "seed": arguments.seed,
            "budget": arguments.minutes,
            "minutes": round((time.time() - start) / 60, 1),
            "workers": arguments.workers,
            **summary.facts(),
        }
        atomic_write(arguments.json, (json.dumps(facts, indent=2) + "\n").encode())
    sys.exit(1 if summary.wrong else 0)


def run(arguments: argparse.Namespace, start: float, summary: Summary) -> None:
    """Make the trials, and count their outcomes."""
    folder = Path(tempfile.mkdtemp(prefix="rapipe-faults-"))
    scratch, processes = folder / "reference", ProcessGroup()
    try:
        reference = build(scratch, processes)
    finally:
        processes.close()
    setting = Setting(reference, folder, arguments.seed)
    stop = start + 60 * arguments.minutes
    count = 1 if arguments.trial is not None else arguments.workers
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    workers = []
    for index in range(count):
        parts = tuple(arguments.only)
        worker = Worker(setting, parts, index, count, stop, arguments.trial)
        workers.append(context.Process(target=worker.run, args=(results,)))
        workers[-1].start()
    try:
        collect(workers, results, stop + GRACE, arguments.seed, summary)
    finally:
        for process in workers:
            process.terminate()
            process.join()
        clean(folder)


def collect(
    workers: list[Any], results: Queue[Any], deadline: float, seed: int, summary: Summary
) -> None:
    """Count the outcomes until all workers have ended."""
    running = len(workers)
    while running:
        try:
            result = results.get(timeout=5)
        except Empty:
            codes = [process.exitcode for process in workers]
            if any(codes) or time.time() > deadline:
                summary.fail(f"a worker crashed or did not end: exit codes {codes}")
                return
            continue
        if result is None:
            running -= 1
            continue
        name, number, outcome = result
        repeat = f"python -m tests.faults --seed {seed} --only {name} --trial {number}"
        summary.add(outcome, repeat)


def clean(folder: Path) -> None:
    """Remove the folder, but for trials that failed."""
    shutil.rmtree(folder / "reference", ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


if __name__ == "__main__":
    main()
