"""Votes of neighbours: the baselines that needed no training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rapipe.evaluation.results import Run


class VoteBaseline(NamedTuple):
    """A vote of neighbours."""

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
