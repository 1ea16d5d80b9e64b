"""`dvc repro` in a clone, as a user runs it."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from rapipe.pipeline.running.whole import STAGES
from tests.faults.clone import Clone


def ran(printed: str) -> set[str]:
    return set(re.findall(r"Running stage '([^']+)'", printed))


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone.make(tmp_path)


@pytest.mark.ci
def test_repro_skips_what_is_done_and_reruns_what_depends(clone: Clone) -> None:
    clone.shrink()
    params = clone.path / "params.yaml"
    params.write_text(params.read_text().replace("alexnet+pretrained", "alexnet"))
    first = ran(clone.call("dvc", "repro"))
    assert first == set(STAGES)
    assert not clone.call("git", "status", "--short", "data")

    again = clone.call("dvc", "repro")
    assert not ran(again)
    assert "Data and pipelines are up to date." in again

    params.write_text(params.read_text().replace("  k: 4\n", "  k: 2\n"))
    assert set(json.loads(clone.call("dvc", "status", "--json"))) == {
        "prefetch",
        "train",
        "evaluate",
        "report",
    }


@pytest.mark.slow
def test_two_at_once_take_turns_or_refuse(
    clone: Clone, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A second `dvc repro` and a stage by hand, while a `dvc repro` pretrains."""
    clone.shrink()
    params = clone.path / "params.yaml"
    params.write_text(params.read_text().replace("  epochs: 3\n", "  epochs: 40\n", 1))
    logs = tmp_path_factory.mktemp("logs")
    first = clone.start(logs / "first", "dvc", "repro")
    while not (clone.path / "data/checkpoints").exists():  # pretraining has begun
        assert first.poll() is None, (logs / "first").read_text()
        time.sleep(0.1)
    second = clone.start(logs / "second", "dvc", "repro")
    embed = clone.start(logs / "embed", "rapipe", "embed")
    assert first.wait() == 0, (logs / "first").read_text()
    by_hand = embed.wait(), (logs / "embed").read_text()
    assert "waiting for another rapipe process, which writes data/encoder" in by_hand[1]
    assert by_hand[0] in (0, 2), by_hand[1]  # DVC may remove the store while it is written
    assert by_hand[1].count("error: ") == by_hand[0] / 2
    assert "Traceback" not in by_hand[1]
    if second.wait():
        assert re.search("is busy|[Uu]nable to acquire lock", (logs / "second").read_text())
    assert not ran(clone.call("dvc", "repro")) - {"embed"}
    before = clone.hashes()
    for stage in ("corpus", "pretrain", "embed", "prefetch"):
        clone.call("rapipe", stage)
    assert clone.hashes() == before
