"""The results of evaluations, as rows of tables.

A row is one classifier at one noise level. Classifiers that differ only by seed share a
`Condition`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Row = Mapping[str, Any]
Run = dict[str, Any]
"""What `rapipe eval` wrote of one classifier."""
LISTED = 5
"""Evaluations that are left out, of which the words name so many."""
CONTROL = "sampled"
"""The strategy of random neighbours."""
SELF = "self"
"""The strategy that shows an image its own vector alone; beside neighbours, as `self+knn`."""
KEYS = (
    "backbone",
    "retrieval",
    "k",
    "seed",
    "noise_std",
    "top1",
    "top3",
    "nll",
    "ece",
    "bank_size",
    "n_test",
    "memory",
)
"""Keys of a row; `rapipe results --json` promises them."""


def searches(retrieval: str) -> bool:
    """Whether a strategy searches the memory, as random neighbours and an own vector do not."""
    return retrieval not in ("none", CONTROL, SELF)


def without_self(retrieval: str) -> str:
    """The strategy of the neighbours, without the own vector that may stand beside them."""
    return retrieval.removeprefix(f"{SELF}+")


class Condition(NamedTuple):
    """What classifiers share that differ only by seed."""

    backbone: str
    retrieval: str
    k: int = 0
    bank_size: int = 0
    setting: str = ""
    """Of the study: the name of what else differs."""

    @classmethod
    def of(cls, row: Row) -> Condition:
        """The condition that a row is one seed and noise level of."""
        return cls(row["backbone"], row["retrieval"], row["k"], row["bank_size"])


def over_seeds(rows: Iterable[Row], value: str) -> dict[Condition, dict[float, list[float]]]:
    """Values by condition and noise level, one a seed."""
    values: dict[Condition, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        values[Condition.of(row)][row["noise_std"]].append(row[value])
    return values


@dataclass(frozen=True)
class Results:
    """Evaluations that may be compared.

    Args:
        runs: by name; of other k, banks and seeds too, and of memories edited after the training.
        backbones, strategies: the order of rows.
        left_out: evaluations that are not among the runs, by name, and why.
    """

    runs: Mapping[str, Run]
    backbones: Sequence[str]
    strategies: Sequence[str]
    left_out: Mapping[str, str] = field(default_factory=dict)

    def rows(self, edited: bool = False) -> list[dict[str, Any]]:
        """One row a (backbone, retrieval, k, bank size, seed, noise level, memory).

        Args:
            edited: also those where the memory was edited after the training.
        """
        order = {name: rank for rank, name in enumerate(("none", *self.strategies))}
        return sorted(
            (
                {key: row[key] for key in KEYS}
                for run in self.runs.values()
                for row in run["rows"]
                if edited or not run["edited"]
            ),
            key=lambda row: (
                self.backbones.index(row["backbone"]),
                order[row["retrieval"]],
                row["k"],
                row["bank_size"],
                row["seed"],
                row["memory"],
                row["noise_std"],
            ),
        )

    def left_out_words(self) -> list[str]:
        """A line for each of the first evaluations that were left out, and one for the rest."""
        lines = [f"left out: {name} {reason}" for name, reason in self.left_out.items()]
        more = len(lines) - LISTED
        return [*lines[:LISTED], *([f"and {more} more are left out"] if more > 0 else [])]

    def by_class(self) -> list[dict[str, Any]]:
        """One row a (backbone, retrieval, k, bank size, seed, memory): clean accuracy by class."""
        keys = ("backbone", "retrieval", "k", "bank_size", "seed", "memory")
        return [
            {**{key: run["rows"][0][key] for key in keys}, **run["by_class"]}
            for run in self.runs.values()
        ]


class VoteBaseline(NamedTuple):
    """A vote of neighbours: a baseline that needed no training."""

    vote: str
    k: int
    top1: Mapping[float, float]
    """By noise level."""
    retrieval: str = ""
    validation_top1: float = 0.0
    """By which the best vote is chosen."""


def vote_baselines(run: Run, retrieval: str) -> list[VoteBaseline]:
    """Every vote of the neighbours of one evaluation."""
    baselines: dict[str, VoteBaseline] = {}
    for row in run["votes"]:
        name, k = row["vote"], row["k"]
        new = VoteBaseline(name, k, {}, retrieval, row["validation_top1"])
        baseline = baselines.setdefault(name, new)
        top1 = {**baseline.top1, row["noise_std"]: row["top1"]}
        baselines[name] = baseline._replace(top1=top1)
    return list(baselines.values())


def best_baseline(baselines: Sequence[VoteBaseline]) -> VoteBaseline | None:
    """The vote that was best on validation; None where no neighbour votes."""
    return max(baselines, key=lambda baseline: baseline.validation_top1, default=None)
