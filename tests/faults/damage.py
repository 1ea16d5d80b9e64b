"""Artefacts that are deleted, truncated or changed by one bit between two stages.

The inputs of a stage are those in dvc.yaml. A stage must refuse in one sentence that names
the file and the command that makes it, and leave its outputs as they were; or, where it
does not read the file, write the same outputs as before.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import random
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rapipe import paths
from rapipe.io.checksums import watch
from rapipe.pipeline.running.stage import run_selected_variants, run_stage
from tests.faults.clone import Clone
from tests.faults.outcome import Outcome

WAYS = ("deleted", "emptied", "cut short", "a flipped bit")
MAKERS = {**paths.MADE_BY, paths.STORE_MANIFEST: "embed", paths.STORE: "embed"}


@dataclass(frozen=True)
class Stage:
    """A stage of dvc.yaml: what it runs, reads and writes."""

    name: str
    command: tuple[str, ...]
    reads: tuple[Path, ...]
    writes: tuple[Path, ...]


def stages(root: Path) -> list[Stage]:
    """The stages of a project, in an order in which they can run."""
    from dvc.repo import Repo

    if not (root / ".dvc").exists():
        Repo.init(str(root), no_scm=True).close()
    with contextlib.chdir(root), Repo(str(root)) as repo:
        pipeline = []
        for stage in repo.index.stages:
            reads = {Path(dep.def_path) for dep in stage.deps}
            if paths.STORE_MANIFEST in reads:
                reads.add(paths.STORE)
            inputs = [path for path in reads if path.parts[0] in ("data", "results")]
            writes = tuple(Path(out.def_path) for out in stage.outs)
            pipeline.append(
                Stage(stage.addressing, tuple(stage.cmd.split()[2:]), tuple(sorted(inputs)), writes)
            )
    return pipeline


def files_of(path: Path) -> list[Path]:
    """The file itself, or all files below a folder."""
    return [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())


def damage(path: Path, way: str, dice: random.Random) -> None:
    """Damage a file."""
    data = path.read_bytes()
    if way == "deleted":
        path.unlink()
    elif way == "emptied":
        path.write_bytes(b"")
    elif way == "cut short":
        path.write_bytes(data[: dice.randrange(len(data))] if data else b"")
    else:
        changed = bytearray(data)
        changed[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        path.write_bytes(changed)


def run(command: tuple[str, ...]) -> tuple[int, str]:
    """Run a stage in this process as dvc.yaml does; returns exit code and output."""
    import importlib

    module = importlib.import_module(command[0].replace("stages", "rapipe.pipeline"))
    output = io.StringIO()
    with contextlib.redirect_stderr(output), contextlib.redirect_stdout(output):
        try:
            if len(command) > 1:
                backbone, retrieval, seed = command[1:]
                run_selected_variants(module.run, backbone, retrieval, int(seed))
            else:
                run_stage(module.run)
        except SystemExit as end:
            return int(end.code or 0), output.getvalue()
    return 0, output.getvalue()


def state(artefacts: tuple[Path, ...]) -> dict[str, str]:
    """Checksums of all files of these artefacts."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for artefact in artefacts
        for path in files_of(artefact)
    }


def try_one(stage: Stage, path: Path, way: str, dice: random.Random) -> Outcome:
    """Damage one file of the finished project in the working directory, run the stage, restore."""
    fault = f"a file before a stage: {way}"
    before, data, seed = state(stage.writes), path.read_bytes(), dice.random()
    old = {out: out.read_bytes() for out in stage.writes if out.is_file()}
    damage(path, way, random.Random(seed))
    try:
        code, output = run(stage.command)
        errors = [line for line in output.splitlines() if line.startswith("error: ")]
        after = state(stage.writes)
    except Exception as error:
        return Outcome(fault, False, None, f"{stage.name}, {path} (seed {seed}): {error!r}")
    finally:
        for file, content in {**old, path: data}.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        watch()
    if code == 0:
        note = "" if after == before else f"{stage.name} writes others with {path} (seed {seed})"
        return Outcome(fault, not note, not note, note)
    artefact = next(output_path for output_path in MAKERS if path.is_relative_to(output_path))
    remedies = (f"rapipe {MAKERS[artefact]}", "delete it")  # no stage makes the tags of the store
    named = len(errors) == 1 and str(artefact) in errors[0]
    named = named and any(remedy in errors[0] for remedy in remedies)
    unchanged = after == before or stage.name == "audit"  # which first removes its old outputs
    if code == 2 and named and unchanged:
        return Outcome(fault, True)
    failure = f"exit code {code}, {output[-500:]}, unchanged {unchanged}"
    return Outcome(fault, False, None, f"{stage.name}, {path} (seed {seed}): {failure}")


def trials(pipeline: list[Stage]) -> list[tuple[Stage, Path]]:
    """Every stage of the finished project in the working directory, with every file it may read."""
    return [
        (stage, path)
        for stage in pipeline
        for artefact in stage.reads
        if artefact not in (paths.RAW, paths.CHECKED)  # no output; no input
        for path in files_of(artefact)
    ]


def finished(folder: Path) -> list[Stage]:
    """A small project in an empty folder in which every stage has run, and its stages."""
    clone = Clone.make(folder)
    clone.shrink()
    pipeline = stages(folder)
    with contextlib.chdir(folder):
        for stage in pipeline:
            code, output = run(stage.command)
            if code:
                raise RuntimeError(f"{stage.name} does not run undisturbed: {output}")
    return pipeline


def run_all(seconds: float, seed: int) -> Iterator[Outcome]:
    """Random damage, one file at a time, until the time is over."""
    stop, dice = time.monotonic() + seconds, random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        pipeline = finished(Path(folder))
        with contextlib.chdir(folder):
            every = trials(pipeline)
            while time.monotonic() < stop:
                stage, path = dice.choice(every)
                yield try_one(stage, path, dice.choice(WAYS), dice)
