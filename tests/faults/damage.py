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
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path

from rapipe import paths
from rapipe.io.checksums import watch
from rapipe.pipeline.running.fresh import SELECTING
from rapipe.pipeline.running.stage import run_selected_variants, run_stage
from tests.faults.outcome import Attempt, Outcome, Setting, dice
from tests.faults.reference import Stage

WAYS = ("deleted", "emptied", "cut short", "a flipped bit")
MAKERS = {**paths.MADE_BY, paths.STORE_MANIFEST: "embed", paths.STORE: "embed"}


def files_of(path: Path) -> list[Path]:
    """The file itself, or all files below a folder."""
    return [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())


def damage(path: Path, way: str, rng: random.Random) -> None:
    """Damage a file."""
    data = path.read_bytes()
    if way == "deleted":
        path.unlink()
    elif way == "emptied":
        path.write_bytes(b"")
    elif way == "cut short":
        path.write_bytes(data[: rng.randrange(len(data))] if data else b"")
    else:
        changed = bytearray(data or b"\0")  # a bit of an empty file is one too many
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)


def run(stage: Stage) -> tuple[int, str]:
    """Run a stage in this process as dvc.yaml does; returns exit code and output."""
    name = stage.command[2].partition(".")[2]
    output = io.StringIO()
    with contextlib.redirect_stderr(output), contextlib.redirect_stdout(output):
        try:
            if name in SELECTING:  # for every variant, though none is out of date
                run_selected_variants(name, None, None, None)
            else:
                run_stage(import_module(f"rapipe.pipeline.{name}").run)
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


def try_one(stage: Stage, path: Path, way: str, rng: random.Random) -> Outcome:
    """Damage one file of the finished project in the working directory, run the stage, restore."""
    fault = f"a file before a stage: {way}"
    before, data, seed = state(stage.writes), path.read_bytes(), rng.random()
    old = {out: out.read_bytes() for out in stage.writes if out.is_file()}
    damage(path, way, random.Random(seed))
    try:
        code, output = run(stage)
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
    command = MAKERS[artefact]
    remedies = (f"rapipe {command}", f"and {command}", "delete it")  # no stage makes a store's tags
    named = len(errors) == 1 and str(artefact) in errors[0]
    named = named and any(remedy in errors[0] for remedy in remedies)
    unchanged = after == before or stage.name == "audit"  # which first removes its old outputs
    if code == 2 and named and unchanged:
        return Outcome(fault, True)
    failure = f"exit code {code}, {output[-500:]}, unchanged {unchanged}"
    return Outcome(fault, False, None, f"{stage.name}, {path} (seed {seed}): {failure}")


def trials(pipeline: Sequence[Stage]) -> list[tuple[Stage, Path]]:
    """Every stage of the finished project in the working directory, with every file it may read."""
    return [
        (stage, path)
        for stage in pipeline
        for artefact in stage.reads
        if artefact not in (paths.RAW,)  # no output
        for path in files_of(artefact)
    ]


@contextlib.contextmanager
def part(setting: Setting) -> Iterator[Attempt]:
    """Random damage, to one file a trial."""
    with tempfile.TemporaryDirectory() as home:
        project = setting.reference.clone.copy(Path(home, "project")).path
        with contextlib.chdir(project):
            every = trials(setting.reference.stages)

            def attempt(number: int) -> Outcome:
                rng = dice("damage", setting.seed, number)
                stage, path = rng.choice(every)
                return try_one(stage, path, rng.choice(WAYS), rng)

            yield attempt
