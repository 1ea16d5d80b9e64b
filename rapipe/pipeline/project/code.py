"""Fingerprints of the code that each stage runs, of which DVC knows nothing in a project.

In the repository dvc.yaml lists modules. In a project it lists a file with the checksums of these
modules, so that a new version of the package runs again only what it changed.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import rapipe
from rapipe import paths
from rapipe.config.yaml_text import read_yaml
from rapipe.errors import UserError
from rapipe.io.checksums import sha256

CODE = "rapipe/"
"""Begins the names of modules among a stage's deps."""
PACKAGE = Path(rapipe.__file__).parent.parent
"""Where they lie."""


def packaged(name: str) -> str:
    """The text of a file that a project gets."""
    return files(__package__).joinpath("files", name).read_text(encoding="utf-8")


@cache
def pipeline() -> dict[str, Any]:
    """What dvc.yaml of the repository says."""
    content: dict[str, Any] = read_yaml(packaged("pipeline.yaml"))
    return content


def fingerprint(stage: str) -> str:
    """A line for each file and folder of code that a stage lists: its checksum and its name."""
    deps = [dep for dep in pipeline()["stages"][stage]["deps"] if dep.startswith(CODE)]
    return "".join(f"{_checksum(PACKAGE / dep)}  {dep}\n" for dep in deps)


def _checksum(path: Path) -> str:
    if path.is_file():
        return sha256(path)
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            digest.update(f"{sha256(file)}  {file.relative_to(path).as_posix()}\n".encode())
    return digest.hexdigest()


def fingerprint_file(stage: str) -> Path:
    """Where a project has the fingerprint of a stage."""
    return paths.CODE / f"{stage}.txt"


def changed_stages() -> list[str]:
    """Stages whose code is not that of this project's fingerprints."""
    return [
        stage
        for stage in pipeline()["stages"]
        if not fingerprint_file(stage).is_file()
        or fingerprint_file(stage).read_text(encoding="utf-8") != fingerprint(stage)
    ]


def check_code(stage: str) -> None:
    """Raise `UserError` if a project has the fingerprint of other code than is installed."""
    file = fingerprint_file(stage)
    if file.is_file() and file.read_text(encoding="utf-8") != fingerprint(stage):
        raise UserError(
            f"rapipe {rapipe.__version__} is installed, but this project was made with other code "
            f"of the stage {stage}: run rapipe upgrade, which says what will run again"
        )
