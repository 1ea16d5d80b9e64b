"""`dvc repro` in a clone, as a user runs it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

BIN = Path(sys.executable).parent


def call(clone: Path, *command: str) -> str:
    """Run a command in the clone with this environment's programs first; return all it prints."""
    env = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(clone)}
    done = subprocess.run(command, cwd=clone, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def ran(printed: str) -> set[str]:
    return set(re.findall(r"Running stage '([^']+)'", printed))


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The tracked files as they are in the working tree, in a repository of their own."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    for name in listed:
        if (ROOT / name).is_file() and not name.startswith(("results/", "dvc.lock")):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    call(tmp_path, "git", "init", "-q")
    call(tmp_path, "git", "add", "-A")
    call(tmp_path, "git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "clone")
    return tmp_path


def test_repro_skips_what_is_done_and_reruns_what_depends(clone: Path) -> None:
    call(clone, "rapipe", "preset", "tiny")
    params = clone / "params.yaml"
    text = params.read_text().replace("[alexnet, perceiver, alexnet+noise]", "[alexnet]")
    params.write_text(text.replace("[sampled, knn]", "[knn]"))
    first = ran(call(clone, "dvc", "repro"))
    assert first == {
        "corpus",
        "pretrain",
        "embed",
        "prefetch",
        "audit",
        "initialise",
        "train-plain@alexnet-0",
        "train-retrieval@alexnet-knn-0",
        "evaluate-plain@alexnet-0",
        "evaluate-retrieval@alexnet-knn-0",
        "report",
    }
    assert not call(clone, "git", "status", "--short", "data")

    again = call(clone, "dvc", "repro")
    assert not ran(again)
    assert "Data and pipelines are up to date." in again

    params.write_text(params.read_text().replace("k: 4 ", "k: 2 "))
    assert set(json.loads(call(clone, "dvc", "status", "--json"))) == {
        "prefetch",
        "train-retrieval@alexnet-knn-0",
        "evaluate-retrieval@alexnet-knn-0",
        "report",
    }
