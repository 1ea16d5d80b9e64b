"""Kills stages, and DVC, at any moment; the same command must then succeed.

    python -m tests.faults.kill --seconds 600 --seed 1          trials until the time is over
    python -m tests.faults.kill --seed 1 --trial 17             repeat that trial

A trial starts from a copy of the reference run, in which one stage is to run
again: by itself, or by `dvc repro`. It gets a signal, at a random moment or right before a chosen
write to the disk (see `tests.faults.dying`), perhaps another when it is started again, and then
it may finish. Folders of trials that fail stay.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from rapipe.config.yaml_text import read_yaml, write_yaml
from rapipe.progress import say
from tests.faults import dying
from tests.faults.clone import Clone
from tests.faults.outcome import Outcome
from tests.faults.warm import ProcessGroup

STAGES = (
    *("check", "corpus", "pretrain", "embed", "prefetch", "audit", "initialise"),
    *("train-plain", "train-retrieval", "evaluate-plain", "evaluate-retrieval", "report"),
)
RESUMING = ("pretrain", "train-plain", "train-retrieval")
PATIENCE = 10.0
"""Seconds within which a process must end after a signal."""
SLOWER = 10.0
"""A run that must finish may take so many times its usual time, and a minute."""


@dataclass(frozen=True)
class Stage:
    """One stage of the small pipeline, with measurements of an undisturbed run."""

    name: str
    """As DVC calls it."""
    command: list[str]
    outs: list[str]
    seconds: float
    changes: list[str]
    """What it changes on the disk, one after the other."""


@dataclass
class ReferenceRun:
    """A folder where all stages have run undisturbed."""

    clone: Clone
    stages: dict[str, Stage]
    hashes: dict[str, str]
    names: set[str]
    lock: dict[str, Any]
    repro: float
    """Seconds of `dvc repro` without any work."""


def reference_run(
    folder: Path, processes: ProcessGroup, with_dvc: bool = True, *only: str
) -> ReferenceRun:
    """Run all stages (or only some) once."""
    clone = Clone.make(folder)
    clone.shrink()
    stages, scratch = {}, temporary()
    for name, command, outs in commands(clone):
        if only and name.partition("@")[0] not in only:
            continue
        log, output, start = folder.with_name("log"), folder.with_name("output"), time.time()
        env = {"TMPDIR": str(scratch), **dying.fault_environment(log)}
        processes.start(folder, output, command, env)
        if processes.wait():
            raise RuntimeError(f"{name} does not run undisturbed: {output.read_text()}")
        changes = log.read_text().splitlines()
        stages[name] = Stage(name, command, outs, time.time() - start, changes)
    shutil.rmtree(scratch)
    lock, repro = {}, 0.0
    if with_dvc:
        clone.call("dvc", "commit", "-f")
        start = time.time()
        printed = clone.call("dvc", "repro")
        repro = time.time() - start
        if "Running stage" in printed:
            raise RuntimeError(f"stages depend on something that they do not name: {printed}")
        lock = read_yaml((folder / "dvc.lock").read_text())
    names = {name for name, _ in clone.files()}
    return ReferenceRun(clone, stages, clone.hashes(), names, lock, repro)


def commands(clone: Clone) -> Iterator[tuple[str, list[str], list[str]]]:
    """Name, command and outputs of each stage, as dvc.yaml has them for this params.yaml."""
    params = read_yaml((clone.path / "params.yaml").read_text())
    grid, retrieval = params["classifiers"], params["retrieval"]
    backbone, strategy = grid["backbones"][0], retrieval["strategies"][0]
    item = {"backbone": backbone, "retrieval": strategy, "seed": str(grid["seeds"][0])}
    facts = {f"item.{key}": value for key, value in item.items()}
    facts |= {f"retrieval.{key}": str(value) for key, value in retrieval.items()}

    def filled(text: str) -> str:
        for key, value in facts.items():
            text = text.replace("${%s}" % key, value)  # noqa: UP031
        return text

    written = read_yaml((clone.path / "dvc.yaml").read_text())["stages"]
    for name in STAGES:
        stage = written[name]
        listed = [*stage.get("outs", []), *stage.get("metrics", []), *stage.get("plots", [])]
        outs = [filled(next(iter(out)) if isinstance(out, dict) else out) for out in listed]
        suffix = "-".join(item[key] for key in stage.get("matrix", {}))
        yield f"{name}@{suffix}" if suffix else name, filled(stage["cmd"]).split(), outs


@dataclass(frozen=True)
class Harm:
    """A signal, and when it is sent."""

    number: signal.Signals
    whom: str
    """self (the process of the stage), group (its process group), or dvc."""
    at: int = 0
    """Right before which change of the disk; 0 = after `delay`."""
    torn: bool = False
    """Right after it instead, if it is to open a file for writing."""
    delay: float = 0.0
    """Seconds from the start."""
    word: str = ""
    """Only changes that end with it are counted."""

    def __str__(self) -> str:
        when = f"at change {self.at}{' torn' * self.torn}" if self.at else f"in {self.delay:.2f} s"
        return f"{self.number.name} to {self.whom} {when}"


@dataclass
class Trial:
    """One copy of the reference run, and the signals sent to one stage in it."""

    reference: ReferenceRun
    processes: ProcessGroup
    folder: Path
    stage: Stage
    actions: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    checkpoint: bool = False
    """Whether there was one to resume from."""
    resumed: bool = False
    identical: bool | None = None

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        self.clone = self.reference.clone.copy(self.folder / "clone")
        self.temporary = temporary()

    @property
    def log(self) -> Path:
        return self.folder / f"log{len(self.actions)}"

    @property
    def output(self) -> Path:
        return self.folder / f"output{len(self.actions)}"

    def env(self, *harm: Any) -> dict[str, str]:
        """Environment variables of a run; `harm` goes to `dying.fault_environment`."""
        return {"TMPDIR": str(self.temporary), **dying.fault_environment(self.log, *harm)}

    def clear(self, stage: Stage | None = None) -> None:
        """Take away what the stage (or another) makes, as DVC does before it runs it."""
        for out in (stage or self.stage).outs:
            path = self.clone.path / out
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(True)

    def restore(self, stage: Stage) -> None:
        """Restore a stage's outputs of the reference run: a stage that refuses may have begun."""
        self.clear(stage)
        for out in stage.outs:
            source, path = self.reference.clone.path / out, self.clone.path / out
            if source.is_dir():
                shutil.copytree(source, path)
            else:
                shutil.copy2(source, path)

    def forget(self) -> None:
        """Have DVC run the stage again."""
        lock = dict(self.reference.lock)
        lock["stages"] = {k: v for k, v in lock["stages"].items() if k != self.stage.name}
        (self.clone.path / "dvc.lock").write_text(write_yaml(lock))
        shutil.rmtree(self.clone.path / ".dvc/cache/runs", ignore_errors=True)

    def run_stage(self, harm: Harm) -> None:
        """Start the stage, and send it the signal."""
        self.actions.append(f"{self.stage.name}, {harm}")
        env = self.env(harm.at, harm.number, harm.whom, harm.torn, harm.word)
        started = self.processes.start(self.clone.path, self.output, self.stage.command, env)
        process = psutil.Process(started)
        if not harm.at:
            until(lambda: ended(process), harm.delay)
            send(process, harm.number, harm.whom)
        self.watch(harm, process)
        code = self.processes.wait()
        if code == 0:
            self.actions.append("which was too late")
            if self.clone.hashes() != self.reference.hashes:
                self.wrong.append(f"exit code 0 after {harm}, but outputs are missing or differ")
        elif code == 2:
            self.wrong.append(f"started again it refuses: {gist(self.output.read_text())}")
        self.look(harm.number, code)

    def watch(self, harm: Harm, process: psutil.Process) -> None:
        """Wait until the process has ended, which it must soon after the signal."""
        if harm.at:
            until(lambda: ended(process) or self.sent(), self.allowed())
        start = time.monotonic()
        until(lambda: ended(process), self.allowed())
        took = time.monotonic() - start
        if took > PATIENCE and harm.whom == "group":
            self.wrong.append(f"ended {took:.0f} s after {harm.number.name}")
        if not ended(process):
            send(process, signal.SIGKILL, "group")

    def sent(self) -> bool:
        """Whether the signal has been sent at its change of the disk."""
        return self.log.exists() and dying.SENT in self.log.read_text().splitlines()

    def look(self, number: signal.Signals, code: int) -> None:
        """Record what a killed run leaves behind, and check how it ended."""
        self.checkpoint |= any((self.clone.path / "data/checkpoints").glob("*/last.ckpt"))
        text = self.output.read_text() if self.output.exists() else ""
        if number == signal.SIGINT and code and "Traceback" in text:
            self.wrong.append("a traceback after Ctrl-C")
        if number == signal.SIGINT and code not in (0, 130, -signal.SIGINT):  # 130 to a shell
            self.wrong.append(f"exit code {code} after Ctrl-C")

    def reader(self, stage: Stage) -> None:
        """Run a stage that reads what a killed run left: it must succeed, or refuse clearly."""
        self.actions.append(f"then {stage.name}")
        self.processes.start(self.clone.path, self.output, stage.command, self.env())
        code, text = self.processes.wait(), self.output.read_text()
        if code not in (0, 2) or (code == 2 and "error: " not in text) or "Traceback" in text:
            self.wrong.append(f"{stage.name} after it: exit code {code}, {gist(text)}")
        if code:
            self.restore(stage)

    def finish_stage(self) -> None:
        """Run the same command again, undisturbed."""
        self.actions.append("again")
        self.processes.start(self.clone.path, self.output, self.stage.command, self.env())
        code = self.processes.wait()
        self.finished(code, self.output.read_text())

    def run_dvc(self, harm: Harm) -> None:
        """Start `dvc repro`, and send the signal to it or to the stage."""
        self.actions.append(f"dvc repro of {self.stage.name}, {harm}")
        env = self.site(self.env(harm.at, harm.number, harm.whom, harm.torn, harm.word))
        started = self.clone.start(self.output, "dvc", "repro", **env)
        process = psutil.Process(started.pid)
        if not harm.at:
            if harm.whom == "self":
                until(lambda: bool(self.stage_process()) or ended(process), self.allowed())
            until(lambda: ended(process), harm.delay)
            target = self.stage_process() if harm.whom == "self" else process
            if target:
                send(target, harm.number, harm.whom)
        self.watch(harm, process)
        if started.wait() == 0:
            self.actions.append("which was too late")
        self.look(harm.number, 0)

    def site(self, env: dict[str, str]) -> dict[str, str]:
        path = os.pathsep.join((str(self.clone.path), str(self.clone.path / "tests/faults/site")))
        return {**env, "PYTHONPATH": path}

    def stage_process(self) -> psutil.Process | None:
        words = self.stage.command[1:]
        return next(
            (stray for stray in self.strays() if stray.cmdline()[1 : 1 + len(words)] == words), None
        )

    def finish_dvc(self) -> None:
        """`dvc repro` again."""
        self.actions.append("dvc repro")
        torn = self.clone.path / ".dvc/tmp/rwlock"  # which DVC writes in place
        if torn.exists() and not torn.read_bytes():
            counts["DVC's own lock file was cut short, and removed by hand"] += 1
            torn.unlink()
        started = self.clone.start(self.output, "dvc", "repro", **self.site(self.env()))
        process = psutil.Process(started.pid)
        if not until(lambda: ended(process), self.allowed()):
            waits = [stray.cmdline() for stray in self.strays()]
            self.wrong.append(f"dvc repro did not finish in {self.allowed():.0f} s: {waits}")
            send(process, signal.SIGKILL, "group")
        until(lambda: not self.strays(), self.allowed())  # orphans may write to the last
        self.finished(started.wait(), self.output.read_text())
        lock = read_yaml((self.clone.path / "dvc.lock").read_text())
        if not started.returncode and comparable_stages(lock) != comparable_stages(
            self.reference.lock
        ):
            self.wrong.append("dvc.lock differs")

    def allowed(self) -> float:
        return SLOWER * (self.stage.seconds + self.reference.repro) + 60

    def finished(self, code: int, text: str) -> None:
        """What must hold once the last run has ended."""
        if code:
            self.wrong.append(f"exit code {code}: {gist(text)}")
            return
        self.resumed = "resuming" in text
        if self.checkpoint and self.stage.name.partition("@")[0] in RESUMING and not self.resumed:
            self.wrong.append("it did not resume from the checkpoint")
        hashes, names = self.clone.hashes(), {name for name, _ in self.clone.files()}
        expected = self.reference.hashes
        differ = sorted(n for n in {*hashes, *expected} if hashes.get(n) != expected.get(n))
        self.identical = not differ
        if differ:
            self.wrong.append(f"differ: {', '.join(differ)}")
        more = sorted(n for n in names - self.reference.names if not n.endswith(".lock"))
        for top in ("data", "results"):
            parts = (self.clone.path / top).rglob("*.part")
            more += [path.relative_to(self.clone.path).as_posix() for path in parts]
        more += [str(path) for path in self.temporary.rglob("*") if path.is_file()]
        if more:
            self.wrong.append(f"left behind: {', '.join(dict.fromkeys(more))}")
        if not until(lambda: not self.strays(), 10):
            strays = [f"{stray.pid} {' '.join(stray.cmdline())[:200]}" for stray in self.strays()]
            self.wrong.append(f"still running: {'; '.join(strays)}")

    def strays(self) -> list[psutil.Process]:
        """Processes that work in the clone."""
        strays = []
        for process in psutil.process_iter():
            try:
                if Path(process.cwd()).is_relative_to(self.clone.path) and not ended(process):
                    strays.append(process)
            except (psutil.Error, OSError):
                continue
        return strays

    def close(self) -> None:
        """End what still runs, and remove the folder of a trial that was survived."""
        for process in self.strays():
            process.kill()
        shutil.rmtree(self.temporary)
        if not self.wrong:
            shutil.rmtree(self.folder)


