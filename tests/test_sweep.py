"""`rapipe sweep`: the files of `rapipe train` and `rapipe eval`, made by tasks of Ray."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT

from rapipe import paths, progress
from rapipe.config.schema import Params
from rapipe.config.variants import variants
from rapipe.errors import UserError
from rapipe.io.checksums import sha256
from rapipe.pipeline import sweep


@pytest.fixture
def project(
    tiny: tuple[Path, Params], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, Params]:
    """A copy of `tiny`, of which nothing is known to be up to date."""
    folder, params = tiny
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    shutil.copy(ROOT / paths.PIPELINE, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path, params


def weights() -> dict[str, str]:
    return {str(file): sha256(file) for file in sorted(paths.MODELS.glob("*/*.safetensors"))}


@pytest.mark.slow
def test_results_are_those_of_the_commands(
    project: Any, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    before = weights()
    shutil.rmtree(paths.MODELS)
    selected = variants(project[1])[:2]
    monkeypatch.setattr(sweep, "variants", lambda params: selected)
    sweep.run("", torch.get_num_threads(), 1.0)  # another number rounds otherwise
    made = weights()
    assert len(made) == 2  # of three that have one network
    assert made == {name: before[name] for name in made}
    assert f"1 of 1: {selected[0].name}+1" in capfd.readouterr().err
    sweep.run("", 1, 1.0)
    assert capfd.readouterr().err == "all variants are up to date\n"


def test_without_ray_a_sentence_says_what_to_install(
    project: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"needs Ray: pip install 'rapipe\[scale\]'"):
        sweep.run("", 1, 1.0)


def test_where_no_cluster_answers_it_says_so_and_ray_tells_nobody(
    project: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    with pytest.raises(UserError, match=r"'127\.0\.0\.1:1', where no Ray cluster answers"):
        sweep.run("127.0.0.1:1", 1, 1.0)
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


def test_a_failed_trial_says_where(
    project: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_label", "")  # which a trial sets
    group = (variants(project[1])[0],)
    assert "machines share one file system" in sweep.trial(tmp_path / "elsewhere", group)
    shutil.rmtree(paths.INITIAL)
    assert sweep.trial(tmp_path, group) == "ended with exit code 2 in train"
