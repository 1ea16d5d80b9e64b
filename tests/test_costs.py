"""Costs of stages: written beside their artefacts, and printed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rapipe import paths
from rapipe.pipeline.running import costs


def test_a_stage_leaves_a_card_of_what_it_took(tmp_path: Path) -> None:
    code = (
        "import numpy as np\nfrom rapipe.pipeline.running.costs import record_costs\n"
        "with record_costs('first'): pass\n"
        "with record_costs('second'): np.ones(200_000_000, np.uint8)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    first, second = (
        json.loads((tmp_path / f"data/costs/{name}.json").read_text())
        for name in ("first", "second")
    )
    assert second["peak_gb"] - first["peak_gb"] == pytest.approx(0.2, abs=0.03)
    assert done.stderr.splitlines()[1] == (
        f"second: {second['seconds']} s, peak memory {second['peak_gb']} GB"
    )


def test_costs_are_listed_in_the_order_of_the_stages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("pretrain", "embed")):
        with costs.record_costs(name):
            pass
        os.utime(paths.COSTS / f"{name}.json", (number, number))
    assert [row["stage"] for row in costs.read_costs()] == ["pretrain", "embed"]
    assert all(row["seconds"] >= 0 and row["gpu_gb"] == "" for row in costs.read_costs())


def test_a_stage_that_fails_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="no"), costs.record_costs("failed"):
        raise ValueError("no")
    assert costs.read_costs() == []


def test_looking_at_the_memory_does_not_wait_for_torch() -> None:
    code = (
        "import sys\nimport rapipe.pipeline.memory.edit, rapipe.pipeline.results, "
        "rapipe.pipeline.running.costs"
        "\nassert not {'torch', 'pytorch_lightning', 'kornia', 'timm'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
