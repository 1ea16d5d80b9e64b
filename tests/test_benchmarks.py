"""Every benchmark runs and prints one JSON object, so that none rots; nothing is timed here."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from conftest import ROOT

BENCHMARKS = {
    "corpus": ["--quick"],
    "embed": ["--quick"],
    "prefetch": ["--quick"],
    "pretrain": ["--quick"],
    "search": ["--rows", "2000"],
    "startup": ["--quick"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_runs(name: str) -> None:
    command = [sys.executable, "-m", f"benchmarks.{name}", "--json", *BENCHMARKS[name]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)
