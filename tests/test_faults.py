"""Artefacts that are damaged between two stages, full and read-only disks, two at once, Ctrl-C.

`python -m tests.faults` does the same to more of them, and more often.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT
from filelock import ReadWriteLock

from rapipe import paths
from rapipe.config.loading import load
from rapipe.config.schema import Params
from rapipe.errors import Interrupted, UserError
from rapipe.io.checksums import check_unchanged, watch
from rapipe.pipeline import report
from rapipe.pipeline.running.exit_codes import exit_on_user_error
from rapipe.pipeline.running.locks import artefact_locks
from rapipe.pipeline.running.stage import run_stage
from tests.faults import damage, disk, reference
from tests.faults.outcome import Outcome

UNREAD = ("sheet.png", "rows.csv", "history.csv", "scores.json")
"""Files that hardly a stage reads: to go on to the end takes seconds."""
UNREPORTED = ("validation.arrow", "weights.safetensors")
LONG = ("pretrain", "report")
"""Stages that go on for long before they write; `train` writes as `pretrain` does."""


@pytest.fixture(scope="module")
def project(
    tiny: tuple[Path, Params], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[reference.Stage]]:
    """A copy of the tiny folder, with the stages of dvc.yaml for its parameters."""
    folder = tmp_path_factory.mktemp("faults") / "project"
    shutil.copytree(tiny[0], folder)
    shutil.copy(ROOT / "dvc.yaml", folder)
    stages = reference.stages(folder)
    shutil.rmtree(folder / ".dvc")
    return folder, stages


@pytest.mark.slow
def test_every_stage_refuses_what_was_damaged_before_it(
    project: tuple[Path, list[reference.Stage]], monkeypatch: pytest.MonkeyPatch, undrawn: None
) -> None:
    """One way to damage each file that a stage depends on; another for each stage and file."""
    folder, stages = project
    monkeypatch.chdir(folder)
    report.run(load(paths.PARAMS))
    dice = random.Random(0)
    outcomes: list[Outcome] = []
    damaged: set[tuple[str, str]] = set()
    for stage, path in damage.trials(stages):
        kind = stage.name
        if path.name in UNREAD or (kind, path.name) in damaged or paths.STORE in path.parents:
            continue
        if kind == "report" and path.name in UNREPORTED:
            continue
        damaged.add((kind, path.name))
        outcomes.append(damage.try_one(stage, path, damage.WAYS[len(outcomes) % 4], dice))
    assert not [outcome.message for outcome in outcomes if not outcome.survived]
    assert len(outcomes) > 60
    first = {"generate"}  # it reads nothing that another stage wrote
    assert {kind for kind, _ in damaged} == {stage.name for stage in stages} - first


@pytest.fixture
def small_disk(
    project: tuple[Path, list[reference.Stage]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Path, list[reference.Stage]]]:
    """The project on a disk of its own."""
    try:
        with disk.mounted(tmp_path / "disk", 256) as mounted:
            monkeypatch.chdir(disk.copy(project[0], mounted))
            yield mounted, project[1]
            monkeypatch.undo()
    except PermissionError as error:
        pytest.skip(str(error))


@pytest.mark.slow
def test_every_stage_survives_a_full_and_a_read_only_disk(
    small_disk: tuple[Path, list[reference.Stage]],
) -> None:
    mounted, stages = small_disk
    one_each = {stage.name: stage for stage in stages}
    outcomes = []
    for index, (name, stage) in enumerate(one_each.items()):
        if name in LONG:
            continue
        if index % 2:
            outcomes.append(disk.unwritable(stage, mounted))
        outcomes.append(disk.full(stage, mounted, 4096))
    assert not [outcome.message for outcome in outcomes if not outcome.survived]
    assert all(outcome.identical for outcome in outcomes)


def test_who_writes_is_alone_and_readers_are_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with artefact_locks([paths.CORPUS], [paths.ENCODER]):
        lock = paths.LOCKS / "data+pretrained.lock"
        other = ReadWriteLock(lock, is_singleton=False)
        with other.read_lock(timeout=0):
            pass
        assert "waiting" not in capsys.readouterr().err
        ready = tmp_path / "ready"
        code = (
            "from pathlib import Path; from rapipe import paths;"
            "from rapipe.pipeline.running.locks import artefact_locks\n"
            f"with artefact_locks([paths.ENCODER], []): Path({str(ready)!r}).write_text('in')"
        )
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", code]
        waiting = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
        assert waiting.stderr is not None
        assert waiting.stderr.readline() == (
            "waiting for another rapipe process, which writes data/encoder\n"
        )
        assert not ready.exists()
    assert waiting.wait(timeout=60) == 0
    waiting.stderr.close()
    assert ready.exists()


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    code = (
        "import os, signal; from rapipe import paths\n"
        "from rapipe.pipeline.running.locks import artefact_locks\n"
        "with artefact_locks([], [paths.CORPUS]): os.kill(os.getpid(), signal.SIGKILL)"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, check=False
        )
        assert done.returncode == -signal.SIGKILL
        assert b"waiting" not in done.stderr


@pytest.mark.ci
def test_inputs_that_change_under_a_stage_are_told(
    project: tuple[Path, list[reference.Stage]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from rapipe.pipeline import embed

    monkeypatch.chdir(project[0])
    path = paths.split("test")
    data = path.read_bytes()

    def run(params: Params) -> None:
        embed.run(params)
        os.utime(path)
        check_unchanged()  # a file that was only touched is the same
        path.write_bytes(data[:-1] + b"?")

    run.__module__ = embed.__name__
    with pytest.raises(SystemExit) as caught:
        run_stage(run)
    assert caught.value.code == 2
    output = capsys.readouterr().err
    assert "error: data/corpus/test.arrow was rewritten while it was used: run the same" in output
    path.write_bytes(data)
    watch()


@pytest.mark.parametrize(
    ("raised", "code", "sentence"),
    [
        (UserError("k is 0"), 2, "error: k is 0\n"),
        (KeyboardInterrupt(), 130, "interrupted: the same command starts this again\n"),
        (Interrupted("it resumes"), 130, "interrupted: it resumes\n"),
        (Interrupted("it resumes", 143), 143, "interrupted: it resumes\n"),
        (OSError(28, "No space left on device", "x"), 2, "error: x cannot be read or written: No"),
        (FileNotFoundError(2, "No", "data/x"), 2, "error: data/x is gone: another process removed"),
        (MemoryError(), 2, "error: there is not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9"), 2, "error: there is not"),
    ],
)
def test_how_an_end_is_told(
    raised: BaseException, code: int, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught, exit_on_user_error():
        raise raised
    assert caught.value.code == code
    assert capsys.readouterr().err.startswith(sentence)


def test_a_defect_keeps_its_traceback() -> None:
    with pytest.raises(RuntimeError, match="ours"), exit_on_user_error():
        raise RuntimeError("a defect of ours")


@pytest.mark.ci
def test_ctrl_c_ends_a_training_and_says_where_it_resumes(
    project: tuple[Path, list[reference.Stage]], tmp_path: Path, interruptible: None
) -> None:
    folder = Path(shutil.copytree(project[0], tmp_path / "project"))
    text = (folder / "params.yaml").read_text()
    head, _, tail = text.partition("\ntrain:\n")
    params = f"{head}\ntrain:\n{tail.replace('epochs: 1 ', 'epochs: 3000 ', 1)}"
    (folder / "params.yaml").write_text(params)
    command = [sys.executable, "-m", "rapipe", "train", "--retrieval", "none"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=folder, env=env, stderr=subprocess.PIPE, text=True)
    while not list((folder / paths.CHECKPOINTS).glob("*/last.ckpt")):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, output = process.communicate(timeout=60)
    assert time.monotonic() - start < 10
    assert process.returncode == 130
    assert "Traceback" not in output
    last = output.splitlines()[-1]
    assert last.startswith("interrupted: the same command resumes after epoch ")
    assert last.endswith("last.ckpt")
