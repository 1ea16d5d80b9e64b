"""A full disk and a read-only disk at every stage: real ones, mounted for the test.

Needs the right to mount (root, on Linux). A stage must refuse in one sentence and leave its
outputs as they were; with room again it must write the same outputs as before.
"""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from rapipe import paths
from tests.faults.damage import files_of, run, state
from tests.faults.outcome import Attempt, Outcome, Setting, dice
from tests.faults.reference import Stage

ROOM = 64 << 20
"""Bytes that are enough for every stage of a small project."""


@contextlib.contextmanager
def mounted(folder: Path, megabytes: int) -> Iterator[Path]:
    """A disk in memory of this size; `PermissionError` if mounting is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    if sys.platform != "linux" or os.geteuid() != 0:
        raise PermissionError("only root may mount, on Linux")
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        raise PermissionError("mounting is not allowed")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True, capture_output=True)


def remount(folder: Path, options: str) -> None:
    """Change the options of a mounted disk; `BlockingIOError` if it is in use too long."""
    command = ["mount", "-o", f"remount,{options}", str(folder)]
    for _ in range(50):
        gc.collect()  # files that this process has open
        if not subprocess.run(command, check=False, capture_output=True).returncode:
            return
        time.sleep(0.1)
    raise BlockingIOError(f"{folder} cannot be mounted with {options}")


def used(folder: Path) -> int:
    """Bytes in use on its disk."""
    facts = os.statvfs(folder)
    return (facts.f_blocks - facts.f_bfree) * facts.f_frsize


def full(stage: Stage, disk: Path, room: int) -> Outcome:
    """Run a stage of the project in the working directory with little room, then with much.

    Args:
        disk: where the project's disk is mounted.
        room: bytes that are free.
    """
    fault = "a full disk"
    before = state(stage.writes)
    remount(disk, f"size={used(disk) + room}")
    try:
        code, output = run(stage)
    except Exception as error:
        return Outcome(fault, False, None, f"{stage.name}, {room} bytes free: {error!r}")
    finally:
        remount(disk, f"size={used(disk) + ROOM}")
    if code == 0:  # there was room enough
        return Outcome(fault, True, state(stage.writes) == before)
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    refused = code == 2 and len(errors) == 1 and "o space left" in errors[0]
    left = [path for path in files_of(paths.CORPUS.parent) if ".part" in str(path)]
    unchanged = stage.name == "audit" or state(stage.writes) == before
    again, more = run(stage)
    same = again == 0 and state(stage.writes) == before
    survived = refused and unchanged and same and not left
    details = f"{code} {errors or output[-500:]} {left} {unchanged}; then {again} {more[-300:]}"
    note = "" if survived else f"{stage.name}, {room} bytes free: {details}"
    return Outcome(fault, survived, same, note)


def unwritable(stage: Stage, disk: Path) -> Outcome:
    """Run a stage on a read-only disk."""
    fault = "a read-only disk"
    before = state(stage.writes)
    remount(disk, "ro")
    try:
        code, output = run(stage)
    except Exception as error:
        return Outcome(fault, False, None, f"{stage.name}: {error!r}")
    finally:
        remount(disk, "rw")
    errors = [line for line in output.splitlines() if line.startswith("error: ")]
    refused = code == 2 and len(errors) == 1 and "ead-only" in errors[0]
    unchanged = state(stage.writes) == before
    return Outcome(
        fault,
        refused and unchanged,
        unchanged,
        "" if refused else f"{stage.name}: {code} {output[-500:]}",
    )


def copy(project: Path, disk: Path) -> Path:
    """The project, on the disk."""
    return Path(shutil.copytree(project, disk / "project", symlinks=True))


@contextlib.contextmanager
def part(setting: Setting) -> Iterator[Attempt]:
    """Stages with random amounts of room, and with none allowed."""
    with (
        tempfile.TemporaryDirectory() as home,
        mounted(Path(home, "disk"), 512) as disk,
        contextlib.chdir(copy(setting.reference.clone.path, disk)),
    ):

        def attempt(number: int) -> Outcome:
            rng = dice("disk", setting.seed, number)
            stage = rng.choice(setting.reference.stages)
            if rng.random() < 0.3:
                return unwritable(stage, disk)
            size = sum(p.stat().st_size for out in stage.writes for p in files_of(out))
            if rng.random() < 0.3:  # a cache may be deleted at any time
                shutil.rmtree(paths.CACHE, ignore_errors=True)
            return full(stage, disk, rng.randrange(0, max(8192, 2 * size)))

        yield attempt