def temporary() -> Path:
    """An empty folder for temporary files, on another disk than the work if there is one."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="rapipe-kill-", dir=memory if memory.is_dir() else None))


def comparable_stages(lock: dict[str, Any]) -> Any:
    """The stages of dvc.lock, without the store, whose file names are random."""
    text = json.dumps(lock, sort_keys=True)
    lock_copy = json.loads(text)
    for stage in lock_copy["stages"].values():
        for group in ("deps", "outs"):
            stage[group] = sorted(
                (entry for entry in stage.get(group, []) if entry["path"] != "data/store"),
                key=lambda entry: entry["path"],
            )
    return lock_copy["stages"]


def gist(text: str) -> str:
    """The last error line of a command's output, else the end of it."""
    errors = [line for line in text.splitlines() if "rror" in line and line[:1].strip()]
    return errors[-1][:300] if errors else text.strip()[-300:]


def ended(process: psutil.Process) -> bool:
    """Whether it is gone, or only waits to be counted."""
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def send(process: psutil.Process, number: signal.Signals, whom: str) -> None:
    """Send a signal to a process or, if `whom` is group, to all of its group."""
    try:
        os.killpg(process.pid, number) if whom == "group" else os.kill(process.pid, number)
    except ProcessLookupError:
        return


def until(true: Callable[[], bool], seconds: float) -> bool:
    """Wait until something is true, at most so long; whether it is."""
    stop = time.monotonic() + seconds
    while time.monotonic() < stop:
        if true():
            return True
        time.sleep(0.02)
    return true()


