"""`rapipe doctor`: what of this machine and project keeps commands from running; changes nothing.

Each check is a function that returns what is fine, or raises `UserError` with what to do. Below
the checks stands the environment, so that all of it can be copied into a report of a defect.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path

from rapipe import paths
from rapipe.errors import UserError
from rapipe.pipeline.environment import environment
from rapipe.pipeline.running.stage import refuse_link
from rapipe.progress import print_line

SPACE = 2_000_000_000
"""Bytes on disk that the default run needs with room to spare."""


def run(as_json: bool = False) -> bool:
    """Print what each check says, and the environment; whether all is fine."""
    results, facts = check_all(), environment()
    if as_json:
        checks = [{"name": name, "fine": fine, "words": words} for name, words, fine in results]
        print(json.dumps({"checks": checks, "environment": facts}, indent=2))
    else:
        for name, words, is_fine in results:
            print_line(f"{'ok' if is_fine else 'WRONG':5} {name}: {words}")
        for name, words in facts.items():
            print_line(f"{'':5} {name}: {words}")
    return all(is_fine for _, _, is_fine in results)


def check_all() -> list[tuple[str, str, bool]]:
    """The name of each check, its sentence, and whether it is fine."""
    results = []
    for name, check in CHECKS.items():
        try:
            results.append((name, check(), True))
        except UserError as error:
            results.append((name, str(error), False))
        except (OSError, ImportError) as error:
            results.append((name, f"cannot be found out: {error}", False))
    return results


def _packages() -> str:
    from packaging.requirements import Requirement

    install = "run pip install -c constraints.txt -e . (or make repro) at the top of the project"
    try:
        lines = metadata.requires("rapipe") or []
    except metadata.PackageNotFoundError:
        raise UserError(f"rapipe is not installed in this Python: {install}") from None
    needs = [Requirement(line) for line in lines]
    needs = [need for need in needs if not need.marker or need.marker.evaluate({"extra": ""})]
    for need in needs:
        try:
            version = metadata.version(need.name)
        except metadata.PackageNotFoundError:
            raise UserError(f"{need.name} is not installed: {install}") from None
        if not need.specifier.contains(version, prereleases=True):
            raise UserError(f"{need.name} is {version}, but must be {need.specifier}: {install}")
    return f"{len(needs)} that rapipe needs are installed, in {sys.executable}"


def _params() -> str:
    from rapipe.pipeline.running.check_names import load_checked

    load_checked(paths.PARAMS)
    return f"{paths.PARAMS} is valid"


def _data() -> str:
    refuse_link()
    for folder in (Path(), paths.DATA, paths.RESULTS):
        if folder.exists() and not os.access(folder, os.W_OK | os.X_OK):
            raise UserError(f"{folder.absolute()} cannot be written: change its rights or owner")
    return "data and results can be written"


def _dvc() -> str:
    if not paths.DVC.exists():
        raise UserError(f"there is no {paths.DVC} here, so dvc repro cannot run: run dvc init")
    configs = [paths.DVC / name for name in ("config", "config.local")]
    texts = [path.read_text(encoding="utf-8") for path in configs if path.exists()]
    without_git = any("no_scm = true" in text.lower() for text in texts)
    folders = (Path.cwd(), *Path.cwd().parents)  # of a project in a folder of a repository too
    git = next((folder / ".git" for folder in folders if (folder / ".git").exists()), None)
    if git is None:
        if not without_git:
            raise UserError(
                "this folder is no git repository, which dvc repro takes it for: run dvc config "
                "--local core.no_scm true, or git init"
            )
        return "works without git; dvc exp needs it"
    if without_git:
        raise UserError(
            "core.no_scm is true, so dvc exp finds no git: run dvc config --local -u core.no_scm"
        )
    index = git / "index.lock"
    if index.exists():
        raise UserError(f"{index} is there: if no git or DVC runs now, a killed one left it, so rm")
    return "finds its folder and git"


def _dvc_lock() -> str:
    import psutil  # DVC needs it too

    path = paths.DVC / "tmp/rwlock"
    try:
        lock = json.loads(path.read_text(encoding="utf-8"))
        readers = [entry for entries in lock.get("read", {}).values() for entry in entries]
        pids = sorted({int(entry["pid"]) for entry in (*readers, *lock.get("write", {}).values())})
    except FileNotFoundError:
        return "free"
    except (ValueError, TypeError, KeyError, AttributeError):
        raise UserError(
            f"{path} is damaged, as a killed dvc leaves it: if no dvc runs now, rm {path}"
        ) from None
    running = []
    for pid in filter(psutil.pid_exists, pids):  # DVC itself drops those that do not exist
        try:
            command = " ".join(psutil.Process(pid).cmdline())
        except psutil.Error:
            command = "another program"
        if "dvc" not in command:
            raise UserError(
                f"{path} is held for process {pid}, which is no dvc but {command[:60]!r}: a killed "
                f"dvc had its number; rm {path}"
            )
        running.append(pid)
    return f"held by dvc, process {', '.join(map(str, running))}" if running else "free"


def _disk() -> str:
    for folder in {Path.cwd(), Path(tempfile.gettempdir())}:  # raises OSError where there is none
        free = shutil.disk_usage(folder).free
        if free < SPACE:
            raise UserError(
                f"{free / 1e9:.1f} GB are free in {folder}, and {SPACE / 1e9:.0f} may be needed: "
                f"remove {paths.CACHE} or {paths.LOGS}, or run dvc gc -w"
            )
    return f"{shutil.disk_usage(Path.cwd()).free / 1e9:.0f} GB are free"


def _shared_memory() -> str:
    try:
        get_context("spawn").Lock()
    except (OSError, ImportError) as error:
        raise UserError(
            f"processes cannot share locks ({error}), so one process decodes images: mount "
            "/dev/shm with rights for everybody (docker run --shm-size 64m)"
        ) from None
    return "processes can share locks"


def _home() -> str:
    try:
        home = Path.home()
    except RuntimeError:  # no HOME, and a user without a name
        raise UserError("is unknown: set HOME to a folder that can be written") from None
    if not os.access(home, os.W_OK | os.X_OK):
        raise UserError(f"{home} cannot be written, so caches are made anew each time: set HOME")
    return str(home)


def _machine() -> str:
    import psutil
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    free = psutil.virtual_memory().available / 1e9
    cores = f"{torch.get_num_threads()} threads on {psutil.cpu_count()} cores"
    return f"{cores}, {free:.1f} GB of memory free, {gpu}"


CHECKS: dict[str, Callable[[], str]] = {
    "packages": _packages,
    "parameters": _params,
    "data": _data,
    "DVC": _dvc,
    "DVC's lock": _dvc_lock,
    "disk": _disk,
    "shared memory": _shared_memory,
    "HOME": _home,
    "machine": _machine,
}
