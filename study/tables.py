"""The study's tables; to add one is to add a function and a line in `TABLES`.

Accuracy is in percent of all test images: mean over seeds ± sample standard deviation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from rapipe.config.names import NOISY
from rapipe.evaluation.baselines import vote_baselines
from rapipe.evaluation.comparisons import Comparison
from rapipe.evaluation.learning_curves import area, first_step
from rapipe.evaluation.results import Condition, Run
from rapipe.records import OTHER_IMAGE
from rapipe.report.claims import comparison_table
from rapipe.report.tables import NOTHING, Table, level_words, number, percent
from study.costs import cost_of, costs, machines, names_of, neighbours_of, seconds_of, total
from study.results import ENCODER, MAIN, ROBUST, StudyResults

REFERENCE = {
    ("resnet18", "none"): "95.82 ± 0.58",
    ("resnet18", "sampled"): "82.16 ± 0.56",
    ("resnet18", "knn"): "94.72 ± 0.77",
}
"""The first study's, with k = 50: three test batches, the highest of all steps, 5 seeds."""
REFERENCE_K = {
    5: "94.53 ± 1.02",
    15: "94.0 ± 1.1",
    50: "94.72 ± 0.77",
    100: "94.77 ± 0.80",
    300: "94.66 ± 0.79",
    500: "94.64 ± 0.35",
    1000: "94.57 ± 0.92",
}


def _scores(results: StudyResults, condition: Condition) -> list[str]:
    """Accuracy at each noise level."""
    return [percent(results.top1(condition, level)) for level in range(len(results.levels))]


def _counted(results: StudyResults, condition: Condition) -> list[str]:
    """The number of seeds, and accuracy at each noise level."""
    return [str(len(results.runs[condition])), *_scores(results, condition)]


def _levels(results: StudyResults) -> list[str]:
    return [level_words(level) for level in results.levels]


def accuracy(results: StudyResults) -> Table:
    """Every classifier of `main`."""
    heads = ["classifier", "neighbours", "seeds", *_levels(results), "first study, clean"]
    rows = []
    for own in results.of(MAIN):
        reference = REFERENCE.get((own.backbone, own.retrieval), NOTHING)
        rows.append([*names_of(own), *_counted(results, own), reference])
    return Table(heads, rows)


def speed(results: StudyResults) -> Table:
    """How fast the classifiers of `main` learn, seed by seed against those without neighbours."""
    goal = _goal(results)
    heads = ["classifier", "neighbours", "area under the curve", "minus none", "95 % interval"]
    heads += [f"steps to {goal:.0%}"]
    rows = []
    for condition in results.of(MAIN):
        plain = condition._replace(retrieval="none")
        areas, plain_areas = (
            dict(zip(results.seeds(own), map(area, results.histories[own]), strict=True))
            for own in (condition, plain)
        )
        gains = np.array([areas[seed] - plain_areas[seed] for seed in areas if seed in plain_areas])
        gain = [NOTHING, NOTHING]
        if condition != plain and len(gains) > 1:
            low, high = results.interval(gains[:, None])
            gain = [f"{gains.mean():+.3f}", f"{low:+.3f}, {high:+.3f}"]
        firsts = [first_step(history, goal) for history in results.histories[condition]]
        steps = f"{np.mean([step for step in firsts if step is not None]):.0f}"
        rows.append([*names_of(condition), number(list(areas.values())), *gain, steps])
    return Table(heads, rows)


def _goal(results: StudyResults) -> float:
    """The highest tenth of test accuracy that every classifier of `main` reaches."""
    best = [
        max(row["test_top1_not_for_selection"] for row in history)
        for condition in results.of(MAIN)
        for history in results.histories[condition]
    ]
    return math.floor(10 * min(best, default=0)) / 10


def short(results: StudyResults) -> Table:
    """At most six rows for the first screen.

    The networks that noise in training was tried with, with neighbours and without; then the
    last of them with noise in training.
    """
    titles = {"resnet18": "ResNet-18", "alexnet": "AlexNet", "perceiver": "Perceiver"}
    hardened = list(results.hardened())
    backbones = [backbone for backbone, _ in hardened]
    rows = []
    for own in results.of(MAIN):
        if own.retrieval in ("none", "knn") and (not hardened or own.backbone in backbones):
            name = titles.get(own.backbone, own.backbone)
            suffix = "" if own.retrieval == "none" else ", kNN"
            rows.append([name + suffix, *_scores(results, own)])
    for backbone, own in hardened:
        if backbone == backbones[-1]:
            suffix = "" if own.retrieval == "none" else ", kNN by an encoder that saw it too"
            name = f"{titles.get(backbone, backbone)}, noise in training{suffix}"
            rows.append([name, *_scores(results, own)])
    return Table(["test accuracy, %", *_levels(results)], rows)


def _knn(results: StudyResults) -> list[Condition]:
    return [condition for condition in results.of(MAIN) if condition.retrieval == "knn"]


def _vote(results: StudyResults, condition: Condition) -> list[str]:
    """Of the vote that was best on validation; it is the same for every backbone and seed."""
    votes = results.stacks[condition].vote_correct
    return (
        [NOTHING] * len(results.levels)
        if votes is None
        else [percent([v.mean()]) for v in votes[0]]
    )