NUMBERS = {signal.SIGKILL: 0.7, signal.SIGINT: 0.2, signal.SIGTERM: 0.1}
"""How often each signal is sent."""


def attempt(
    reference: ReferenceRun, processes: ProcessGroup, folder: Path, seed: int, number: int
) -> Outcome:
    """One trial, all of which is drawn from its seed and number."""
    rng = random.Random(f"{seed} {number}")
    stage = reference.stages[rng.choice(list(reference.stages))]
    trial = Trial(reference, processes, folder / f"trial-{seed}-{number}", stage)
    signum: signal.Signals = rng.choices(list(NUMBERS), list(NUMBERS.values()))[0]
    dvc = bool(reference.lock) and rng.random() < 0.25
    times = rng.choice((1, 1, 1, 2, 3))
    if dvc:
        trial.forget()
    elif stage.name == "embed" or rng.random() < 0.5:  # a second embedding is another version
        trial.clear()
    if rng.random() < 0.4:  # it may go at any time
        shutil.rmtree(trial.clone.path / "data/cache", ignore_errors=True)
    whom = rng.choice(("group", "self", "dvc") if dvc else ("group", "self"))
    if signum == signal.SIGINT:
        whom = "group"  # as a terminal does
    for _ in range(times):
        at = rng.randint(1, len(stage.changes)) if rng.random() < 0.6 else 0
        delay = rng.uniform(0, 1.05) * (stage.seconds + (reference.repro if dvc else 0))
        harm = Harm(signum, whom, at, signum == signal.SIGKILL and rng.random() < 0.5, delay)
        (trial.run_dvc if dvc else trial.run_stage)(harm)
    if not dvc and rng.random() < 0.3:
        later = [name for name in reference.stages if name != stage.name]
        reader = reference.stages[rng.choice(later)]
        if reader.name != "embed":
            trial.reader(reader)
    (trial.finish_dvc if dvc else trial.finish_stage)()
    trial.close()
    say(f"{number}: {', '.join(trial.actions)}{', resumed' * trial.resumed}")
    fault = f"{signum.name} to {whom} {'under dvc repro' if dvc else 'of a stage alone'}"
    summary = f"{stage.name}: {', '.join(trial.actions)}: {'; '.join(trial.wrong)}"
    where = f"(python -m tests.faults.kill --seed {seed} --trial {number}; {trial.folder})"
    counts["resumed" if trial.resumed else "checkpoints not resumed"] += int(
        trial.checkpoint and stage.name.partition("@")[0] in RESUMING
    )
    message = f"{summary} {where}" if trial.wrong else ""
    return Outcome(fault, not trial.wrong, trial.identical, message)


