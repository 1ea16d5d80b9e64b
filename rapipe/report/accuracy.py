"""Test accuracy of every classifier, below its baselines; and after edits of the memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from rapipe.evaluation.evidence import Evidence
from rapipe.evaluation.results import (
    Condition,
    Row,
    VoteBaseline,
    best_baseline,
    over_seeds,
    searches,
    vote_baselines,
)
from rapipe.evaluation.statistics import Interval
from rapipe.report.material import Material
from rapipe.report.tables import NOTHING, Table, level_words, percent


def accuracy(material: Material) -> Table:
    """The first table of the page.

    Percent of the whole test split, mean ± standard deviation over seeds. The first lines are
    baselines: votes of the same neighbours without any training, each with the number of
    neighbours that was best on validation. Each classifier is the epoch that was best on
    validation. Noise is Gaussian on images in [0, 1], clipped and rounded; a noisy image
    looks up neighbours of its noisy self. The interval is of clean accuracy, over the choice
    of test images and, where there are several, of seeds.
    """
    baselines = material.vote_baselines()
    return accuracy_table(material.results.rows(), clean_intervals(material), baselines)


def clean_intervals(evidence: Evidence) -> dict[Condition, Interval]:
    """Of clean accuracy, no further than 0 and 1."""
    intervals = {}
    for condition, stack in evidence.stacks.items():
        low, high = evidence.interval(stack.correct[:, 0])
        intervals[condition] = Interval(max(0, low), min(1, high))
    return intervals


def accuracy_table(
    rows: Sequence[Row], intervals: Mapping[Condition, Interval], baselines: Sequence[VoteBaseline]
) -> Table:
    """A line a baseline, then a line a condition: accuracy in percent, mean over seeds.

    Several seeds have a standard deviation.

    Args:
        intervals: 95 % of clean accuracy, where it is known.
    """
    top1, top3 = over_seeds(rows, "top1"), over_seeds(rows, "top3")
    levels = sorted({row["noise_std"] for row in rows if row["noise_std"]})
    heads = ["classifier", "retrieval", "k", "memory", "seeds", "clean", "95 % interval"]
    heads += ["clean, top-3", *map(level_words, levels)]
    lines = [
        [
            *("no training", f"{baseline.retrieval}: {baseline.vote} vote", str(baseline.k)),
            *(NOTHING, NOTHING, percent([baseline.top1[0]]), NOTHING, NOTHING),
            *_by_level(baseline, levels),
        ]
        for baseline in baselines
    ]
    for condition, values in top1.items():
        interval = intervals.get(condition)
        lines.append(
            [
                condition.backbone,
                condition.retrieval,
                str(condition.k or NOTHING),
                f"{condition.bank_size:,}" if condition.bank_size else NOTHING,
                str(len(values[0.0])),
                percent(values.get(0.0, [])),
                f"{100 * interval[0]:.1f}, {100 * interval[1]:.1f}" if interval else NOTHING,
                percent(top3[condition].get(0.0, [])),
                *(percent(values.get(level, [])) for level in levels),
            ]
        )
    return Table(heads, lines)


def _by_level(baseline: VoteBaseline, levels: Sequence[float]) -> list[str]:
    return [percent([baseline.top1[std]] if std in baseline.top1 else []) for std in levels]


def edits(material: Material) -> Table:
    """The classifiers that were evaluated with an edited memory too.

    The same trained classifiers, each with the memory it was trained with and with edited
    ones; nothing was trained again.
    """
    present = {condition.k for condition in material.stacks}
    memories = defaultdict(set)
    edited = any(run["edited"] for run in material.results.runs.values())
    rows = material.results.rows(edited=True) if edited else []
    for row in rows:
        memories[row["backbone"], row["retrieval"]].add(row["memory"])
    rows = [
        row
        for row in rows
        if row["k"] in (0, *present) and len(memories[row["backbone"], row["retrieval"]]) > 1
    ]
    baselines = {}
    for run in material.results.runs.values():
        first = run["rows"][0]
        if searches(first["retrieval"]):
            best = best_baseline(vote_baselines(run, first["retrieval"]))
            if best and first["memory"] in {row["memory"] for row in rows}:
                baselines[first["memory"]] = best
    return edits_table(rows, baselines)


def edits_table(rows: Sequence[Row], baselines: Mapping[str, VoteBaseline]) -> Table:
    """The best vote of each memory, then a line a (classifier, retrieval, memory).

    Larger memories come first.
    """
    values: dict[tuple[str, str, str, int], dict[float, list[float]]] = {}
    for row in sorted(rows, key=lambda row: -row["bank_size"]):
        key = (row["backbone"], row["retrieval"], row["memory"], row["bank_size"])
        values.setdefault(key, defaultdict(list))[row["noise_std"]].append(row["top1"])
    levels = sorted({row["noise_std"] for row in rows})
    heads = ["classifier", "retrieval", "memory", "images in it", "seeds"]
    heads += map(level_words, levels)
    backbones = list(dict.fromkeys(row["backbone"] for row in rows))
    lines = [
        [
            *("no training", f"{baseline.retrieval}: {baseline.vote} vote"),
            *(memory, NOTHING, NOTHING),
            *_by_level(baseline, levels),
        ]
        for memory, baseline in baselines.items()
    ]
    lines += [
        [
            *key[:3],
            f"{key[3]:,}",
            str(len(by_level[0.0])),
            *(percent(by_level.get(level, [])) for level in levels),
        ]
        for key, by_level in sorted(values.items(), key=lambda item: backbones.index(item[0][0]))
    ]
    return Table(heads, lines)
