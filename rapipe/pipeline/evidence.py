"""What was measured of the present classifiers, read once for the report.

Letters: S seeds, L noise levels, N test images.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rapipe import paths
from rapipe.evaluation.statistics import Interval
from rapipe.params import Params, variants
from rapipe.pipeline.inputs import read_json
from rapipe.records import Predictions

Key = tuple[str, str]
"""Backbone and strategy."""
Run = dict[str, Any]
"""What `rapipe eval` wrote of one classifier."""
CONTROL = "sampled"
"""The strategy that looks nothing up."""


class Stack(NamedTuple):
    """The predictions of one condition, its seeds one upon the other."""

    correct: npt.NDArray[np.bool_]  # (S, L, N)
    confidence: npt.NDArray[np.float32]  # (S, L, N)
    similarity: npt.NDArray[np.float32] | None
    vote_entropy: npt.NDArray[np.float32] | None
    voted: npt.NDArray[np.bool_] | None


@dataclass(frozen=True)
class Evidence:
    """Everything that was measured of the present classifiers."""

    levels: tuple[float, ...]
    ids: npt.NDArray[np.int64]  # (N,)
    stacks: Mapping[Key, Stack]
    runs: Mapping[Key, Sequence[Run]]
    """One a seed."""
    leakage: dict[str, Any]
    lookalikes: npt.NDArray[np.bool_]  # (N,), test images that the audit lists
    seed: int

    @property
    def backbones(self) -> list[str]:
        """In the order of the parameters."""
        return list(dict.fromkeys(backbone for backbone, _ in self.stacks))

    def retrieving(self) -> Iterator[Key]:
        """The conditions that look something up, or pretend to."""
        return (key for key in self.stacks if key[1] != "none")

    def strategies(self, backbone: str) -> list[str]:
        """The conditions of a backbone, the plain one first."""
        return [strategy for own, strategy in self.stacks if own == backbone]

    def looking_up(self, backbone: str) -> list[str]:
        """The strategies of a backbone that look something up."""
        return [name for name in self.strategies(backbone) if name not in ("none", CONTROL)]

    def swaps(self, key: Key, level: float = 0.0) -> dict[str, list[dict[str, Any]]]:
        """What swapped neighbours did: by swap, a row a seed; empty if nothing was swapped."""
        by_name: dict[str, list[dict[str, Any]]] = {}
        for run in self.runs[key]:
            for row in run["swaps"]:
                if row["noise_std"] == level:
                    by_name.setdefault(row["swap"], []).append(row)
        return by_name

    def swap_levels(self) -> list[float]:
        """The noise levels at which neighbours were swapped."""
        rows = [row for key in self.retrieving() for row in self.runs[key][0]["swaps"]]
        return sorted({row["noise_std"] for row in rows})


def read(params: Params) -> Evidence:
    """What `rapipe eval` and `rapipe audit` wrote for the present parameters."""
    seeds: dict[Key, list[Predictions]] = {}
    runs: dict[Key, list[Run]] = {}
    for v in variants(params):
        key = (v.backbone, v.retrieval)
        own = Predictions.read(paths.EVIDENCE / v.name / paths.PREDICTIONS)
        seeds.setdefault(key, []).append(own)
        runs.setdefault(key, []).append(read_json(paths.RUNS / f"{v.name}.json", "eval"))
    first = next(iter(seeds.values()))[0]
    with paths.DUPLICATES.open(newline="") as file:
        alike = [int(row["test_id"]) for row in csv.DictReader(file)]
    return Evidence(
        first.levels,
        first.ids,
        {key: _stack(own) for key, own in seeds.items()},
        runs,
        read_json(paths.LEAKAGE, "audit"),
        np.isin(first.ids, alike),
        params.seed,
    )


def _stack(seeds: Sequence[Predictions]) -> Stack:
    def column(name: str) -> Any:
        own = [getattr(seed, name) for seed in seeds]
        return None if own[0] is None else np.stack(own)

    return Stack(*(column(name) for name in Stack._fields))


def level_words(std: float) -> str:
    """A noise level in words."""
    return "clean" if std == 0 else f"noise {std:g}"


def interval_words(own: Interval) -> str:
    return f"{100 * own.low:+.1f}, {100 * own.high:+.1f}"


def spread_words(rows: Sequence[Mapping[str, Any]], name: str) -> str:
    """A mean, with the interval over images of one seed, or the deviation over several."""
    values = [row[name] for row in rows]
    if len(rows) > 1:
        return f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"
    low, high = (f"{name}_low", f"{name}_high") if name == "moved" else ("low", "high")
    return f"{values[0]:.3f} [{rows[0][low]:.3f}, {rows[0][high]:.3f}]"
