"""`rapipe run`: what `dvc repro` does, without DVC and git: each stage that is out of date.

A stage is fresh if its parameters and what it reads are those of its last run here, and nobody has
touched what it wrote. Every stage is a process of its own, as DVC's are.
"""

from __future__ import annotations

import hashlib
import shlex
import subprocess
import sys
from dataclasses import asdict
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

from rapipe import paths
from rapipe.config.yaml_text import read_yaml
from rapipe.errors import UserError
from rapipe.io.checksums import CHECKSUMS, sha256
from rapipe.io.tables import fingerprint, read_checksummed, write_checksummed
from rapipe.pipeline.running.check_names import load_checked
from rapipe.pipeline.running.fresh import CODE
from rapipe.progress import say

MARKS = paths.MADE / "run"
"""What each stage's last run was made from, and made."""
REPORT = paths.RESULTS / "index.html"
Facts = dict[str, Any]


def run(force: bool = False) -> None:
    """Run the stages of dvc.yaml in their order.

    Args:
        force: those that are up to date, too.

    Raises:
        UserError: there is no project, or its parameters are not valid.
        SystemExit: a stage failed, with its code; those before it are done.
    """
    if not paths.PIPELINE.exists():
        raise UserError(f"no {paths.PIPELINE} in {Path.cwd()}: rapipe init makes a project")
    values = asdict(load_checked(paths.PARAMS))
    stages = read_yaml(paths.PIPELINE.read_text(encoding="utf-8"))["stages"]
    for number, (stage, declared) in enumerate(stages.items(), 1):
        made_from = _made_from(declared, values)
        mark = MARKS / f"{stage}.json"
        if not force and read_checksummed(mark) == _facts(made_from, declared):
            say(f"{number}/{len(stages)} {stage} is up to date")
            continue
        say(f"{number}/{len(stages)} {stage}")
        code = _run_command(declared["cmd"])
        if code:
            sys.exit(code)
        write_checksummed(mark, _facts(made_from, declared))
    say(f"open {REPORT}")


def _run_command(command: str) -> int:
    """Run a stage's command with this Python; its exit code."""
    first, *arguments = shlex.split(command)
    program = {"rapipe": [sys.executable, "-m", "rapipe"], "python": [sys.executable]}
    process = subprocess.Popen([*program.get(first, [first]), *arguments])
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:  # the stage has it too, and says what it keeps
            continue


def _facts(made_from: Facts, declared: Facts) -> Facts:
    """What a stage's mark holds if its outputs are what they are now."""
    outs = [*declared.get("outs", ()), *declared.get("metrics", ())]
    names = [next(iter(out)) if isinstance(out, dict) else out for out in outs]
    return {"from": made_from, "outputs": {name: _digest(Path(name)) for name in names}}


def _made_from(declared: Facts, values: Facts) -> Facts:
    """The parameters and the files that decide what a stage makes."""
    params = {key: reduce(getitem, key.split("."), values) for key in declared.get("params", ())}
    return {
        "params": fingerprint(params),
        "inputs": {name: _digest(Path(name)) for name in declared["deps"]},
    }


def _digest(path: Path) -> str:
    """Stands for a file's or folder's content; empty where there is none.

    Of a folder with a checksum file it is that file's. Images of the user, which may be many, are
    known by their sizes and times of change.
    """
    if path.is_file():
        return sha256(path) if _is_made(path) else _stamp(path)
    if (path / CHECKSUMS).is_file():
        return sha256(path / CHECKSUMS)
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()) if path.is_dir() else ():
        if file.name != "__pycache__":
            digest.update(f"{_digest(file)} {file.name}\n".encode(errors="backslashreplace"))
    return digest.hexdigest() if path.is_dir() else ""


def _is_made(path: Path) -> bool:
    """Whether it is no image of the user's, but made by a stage, or code."""
    if path.is_relative_to(paths.RAW):
        return False
    return any(path.is_relative_to(top) for top in (paths.DATA, paths.RESULTS, *CODE))


def _stamp(path: Path) -> str:
    facts = path.stat()
    return f"{facts.st_size} {facts.st_mtime_ns}"