counts: Counter[str] = Counter()
"""Of trials with a checkpoint: how many were resumed from it, and how many were not; and what was
DVC's to survive."""


def run(seconds: float, seed: int, first: int = 0, last: int = sys.maxsize) -> Iterator[Outcome]:
    """Trials `first` to `last`, until the time is over."""
    stop = time.monotonic() + seconds
    folder = Path(tempfile.mkdtemp(prefix="rapipe-kill-"))
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    processes = ProcessGroup()
    try:
        reference = reference_run(folder / "reference" / "clone", processes)
        number = first
        while number <= last and time.monotonic() < stop:
            yield attempt(reference, processes, folder, seed, number)
            number += 1
    finally:
        processes.close()
        shutil.rmtree(folder / "reference", ignore_errors=True)
        if not any(folder.iterdir()):
            folder.rmdir()


def main() -> None:
    """Print the outcome of each trial."""
    parser = argparse.ArgumentParser(
        description="Kills stages; see the top of tests/faults/kill.py."
    )
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trial", type=int, default=-1)
    arguments = parser.parse_args()
    chosen = (arguments.trial, arguments.trial) if arguments.trial >= 0 else (0, sys.maxsize)
    verdicts: Counter[str] = Counter()
    for outcome in run(arguments.seconds, arguments.seed, *chosen):
        verdicts["survived" if outcome.survived else "not survived"] += 1
        print(outcome.fault, "survived" if outcome.survived else outcome.message, flush=True)
    print(dict(verdicts), dict(counts))


if __name__ == "__main__":
    main()
