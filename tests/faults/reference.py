"""A small project in which everything has run undisturbed, and what can be killed in copies of it.

What dvc.yaml lists is killed by itself. Another command is one more line of `COMMANDS`.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from rapipe import paths
from rapipe.config.yaml_text import read_yaml, write_yaml
from rapipe.errors import UserError
from rapipe.retrieval.store import Store, memory_table
from rapipe.retrieval.store.versions import Manifest
from tests.faults import dying
from tests.faults.clone import Clone
from tests.faults.warm import ProcessGroup

EDITS = (
    "store export vectors.parquet",
    "store tag first",
    "store remove --class 3",
    "store tag second",
    "store remove --class 4",
)
"""What is done to the store before one of `COMMANDS`: so it has tags, versions and dropped rows."""
COMMANDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "store add": ("store add digits --limit 40 --name more", ()),
    "store remove": ("store remove --class 1", ()),
    "store remove --purge": ("store remove --class 1 --purge", ()),
    "store tag": ("store tag second", ()),
    "store checkout": ("store checkout first", ()),
    "store compact": ("store compact", ()),
    "store export": ("store export rows.parquet", ("rows.parquet",)),
    "store import": ("store import vectors.parquet", ()),
    "preset": ("preset simclr", ("params.yaml",)),
}
"""By name: the arguments of `rapipe`, and what it writes beside `data` and `results`."""


@dataclass(frozen=True)
class Stage:
    """A stage of dvc.yaml: what it runs, reads and writes."""

    name: str
    command: tuple[str, ...]
    """`python -m stages.NAME`."""
    reads: tuple[Path, ...]
    writes: tuple[Path, ...]


@dataclass(frozen=True)
class Target:
    """What is killed, with measurements of an undisturbed run."""

    name: str
    command: tuple[str, ...]
    start: Clone
    """Where it is killed: a copy of it."""
    writes: tuple[Path, ...]
    """Of a stage."""
    more: tuple[str, ...]
    """What a command writes beside `data` and `results`."""
    expected: dict[str, str]
    """The state (`state`) after it."""
    seconds: float
    changes: tuple[tuple[float, str], ...]
    """What it changes on the disk, one after the other, and when."""

    @property
    def is_stage(self) -> bool:
        """Otherwise it is a command, which edits what is there."""
        return self.command[0] != "rapipe"


@dataclass(frozen=True)
class Reference:
    """A folder where all stages have run undisturbed."""

    clone: Clone
    stages: tuple[Stage, ...]
    targets: dict[str, Target]
    modules: tuple[str, ...]
    """What all of it imports."""
    lock: dict[str, Any]
    """Content of dvc.lock; empty if DVC was left out."""
    repro: float
    """Seconds of `dvc repro` without any work."""
    changes_of_dvc: int
    """What DVC itself changes on the disk when one stage runs again."""


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
            command = tuple(stage.cmd.split())
            pipeline.append(Stage(stage.addressing, command, tuple(sorted(inputs)), writes))
    return pipeline


def state(clone: Clone, edited: bool = False, more: Sequence[str] = ()) -> dict[str, str]:
    """Digests of what must be the same in every run; files of the store have random names.

    Args:
        edited: by commands, of which one that is repeated may write the store once more; then its
            manifest names another table, with the same rows.
        more: files beside `data` and `results`.

    Raises:
        UserError: the store is damaged, or its table for LanceDB.
    """
    digests = {**clone.hashes(), **store_state(clone)}
    if edited:
        digests.pop(str(paths.STORE_MANIFEST), None)
    for name in more:
        file = clone.path / name
        digests[name] = sha256(file.read_bytes()).hexdigest() if file.exists() else ""
    return digests


def store_state(clone: Clone) -> dict[str, str]:
    """The versions of a verified store, and its tags."""
    folder, pointer = clone.path / paths.STORE, clone.path / paths.STORE_MANIFEST
    if not pointer.exists():
        return {}
    store = Store.open(folder, pointer)
    store.verify(None)
    if (folder / memory_table.TABLE).exists() and not memory_table.is_intact(store):
        raise UserError(f"{folder / memory_table.TABLE} is of another version")
    manifests: dict[Any, Manifest] = {"current": store.manifest}
    manifests |= store.history.manifests()
    facts = {f"store version {number}": asdict(m) for number, m in manifests.items()}
    texts = {name: json.dumps({**fact, "table": ""}) for name, fact in facts.items()}
    return {**texts, "store tags": json.dumps(store.history.tags(), sort_keys=True)}


def build(
    folder: Path, processes: ProcessGroup, kinds: Sequence[str] = (), with_dvc: bool = True
) -> Reference:
    """Run everything once, undisturbed.

    Args:
        folder: an empty one.
        kinds: only these stages, and no commands; all by default.
    """
    clone = Clone.make(folder / "clone")
    clone.shrink()
    pipeline = [stage for stage in stages(clone.path) if not kinds or stage.name in kinds]
    measured = Measuring(folder, processes)
    targets: dict[str, Target] = {}
    runs = {stage.name: measured.run(clone, stage.command, stage.writes) for stage in pipeline}
    expected = state(clone)
    for stage in pipeline:
        targets[stage.name] = Target(
            stage.name, stage.command, clone, stage.writes, (), expected, *runs[stage.name]
        )
    if not kinds:
        targets |= commands(folder, clone, measured)
    lock, repro, count = dvc_run(clone, folder / "log") if with_dvc else ({}, 0.0, 0)
    modules = tuple(measured.modules)
    return Reference(clone, tuple(pipeline), targets, modules, lock, repro, count)


class Measuring:
    """Runs things, and remembers what they import."""

    def __init__(self, folder: Path, processes: ProcessGroup) -> None:
        self.folder, self.processes = folder, processes
        self.modules: dict[str, None] = {}

    def run(
        self, clone: Clone, command: tuple[str, ...], writes: Sequence[Path] = ()
    ) -> tuple[float, tuple[tuple[float, str], ...]]:
        """Run a command, which must succeed: seconds, and its changes of the disk.

        Args:
            writes: of a stage, which runs twice: imports are in the time of the first.
        """
        log, output, names = (self.folder / name for name in ("log", "output", "modules"))
        with temporary_folder() as scratch:
            env = {"TMPDIR": str(scratch), **dying.fault_environment(log)}
            for _ in range(2 if writes else 1):
                clone.remove((*writes, paths.VARIANTS_CACHE))
                start = time.monotonic()
                self.processes.start(clone.path, output, command, env, names)
                if self.processes.wait():
                    text = output.read_text()
                    raise RuntimeError(f"{' '.join(command)} does not run undisturbed: {text}")
                seconds = time.monotonic() - start
                learned = dict.fromkeys(names.read_text().splitlines())
                self.processes.learn([name for name in learned if name not in self.modules])
                self.modules |= learned
        lines = (line.partition(" ")[::2] for line in log.read_text().splitlines())
        return seconds, tuple((float(moment), change) for moment, change in lines)


def commands(folder: Path, clone: Clone, measured: Measuring) -> dict[str, Target]:
    """`COMMANDS`, each measured in a copy of one project whose store has been edited."""
    edited, targets = clone.copy(folder / "edited"), {}
    for edit in EDITS:
        measured.run(edited, ("rapipe", *edit.split()))
    for name, (arguments, more) in COMMANDS.items():
        command, copy = ("rapipe", *arguments.split()), edited.copy(folder / "copy")
        seconds, changes = measured.run(copy, command)
        targets[f"rapipe {name}"] = Target(
            f"rapipe {name}", command, edited, (), more, state(copy, True, more), seconds, changes
        )
        shutil.rmtree(copy.path)
    return targets


def dvc_run(clone: Clone, log: Path) -> tuple[dict[str, Any], float, int]:
    """Content of dvc.lock, seconds of a `dvc repro` without work, and changes of one with work."""
    clone.call("dvc", "commit", "-f")
    start = time.monotonic()
    printed = clone.call("dvc", "repro")
    seconds = time.monotonic() - start
    if "Running stage" in printed:
        raise RuntimeError(f"stages depend on something that they do not name: {printed}")
    lock = read_yaml((clone.path / "dvc.lock").read_text())
    forget(clone, lock, "generate")
    env = {**clone.with_site, **dying.fault_environment(log, process="dvc")}
    started = clone.start(log.with_name("output"), "dvc", "repro", **env)
    if started.wait():
        raise RuntimeError("dvc repro fails undisturbed")
    return lock, seconds, len(log.read_text().splitlines())


def forget(clone: Clone, lock: dict[str, Any], name: str) -> None:
    """Have DVC run a stage again."""
    stages_left = {key: value for key, value in lock["stages"].items() if key != name}
    (clone.path / "dvc.lock").write_text(write_yaml({**lock, "stages": stages_left}))
    shutil.rmtree(clone.path / ".dvc/cache/runs", ignore_errors=True)


@contextlib.contextmanager
def temporary_folder() -> Any:
    """An empty folder for temporary files, on another disk than the work if there is one."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(
        prefix="rapipe-kill-", dir=memory if memory.is_dir() else None
    ) as folder:
        yield Path(folder)
