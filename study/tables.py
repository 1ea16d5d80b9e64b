"""The study's tables; to add one is to add a function and a line in `TABLES`.

Accuracy is in percent of all test images: mean over seeds ± sample standard deviation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from rapipe.config.names import NOISY
from rapipe.evaluation.comparisons import Comparison
from rapipe.evaluation.results import Condition, vote_baselines
from rapipe.records import OTHER_IMAGE
from rapipe.report.claims import comparison_table
from rapipe.report.tables import NOTHING, Table, level_words, number, percent
from study.costs import costs, machines, names_of, neighbours_of, seconds_of, speed, total
from study.results import ENCODER, MAIN, ROBUST, StudyResults

REFERENCE = {
    ("resnet18", "none"): "95.82 ± 0.58",
    ("resnet18", "sampled"): "82.16 ± 0.56",
    ("resnet18", "knn"): "94.72 ± 0.77",
}
"""The first study's, with k = 50: three test batches, the highest of all steps, 5 seeds."""
REFERENCE_K = {
    "5": "94.53 ± 1.02",
    "15": "94.0 ± 1.1",
    "50": "94.72 ± 0.77",
    "100": "94.77 ± 0.80",
    "300": "94.66 ± 0.79",
    "500": "94.64 ± 0.35",
    "1000": "94.57 ± 0.92",
}
FUSIONS = {
    "fusion-study": "as in the first study",
    "fusion-attend": "ours, but neighbours are vectors without labels",
    "fusion-places": "ours, but after every stage",
    "fusion-gate": "ours, without the gate",
    "fusion-dropout": "ours, without neighbour dropout",
}
LONGER_AND_WIDER = {
    "longer": "four times the epochs",
    "wider-encoder": "encoder of both sources, memory of the first",
    "wider-memory": "encoder and memory of both sources",
}


Column = Callable[[StudyResults, Condition], str]


def _levels(results: StudyResults) -> list[str]:
    return [level_words(level) for level in results.levels]


def _scores(results: StudyResults, condition: Condition) -> list[str]:
    """Accuracy at each noise level."""
    return [percent(results.top1(condition, level)) for level in range(len(results.levels))]


def _table(
    results: StudyResults,
    conditions: Iterable[Condition],
    before: dict[str, Column],
    after: dict[str, Column],
) -> Table:
    """A line a condition: some columns, the number of seeds, accuracy by level, other columns."""
    rows = [
        [
            *(column(results, condition) for column in before.values()),
            str(len(results.runs[condition])),
            *_scores(results, condition),
            *(column(results, condition) for column in after.values()),
        ]
        for condition in conditions
    ]
    return Table([*before, "seeds", *_levels(results), *after], rows)


def _backbone(_: StudyResults, condition: Condition) -> str:
    return condition.backbone


def _neighbours(_: StudyResults, condition: Condition) -> str:
    random = condition.setting == "random"
    return "kNN by a random encoder" if random else neighbours_of(condition)


def _bank_size(results: StudyResults, condition: Condition) -> str:
    return f"{results.runs[condition][0]['rows'][0]['bank_size']:,}"


def _seconds(results: StudyResults, condition: Condition) -> str:
    return f"{seconds_of(results.runs[condition], 'train'):.0f}"


def _weights(results: StudyResults, condition: Condition) -> str:
    return f"{results.runs[condition][0]['weights']:,}"


def _label_fraction(results: StudyResults, condition: Condition) -> str:
    return f"{results.runs[condition][0]['parameters']['train']['label_fraction']:.0%}"


def _k(results: StudyResults, condition: Condition) -> str:
    return str(results.runs[condition][0]["variant"]["k"])


def _clean_vote(results: StudyResults, condition: Condition) -> str:
    """Of the vote that was best on validation; it is the same for every backbone and seed."""
    votes = results.stacks[condition].vote_correct
    return NOTHING if votes is None else percent([votes[0, 0].mean()])


def _reference(_: StudyResults, condition: Condition) -> str:
    return REFERENCE.get((condition.backbone, condition.retrieval), NOTHING)


def _reference_k(results: StudyResults, condition: Condition) -> str:
    k = _k(results, condition) if condition.backbone == "resnet18" else ""
    return REFERENCE_K.get(k, NOTHING)


def _fusion(_: StudyResults, condition: Condition) -> str:
    of_main = "ours" if condition.retrieval == "knn" else "no neighbours"
    return FUSIONS.get(condition.setting, of_main)


def _longer_or_wider(_: StudyResults, condition: Condition) -> str:
    return LONGER_AND_WIDER[condition.setting]


NAMES: dict[str, Column] = {"classifier": _backbone, "neighbours": _neighbours}


def accuracy(results: StudyResults) -> Table:
    """Every classifier of `main`."""
    return _table(results, results.of(MAIN), NAMES, {"first study, clean": _reference})


