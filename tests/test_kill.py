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
def processes() -> Iterator[ProcessGroup]:
    group = ProcessGroup()
    yield group
    group.close()


@pytest.fixture(scope="module")
def reference(
    processes: ProcessGroup, tmp_path_factory: pytest.TempPathFactory
) -> kill.ReferenceRun:
    folder = tmp_path_factory.mktemp("reference") / "clone"
    return kill.reference_run(
        folder, processes, False, "corpus", "pretrain", "initialise", "train-plain"
    )


def killed(
    reference: kill.ReferenceRun,
    processes: ProcessGroup,
    folder: Path,
    name: str,
    word: str,
    at: int,
) -> kill.Trial:
    """A stage whose group is killed right before it changes `word` once more, and started again."""
    trial = kill.Trial(reference, processes, folder, reference.stages[name])
    trial.clear()
    trial.run_stage(kill.Harm(signal.SIGKILL, "group", at, word=word))
    trial.finish_stage()
    trial.close()
    assert trial.actions[1:] == ["again"], "it ended before it was killed"
    assert not trial.wrong
    assert trial.identical
    return trial


@pytest.mark.ci
@pytest.mark.parametrize("name", ["pretrain", TRAIN])
def test_training_that_is_killed_is_resumed_to_the_same_bytes(
    name: str, reference: kill.ReferenceRun, processes: ProcessGroup, tmp_path: Path
) -> None:
    assert killed(reference, processes, tmp_path / "trial", name, CHECKPOINT, 3).resumed


@pytest.mark.ci
def test_a_corpus_that_is_killed_between_two_files_is_made_anew(
    reference: kill.ReferenceRun, processes: ProcessGroup, tmp_path: Path
) -> None:
    killed(reference, processes, tmp_path / "trial", "corpus", "card.json", 1)


@pytest.mark.slow
def test_killed_at_any_moment_in_any_way() -> None:
    seconds = float(os.environ.get("RAPIPE_KILL_SECONDS", "240"))
    outcomes = list(kill.run(seconds, 0))
    print(len(outcomes), "trials,", dict(kill.counts))
    assert outcomes
    assert not [outcome.message for outcome in outcomes if not outcome.survived]
