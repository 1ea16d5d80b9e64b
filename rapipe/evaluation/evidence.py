"""What was measured of the present classifiers, read once for the report.

Letters: S seeds, L noise levels, N test images.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rapipe import paths
from rapipe.config.schema import Params
from rapipe.config.variants import variants
from rapipe.errors import UserError
from rapipe.evaluation.statistics import Interval, interval_of_mean
from rapipe.io.checksums import sha256
from rapipe.pipeline.inputs import checked, labelled, read_result
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
    repaired: npt.NDArray[np.bool_] | None


class CounterfactualStack(NamedTuple):
    """What one swap of neighbours did, in each seed that had it."""

    rows: Sequence[dict[str, Any]]
    """As `rapipe eval` wrote them."""
    change: npt.NDArray[np.float32]  # (S, N)
    moved: npt.NDArray[np.float32]  # (S, N)

    def mean(self, name: str) -> float | None:
        """Over the seeds where it is known."""
        known = [row[name] for row in self.rows if row[name] is not None]
        return float(np.mean(known)) if known else None


@dataclass(frozen=True)
class Evidence:
    """Everything that was measured of the present classifiers."""

    levels: tuple[float, ...]
    ids: npt.NDArray[np.int64]  # (N,)
    stacks: Mapping[Key, Stack]
    runs: Mapping[Key, Sequence[Run]]
    """One a seed."""
    swapped: Mapping[Key, Mapping[tuple[float, str], CounterfactualStack]]
    """By noise level and name of the swap."""
    leakage: dict[str, Any]
    lookalikes: npt.NDArray[np.bool_]  # (N,), test images that the audit lists
    seed: int
    duplicates: Sequence[dict[str, str]] = ()
    """The lookalikes and what they are like, as the audit lists them."""

    @property
    def backbones(self) -> list[str]:
        """In the order of the parameters."""
        return list(dict.fromkeys(backbone for backbone, _ in self.stacks))

    @property
    def ends(self) -> list[int]:
        """Where in `levels` clean images and the strongest noise are; one place if both are."""
        return sorted({0, len(self.levels) - 1})

    def retrieving(self) -> Iterator[Key]:
        """The conditions that look something up, or pretend to."""
        return (key for key in self.stacks if key[1] != "none")

    def strategies(self, backbone: str) -> list[str]:
        """The conditions of a backbone, the plain one first."""
        return [strategy for own, strategy in self.stacks if own == backbone]

    def looking_up(self, backbone: str) -> list[str]:
        """The strategies of a backbone that look something up."""
        return [name for name in self.strategies(backbone) if name not in ("none", CONTROL)]

    def swaps(self, key: Key, level: float = 0.0) -> dict[str, CounterfactualStack]:
        """What swapped neighbours did at a noise level; empty if nothing was swapped."""
        return {name: own for (std, name), own in self.swapped[key].items() if std == level}

    def swap_levels(self) -> list[float]:
        """The noise levels at which neighbours were swapped."""
        return sorted({std for own in self.swapped.values() for std, _ in own})

    def without_lookalikes(self, right: npt.NDArray[np.bool_]) -> float:
        """The mean of what is right (S, N) but for lookalikes; nan if they are all."""
        left = right[:, ~self.lookalikes]
        return float(left.mean()) if left.size else float("nan")

    def interval(self, values: npt.NDArray[Any]) -> Interval:
        """Of the mean of values (S, N), over seeds and images."""
        return interval_of_mean(values, self.seed)


def read_evidence(params: Params) -> Evidence:
    """What `rapipe eval` and `rapipe audit` wrote for the present parameters.

    Raises:
        UserError: a classifier was evaluated on other images, or with other `evaluate.*`.
    """
    images = labelled("test")
    levels = (0.0, *sorted(params.evaluate.noise_std))
    seeds: dict[Key, list[Predictions]] = {}
    runs: dict[Key, list[Run]] = {}
    for v in variants(params):
        file = checked(paths.EVIDENCE / v.name / paths.PREDICTIONS)
        own, run = Predictions.read(file), read_result(paths.RUNS / f"{v.name}.json")
        if run["predictions_sha256"] != sha256(file):
            raise UserError(f"{file} is of another evaluation than the results: run rapipe eval")
        swapped_at = {row["noise_std"] for row in run.get("swaps", ())}
        other_swaps = v.retrieval != "none" and swapped_at != set(params.evaluate.swap_std)
        if own.levels != levels or other_swaps or not np.array_equal(own.ids, images.ids):
            raise UserError(
                f"{v.name} was evaluated with other evaluate.noise_std or evaluate.swap_std than "
                "params.yaml has now, or on another test split: run rapipe eval, or dvc repro"
            )
        seeds.setdefault((v.backbone, v.retrieval), []).append(own)
        runs.setdefault((v.backbone, v.retrieval), []).append(run)
    leakage = read_result(paths.LEAKAGE)
    alike = read_duplicates(leakage)
    return Evidence(
        levels,
        images.ids,
        {key: _stack(own) for key, own in seeds.items()},
        runs,
        {key: _swapped(runs[key], own) for key, own in seeds.items()},
        leakage,
        np.isin(images.ids, [int(row["test_id"]) for row in alike]),
        params.seed,
        alike,
    )


def read_duplicates(leakage: dict[str, Any]) -> list[dict[str, str]]:
    """The rows that the audit listed; `UserError` unless they are those that it speaks of."""
    text = paths.DUPLICATES.read_bytes() if paths.DUPLICATES.is_file() else b""
    if hashlib.sha256(text).hexdigest() != leakage["duplicates_sha256"]:
        raise UserError(
            f"{paths.DUPLICATES} is not what {paths.LEAKAGE} was written with: run rapipe audit, "
            "or dvc repro"
        )
    return list(csv.DictReader(io.StringIO(text.decode(), newline="")))


def _stack(seeds: Sequence[Predictions]) -> Stack:
    def column(name: str) -> Any:
        own = [getattr(seed, name) for seed in seeds]
        return None if own[0] is None else np.stack(own)

    return Stack(*(column(name) for name in Stack._fields))


def _swapped(
    runs: Sequence[Run], seeds: Sequence[Predictions]
) -> dict[tuple[float, str], CounterfactualStack]:
    """By noise level and name; a seed may lack one, such as pruning where nothing harmed."""
    parts: dict[tuple[float, str], list[tuple[Any, Any, Any]]] = {}
    for run, own in zip(runs, seeds, strict=True):
        if own.change is None or own.moved is None:
            continue
        for row, change, moved in zip(run["swaps"], own.change, own.moved, strict=True):
            parts.setdefault((row["noise_std"], row["swap"]), []).append((row, change, moved))
    return {
        name: CounterfactualStack(
            [row for row, _, _ in own], *(np.stack([p[i] for p in own]) for i in (1, 2))
        )
        for name, own in parts.items()
    }


def level_words(std: float) -> str:
    """A noise level in words."""
    return "clean" if std == 0 else f"noise {std:g}"


def interval_words(own: Interval) -> str:
    """An interval of a difference, in points."""
    return f"{100 * own.low:+.1f}, {100 * own.high:+.1f}"
