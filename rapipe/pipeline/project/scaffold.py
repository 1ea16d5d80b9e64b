"""`rapipe init` and `rapipe upgrade`: the files of a project, as the installed version has them."""

from __future__ import annotations

import logging
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from rapipe import paths
from rapipe.config import presets
from rapipe.config.loading import parse
from rapipe.config.schema import Params
from rapipe.config.yaml_edit import replace_values
from rapipe.config.yaml_text import read_yaml, write_yaml
from rapipe.errors import UserError
from rapipe.io.atomic import atomic_write
from rapipe.io.text import expand_home, quoted, read_text
from rapipe.pipeline.project.code import (
    CODE,
    changed_stages,
    fingerprint,
    fingerprint_file,
    packaged,
    pipeline,
)
from rapipe.progress import say

OWN_IMAGES = "own-images"
PARQUET = ".parquet"
COMMANDS = {"train": "train --stale", "evaluate": "eval --stale"}
"""By stage, the command that runs it, where that is not called the same."""
HEADER = """\
# The pipeline. `dvc repro` runs what is out of date; `dvc dag` draws it.
# `rapipe upgrade` writes it anew for another version of rapipe, unless it was edited.

"""


def init(folder: Path, preset: str = "", images: Path | None = None) -> None:
    """Make a project.

    Args:
        folder: new, or without a project.
        preset: of the parameters; `digits` unless given, or `own-images` where there are images.
        images: a folder of images by class, or of Parquet files, or such a file.

    Raises:
        UserError: there is a project already, no preset of this name, or no such images.
    """
    folder = expand_home(folder)
    for name in (paths.PARAMS, paths.PIPELINE):
        if (folder / name).exists():
            raise UserError(f"{folder / name} is there already: rapipe upgrade renews a project")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: name a folder")
    wanted = preset or (OWN_IMAGES if images else presets.DEFAULT)
    chosen = presets.choose(wanted)
    text = presets.params_text(chosen)
    if images:
        text = replace_values(text, write_yaml({"corpus": {"sources": [_source(images, folder)]}}))
    params = parse(read_yaml(text))
    folder.mkdir(parents=True, exist_ok=True)
    for kept in (paths.RAW, paths.VECTORS):
        (folder / kept).mkdir(parents=True, exist_ok=True)
        (folder / kept / ".gitkeep").touch()
    for file in ("README.md", ".gitignore", ".dvcignore"):
        if not (folder / file).exists():  # what is there is the user's
            atomic_write(folder / file, packaged(file.removeprefix(".")).encode())
    atomic_write(folder / paths.PARAMS, text.replace("$schema=", "$schema=.rapipe/").encode())
    tools = _prepare_git_and_dvc(folder)
    _write_package_files(folder, params)
    say(f"{folder} holds a project with the preset {chosen}{tools}: next, dvc repro there")
    if chosen != wanted:
        say(f"{wanted} needs pip install 'rapipe[pretrained]', which is not installed")


def upgrade() -> None:
    """Make the project of the working directory one of the installed version.

    Parameters that are new get the default's values. A dvc.yaml that was edited stays.

    Raises:
        UserError: there is no project, or its parameters are not valid; nothing is changed then.
    """
    if not paths.CODE.is_dir():
        raise UserError(f"no {paths.CODE} in {Path.cwd()}: rapipe init makes a project")
    previous = read_text(paths.PARAMS)
    text = _with_new_parameters(previous)
    params = parse(read_yaml(text))
    changed = changed_stages()
    if text != previous:
        atomic_write(paths.PARAMS, text.encode())
    _write_package_files(Path(), params)
    say(f"code has changed of {', '.join(changed)}" if changed else "no code has changed")


