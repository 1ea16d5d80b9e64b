"""Kills stages that `dvc repro` runs, or DVC itself; the next `dvc repro` must then succeed.

A trial starts from a copy of the reference run, in which DVC has forgotten one stage. The signal
goes to all of the group, only to the stage, or only to DVC: then the stage goes on without it,
while the next `dvc repro` starts.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from rapipe import paths
from rapipe.config.yaml_text import read_yaml, write_yaml
from tests.faults.kill import NUMBERS, Harm, Trial, ended, gist, send, until
from tests.faults.outcome import Attempt, Outcome, Setting, dice
from tests.faults.reference import Target, forget, temporary_folder

KILLED = {
    ("stage", "self"): "the stage is killed",
    ("stage", "dvc"): "DVC is killed, and the stage goes on",
    ("stage", "group"): "both are killed",
    ("dvc", "self"): "DVC is killed as it writes",
}
"""By the process whose changes are counted, and who gets the signal."""
START = 3.0
"""Seconds until a stage has imported what it needs, about."""
FILES_OF_DVC = (".dvc/tmp/rwlock", "dvc.lock")
"""What DVC writes in place, so that a kill may cut it; and it says so (docs/reliability.md)."""


class UnderDvc(Trial):
    """A stage that `dvc repro` runs."""

    def start(self, harm: Harm | None = None) -> subprocess.Popen[bytes]:
        """Start `dvc repro`, in which something is to be killed or not."""
        env = {**self.clone.with_site, **self.env(harm)}
        return self.clone.start(self.output, "dvc", "repro", **env)

    def kill(self, harm: Harm) -> None:
        """Start `dvc repro`, and send the signal to it or to the stage."""
        self.actions.append(f"dvc repro of {self.target.name}, {harm}")
        started = self.start(harm)
        process = psutil.Process(started.pid)
        if not harm.at:
            if harm.whom == "self":
                until(lambda: bool(self.stage_process()) or ended(process), self.allowed)
            until(lambda: ended(process), harm.delay)
            receiver = self.stage_process() if harm.whom == "self" else process
            if receiver:
                send(receiver, harm.number, harm.whom)
        self.watch(harm, process)
        self.count(harm, started.wait() != 0)

    def stage_process(self) -> psutil.Process | None:
        """The process of the stage, if it runs."""
        words = list(self.target.command[1:])
        return next(
            (stray for stray in self.strays() if stray.cmdline()[1 : 1 + len(words)] == words), None
        )

    def finish(self) -> None:
        """`dvc repro` again; files that DVC itself says are cut are removed first, as it says."""
        code = self.repeat()
        for name in FILES_OF_DVC:
            if code and Path(name).name in gist(self.text):
                self.notes[f"{name} was cut by a kill of DVC, and removed by hand"] += 1
                self.repair(name)
                code = self.repeat()
        if code:
            self.wrong.append(f"dvc repro: exit code {code}: {gist(self.text)}")
            return
        self.check_resumed()
        self.compare(self.target.expected)
        lock = read_yaml((self.clone.path / "dvc.lock").read_text())
        if comparable_stages(lock) != comparable_stages(self.reference.lock):
            self.wrong.append("dvc.lock differs")

    def repeat(self) -> int:
        """`dvc repro`; its exit code."""
        self.actions.append("dvc repro")
        started = self.start()
        process = psutil.Process(started.pid)
        if not until(lambda: ended(process), self.allowed):
            waits = [stray.cmdline() for stray in self.strays()]
            self.wrong.append(f"dvc repro did not finish in {self.allowed:.0f} s: {waits}")
            send(process, signal.SIGKILL, "group")
        until(lambda: not self.strays(), self.allowed)  # orphans may write to the last
        return started.wait()

    def repair(self, name: str) -> None:
        """What docs/reliability.md says: `rm .dvc/tmp/rwlock`, or `git checkout dvc.lock`."""
        file = self.clone.path / name
        if name == "dvc.lock":
            file.write_text(write_yaml(self.reference.lock))
        else:
            file.unlink()


def comparable_stages(lock: dict[str, Any]) -> Any:
    """The stages of dvc.lock, without the store, whose file names are random."""
    lock_copy = json.loads(json.dumps(lock, sort_keys=True))
    for stage in lock_copy["stages"].values():
        for group in ("deps", "outs"):
            stage[group] = sorted(
                (entry for entry in stage.get(group, []) if entry["path"] != "data/store"),
                key=lambda entry: entry["path"],
            )
    return lock_copy["stages"]


def draw(rng: random.Random, target: Target, repro: float, changes_of_dvc: int) -> Harm:
    """A signal to a stage under DVC, to DVC, or to both."""
    number: signal.Signals = rng.choices(list(NUMBERS), list(NUMBERS.values()))[0]
    whom = rng.choice(("group", "self", "dvc", "itself"))
    if whom == "itself":
        at = rng.randint(1, changes_of_dvc)
        return Harm(number, "self", at, rng.random() < 0.5, process="dvc")
    if rng.random() < 0.7:
        at = rng.randint(1, len(target.changes))
        return Harm(number, whom, at, number == signal.SIGKILL and rng.random() < 0.5)
    seconds = START + target.seconds + (0 if whom == "self" else repro)
    return Harm(number, whom, delay=seconds * rng.random())


def attempt(setting: Setting, number: int) -> Outcome:
    """One trial."""
    rng, reference = dice("repro", setting.seed, number), setting.reference
    targets = [target for target in reference.targets.values() if target.is_stage]
    target = rng.choice(targets)
    folder = setting.folder / f"repro-{setting.seed}-{number}"
    with temporary_folder() as scratch:
        trial = UnderDvc(reference, folder, target, scratch)
        forget(trial.clone, reference.lock, target.name)
        if rng.random() < 0.4:
            trial.clone.remove([paths.CACHE])
        harms = [
            draw(rng, target, reference.repro, reference.changes_of_dvc)
            for _ in range(rng.choice((1, 1, 1, 2)))
        ]
        for harm in harms:
            trial.kill(harm)
        trial.finish()
        trial.close()
    return trial.outcome(f"dvc repro: {KILLED[harms[0].process, harms[0].whom]}")


@contextmanager
def part(setting: Setting) -> Iterator[Attempt]:
    """Trials under `dvc repro`."""
    yield partial(attempt, setting)
