"""Sends a signal right before a chosen write to the disk, so that every moment can be hit.

`sitecustomize` beside this file installs it in the stages that a checkout runs, and
`tests.faults.warm` in those it starts. It imports nothing heavy.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

VARIABLE = "RAPIPE_DYING"
"""Of the environment: JSON of `at` (which change, from 1; 0 = none), `number` (of the signal),
`whom` (self, group or dvc), `log` (a file that gets a line a change), and `torn` (where the change
is to open a file for writing: whether the file is still created, empty, before the signal),
and `word` (only changes whose line in the log ends with it are counted)."""
CHANGES = frozenset(("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link"))
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
SENT = "dead"
"""Line of the log after the signal was sent: processes that start later get none."""


def install() -> None:
    """Count the changes that this process makes to `data` and `results`, as the environment says.

    The signal is sent right before the change is made.
    """
    if VARIABLE not in os.environ:
        return
    fault = json.loads(os.environ[VARIABLE])
    log = Path(fault["log"])
    if log.exists() and SENT in log.read_text().splitlines():
        return
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    home, count, sent = str(Path.cwd()), 0, not fault["at"]
    tops = tuple(os.path.join(home, top) for top in ("data", "results"))  # noqa: PTH118

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal count, sent
        if event not in CHANGES and not (event == "open" and _writes(args)):
            return
        paths = [os.fsdecode(arg) for arg in args[:2] if isinstance(arg, str | bytes | os.PathLike)]
        if event == "open":
            del paths[1:]  # its mode
        inside = isinstance(args[-1], int) and event != "open" and args[-1] >= 0  # of a folder
        if not inside and not any(os.path.join(home, path).startswith(tops) for path in paths):  # noqa: PTH118
            return
        line = f"{event} {' '.join(paths)}"
        os.write(file, f"{line}\n".encode())
        count += line.endswith(fault["word"])
        if count == fault["at"] and not sent:
            sent = True
            if fault["torn"] and event == "open":
                os.close(os.open(paths[0], os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
            os.write(file, f"{SENT}\n".encode())
            _send(fault["number"], fault["whom"])

    sys.addaudithook(hook)


def _writes(args: tuple[Any, ...]) -> bool:
    flags = args[2] if len(args) > 2 else 0
    return isinstance(flags, int) and bool(flags & WRITES)


def _send(number: int, whom: str) -> None:
    if whom == "group":
        os.killpg(os.getpgrp(), number)
    elif whom == "self":
        os.kill(os.getpid(), number)
    else:
        import psutil

        for parent in psutil.Process().parents():
            if any(Path(word).name == "dvc" for word in parent.cmdline()[:2]):
                os.kill(parent.pid, number)
                return


def fault_environment(
    log: Path,
    at: int = 0,
    number: signal.Signals = signal.SIGKILL,
    whom: str = "self",
    torn: bool = False,
    word: str = "",
) -> dict[str, str]:
    """Environment variables that order a fault; without `at` changes are only counted."""
    facts = {"at": at, "number": int(number), "whom": whom, "log": str(log), "torn": torn}
    facts["word"] = word
    return {VARIABLE: json.dumps(facts)}
