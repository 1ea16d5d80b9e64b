"""Stages that are killed, and started again: the same bytes, resumed where there was a checkpoint.

`python -m tests.faults.kill` draws many more moments, and other ways to die.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import kill
from tests.faults.warm import ProcessGroup

TRAIN = "train-plain@alexnet+pretrained-0"
CHECKPOINT = "last.ckpt"


@pytest.fixture(scope="module")
def nursery() -> Iterator[ProcessGroup]:
    made = ProcessGroup()
    yield made
    made.close()


@pytest.fixture(scope="module")
def golden(nursery: ProcessGroup, tmp_path_factory: pytest.TempPathFactory) -> kill.ReferenceRun:
    folder = tmp_path_factory.mktemp("golden") / "clone"
    return kill.reference_run(
        folder, nursery, False, "corpus", "pretrain", "initialise", "train-plain"
    )


def killed(
    golden: kill.ReferenceRun, nursery: ProcessGroup, folder: Path, name: str, word: str, at: int
) -> kill.Trial:
    """A stage whose group is killed right before it changes `word` once more, and started again."""
    trial = kill.Trial(golden, nursery, folder, golden.stages[name])
    trial.clear()
    trial.alone(kill.Harm(signal.SIGKILL, "group", at, word=word))
    trial.finish_alone()
    trial.close()
    assert trial.did[1:] == ["again"], "it ended before it was killed"
    assert not trial.wrong
    assert trial.identical
    return trial


@pytest.mark.ci
@pytest.mark.parametrize("name", ["pretrain", TRAIN])
def test_training_that_is_killed_is_resumed_to_the_same_bytes(
    name: str, golden: kill.ReferenceRun, nursery: ProcessGroup, tmp_path: Path
) -> None:
    assert killed(golden, nursery, tmp_path / "trial", name, CHECKPOINT, 3).resumed


@pytest.mark.ci
def test_a_corpus_that_is_killed_between_two_files_is_made_anew(
    golden: kill.ReferenceRun, nursery: ProcessGroup, tmp_path: Path
) -> None:
    killed(golden, nursery, tmp_path / "trial", "corpus", "card.json", 1)


@pytest.mark.slow
def test_killed_at_any_moment_in_any_way() -> None:
    seconds = float(os.environ.get("RAPIPE_KILL_SECONDS", "240"))
    seen = list(kill.run(seconds, 0))
    print(len(seen), "trials,", dict(kill.counts))
    assert seen
    assert not [outcome.said for outcome in seen if not outcome.survived]
