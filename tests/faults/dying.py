"""Sends a signal at a chosen change of the disk, so that every moment can be hit.

`sitecustomize` in `site` installs it in the processes that a checkout starts, and
`tests.faults.warm` in those it starts. It imports nothing heavy.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

VARIABLE = "RAPIPE_DYING"
"""Of the environment: JSON of the arguments of `fault_environment`."""
CHANGES = frozenset(("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.link"))
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
SENT = "dead"
"""Line of the log after the signal was sent: processes that start later get none."""
IGNORED = ("__pycache__", "/.git/")


def install(process: str) -> None:
    """Count the changes that this process makes to the checkout, as the environment says.

    Args:
        process: what it is: stage or dvc.
    """
    if VARIABLE not in os.environ:
        return
    fault = json.loads(os.environ[VARIABLE])
    log = Path(fault["log"])
    if process != fault["process"] or (log.exists() and SENT in log.read_text().splitlines()):
        return
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    home, count, sent, start = f"{Path.cwd()}/", 0, not fault["at"], time.monotonic()

    def change(event: str, paths: list[str]) -> None:
        nonlocal count, sent
        if sent and fault["at"]:
            return  # an output may have reached its limit
        line = f"{event} {' '.join(paths)}"
        os.write(file, f"{time.monotonic() - start:.4f} {line}\n".encode())
        count += line.endswith(fault["word"])
        if count != fault["at"] or sent:
            return
        sent = True
        if fault["size"]:
            limit_files(fault["size"])
            return
        if fault["torn"] and event == "open":
            os.close(os.open(paths[0], os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
        if fault["later"]:
            timer = threading.Timer(fault["later"], die)
            timer.daemon = True
            timer.start()
        else:
            die()

    def die() -> None:
        os.write(file, f"{SENT}\n".encode())
        _send(fault["number"], fault["whom"])

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event not in CHANGES and not (event == "open" and _writes(args)):
            return
        if event == "open" and isinstance(args[0], int):  # a file that is open already
            return
        paths = [os.fsdecode(arg) for arg in args[:2] if isinstance(arg, str | bytes | os.PathLike)]
        if event == "open":
            del paths[1:]  # its mode
        inside = isinstance(args[-1], int) and event != "open" and args[-1] >= 0  # of a folder
        places = [os.path.join(home, path) for path in paths]  # noqa: PTH118
        if any(word in place for word in IGNORED for place in places):
            return
        if inside or any(place.startswith(home) for place in places):
            change(event, paths)

    def fsync(descriptor: Any) -> None:
        change("os.fsync", [])
        synchronise(descriptor)

    synchronise = os.fsync
    os.fsync = fsync  # type: ignore[assignment]
    sys.addaudithook(hook)


def _writes(args: tuple[Any, ...]) -> bool:
    flags = args[2] if len(args) > 2 else 0
    return isinstance(flags, int) and bool(flags & WRITES)


def limit_files(size: int) -> None:
    """Let the system kill this process in the write that makes any file larger than so many bytes.

    It writes up to there first. So a file that any library writes, in any language, is cut.
    """
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


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
    later: float = 0,
    size: int = 0,
    process: str = "stage",
) -> dict[str, str]:
    """Environment variables that order a fault; without `at` changes are only counted.

    Args:
        log: a file that gets a line a change.
        at: before which change the signal is sent, from 1.
        whom: self, group or dvc.
        torn: if the change is to open a file for writing, it is still created, empty.
        word: only changes whose line in the log ends with it are counted.
        later: so many seconds after the change instead.
        size: from this change on no file may have more bytes (`limit_files`); no signal is sent.
        process: whose changes are counted: stage or dvc.
    """
    facts = {"log": str(log), "at": at, "number": int(number), "whom": whom, "torn": torn}
    facts |= {"word": word, "later": later, "size": size, "process": process}
    return {VARIABLE: json.dumps(facts)}
