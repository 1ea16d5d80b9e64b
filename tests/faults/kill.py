"""Kills stages and commands, at any moment; the same command must then succeed.

A trial starts from a copy of the reference run, in which one stage runs again, or one command
edits the store. Its process gets a signal: at a random moment, right before a chosen change of the
disk, some time after that, or in the middle of a write (see `tests.faults.dying`). Perhaps it gets
another when it is started again. Then it may finish.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil

from rapipe import paths
from rapipe.errors import UserError
from tests.faults import dying
from tests.faults.clone import ROOT
from tests.faults.outcome import Attempt, Outcome, Setting, dice
from tests.faults.reference import Reference, Target, state, store_state, temporary_folder
from tests.faults.warm import ProcessGroup

RESUMING = ("pretrain", "train")
PATIENCE = 10.0
"""Seconds within which a process must end after a signal."""
SLOWER = 10.0
"""A run that must finish may take so many times its usual time, and a minute."""
NUMBERS = {signal.SIGKILL: 0.6, signal.SIGINT: 0.2, signal.SIGTERM: 0.2}
"""How often each signal is sent."""
MOMENTS = {"random": 0.3, "before": 0.3, "after": 0.2, "within": 0.2}
"""How often it is sent at each kind of moment: at random, before, after or within a change."""
LARGEST = 1 << 18
"""Bytes of a file, after which a write is cut at most."""
CUT = -signal.SIGXFSZ
"""Exit code of what is killed within a write."""
UNREAD = r"\.lock$|\.[\w-]{22}\.tmp$"
"""Files that may stay, since nobody reads them: locks, and those that a killed DVC was copying."""
Env = dict[str, str]


@dataclass(frozen=True)
class Harm:
    """A signal, and when it is sent."""

    number: signal.Signals
    whom: str
    """self (the process), group (its process group), or dvc."""
    at: int = 0
    """Right before which change of the disk; 0 = after `delay`."""
    torn: bool = False
    """Right after it instead, if it is to open a file for writing."""
    word: str = ""
    """Only changes that end with it are counted."""
    later: float = 0.0
    """Seconds after the change."""
    size: int = 0
    """After the change the system kills the process when a file gets larger, in bytes."""
    process: str = "stage"
    """Whose changes are counted: stage or dvc."""
    delay: float = 0.0
    """Seconds from the start."""

    def __str__(self) -> str:
        if self.size:
            return f"cut at byte {self.size} after change {self.at}"
        signal_name = f"{self.number.name} to {self.whom}"
        if not self.at:
            return f"{signal_name} in {self.delay:.2f} s"
        when = f"{self.later:.3f} s after" if self.later else "torn at" if self.torn else "before"
        return f"{signal_name} {when} change {self.at} of {self.process}"

    @property
    def note(self) -> str:
        """What is counted."""
        if self.size:
            return "SIGXFSZ within a write"
        moment = "before" if not self.later else "after"
        return f"{self.number.name} {f'{moment} a change' if self.at else 'at random'}"

    def env(self, log: Path) -> Env:
        """Environment variables that order it."""
        return dying.fault_environment(
            log, self.at, self.number, self.whom, self.torn, self.word, self.later, self.size,
            self.process,
        )  # fmt: skip


def draw(rng: random.Random, target: Target) -> Harm:
    """A signal to a stage or a command alone."""
    number: signal.Signals = rng.choices(list(NUMBERS), list(NUMBERS.values()))[0]
    whom = rng.choice(("group", "self"))
    moment = rng.choices(list(MOMENTS), list(MOMENTS.values()))[0]
    if moment == "random":
        return Harm(number, whom, delay=rng.random() * target.seconds)
    at = rng.randint(1, len(target.changes))
    if moment == "before":
        return Harm(number, whom, at, number == signal.SIGKILL and rng.random() < 0.5)
    if moment == "within":
        return Harm(signal.SIGXFSZ, "self", at, size=int(LARGEST ** rng.random()))
    ends = [seconds for seconds, _ in target.changes[at:]] or [target.seconds]
    gap = max(0.001, ends[0] - target.changes[at - 1][0])
    return Harm(number, whom, at, later=gap * rng.random())


class Trial:
    """One copy of the reference run, and the signals sent to one target in it."""

    def __init__(self, reference: Reference, folder: Path, target: Target, scratch: Path) -> None:
        folder.mkdir(parents=True)
        self.reference, self.folder, self.target = reference, folder, target
        self.scratch = scratch
        self.clone = target.start.copy(folder / "clone")
        self.names = {name for name, _ in self.clone.files()}
        self.clone.remove([paths.VARIANTS_CACHE])  # or nothing would be trained
        self.actions: list[str] = []
        self.wrong: list[str] = []
        self.notes: Counter[str] = Counter()
        self.kills = 0
        """How many signals ended something."""
        self.checkpoint = False
        """Whether there was one to resume from."""
        self.resumed = False
        self.identical: bool | None = None

    @property
    def log(self) -> Path:
        return self.folder / f"log{len(self.actions)}"

    @property
    def output(self) -> Path:
        return self.folder / f"output{len(self.actions)}"

    @property
    def text(self) -> str:
        """What was printed last."""
        return self.output.read_text() if self.output.exists() else ""

    def env(self, harm: Harm | None = None) -> Env:
        """Environment variables of a run."""
        fault = harm.env(self.log) if harm else dying.fault_environment(self.log)
        return {"TMPDIR": str(self.scratch), **fault}

    @property
    def allowed(self) -> float:
        """Seconds that a run may take."""
        return SLOWER * (self.target.seconds + self.reference.repro) + 60

    def watch(self, harm: Harm, process: psutil.Process) -> None:
        """Wait until the process has ended, which it must soon after the signal."""
        if harm.at:
            until(lambda: ended(process) or self.sent(), self.allowed)
        start = time.monotonic()
        until(lambda: ended(process), self.allowed)
        took = time.monotonic() - start
        if took > PATIENCE and harm.whom == "group":
            self.wrong.append(f"ended {took:.0f} s after {harm.number.name}")
        if not ended(process):
            send(process, signal.SIGKILL, "group")

    def sent(self) -> bool:
        """Whether the signal has been sent at its change of the disk."""
        return self.log.exists() and dying.SENT in self.log.read_text().splitlines()

    def count(self, harm: Harm, killed: bool) -> None:
        """Count a signal, and see what it left."""
        self.kills += killed
        self.notes[harm.note if killed else "signals that came too late"] += 1
        if not killed:
            self.actions.append("which was too late")
        checkpoints = (self.clone.path / "data/checkpoints").glob("*/last.ckpt")
        # Where only DVC was killed, its stage goes on, and may end before the next one begins.
        self.checkpoint = killed and any(checkpoints) and not self.strays()

    def compare(self, expected: dict[str, str]) -> None:
        """What must hold once the last run has ended."""
        try:
            actual = state(self.clone, not self.target.is_stage, self.target.more)
        except UserError as error:
            self.wrong.append(f"the store is damaged: {error}")
            self.identical = False
            return
        differ = sorted(n for n in {*actual, *expected} if actual.get(n) != expected.get(n))
        self.identical = not differ
        if differ:
            self.wrong.append(f"differ: {', '.join(differ)}")
        names = {name for name, _ in self.clone.files()} - self.names - {*expected}
        more = sorted(name for name in names if not re.search(UNREAD, name))
        for top in ("data", "results"):  # what it cost is no artefact, and is written over
            parts = (self.clone.path / top).rglob("*.part")
            names = {path.relative_to(self.clone.path).as_posix() for path in parts}
            more += sorted(name for name in names if not name.startswith(f"{paths.COSTS}/"))
        more += [str(path) for path in self.scratch.rglob("*") if path.is_file()]
        if more:
            self.wrong.append(f"left behind: {', '.join(dict.fromkeys(more))}")
        if not until(lambda: not self.strays(), 10):
            strays = [f"{stray.pid} {' '.join(stray.cmdline())[:200]}" for stray in self.strays()]
            self.wrong.append(f"still running: {'; '.join(strays)}")

    def check_resumed(self) -> None:
        """A training that has a checkpoint goes on from there."""
        if not self.checkpoint or self.target.name not in RESUMING:
            return
        self.resumed = "resuming" in self.text
        self.notes["resumed" if self.resumed else "checkpoints not resumed"] += 1
        if not self.resumed:
            self.wrong.append("it did not resume from the checkpoint")

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
        if not self.wrong:
            shutil.rmtree(self.folder)

    def outcome(self, fault: str) -> Outcome:
        """The outcome; without a fault if every signal came too late."""
        message = f"{', '.join(self.actions)}: {'; '.join(self.wrong)} ({self.folder})"
        return Outcome(
            fault,
            not self.wrong,
            self.identical,
            message if self.wrong else "",
            max(self.kills, bool(self.wrong)),
            self.notes,
        )


class Alone(Trial):
    """A stage or a command that is killed in a process of its own."""

    def __init__(
        self,
        reference: Reference,
        folder: Path,
        target: Target,
        scratch: Path,
        processes: ProcessGroup,
    ) -> None:
        super().__init__(reference, folder, target, scratch)
        self.processes = processes

    def start(self, command: Iterable[str], harm: Harm | None = None) -> psutil.Process:
        """Start a command, which is to be killed or not."""
        env = self.env(harm)
        pid = self.processes.start(self.clone.path, self.output, tuple(command), env)
        return psutil.Process(pid)

    def kill(self, harm: Harm) -> None:
        """Start the target, and send it the signal."""
        self.actions.append(f"{self.target.name}, {harm}")
        process = self.start(self.target.command, harm)
        if not harm.at:
            until(lambda: ended(process), harm.delay)
            send(process, harm.number, harm.whom)
        self.watch(harm, process)
        code = self.processes.wait()
        done = code == 0 or self.refused_repetition(code)
        # The sentence is cut too: what a command prints is in a file here.
        written = self.output.stat().st_size if self.output.exists() else 0
        is_cut = "File too large" in self.text or written >= harm.size
        refused = code == 2 and harm.size > 0 and is_cut
        self.count(harm, not done and not refused)
        if code == 0:
            self.compare(self.target.expected)
        elif code == 2 and not done and not refused:
            self.wrong.append(f"started again it refuses: {gist(self.text)}")
        if harm.number == signal.SIGINT and not done:
            self.check_interrupted(code)
        if not self.target.is_stage:
            self.check_store()

    def check_interrupted(self, code: int) -> None:
        """Ctrl-C ends in a sentence."""
        if "Traceback" in self.text and f"{ROOT / 'rapipe'}/" in self.text:
            self.wrong.append("a traceback after Ctrl-C")
        if code not in (130, -signal.SIGINT):  # 130 to a shell
            self.wrong.append(f"exit code {code} after Ctrl-C")

    def check_store(self) -> None:
        """A killed edit has happened, or has not."""
        try:
            current = store_state(self.clone)["store version current"]
        except (UserError, KeyError) as error:
            self.wrong.append(f"the store is damaged: {error}")
            return
        before = store_state(self.target.start)["store version current"]
        if current not in (before, self.target.expected["store version current"]):
            self.wrong.append("the store is neither what it was nor what it should become")

    def refused_repetition(self, code: int) -> bool:
        """Whether a command was refused since it has been done: its second run finds no rows."""
        if code != 2 or self.target.is_stage or "error: " not in self.text:
            return False
        current = store_state(self.clone)["store version current"]
        return current == self.target.expected["store version current"]

    def reader(self, other: Target) -> None:
        """Run a stage that reads what a killed run left: it must succeed, or refuse clearly."""
        self.actions.append(f"then {other.name}")
        self.start(other.command)
        code, text = self.processes.wait(), self.text
        if code not in (0, 2) or (code == 2 and "error: " not in text) or "Traceback" in text:
            self.wrong.append(f"{other.name} after it: exit code {code}, {gist(text)}")
        if code:
            self.restore(other)

    def restore(self, other: Target) -> None:
        """Restore a stage's outputs of the reference run: a stage that refuses may have begun."""
        self.clone.remove(other.writes)
        for out in other.writes:
            source, path = other.start.path / out, self.clone.path / out
            shutil.copytree(source, path) if source.is_dir() else shutil.copy2(source, path)

    def finish(self) -> None:
        """Run the same command again, undisturbed."""
        self.actions.append("again")
        process = self.start(self.target.command)
        if not until(lambda: ended(process), self.allowed):
            self.wrong.append(f"it did not finish in {self.allowed:.0f} s: {gist(self.text)}")
            send(process, signal.SIGKILL, "group")
        code = self.processes.wait()
        if "waiting for another" in self.text:
            self.wrong.append("a lock outlived its process")
        if code and not self.refused_repetition(code):
            self.wrong.append(f"exit code {code}: {gist(self.text)}")
            return
        self.check_resumed()
        self.compare(self.target.expected)


