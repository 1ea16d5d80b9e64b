"""`rapipe doctor` finds what keeps commands from running, and changes nothing."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import rapipe
from rapipe import paths
from rapipe.cli import app
from rapipe.config import presets
from rapipe.config.loading import load
from rapipe.errors import UserError
from rapipe.pipeline import doctor
from rapipe.pipeline.environment import PARTS, environment
from rapipe.pipeline.memory import edit
from rapipe.pipeline.running import check_names
from rapipe.pipeline.running.stage import refuse_link


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with DVC and git, as far as files tell."""
    monkeypatch.chdir(tmp_path)
    presets.write("tiny", paths.PARAMS)
    for folder in (".git", ".dvc/tmp", "data", "results"):
        Path(folder).mkdir(parents=True)
    Path(".dvc/config").write_text("[core]\n    analytics = false\n")
    return tmp_path


def sentences() -> dict[str, str]:
    """What is wrong, by the name of the check."""
    return {name: sentence for name, sentence, is_fine in doctor.check_all() if not is_fine}


def write_lock(pid: int, kind: str = "write") -> None:
    entry = {"pid": pid, "cmd": "dvc repro"}
    lock = {kind: {"/p/data/store": entry if kind == "write" else [entry]}}
    Path(".dvc/tmp/rwlock").write_text(json.dumps(lock))


def test_nothing_is_wrong_with_a_project_that_runs(project: Path) -> None:
    before = sorted(project.rglob("*"))
    done = CliRunner().invoke(app, ["doctor"], catch_exceptions=False)
    assert done.exit_code == 0, done.stdout
    lines = done.stdout.splitlines()
    assert [line[:6] for line in lines] == ["ok    "] * len(doctor.CHECKS) + [" " * 6] * len(PARTS)
    assert sorted(project.rglob("*")) == before


def test_what_a_report_of_a_defect_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    Path(".git/index.lock").touch()
    done = CliRunner().invoke(app, ["doctor", "--json"], catch_exceptions=False)
    assert done.exit_code == 2
    answer = json.loads(done.stdout)
    assert [check["name"] for check in answer["checks"] if not check["fine"]] == ["DVC"]
    facts = answer["environment"]
    assert facts["versions"].startswith(
        f"rapipe {rapipe.__version__}, Python {sys.version_info[0]}."
    )
    assert facts["device"].startswith("cpu, ")
    assert facts["precision"].startswith("auto is ")
    monkeypatch.setattr("importlib.metadata.version", lambda _: "0.0.1")
    assert environment()["extras"] == "none"
    monkeypatch.setattr("importlib.metadata.version", lambda _: "99")
    assert "explore" in environment()["extras"].split(", ")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"write": {"/p": {"pid": "x"}}}'])
def test_a_lock_that_a_killed_dvc_left_half_written(content: str) -> None:
    Path(".dvc/tmp/rwlock").write_text(content)
    assert sentences() == {
        "DVC's lock": ".dvc/tmp/rwlock is damaged, as a killed dvc leaves it: if no dvc runs now, "
        "rm .dvc/tmp/rwlock"
    }


@pytest.mark.parametrize("kind", ["read", "write"])
def test_a_lock_whose_process_is_another_one(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.Process.cmdline", lambda _: ["/usr/bin/sleep", "9"])
    write_lock(os.getppid(), kind)
    (sentence,) = sentences().values()
    assert f"held for process {os.getppid()}, which is no dvc" in sentence
    write_lock(2**22 + 1, kind)  # more than Linux gives; DVC drops it by itself
    assert sentences() == {}


def test_a_lock_of_a_dvc_that_runs_is_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.Process.cmdline", lambda _: ["python", "/bin/dvc", "repro"])
    write_lock(os.getpid())
    assert ("DVC's lock", f"held by dvc, process {os.getpid()}", True) in doctor.check_all()


def test_git(project: Path) -> None:
    Path(".git/index.lock").touch()
    assert ".git/index.lock is there" in sentences()["DVC"]
    Path(".git/index.lock").unlink()
    Path(".git").rmdir()
    assert "dvc config --local core.no_scm true, or git init" in sentences()["DVC"]
    Path(".dvc/config.local").write_text("['core']\n    no_scm = True\n")
    assert sentences() == {}
    Path(".git").mkdir()
    assert "dvc config --local -u core.no_scm" in sentences()["DVC"]


def test_the_rest_of_the_project(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "SPACE", 1 << 62)
    monkeypatch.setenv("HOME", str(tmp_path / "nowhere"))
    monkeypatch.setattr(doctor, "get_context", lambda _: _NoLocks())
    monkeypatch.setattr("importlib.metadata.version", lambda _: "0.0.1")
    Path("data").rename("elsewhere")
    Path("data").symlink_to("elsewhere")
    paths.PARAMS.write_text("seed: 0\n")
    wrong = sentences()
    assert set(wrong) == {"packages", "parameters", "data", "disk", "shared memory", "HOME"}
    assert "is 0.0.1, but must be" in wrong["packages"]
    assert "corpus is missing" in wrong["parameters"]
    with pytest.raises(UserError, match="data is a link, and DVC keeps nothing behind one"):
        refuse_link()


class _NoLocks:
    def Lock(self) -> None:
        raise OSError(38, "Function not implemented")


def test_a_copy_that_dvc_made_lacks_images(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = project / ".dvc/tmp/exps/standalone/tmpx"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    presets.write("own-images", paths.PARAMS)
    with pytest.raises(UserError, match="not in this copy of the project: dvc exp run --temp"):
        check_names.check(load(paths.PARAMS))
    text = paths.PARAMS.read_text().replace("data/raw/images", str(project / "data"))
    paths.PARAMS.write_text(text)
    check_names.check(load(paths.PARAMS))
    monkeypatch.chdir(project)
    presets.write("own-images", paths.PARAMS)
    check_names.check(load(paths.PARAMS))  # the source itself says what is missing


def test_an_edit_says_what_dvc_makes_of_it(project: Path) -> None:
    assert "dvc commit -f embed keeps this version" in edit.dvc_note()
    Path(".dvc").rename("dvc")
    assert edit.dvc_note() == ""
