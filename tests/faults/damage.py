"""Artefacts that are deleted, cut short or changed by a bit between two stages.

Which stage reads what is taken from dvc.yaml. A stage must refuse in one sentence that names
the file and the command that makes it, and leave its own outputs as they were; or, where it
does not read the file, go on to the same outputs as ever.
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
        found = []
        for own in repo.index.stages:
            reads = {Path(dep.def_path) for dep in own.deps}
            if paths.STORE_MANIFEST in reads:
                reads.add(paths.STORE)
            kept = [path for path in reads if path.parts[0] in ("data", "results")]
            writes = tuple(Path(out.def_path) for out in own.outs)
            found.append(
                Stage(own.addressing, tuple(own.cmd.split()[2:]), tuple(sorted(kept)), writes)
            )
    return found


def files_of(path: Path) -> list[Path]:
    """The file itself, or all files below a folder."""
    return [path] if path.is_file() else sorted(own for own in path.rglob("*") if own.is_file())


def damage(path: Path, way: str, dice: random.Random) -> None:
    """Do it to a file."""
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
    """Run a stage in this process as dvc.yaml does; exit code, and what it says."""
    import importlib

    module = importlib.import_module(command[0].replace("stages", "rapipe.pipeline"))
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            if len(command) > 1:
                backbone, retrieval, seed = command[1:]
                run_selected_variants(module.run, backbone, retrieval, int(seed))
            else:
                run_stage(module.run)
        except SystemExit as end:
            return int(end.code or 0), said.getvalue()
    return 0, said.getvalue()


def state(places: tuple[Path, ...]) -> dict[str, str]:
    """Hashes of all files in some places."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for place in places
        for path in files_of(place)
    }


def try_one(stage: Stage, path: Path, way: str, dice: random.Random) -> Outcome:
    """Damage one file of the finished project in the working directory, run the stage, mend."""
    fault = f"a file before a stage: {way}"
    before, data, seed = state(stage.writes), path.read_bytes(), dice.random()
    old = {own: own.read_bytes() for own in stage.writes if own.is_file()}
    damage(path, way, random.Random(seed))
    try:
        code, said = run(stage.command)
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        after = state(stage.writes)
    except Exception as error:
        return Outcome(fault, False, None, f"{stage.name}, {path} (seed {seed}): {error!r}")
    finally:
        for own, content in {**old, path: data}.items():
            own.parent.mkdir(parents=True, exist_ok=True)
            own.write_bytes(content)
        watch()
    if code == 0:
        note = "" if after == before else f"{stage.name} made others with {path} (seed {seed})"
        return Outcome(fault, not note, not note, note)
    place = next(own for own in MAKERS if path.is_relative_to(own))
    remedies = (f"rapipe {MAKERS[place]}", "delete it")  # the tags of the memory are nobody's
    named = len(errors) == 1 and str(place) in errors[0] and any(r in errors[0] for r in remedies)
    kept = after == before or stage.name == "audit"  # which first removes what it said before
    told = "" if code == 2 and named and kept else f"exit code {code}, {said[-500:]}, kept {kept}"
    return Outcome(
        fault, not told, None, f"{stage.name}, {path} (seed {seed}): {told}" if told else ""
    )


def trials(known: list[Stage]) -> list[tuple[Stage, Path]]:
    """Every stage of the finished project in the working directory, with every file it may read."""
    return [
        (own, path)
        for own in known
        for place in own.reads
        if place not in (paths.RAW, paths.CHECKED)  # nobody's, and one that nobody reads
        for path in files_of(place)
    ]


def finished(folder: Path) -> list[Stage]:
    """A small project in an empty folder in which every stage has run, and its stages."""
    clone = Clone.make(folder)
    clone.shrink()
    known = stages(folder)
    with contextlib.chdir(folder):
        for own in known:
            code, said = run(own.command)
            if code:
                raise RuntimeError(f"{own.name} does not run undisturbed: {said}")
    return known


def run_all(seconds: float, seed: int) -> Iterator[Outcome]:
    """Random damage, one file at a time, until the time is over."""
    stop, dice = time.monotonic() + seconds, random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        known = finished(Path(folder))
        with contextlib.chdir(folder):
            every = trials(known)
            while time.monotonic() < stop:
                stage, path = dice.choice(every)
                yield try_one(stage, path, dice.choice(WAYS), dice)