def _with_new_parameters(text: str) -> str:
    """The text of params.yaml; with the default's comments and values where keys are missing."""
    content, default = read_yaml(text), presets.content(presets.DEFAULT)
    missing = [
        f"{group}.{key}"
        for group, values in default.items()
        if isinstance(values, dict) and isinstance(content.get(group), dict)
        for key in values
        if key not in content[group]
    ]
    missing += [key for key in default if key not in content]
    if not missing:
        return text
    say(f"params.yaml has now {', '.join(missing)}, as the default has them")
    renewed = replace_values(presets.params_text(presets.DEFAULT), text)
    return renewed.replace("$schema=params", "$schema=.rapipe/params")


def _source(images: Path, folder: Path) -> dict[str, str]:
    """The source of a corpus that holds these images."""
    path = expand_home(images)
    if not path.exists():
        raise UserError(f"--images is {quoted(str(images))}, which is not there")
    files = [path] if path.is_file() else list(path.glob(f"*{PARQUET}"))
    if path.is_file() and path.suffix != PARQUET:
        raise UserError(
            f"--images is {quoted(str(images))}; name a folder of images by class, or of "
            f"{PARQUET} files, or such a file"
        )
    kind = "parquet" if any(file.suffix == PARQUET for file in files) else "folder"
    whole, top = path.absolute(), folder.absolute()
    inside = whole.relative_to(top) if whole.is_relative_to(top) else whole
    return {"kind": kind, "path": inside.as_posix()}


def _write_package_files(folder: Path, params: Params) -> None:
    """Write what comes from the package: dvc.yaml, the schema, fingerprints, the plot template."""
    text = project_pipeline([source.path for source in params.corpus.sources if source.path])
    target, copy = folder / paths.PIPELINE, folder / paths.PIPELINE_COPY
    edited = target.exists() and (not copy.exists() or read_text(target) != read_text(copy))
    if edited and not (copy.exists() and read_text(copy) == text):
        say(f"{target} was edited, and stays: {copy} is that of this version")
    if not edited:
        atomic_write(target, text.encode())
    atomic_write(copy, text.encode())
    atomic_write(folder / paths.SCHEMA, packaged(paths.SCHEMA.name).encode())
    for stage in pipeline()["stages"]:
        atomic_write(folder / fingerprint_file(stage), fingerprint(stage).encode())
    template = paths.DVC / "plots/by_classifier.json"
    atomic_write(folder / template, packaged(template.name).encode())


def project_pipeline(sources: Sequence[str]) -> str:
    """The text of a project's dvc.yaml.

    Args:
        sources: paths of the corpus's images; it depends on those outside of data/raw, too.
    """
    stages = {}
    for name, facts in pipeline()["stages"].items():
        deps = [dep for dep in facts["deps"] if not dep.startswith(CODE)]
        if name == "corpus":
            deps += [path for path in dict.fromkeys(sources) if not _is_watched(path)]
        deps += [fingerprint_file(name).as_posix()]
        stages[name] = {**facts, "cmd": f"rapipe {COMMANDS.get(name, name)}", "deps": deps}
    return HEADER + write_yaml({**pipeline(), "stages": stages})


def _is_watched(path: str) -> bool:
    """Whether a source's path is on no disk, or where DVC looks already."""
    return "://" in path or Path(path).is_relative_to(paths.RAW)


def _prepare_git_and_dvc(folder: Path) -> str:
    """Make a folder a DVC project, in a git repository where there is git; says what is not."""
    from dvc.repo import Repo  # a second

    git = shutil.which("git")
    inside = bool(git) and _git(folder, "rev-parse", "--is-inside-work-tree")
    if git and not inside:
        _git(folder, "init", "--quiet")
    if (folder / paths.DVC / "config").exists():
        return ""
    subdir = bool(git) and not (folder / ".git").exists()
    logging.getLogger("dvc").setLevel(logging.WARNING)
    repo = Repo.init(str(folder), no_scm=not git, subdir=subdir)
    with repo, repo.config.edit("repo") as config:
        config["core"] |= {"analytics": False, "check_update": False}
    return "" if git else ", without git, which is not installed"


def _git(folder: Path, *arguments: str) -> bool:
    """Run git there; whether it could."""
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
