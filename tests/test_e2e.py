"""`dvc repro` in a clone, as a user runs it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from soak.clone import Clone


def ran(printed: str) -> set[str]:
    return set(re.findall(r"Running stage '([^']+)'", printed))


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone.make(tmp_path)


def test_repro_skips_what_is_done_and_reruns_what_depends(clone: Clone) -> None:
    clone.shrink()
    params = clone.path / "params.yaml"
    params.write_text(params.read_text().replace("alexnet+corpus", "alexnet"))
    first = ran(clone.call("dvc", "repro"))
    assert first == {
        "check",
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
    assert not clone.call("git", "status", "--short", "data")

    again = clone.call("dvc", "repro")
    assert not ran(again)
    assert "Data and pipelines are up to date." in again

    params.write_text(params.read_text().replace("  k: 4\n", "  k: 2\n"))
    assert set(json.loads(clone.call("dvc", "status", "--json"))) == {
        "check",
        "prefetch",
        "train-retrieval@alexnet-knn-0",
        "evaluate-retrieval@alexnet-knn-0",
        "report",
    }
