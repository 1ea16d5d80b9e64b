"""Several processes that do the same work: their errors, their end, and that of their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest
from conftest import ROOT

from rapipe.cores import busy_cores
from rapipe.errors import UserError
from rapipe.pipeline import pretrain
from rapipe.pipeline.running.side_by_side import JOBS, THREADS, Workers, shares
from rapipe.progress import is_interactive, say

NEEDED = "rapipe.pipeline.running.side_by_side"
LONG = 60.0
"""Seconds that no test waits."""


@pytest.fixture(autouse=True)
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(JOBS, "2")
    monkeypatch.setenv(THREADS, "2")


def write(folder: Path, item: int) -> None:
    """Item 1 waits for what item 0 does at the same time."""
    threads = os.environ[THREADS]
    (folder / f"begun{item}").touch()
    while item < 2 and not (folder / f"begun{1 - item}").exists():
        time.sleep(0.01)
    say(f"interactive {is_interactive()}")
    (folder / str(item)).write_text(f"{os.getpid()} {threads}")


def fail(folder: Path, item: int) -> None:
    (folder / f"begun{item}").write_text(str(os.getpid()))
    if item == 0:
        while not (folder / "begun1").exists():
            time.sleep(0.01)
        raise UserError("this is not possible")
    if item == 1:
        time.sleep(LONG)


def die(folder: Path, item: int) -> None:
    if item:
        os.kill(os.getpid(), signal.SIGKILL)


def name(item: int) -> str:
    return f"item {item}"


def test_all_is_done_two_at_once_in_processes_of_their_own(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    done: list[int] = []
    Workers[int](NEEDED).run(partial(write, tmp_path), [0, 1, 2], name, done.append)
    assert sorted(done) == [0, 1, 2]
    pids, threads = zip(*((tmp_path / str(i)).read_text().split() for i in done), strict=True)
    assert len({*pids, str(os.getpid())}) == 4
    assert set(threads) == {"1"}
    assert os.environ[THREADS] == "2"
    printed = capfd.readouterr().err.splitlines()
    assert {f"item {item}: interactive False" for item in done} <= set(printed)
    assert printed[-1].startswith("3 of 3: item ")


def test_the_first_that_fails_ends_all(tmp_path: Path) -> None:
    done: list[int] = []
    start = time.monotonic()
    with pytest.raises(SystemExit, match="2"):
        Workers[int](NEEDED).run(partial(fail, tmp_path), [0, 1, 2], name, done.append)
    assert time.monotonic() - start < LONG / 2
    assert not done
    assert not (tmp_path / "begun2").exists()
    assert not psutil.pid_exists(int((tmp_path / "begun1").read_text()))


def test_a_process_that_is_killed_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"item 1: its process was killed.*set {JOBS} to a smaller"):
        Workers[int](NEEDED).run(partial(die, tmp_path), [0, 1], name, lambda _: None)


SIGNALS = [
    signal.SIGKILL,
    *(pytest.param(s, marks=pytest.mark.slow) for s in (signal.SIGINT, signal.SIGTERM)),
]


@pytest.mark.parametrize("number", SIGNALS)
def test_they_end_with_their_parent(number: signal.Signals, tmp_path: Path) -> None:
    code = (
        "from functools import partial; from pathlib import Path; import test_side_by_side as t\n"
        f"t.Workers(t.NEEDED).run(partial(t.fail, Path({str(tmp_path)!r})), [1, 1], t.name, print)"
    )
    search = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    env = {**os.environ, "PYTHONPATH": search}
    process = subprocess.Popen([sys.executable, "-c", code], env=env, stderr=subprocess.PIPE)
    while not (tmp_path / "begun1").exists() or not (tmp_path / "begun1").read_text():
        assert process.poll() is None
        time.sleep(0.05)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)  # to it alone, as Ctrl-C in a terminal does not
    _, printed = process.communicate(timeout=LONG)
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    assert b"Traceback" not in printed
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not [other for other in alive if "resource_tracker" not in " ".join(other.cmdline())]


def test_the_threads_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for jobs, threads, expected in (
        ("", "1", (1, 1)),
        ("", "2", (2, 1)),
        ("", "9", (4, 2)),
        ("1", "8", (1, 8)),
        ("6", "4", (6, 1)),
    ):
        monkeypatch.setenv(JOBS, jobs)
        monkeypatch.setenv(THREADS, threads)
        assert shares() == expected
    monkeypatch.setenv(JOBS, "many")
    with pytest.raises(UserError, match="RAPIPE_JOBS is 'many'; it must be a whole number from 1"):
        shares()
    monkeypatch.setenv(JOBS, "")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert shares()[0] == 1


def test_others_are_seen_and_pretraining_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        assert busy_cores() > 0.3
        other.kill()
    for threads, busy, said in ((2, 1.04, True), (1, 1.04, False), (2, 0.1, False)):
        monkeypatch.setattr("torch.get_num_threads", lambda threads=threads: threads)
        monkeypatch.setattr(pretrain, "busy_cores", lambda busy=busy: busy)
        pretrain.tell_if_busy()
        sentence = "other processes keep 1.0 cores busy: with OMP_NUM_THREADS=1 this is faster\n"
        assert capsys.readouterr().err == (sentence if said else "")
