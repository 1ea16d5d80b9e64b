"""What a user waits for before anything happens.

    python -m benchmarks.startup [--json] [--quick]

Seconds of `rapipe --help`, of other commands that only look, of `dvc repro` when there is nothing
to do (in this folder, if all of it is up to date), and of all that each stage imports, also of what
it imports only when it gets there. A process of its own each time, in turns; the first turn, which
fills the system's file cache, is not counted, and what fails in it is left out. `--quick` leaves
the stages out.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.common import (
    Result,
    clocked,
    in_turns,
    machine,
    parse_arguments,
    print_result,
    spread,
    target,
)

ROUNDS = 3
HELP, REPRO = "rapipe --help", "dvc repro, nothing to do"
HELP_TARGET = 0.5
REPRO_TARGET = 5.0
COMMANDS = (HELP, "rapipe preset", "rapipe results", "rapipe costs", "rapipe store info")
STAGES = {
    "corpus": "",
    "pretrain": "timm, kornia.augmentation, lightly.loss, lightly.models.modules.heads",
    "embed": "timm, lancedb",
    "prefetch": "lancedb",
    "train": "timm",
    "evaluate": "timm",
    "report": "matplotlib.pyplot",
}
"""Stages, and what they import when they get there."""


def main() -> None:
    """Print a table, or JSON."""
    options = parse_arguments(__doc__)
    bin_folder = Path(sys.executable).parent
    commands: dict[str, Sequence[str]] = {
        name: [str(bin_folder / "rapipe"), *name.split()[1:]] for name in COMMANDS
    }
    up_to_date = subprocess.run([bin_folder / "dvc", "status", "-q"], check=False).returncode == 0
    if up_to_date:
        commands[REPRO] = [str(bin_folder / "dvc"), "repro"]
    for stage, modules in () if options.quick else STAGES.items():
        code = f"import rapipe.pipeline.{stage}" + (f", {modules}" if modules else "")
        commands[f"imports of {stage}"] = [sys.executable, "-c", code]

    def works(name: str) -> bool:
        return subprocess.run(commands[name], check=False, capture_output=True).returncode == 0

    def seconds(name: str) -> float:
        return clocked(partial(subprocess.run, commands[name], check=True, capture_output=True))

    peers = {name: partial(seconds, name) for name in commands if works(name)}
    timings = in_turns(ROUNDS, peers)
    targets = [target(f"{HELP}, seconds", statistics.median(timings[HELP]), HELP_TARGET)]
    if up_to_date:
        targets.append(target(f"{REPRO}, seconds", statistics.median(timings[REPRO]), REPRO_TARGET))
    result: Result = {
        "machine": machine("torch", "typer", "dvc", "pytorch-lightning"),
        "seconds": {name: [round(s, 2) for s in times] for name, times in timings.items()},
        "targets": targets,
    }
    lines = [f"{name:28}{spread(times, digits=2):>24}" for name, times in timings.items()]
    print_result(result, lines, options.json)


if __name__ == "__main__":
    main()
