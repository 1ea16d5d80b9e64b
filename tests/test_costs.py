"""What stages took: written beside their artefacts, and told."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rapipe import paths
from rapipe.pipeline import costs


def test_a_stage_leaves_a_card_of_what_it_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with costs.counted("first"):
        pass
    before = costs.rows()[0]["peak_gb"]
    with costs.counted("second"):
        np.ones(int((before + 0.3) * 1e9), np.uint8)
    first, second = costs.rows()
    assert (first["stage"], second["stage"]) == ("first", "second")
    assert second["peak_gb"] == pytest.approx(before + 0.3, abs=0.15 + before)
    assert second["peak_gb"] > before + 0.2
    told = capsys.readouterr().err.splitlines()
    assert told[1] == f"second: {second['seconds']} s, peak memory {second['peak_gb']} GB"
    assert json.loads((paths.COSTS / "second.json").read_text())["peak_gb"] == second["peak_gb"]


def test_a_stage_that_fails_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="no"), costs.counted("failed"):
        raise ValueError("no")
    assert costs.rows() == []


def test_looking_at_the_memory_does_not_wait_for_torch() -> None:
    code = (
        "import sys\nimport rapipe.pipeline.editing, rapipe.pipeline.results, rapipe.pipeline.costs"
        "\nassert not {'torch', 'pytorch_lightning', 'kornia', 'timm'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
