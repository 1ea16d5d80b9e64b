"""The command line as a user meets it, in a process of its own."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from rapipe.cli import show
from rapipe.config import presets
from rapipe.pipeline.running.exit_codes import exit_on_user_error

MAIN = "from rapipe.cli import main; main()"


def rapipe(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", MAIN, *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom rapipe.cli import app\n"
        "try: app(['--help'])\nexcept SystemExit as end: assert end.code == 0\n"
        "heavy = {'torch', 'numpy', 'pyarrow', 'lancedb', 'matplotlib', 'pydantic', 'ruamel'}\n"
        "heavy |= {'dvc'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for name in ("corpus", "pretrain", "embed", "prefetch", "train", "eval", "report", "results"):
        assert name in done.stdout


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("rapipe pre", "pretrain prefetch predict preset"), ("rapipe store ta", "tag")],
)
def test_shells_complete_commands(typed: str, offered: str, tmp_path: Path) -> None:
    words = {"COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
    command = [sys.executable, "-c", "import sys; sys.argv = ['rapipe']\n" + MAIN]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, **words, "_RAPIPE_COMPLETE": "complete_bash"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == offered.split()


@pytest.mark.parametrize("variable", ["NO_COLOR", "RAPIPE_OTHER"])
def test_no_colour_where_the_user_wants_none(variable: str, tmp_path: Path) -> None:
    """In a terminal, of bars; without the variable they are coloured."""
    code = "from rapipe.progress import track\nfor _ in track(range(5), 'x', 5): pass"
    near, far = os.openpty()
    environment = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**environment, "TERM": "xterm-256color", variable: "1"},
        stderr=far,
        check=True,
    )
    os.close(far)
    shown = os.read(near, 1 << 16)
    os.close(near)
    assert b"x" in shown
    assert bool(re.search(rb"\x1b\[(?:\d+;)*(?:3|9)\d(?:;\d+)*m", shown)) == (
        variable != "NO_COLOR"
    )


def test_outside_a_project(tmp_path: Path) -> None:
    done = rapipe("corpus", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: no params.yaml in {tmp_path}")
    assert not list(tmp_path.iterdir())


def test_presets_are_listed_and_written(tmp_path: Path) -> None:
    listed = rapipe("preset", cwd=tmp_path).stdout
    assert [line.split()[0] for line in listed.splitlines()] == list(presets.PRESETS)
    assert rapipe("preset", "digits", cwd=tmp_path).returncode == 0
    assert "# Every parameter" in (tmp_path / "params.yaml").read_text()
    done = rapipe("preset", "huge", cwd=tmp_path)
    assert done.returncode == 2
    assert "choose from digits, tiny, own-images" in done.stderr


@pytest.mark.parametrize("arguments", [["corpse"], ["results", "--jso"], ["neighbors"]])
def test_usage_errors(tmp_path: Path, arguments: list[str]) -> None:
    done = rapipe(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.ci
def test_stage_modules_tell_mistakes_like_the_command(tmp_path: Path) -> None:
    text = (ROOT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text.replace("fusion: trust", "fusion: none"))
    done = subprocess.run(
        [sys.executable, "-m", "stages.train"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: retrieval.fusion is 'none'; it must be one of cross-")


def test_what_the_disk_refuses_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"), exit_on_user_error():
        raise OSError(errno.ENOSPC, "No space left on device", "data/corpus/train.arrow")
    printed = capsys.readouterr().err
    assert printed == (
        "error: data/corpus/train.arrow cannot be read or written: No space left on device\n"
    )
    with pytest.raises(OSError, match="odd"), exit_on_user_error():
        raise OSError(errno.EBADF, "odd")


def test_what_there_is_not_is_an_empty_cell(capsys: pytest.CaptureFixture[str]) -> None:
    """The accuracy of a class without test images."""
    show([{"seed": 0, "heron": None, "gull": 0.25}], as_json=False)
    head, row = capsys.readouterr().out.splitlines()
    assert [head.split(), row.split()] == [["seed", "heron", "gull"], ["0", "0.25"]]
    assert row.index("0.25") == head.index("gull")
