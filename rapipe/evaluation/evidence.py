"""What classifiers predicted for the same test images, by condition.

Letters: S seeds, L noise levels, N test images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rapipe.evaluation.results import (
    Condition,
    Row,
    Run,
    VoteBaseline,
    searches,
    vote_baselines,
    without_self,
)
from rapipe.evaluation.statistics import Interval, interval_of_mean
from rapipe.records import Predictions

History = Sequence[Row]
"""Measurements during a training, one a step."""
Correct = npt.NDArray[np.bool_]  # (S, L, N)


class Stack(NamedTuple):
    """The predictions of one condition, its seeds one upon the other."""

    correct: Correct
    vote_correct: Correct | None = None
    """Of the best vote of the neighbours."""
    correct_with_clean_neighbours: Correct | None = None
    confidence: npt.NDArray[np.float32] | None = None  # (S, L, N)
    similarity: npt.NDArray[np.float32] | None = None  # (S, L, N)
    vote_entropy: npt.NDArray[np.float32] | None = None  # (S, L, N)

    @classmethod
    def of(cls, seeds: Sequence[Predictions]) -> Stack:
        """The predictions of the seeds, in their order."""

        def column(name: str) -> Any:
            columns = [getattr(seed, name) for seed in seeds]
            return None if columns[0] is None else np.stack(columns)

        return cls(*(column(name) for name in cls._fields))


class EncoderBaseline(NamedTuple):
    """What the memory's encoder knows by itself, without a network that was trained beside it."""

    name: str
    """As comparisons call it."""
    chosen: str
    """What was chosen on validation, in words."""
    correct: Correct  # (1, L, N)
    setting: Mapping[str, Any]
    """All that decides it, by key of params.yaml or name of an artefact."""


class CounterfactualStack(NamedTuple):
    """What one counterfactual did, in each seed that had it."""

    rows: Sequence[dict[str, Any]]
    """As `rapipe eval` wrote them."""
    correct_change: npt.NDArray[np.float32]  # (S, N)
    total_variation: npt.NDArray[np.float32]  # (S, N)

    def mean(self, name: str) -> float | None:
        """Over the seeds where it is a number."""
        numbers = [row[name] for row in self.rows if row[name] is not None]
        return float(np.mean(numbers)) if numbers else None


CounterfactualStacks = Mapping[tuple[float, str], CounterfactualStack]
"""By noise level and name of the counterfactual."""


def stack_counterfactuals(
    runs: Sequence[Run], seeds: Sequence[Predictions]
) -> CounterfactualStacks:
    """Those of a condition; a seed may lack one, such as pruning where nothing harmed."""
    parts: dict[tuple[float, str], list[tuple[Any, Any, Any]]] = {}
    for run, predictions in zip(runs, seeds, strict=True):
        change, distance = predictions.correct_change, predictions.total_variation
        if change is None or distance is None:
            continue
        for part in zip(run["swaps"], change, distance, strict=True):
            parts.setdefault((part[0]["noise_std"], part[0]["swap"]), []).append(part)
    stacks = {}
    for name, seed_parts in parts.items():
        rows, *columns = zip(*seed_parts, strict=True)
        stacks[name] = CounterfactualStack(rows, *map(np.stack, columns))
    return stacks


@dataclass(frozen=True)
class Evidence:
    """What was measured of classifiers on the same test images."""

    levels: tuple[float, ...]
    """(L,), the first is clean."""
    stacks: Mapping[Condition, Stack]
    runs: Mapping[Condition, Sequence[Run]]
    """One a seed."""
    histories: Mapping[Condition, Sequence[History]]
    """One a seed."""
    near_duplicates: npt.NDArray[np.bool_]  # (N,), test images that the audit lists
    seed: int
    """Of the bootstrap."""
    counterfactuals: Mapping[Condition, CounterfactualStacks] = field(default_factory=dict)
    noise_augmented: Mapping[str, str] = field(default_factory=dict)
    """By backbone, the name of the same one trained on noisy images too."""
    encoder_baselines: Mapping[str, EncoderBaseline] = field(default_factory=dict)
    """By a short name, such as `probe`."""
    fine_tuned: str = ""
    """The backbone that is the memory's encoder, fine-tuned; "" if it is not among them."""

    @property
    def backbones(self) -> list[str]:
        """In the order of the parameters."""
        return list(dict.fromkeys(condition.backbone for condition in self.stacks))

    @property
    def clean_and_noisiest(self) -> list[int]:
        """Positions in `levels` of clean images and of the strongest noise; one if both are."""
        return sorted({0, len(self.levels) - 1})

    def setting_of(self, condition: Condition) -> dict[str, Any]:
        """What decided the classifiers of a condition, which is the same for all its seeds."""
        facts: dict[str, Any] = self.runs[condition][0]["setting"]
        return facts

    def conditions(self, backbone: str) -> dict[str, Condition]:
        """The conditions of a backbone by strategy, the one without neighbours first."""
        return {
            condition.retrieval: condition
            for condition in self.stacks
            if condition.backbone == backbone
        }

    def with_neighbours(self) -> list[Condition]:
        """The conditions that are shown something: neighbours, random ones, their own vector."""
        return [condition for condition in self.stacks if condition.retrieval != "none"]

    def searching(self) -> list[Condition]:
        """The conditions that search their neighbours, by backbone."""
        return [
            condition
            for backbone in self.backbones
            for condition in self.conditions(backbone).values()
            if searches(condition.retrieval)
        ]

    def counterfactuals_at(
        self, condition: Condition, level: float = 0.0
    ) -> dict[str, CounterfactualStack]:
        """By name, at a noise level; empty if nothing was swapped."""
        stacks = self.counterfactuals.get(condition, {})
        return {name: stack for (std, name), stack in stacks.items() if std == level}

    def counterfactual_levels(self) -> list[float]:
        """The noise levels at which neighbours were swapped."""
        return sorted({std for stacks in self.counterfactuals.values() for std, _ in stacks})

    def vote_baselines(self) -> list[VoteBaseline]:
        """Every vote of every strategy's neighbours: they are the same for all classifiers."""
        first: dict[str, Run] = {}
        for condition in self.with_neighbours():
            first.setdefault(without_self(condition.retrieval), self.runs[condition][0])
        return [vote for name, run in first.items() for vote in vote_baselines(run, name)]

    def without_near_duplicates(self, correct: npt.NDArray[np.bool_]) -> float:
        """The mean of what is correct (S, N) but for near duplicates; nan if they are all."""
        remaining = correct[:, ~self.near_duplicates]
        return float(remaining.mean()) if remaining.size else float("nan")

    def interval(self, values: npt.NDArray[Any]) -> Interval:
        """Of the mean of values (S, N), over seeds and images."""
        return interval_of_mean(values, self.seed)