def short(results: StudyResults) -> Table:
    """At most six rows for the first screen.

    The networks that noise in training was tried with, with neighbours and without; then the
    last of them with noise in training.
    """
    titles = {"resnet18": "ResNet-18", "alexnet": "AlexNet", "perceiver": "Perceiver"}
    hardened = list(results.hardened())
    backbones = [backbone for backbone, _ in hardened]
    rows = []
    for condition in results.of(MAIN):
        if condition.retrieval in ("none", "knn") and (
            not hardened or condition.backbone in backbones
        ):
            name = titles.get(condition.backbone, condition.backbone)
            suffix = "" if condition.retrieval == "none" else ", kNN"
            rows.append([name + suffix, *_scores(results, condition)])
    for backbone, condition in hardened:
        if backbone == backbones[-1]:
            suffix = "" if condition.retrieval == "none" else ", kNN by an encoder that saw it too"
            name = f"{titles.get(backbone, backbone)}, noise in training{suffix}"
            rows.append([name, *_scores(results, condition)])
    return Table(["test accuracy, %", *_levels(results)], rows)


def _knn(results: StudyResults) -> list[Condition]:
    return [condition for condition in results.of(MAIN) if condition.retrieval == "knn"]


def without(results: StudyResults) -> Table:
    """`main` without the test images that are nearly copies of one in the memory."""
    remaining = ~results.near_duplicates
    heads = [*NAMES, *_levels(results)]
    rows = []
    for condition in results.of(MAIN) if not remaining.all() else ():
        top1 = results.stacks[condition].correct[:, :, remaining].mean(axis=2)  # (S, L)
        rows.append([*names_of(condition), *(percent(list(level)) for level in top1.T)])
    return Table(heads, rows)


def votes(results: StudyResults) -> Table:
    """Every vote of the neighbours of `main`."""
    heads = ["vote", "of the nearest", "validation", *_levels(results)]
    rows = [
        [
            baseline.vote,
            str(baseline.k),
            percent([baseline.validation_top1]),
            *(percent([top1]) for top1 in baseline.top1.values()),
        ]
        for condition in _knn(results)[:1]
        for baseline in vote_baselines(results.runs[condition][0], condition.retrieval)
    ]
    return Table(heads, rows)


def encoders(results: StudyResults) -> Table:
    """How good each encoder is, and what it took."""
    heads = ["encoder", "kNN vote, validation", "linear, validation"]
    heads += ["the same, random initialisation: kNN", "raw pixels: kNN", "seconds of pretraining"]
    heads += ["near duplicates among test images"]
    names = ("knn_top1", "linear_top1", "random_init_knn_top1", "raw_pixels_knn_top1")
    rows = []
    for kind, record in results.encoders.items():
        scores = record["scores"]
        percents = [percent([scores[name]] if name in scores else []) for name in names]
        seconds = f"{record['costs']['pretrain']:.0f}" if kind != "random" else NOTHING
        rows.append([kind, *percents, seconds, str(record["leakage"]["near_duplicates"])])
    return Table(heads, rows)


def baselines(results: StudyResults) -> Table:
    """The encoder as a classifier, with neighbours too; and a memory by a random encoder."""
    conditions = (*results.scratch(), *results.of(ENCODER, "random"))
    return _table(results, conditions, NAMES, {})


def cells(results: StudyResults) -> Table:
    """Neighbours or not, by an encoder that has seen noise or not; noise in training or not."""
    cells = {condition: (backbone, words) for backbone, words, condition in results.cells()}
    columns: dict[str, Column] = {
        "classifier": lambda _, cell: cells[cell][0],
        "noise in training": lambda _, cell: "yes" if cell.backbone.endswith(NOISY) else "no",
        "neighbours": lambda _, cell: cells[cell][1],
    }
    return _table(results, cells, columns, {})


def labels(results: StudyResults) -> Table:
    """By the share of the labels."""
    columns = {"labels": _label_fraction, **NAMES}
    series = results.of(*results.settings("labels-"))
    return _table(results, series, columns, {"best vote, clean": _clean_vote})


def memory(results: StudyResults) -> Table:
    """By the size of the memory."""
    columns = {"images in the memory": _bank_size, **NAMES}
    series = results.of(*results.settings("bank-"))
    return _table(results, series, columns, {"best vote, clean": _clean_vote})


def neighbours(results: StudyResults) -> Table:
    """By the number of neighbours, beside the first study's."""
    series = results.of(*results.settings("k-"))
    backbones = {condition.backbone for condition in series}
    series += [condition for condition in _knn(results) if condition.backbone in backbones]
    series.sort(key=lambda condition: (condition.backbone, int(_k(results, condition))))
    after: dict[str, Column] = {
        "best vote, clean": _clean_vote,
        "seconds of training": _seconds,
        "first study, ResNet-18, clean": _reference_k,
    }
    return _table(results, series, {"k": _k, "classifier": _backbone}, after)


