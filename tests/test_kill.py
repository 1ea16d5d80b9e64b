"""What is killed, and started again: the same bytes, resumed where there was a checkpoint.

`python -m tests.faults` draws many more moments, and other ways to die.
"""

from __future__ import annotations

import json
import random
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from conftest import ROOT
from hypothesis import strategies as st

from tests.faults import inputs, kill, summary
from tests.faults.clone import Clone
from tests.faults.outcome import Outcome, Setting, dice
from tests.faults.reference import COMMANDS, Reference, Target, build
from tests.faults.warm import ProcessGroup
from tests.faults.worker import PARTS, Worker

TRAIN = "train"
CHECKPOINT = "last.ckpt"


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessGroup]:
    with closing(ProcessGroup()) as group:
        yield group


@pytest.fixture(scope="module")
def reference(processes: ProcessGroup, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    kinds = ("corpus", "pretrain", "embed", "prefetch", "initialise", "train")
    return build(tmp_path_factory.mktemp("reference"), processes, kinds, with_dvc=False)


def killed(
    reference: Reference, processes: ProcessGroup, folder: Path, name: str, harm: kill.Harm
) -> kill.Alone:
    """A stage that is killed, and started again."""
    scratch = folder / "scratch"
    scratch.mkdir()
    target = reference.targets[name]
    trial = kill.Alone(reference, folder / "trial", target, scratch, processes)
    trial.clone.remove(target.writes)
    trial.kill(harm)
    trial.finish()
    trial.close()
    assert trial.kills == 1, "it ended before it was killed"
    assert not trial.wrong
    assert trial.identical
    return trial


@pytest.mark.ci
@pytest.mark.parametrize("name", ["pretrain", TRAIN])
def test_training_that_is_killed_is_resumed_to_the_same_bytes(
    name: str, reference: Reference, processes: ProcessGroup, tmp_path: Path
) -> None:
    harm = kill.Harm(signal.SIGKILL, "group", 3, word=CHECKPOINT)
    assert killed(reference, processes, tmp_path, name, harm).resumed


@pytest.mark.ci
def test_a_corpus_that_is_killed_between_two_files_is_made_anew(
    reference: Reference, processes: ProcessGroup, tmp_path: Path
) -> None:
    harm = kill.Harm(signal.SIGKILL, "group", 1, word="card.json")
    killed(reference, processes, tmp_path, "corpus", harm)


@pytest.mark.ci
def test_a_corpus_that_is_killed_within_a_write_is_made_anew(
    reference: Reference, processes: ProcessGroup, tmp_path: Path
) -> None:
    harm = kill.Harm(signal.SIGXFSZ, "self", 1, size=50_000)
    killed(reference, processes, tmp_path, "corpus", harm)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_everything_is_killed_at_any_moment_in_any_way(tmp_path: Path) -> None:
    with closing(ProcessGroup()) as group:
        everything = build(tmp_path / "reference", group)
    counts: Counter[str] = Counter()
    for name in ("kill", "repro"):
        with PARTS[name][0](Setting(everything, tmp_path, 0)) as attempt:
            for number in range(120 if name == "kill" else 6):
                outcome = attempt(number)
                assert outcome.survived, outcome.message
                counts[outcome.fault] += outcome.count
    assert {f"rapipe {name} is killed" for name in COMMANDS} <= counts.keys()
    assert sum(counts.values()) > 100


def target(name: str, *moments: float) -> Target:
    changes = tuple((moment, f"open {moment}") for moment in moments)
    return Target(name, ("rapipe", name), Clone(Path()), (), (), {}, 1.0, changes)


def test_a_trial_is_drawn_from_the_seed_and_its_number() -> None:
    drawn = [
        [str(kill.draw(dice("kill", seed, number), target("a", 0.1, 0.5))) for number in range(200)]
        for seed in (7, 7, 8)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_signal_comes_at_every_kind_of_moment() -> None:
    rng, every = random.Random(0), target("a", 0.1, 0.5, 0.9)
    harms = [kill.draw(rng, every) for _ in range(500)]
    assert {harm.number for harm in harms} == {*kill.NUMBERS, signal.SIGXFSZ}
    assert {harm.at for harm in harms} == {0, 1, 2, 3}
    assert {harm.whom for harm in harms} == {"self", "group"}
    later = [harm for harm in harms if harm.later]
    assert later
    assert all(harm.later <= 0.4 for harm in later if harm.at < 3)
    assert any(harm.size for harm in harms)
    assert all(harm.number == signal.SIGKILL for harm in harms if harm.torn)


def test_workers_make_different_trials_and_share_the_time() -> None:
    setting = Setting(None, Path(), 0)  # type: ignore[arg-type]
    workers = [Worker(setting, tuple(PARTS), index, 2, float("inf"), None) for index in (0, 1)]
    numbers = [worker.numbers("kill") for worker in workers]
    assert [next(numbers[0]), next(numbers[0]), next(numbers[1])] == [0, 2, 1]
    assert list(Worker(setting, ("kill",), 0, 1, 0.0, None).numbers("kill")) == []
    assert list(Worker(setting, ("kill",), 0, 1, 0.0, 17).numbers("kill")) == [17]
    assert sum(share for _, share in PARTS.values()) == pytest.approx(1)


def test_an_input_that_breaks_a_promise_is_printed_and_drawn_again() -> None:
    def holds(value: int) -> None:
        assert value < 10

    first, again = (inputs.examples("x", st.integers(0, 99), holds, "7 1") for _ in range(2))
    assert first == again
    assert not first.survived
    assert "value=10" in first.message.replace(" ", "")
    good = inputs.examples("x", st.integers(0, 9), holds, "7 1")
    assert good.survived
    assert good.count == 10  # there are no more


def counted() -> summary.Summary:
    counts = summary.Summary()
    notes = Counter({"resumed": 2})
    counts.add(Outcome("a kill", True, True, "", 3, notes), "again")
    counts.add(Outcome("a kill", True, count=0), "again")
    counts.add(Outcome("input: x", True, None, "", 200), "again")
    counts.add(Outcome("input: y", True, None, "", 1000), "again")
    return counts


def test_a_summary_names_what_failed(capsys: pytest.CaptureFixture[str]) -> None:
    counts = counted()
    assert not counts.wrong
    counts.add(Outcome("a kill", False, False, "it differs", 2), "python -m ...")
    assert "a kill: it differs; again: python -m ..." in capsys.readouterr().err
    assert counts.facts()["faults"]["a kill"] == {
        **{"injected": 5, "survived": 4, "compared": 2, "identical": 1}
    }
    assert counts.facts()["all"]["injected"] == 1205


def test_the_table_of_two_runs_replaces_that_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = {"rapipe": "1.2.3", "python": "3", "machine": "Linux", "budget": 60, "minutes": 60.2}
    for seed in (1, 2):
        run = {**facts, "seed": seed, "workers": 2, **counted().facts()}
        (tmp_path / f"{seed}.json").write_text(json.dumps(run))
    page = tmp_path / "page.md"
    text = (ROOT / "docs/reliability.md").read_text()
    page.write_text(text)
    files = [str(tmp_path / f"{seed}.json") for seed in (1, 2)]
    monkeypatch.setattr("sys.argv", ["summary", "--write", str(page), *files])
    summary.main()
    lines = page.read_text().splitlines()
    assert "| a kill | 6 | 6 | 2 | 2 |" in lines
    assert "| an input, of 2 kinds | 2,400 | 2,400 |  |  |" in lines
    assert "| all | 2,406 | 2,406 | 2 | 2 |" in lines
    assert "`python -m tests.faults --minutes 60 --seed 1`" in page.read_text()
    assert len([line for line in lines if line.startswith("| fault |")]) == 1
    assert lines[-1] == text.splitlines()[-1]
    head, _, tail = text.partition("| fault |")
    assert page.read_text().startswith(head)
    assert page.read_text().endswith(tail[tail.index("\n\n", tail.index("\n\n") + 2) :])
