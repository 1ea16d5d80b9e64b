"""What commands print reaches any terminal, file and pipe, and no loss of those ends any work."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT
from rich.console import Console

from rapipe import progress
from rapipe.cli import show
from rapipe.pipeline.running import streams
from rapipe.pipeline.running.exit_codes import exit_on_user_error

NAMES = (
    "[ok] good",
    "on hold [/marketing]",
    "[red]",
    ":cat:",
    "{x}",
    "café 日本",
    "\x1b[3m\u202e",
)


@pytest.mark.parametrize("name", NAMES)
def test_names_in_tables_are_no_markup(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    show([{"class": name, name: 0.5}, {"class": "x" * 300, name: 1}], as_json=False)
    head, row, long = capsys.readouterr().out.splitlines()
    shown = name.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e")
    assert head.split() == ["class", *shown.split()]
    assert row.split() == [*shown.split(), "0.5"]
    assert long.split() == ["x" * 300, "1"]  # nothing is cut where there is no terminal


@pytest.mark.parametrize("name", NAMES)
def test_names_at_bars_are_no_markup(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()

    def terminal(stderr: bool = False) -> Console:
        assert stderr
        return Console(file=written, width=200, markup=False, emoji=False, highlight=False)

    monkeypatch.setattr(progress, "console", terminal)
    monkeypatch.setattr(progress, "is_interactive", lambda: True)
    shown = name.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e")
    assert list(progress.track(range(3), name, 3)) == [0, 1, 2]
    with progress.transfer(name, 0, 9) as advance:
        advance(9)
    assert written.getvalue().count(shown) >= 2


@pytest.mark.parametrize("stream", [None, "closed"])
def test_without_stderr_nothing_is_said(
    stream: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = io.StringIO()
    file.close()
    monkeypatch.setattr(sys, "stderr", file if stream else None)
    progress.say("lost")
    assert not progress.is_interactive()
    assert list(progress.track(range(5), "lost", 5)) == list(range(5))
    with pytest.raises(SystemExit, match="130"), exit_on_user_error():
        raise KeyboardInterrupt


@pytest.fixture
def descriptor() -> Iterator[int]:
    """A pipe that nobody reads any more."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


def test_a_pipe_that_ended_ends_a_command_once(descriptor: int) -> None:
    file = streams._File(descriptor, "w", closefd=False)
    with pytest.raises(SystemExit, match="141"):
        file.write(b"x")
    assert file.write(b"xy") == 2  # as the interpreter does when it exits


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device")
def test_a_full_disk_under_stdout_is_a_mistake_of_one_sentence(
    capsys: pytest.CaptureFixture[str],
) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        with pytest.raises(SystemExit, match="2"), exit_on_user_error():
            streams._File(full, "w", closefd=False).write(b"x")
    finally:
        os.close(full)
    assert capsys.readouterr().err.startswith("error: standard output cannot be read or written")


def run(code: str, *, shell: str = "", **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run code in a process without anything heavy, its streams as the shell says."""
    variables = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **environment}
    command = ["sh", "-c", f'"$0" -c "$1" {shell}', sys.executable, code]
    return subprocess.run(command, capture_output=True, env=variables, check=False)


PRINT = (
    "from rapipe.pipeline.running.exit_codes import exit_on_user_error\n"
    "from rapipe.errors import UserError\n"
    "from rapipe.progress import print_line\n"
    "with exit_on_user_error():\n"
    "    print_line('caf\\u00e9 \\u65e5 \\udcff')\n"
    "    print('\\u65e5\\udcff')\n"
    "    open('/dev/null').close()\n"
    "    raise UserError('no \\u65e5')\n"
)


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("ascii", rb"caf\xe9 \u65e5 \udcff"),
        ("cp1252", b"caf\xe9 " + rb"\u65e5 \udcff"),
        ("utf-8", "café 日 ".encode() + rb"\udcff"),
    ],
)
def test_what_an_encoding_lacks_is_escaped(encoding: str, expected: bytes) -> None:
    done = run(PRINT, PYTHONIOENCODING=encoding, PYTHONUTF8="0", LC_ALL="C")
    assert done.returncode == 2, done.stderr
    assert done.stdout.splitlines()[0] == expected
    assert done.stderr.startswith(b"error: no ")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("shell", [">&-", "2>&-", "<&- >&- 2>&-", "2>/dev/full", ">&- 2>/dev/full"])
def test_streams_that_are_closed_or_full_change_nothing(shell: str) -> None:
    done = run(PRINT, shell=shell)
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr
    assert b"Exception" not in done.stderr


@pytest.mark.ci
def test_a_command_whose_output_is_cut_says_nothing(tmp_path: Path) -> None:
    code = "import sys; sys.argv = ['rapipe', 'methods']; from rapipe.cli import main; main()"
    done = run(code, shell="| head -1", HOME=str(tmp_path))
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.ci
def test_the_package_is_a_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rapipe", "[red]nope[/x]"]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("Usage: python -m rapipe")
    assert "No such command '[red]nope[/x]'" in done.stderr