def fusion(results: StudyResults) -> Table:
    """Ways to attend."""
    series = results.of(*results.settings("fusion-"))
    backbones = {condition.backbone for condition in series}
    main = [
        condition
        for condition in results.of(MAIN)
        if condition.retrieval != "sampled" and condition.backbone in backbones
    ]
    conditions = sorted([*main, *series], key=lambda condition: condition.backbone, reverse=True)
    columns: dict[str, Column] = {"fusion": _fusion, "classifier": _backbone}
    after: dict[str, Column] = {"weights": _weights, "seconds of training": _seconds}
    return _table(results, conditions, columns, after)


def longer_and_wider(results: StudyResults) -> Table:
    """Longer training, and a wider memory."""
    columns = {"setting": _longer_or_wider, **NAMES}
    return _table(results, results.of(*LONGER_AND_WIDER), columns, {"memory": _bank_size})


def reliance(results: StudyResults) -> Table:
    """What counterfactual neighbours do to the classifiers of `main`, on clean images."""
    heads = ["classifier", "trained with", "reliance", "own neighbours", "none", "another image's"]
    heads += ["random", "right class", "wrong class"]
    names = ("none", OTHER_IMAGE, "sampled", "same class", "wrong class")
    rows = []
    for condition in results.of(MAIN):
        seeds = [
            {row["swap"]: row for row in run.get("swaps", ()) if row["noise_std"] == 0}
            for run in results.runs[condition]
        ]
        if all(seeds):
            distances = [by_name[OTHER_IMAGE]["total_variation"] for by_name in seeds]
            top1 = [
                percent([by_name[name]["top1"] for by_name in seeds if name in by_name])
                for name in names
            ]
            row = [*names_of(condition), number(distances, 2), percent(results.top1(condition, 0))]
            rows.append([*row, *top1])
    return Table(heads, rows)


def losses(results: StudyResults) -> Table:
    """What noise takes from classifiers, and whose failure it is of those with neighbours."""
    heads = ["classifier", "memory by", "images"]
    heads += ["neighbours still found, %", "of the right class, %"]
    heads += ["points lost", "since neighbours are worse", "with the clean image's neighbours"]
    rows = []
    for condition in results.of(MAIN, ROBUST):
        runs = results.runs[condition]
        for position, level in enumerate(results.levels):
            images = level_words(level)
            if condition.retrieval == "none":
                pairs = zip(
                    results.top1(condition, 0), results.top1(condition, position), strict=True
                )
                lost = percent([clean - noisy for clean, noisy in pairs])
                row = [condition.backbone, "none", images, NOTHING, NOTHING]
                rows.append([*row, lost, NOTHING, NOTHING])
            if condition.retrieval == "knn" and not condition.backbone.endswith(NOISY):
                drift = [run["drift"][position] for run in runs]
                shares = [f"{100 * drift[0][name]:.1f}" for name in ("recall", "purity")]
                parts = [
                    [row[f"{part}_failed"] for row in drift] for part in ("retrieval", "fusion")
                ]
                total = [sum(part) for part in zip(*parts, strict=True)]
                row = [condition.backbone, runs[0]["encoder"]["kind"], images, *shares]
                rows.append([*row, *map(percent, (total, *parts))])
    return Table(heads, rows)


TABLES: dict[str, tuple[str, Callable[[StudyResults], Table]]] = {
    "short": ("In short", short),
    "accuracy": ("Accuracy", accuracy),
    "speed": ("How fast they learn", speed),
    "votes": ("Votes of the neighbours, without training", votes),
    "encoders": ("Encoders", encoders),
    "baselines": ("Baselines", baselines),
    "cells": ("The four cells", cells),
    "labels": ("Few labels", labels),
    "k": ("How many neighbours", neighbours),
    "bank": ("How large a memory", memory),
    "fusion": ("Ways to attend", fusion),
    "others": ("Longer training, wider memory", longer_and_wider),
    "reliance": ("Counterfactual neighbours", reliance),
    "losses": ("What noise takes", losses),
    "without": ("Without near duplicates", without),
    "costs": ("What it costs", costs),
    "machines": ("Machines", machines),
}
"""Each table by its name on the page, with its heading."""


def blocks(
    results: StudyResults, comparisons: Sequence[Comparison]
) -> Iterator[tuple[str, str, str]]:
    """Every table in Markdown: its name, its heading, and itself."""
    for name, (heading, table) in TABLES.items():
        text = table(results).markdown()
        yield name, heading, text + (total(results) if name == "machines" else "")
        if name == "speed":
            for group in dict.fromkeys(comparison.group for comparison in comparisons):
                family = [comparison for comparison in comparisons if comparison.group == group]
                yield (
                    f"claims-{group}",
                    f"Comparisons: {group}",
                    comparison_table(family).markdown(),
                )