def attempt(setting: Setting, processes: ProcessGroup, number: int) -> Outcome:
    """One trial."""
    rng, reference = dice("kill", setting.seed, number), setting.reference
    target = reference.targets[rng.choice(list(reference.targets))]
    folder = setting.folder / f"kill-{setting.seed}-{number}"
    with temporary_folder() as scratch:
        trial = Alone(reference, folder, target, scratch, processes)
        if target.is_stage:
            if rng.random() < 0.5:
                trial.clone.remove(target.writes)
            if rng.random() < 0.4:  # it may go at any time
                trial.clone.remove([paths.CACHE])
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            trial.kill(draw(rng, target))
        if target.is_stage and rng.random() < 0.3:
            others = [t for t in reference.targets.values() if t.is_stage and t is not target]
            trial.reader(rng.choice(others))
        trial.finish()
        trial.close()
    return trial.outcome(f"{target.name.partition('@')[0]} is killed")


@contextmanager
def part(setting: Setting) -> Iterator[Attempt]:
    """Trials of stages and commands alone."""
    with closing(ProcessGroup()) as processes:
        processes.learn(setting.reference.modules)
        yield partial(attempt, setting, processes)


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
    while not true():
        left = stop - time.monotonic()
        if left <= 0:
            return true()
        time.sleep(min(0.01, left))
    return True
