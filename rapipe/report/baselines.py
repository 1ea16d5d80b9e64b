"""What a fusion must beat: the same classifier without a memory, and the encoder by itself."""

from __future__ import annotations

from collections.abc import Iterator

from rapipe.evaluation.comparisons import FINE_TUNED, NOISE, vote_of
from rapipe.evaluation.evidence import Correct, Evidence
from rapipe.evaluation.results import (
    CONTROL,
    SELF,
    best_baseline,
    searches,
    vote_baselines,
    without_self,
)
from rapipe.report.tables import Table, level_words

NAMES = {
    "none": "no neighbours",
    CONTROL: "random neighbours",
    SELF: "its own vector (self)",
    NOISE: "noise in training",
}
"""What strategies, and noise in training, are as baselines."""
ENCODER, NEIGHBOURS = "the encoder", "its neighbours"


def words(name: str) -> str:
    """What a table or a sentence calls a baseline."""
    return NAMES.get(name) or (name if name.startswith("the ") else f"neighbours alone ({name})")


def table(evidence: Evidence) -> Table:
    """Accuracy of each baseline at each noise level, then of what looks things up.

    Test accuracy in percent, with 95 % intervals over the choice of test images and, where there
    are several, of seeds. The encoder's linear probe and vote learn from all training images whose
    labels are known, whatever the memory holds; their penalty, and who votes how, are chosen on
    validation. A classifier that is shown its own vector alone (self) has the encoder's features
    and no memory. What looks things up has an arrow.
    """
    rows = [
        [group, name, *_cells(evidence, correct)] for group, name, correct in _baselines(evidence)
    ]
    return Table(["classifier", "baseline", *map(level_words, evidence.levels)], rows)


def _cells(evidence: Evidence, correct: Correct) -> list[str]:
    """Accuracy with its interval at each noise level."""
    cells = []
    for level in range(len(evidence.levels)):
        at_level = correct[:, level]
        low, high = (100 * min(1, max(0, end)) for end in evidence.interval(at_level))
        cells.append(f"{100 * at_level.mean():.1f} [{low:.1f}, {high:.1f}]")
    return cells


def _baselines(evidence: Evidence) -> Iterator[tuple[str, str, Correct]]:
    """Whose they are, names and answers (S, L, N)."""
    for baseline in evidence.encoder_baselines.values():
        name = baseline.name.removeprefix("the ").removeprefix("encoder's ")
        yield ENCODER, f"{name} ({baseline.chosen})", baseline.correct
    if tuned := evidence.conditions(evidence.fine_tuned).get("none"):
        yield ENCODER, FINE_TUNED.removeprefix("the encoder "), evidence.stacks[tuned].correct
    votes: dict[str, tuple[str, Correct]] = {}
    for condition in evidence.searching():
        correct = evidence.stacks[condition].vote_correct
        best = best_baseline(vote_baselines(evidence.runs[condition][0], condition.retrieval))
        if correct is not None and best is not None:
            name = f"{vote_of(condition.retrieval)} ({best.vote}, k = {best.k})"
            votes.setdefault(without_self(condition.retrieval), (name, correct[:1]))
    for name, correct in votes.values():
        yield NEIGHBOURS, name, correct
    for backbone in evidence.backbones:
        answers = {
            retrieval: evidence.stacks[condition].correct
            for retrieval, condition in evidence.conditions(backbone).items()
        }
        twin = evidence.conditions(evidence.noise_augmented.get(backbone, ""))
        noise = {NOISE: evidence.stacks[twin["none"]].correct} if twin else {}
        controls = {name: correct for name, correct in answers.items() if not searches(name)}
        for name, correct in {**controls, **noise}.items():
            if (backbone, name) != (evidence.fine_tuned, "none"):  # which stands above
                yield backbone, words(name), correct
        for name, correct in answers.items():
            if searches(name):
                yield backbone, f"\N{RIGHTWARDS ARROW} {name}", correct