def without(results: StudyResults) -> Table:
    """`main` without the test images that are nearly copies of one in the memory."""
    rest = ~results.near_duplicates
    heads = ["classifier", "neighbours", *_levels(results)]
    rows = []
    for condition in results.of(MAIN) if not rest.all() else ():
        top1 = results.stacks[condition].correct[:, :, rest].mean(axis=2)  # (S, L)
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
    heads = ["classifier", "neighbours", "seeds", *_levels(results)]
    rows = []
    for own in (*results.scratch(), *results.of(ENCODER, "random")):
        random = own.setting == "random"
        neighbours = "kNN by a random encoder" if random else neighbours_of(own)
        rows.append([own.backbone, neighbours, *_counted(results, own)])
    return Table(heads, rows)


def cells(results: StudyResults) -> Table:
    """Neighbours or not, by an encoder that has seen noise or not; noise in training or not."""
    heads = ["classifier", "noise in training", "neighbours", "seeds", *_levels(results)]
    rows = []
    for backbone, neighbours, condition in results.cells():
        noisy = "yes" if condition.backbone.endswith(NOISY) else "no"
        rows.append([backbone, noisy, neighbours, *_counted(results, condition)])
    return Table(heads, rows)


def labels(results: StudyResults) -> Table:
    """By the share of the labels."""

    def share(run: Run) -> str:
        return f"{run['parameters']['train']['label_fraction']:.0%}"

    return _series(results, "labels-", "labels", share)


def memory(results: StudyResults) -> Table:
    """By the size of the memory."""

    def size(run: Run) -> str:
        return f"{run['rows'][0]['bank_size']:,}"

    return _series(results, "bank-", "images in the memory", size)


def _series(results: StudyResults, start: str, head: str, value: Callable[[Run], str]) -> Table:
    """A setting a line."""
    heads = [head, "classifier", "neighbours", "seeds", *_levels(results), "best vote, clean"]
    rows = []
    for own in results.of(*results.settings(start)):
        vote = _vote(results, own)[0] if own.retrieval == "knn" else NOTHING
        first = value(results.runs[own][0])
        rows.append([first, *names_of(own), *_counted(results, own), vote])
    return Table(heads, rows)


def neighbours(results: StudyResults) -> Table:
    """By the number of neighbours, beside the first study's."""
    heads = ["k", "classifier", "seeds", *_levels(results)]
    heads += ["best vote, clean", "seconds of training", "first study, ResNet-18, clean"]
    series = results.of(*results.settings("k-"))
    backbones = {condition.backbone for condition in series}
    series += [condition for condition in _knn(results) if condition.backbone in backbones]

    def k_of(condition: Condition) -> int:
        return int(results.runs[condition][0]["variant"]["k"])

    rows = []
    for own in sorted(series, key=lambda own: (own.backbone, k_of(own))):
        reference = REFERENCE_K.get(k_of(own), NOTHING) if own.backbone == "resnet18" else NOTHING
        seconds = f"{seconds_of(results.runs[own], 'train'):.0f}"
        row = [str(k_of(own)), own.backbone, *_counted(results, own)]
        rows.append([*row, _vote(results, own)[0], seconds, reference])
    return Table(heads, rows)


FUSIONS = {
    "fusion-study": "as in the first study",
    "fusion-attend": "ours, but neighbours are vectors without labels",
    "fusion-places": "ours, but after every stage",
    "fusion-gate": "ours, without the gate",
    "fusion-dropout": "ours, without neighbour dropout",
}


def fusion(results: StudyResults) -> Table:
    """Ways to attend."""
    heads = ["fusion", "classifier", "seeds", *_levels(results)]
    heads += ["weights", "seconds of training"]
    series = results.of(*results.settings("fusion-"))
    backbones = {condition.backbone for condition in series}
    main = [
        own for own in results.of(MAIN) if own.retrieval != "sampled" and own.backbone in backbones
    ]
    rows = []
    for own in sorted([*main, *series], key=lambda own: own.backbone, reverse=True):
        name = FUSIONS.get(own.setting, "ours" if own.retrieval == "knn" else "no neighbours")
        weights, seconds = cost_of(results.runs[own])
        row = [name, own.backbone, *_counted(results, own)]
        rows.append([*row, f"{weights:,}", f"{seconds:.0f}"])
    return Table(heads, rows)


def others(results: StudyResults) -> Table:
    """Longer training, and a wider memory."""
    heads = ["setting", "classifier", "neighbours", "seeds", *_levels(results), "memory"]
    names = {
        "longer": "four times the epochs",
        "wider-encoder": "encoder of both sources, memory of the first",
        "wider-memory": "encoder and memory of both sources",
    }
    rows = []
    for own in results.of(*names):
        size = results.runs[own][0]["rows"][0]["bank_size"] if own.retrieval != "none" else 0
        rows.append([names[own.setting], *names_of(own), *_counted(results, own), f"{size:,}"])
    return Table(heads, rows)


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
    "others": ("Longer training, wider memory", others),
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
            for group in dict.fromkeys(own.group for own in comparisons):
                family = [own for own in comparisons if own.group == group]
                yield (
                    f"claims-{group}",
                    f"Comparisons: {group}",
                    comparison_table(family).markdown(),
                )
