"""The study's tables, in Markdown: each is a function of what was found, empty where nothing was.

Accuracy is in percent of all test images: mean over seeds ± sample standard deviation.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from rapipe.config.names import NOISY
from rapipe.evaluation.evidence import interval_words, level_words
from rapipe.evaluation.learning_curves import first_step
from rapipe.records import OTHER_IMAGE
from rapipe.report.style import spread
from study.results import ENCODER, MAIN, ROBUST, Claim, Key, Run, StudyResults

NOTHING = "&ndash;"
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


def table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Markdown; empty without lines."""
    if not lines:
        return ""
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def percent(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds."""
    mean = f"{100 * np.mean(values):.1f}"
    return f"{mean} ± {100 * spread(values):.1f}" if len(values) > 1 else mean


def number(values: Sequence[float], digits: int = 3) -> str:
    """The same of numbers that are no shares."""
    mean = f"{np.mean(values):.{digits}f}"
    return f"{mean} ± {spread(values):.{digits}f}" if len(values) > 1 else mean


def _scores(found: StudyResults, key: Key) -> list[str]:
    return [percent(found.top1(key, place)) for place in range(len(found.levels))]


def _name(key: Key) -> list[str]:
    own = {"none": "none", "knn": "kNN"}.get(key.retrieval, key.retrieval)
    return [key.backbone, own]


def accuracy(found: StudyResults) -> str:
    """Every classifier of `main`."""
    heads = ["classifier", "neighbours", "seeds", *map(level_words, found.levels)]
    heads += ["first study, clean"]
    lines = [
        [
            *_name(key),
            str(len(found.runs[key])),
            *_scores(found, key),
            REFERENCE.get((key.backbone, key.retrieval), NOTHING),
        ]
        for key in found.keys(MAIN)
    ]
    return table(heads, lines)


def speed(found: StudyResults) -> str:
    """How fast the classifiers of `main` learn, seed by seed against those without neighbours."""
    heads = ["classifier", "neighbours", "area under the curve", "minus none", "95 % interval"]
    goal = _reached(found)
    heads += [f"steps to {goal:.0%}"]
    lines = []
    for key in found.keys(MAIN):
        plain = key._replace(retrieval="none")
        areas, others = (
            dict(zip(found.seeds(own), found.areas(own), strict=True)) for own in (key, plain)
        )
        gains = np.array([areas[seed] - others[seed] for seed in areas if seed in others])
        more = [NOTHING, NOTHING]
        if key != plain and len(gains) > 1:
            low, high = found.interval(gains[:, None])
            more = [f"{gains.mean():+.3f}", f"{low:+.3f}, {high:+.3f}"]
        firsts = [first_step(run["history"], goal) for run in found.runs[key]]
        steps = f"{np.mean([step for step in firsts if step is not None]):.0f}"
        lines.append([*_name(key), number(list(areas.values())), *more, steps])
    return table(heads, lines)


def _reached(found: StudyResults) -> float:
    """The highest tenth of test accuracy that every classifier of `main` reaches."""
    runs = [run for key in found.keys(MAIN) for run in found.runs[key]]
    tests = ([row["test_top1_not_for_selection"] for row in run["history"]] for run in runs)
    return math.floor(10 * min(map(max, tests), default=0)) / 10


def short(found: StudyResults) -> str:
    """The same for the first screen: one line a classifier, with noise in training at last."""
    heads = ["test accuracy, %", *map(level_words, found.levels)]
    names = {"resnet18": "ResNet-18", "alexnet": "AlexNet", "perceiver": "Perceiver"}
    lines = []
    for key in found.keys(MAIN):
        name = names.get(key.backbone, key.backbone)
        own = {"none": "", "knn": ", kNN"}.get(key.retrieval, f", {key.retrieval}")
        lines.append([name + own, *_scores(found, key)])
    for backbone, key in found.hardened():
        own = "" if key.retrieval == "none" else ", kNN by an encoder that saw it too"
        name = f"{names.get(backbone, backbone)}, noise in training{own}"
        lines.append([name, *_scores(found, key)])
    near = next((key for key in found.keys(MAIN) if key.retrieval == "knn"), None)
    if near:
        lines.append(["best vote of the neighbours, no training", *_vote(found, near)])
    return table(heads, lines)


def _vote(found: StudyResults, key: Key) -> list[str]:
    """Of the vote that was best on validation; it is the same for every backbone and seed."""
    voted = found.voted(key)[0]
    return [f"{100 * level.mean():.1f}" for level in voted]


def without(found: StudyResults) -> str:
    """`main` without the test images that are nearly copies of one in the memory."""
    left = ~found.lookalikes
    if left.all():
        return ""
    heads = ["classifier", "neighbours", *map(level_words, found.levels)]
    lines = []
    for key in found.keys(MAIN):
        own = found.correct(key)[:, :, left].mean(axis=2)
        lines.append([*_name(key), *(percent(list(own[:, i])) for i in range(own.shape[1]))])
    return table(heads, lines)


def claims(made: Sequence[Claim], piece: str) -> str:
    """The comparisons of a piece."""
    heads = ["first", "minus", "images", "points", "95 % interval", "without lookalikes"]
    heads += ["seeds", "p, McNemar", "p, seeds too", "in words"]
    lines = [
        [
            own.first,
            own.second,
            level_words(own.noise_std),
            f"{100 * own.verdict.difference:+.1f}",
            interval_words(own.verdict.interval),
            f"{100 * own.without:+.1f}",
            str(own.verdict.seeds),
            _p(own.adjusted_mcnemar),
            _p(own.adjusted_p) if own.verdict.seeds > 1 else NOTHING,
            own.words,
        ]
        for own in made
        if own.piece == piece
    ]
    return table(heads, lines)


def _p(value: float) -> str:
    return "< .001" if value < 0.001 else f"{value:.3f}".lstrip("0") if value < 1 else "1"


def votes(found: StudyResults) -> str:
    """Every vote of the neighbours of `main`."""
    key = next((key for key in found.keys(MAIN) if key.retrieval == "knn"), None)
    if key is None:
        return ""
    heads = ["vote", "of the nearest", "validation", *map(level_words, found.levels)]
    rows = found.runs[key][0]["votes"]
    lines = []
    for name in dict.fromkeys(row["vote"] for row in rows):
        own = [row for row in rows if row["vote"] == name]
        scores = [f"{100 * row['top1']:.1f}" for row in own]
        lines.append([name, str(own[0]["k"]), f"{100 * own[0]['validation_top1']:.1f}", *scores])
    return table(heads, lines)


def encoders(found: StudyResults) -> str:
    """How good each encoder is, and what it took."""
    heads = ["encoder", "kNN vote, validation", "linear, validation"]
    heads += ["the same, random initialisation: kNN", "raw pixels: kNN", "seconds of pretraining"]
    heads += ["lookalikes among test images"]
    lines = []
    for kind, own in found.encoders.items():
        names = ("knn_top1", "linear_top1", "random_init_knn_top1", "raw_pixels_knn_top1")
        scores = [
            f"{100 * own['scores'][name]:.1f}" if name in own["scores"] else NOTHING
            for name in names
        ]
        seconds = f"{own['costs']['pretrain']:.0f}" if kind != "random" else NOTHING
        alike = own["leakage"]["near_duplicates"]
        lines.append([kind, *scores, seconds, str(alike)])
    return table(heads, lines)


def floors(found: StudyResults) -> str:
    """The encoder as a classifier, with neighbours too; and a memory by a random encoder."""
    heads = ["classifier", "neighbours", "seeds", *map(level_words, found.levels)]
    lines = []
    for key in (*found.scratch(), *found.keys(ENCODER), *found.keys("random")):
        name, shown = _name(key)
        told = "kNN by a random encoder" if key.setting == "random" else shown
        lines.append([name, told, str(len(found.runs[key])), *_scores(found, key)])
    return table(heads, lines)


def cells(found: StudyResults) -> str:
    """Neighbours or not, by an encoder that has seen noise or not; noise in training or not."""
    heads = ["classifier", "noise in training", "neighbours", "seeds"]
    heads += map(level_words, found.levels)
    lines = []
    for backbone, told, key in found.cells():
        noisy = "yes" if key.backbone.endswith(NOISY) else "no"
        own = [backbone, noisy, told, str(len(found.runs[key]))]
        lines.append([*own, *_scores(found, key)])
    return table(heads, lines)


def series(found: StudyResults, start: str, head: str) -> str:
    """A setting a line: labels, neighbours, memory."""
    heads = [head, "classifier", "neighbours", "seeds", *map(level_words, found.levels)]
    heads += ["best vote, clean"]
    lines = []
    for setting in found.settings(f"{start}-"):
        for key in found.keys(setting):
            run = found.runs[key][0]
            value = {
                "labels": f"{run['parameters']['train']['label_fraction']:.0%}",
                "k": str(run["variant"]["k"]),
                "bank": f"{run['rows'][0]['bank_size']:,}",
            }[start]
            vote = _vote(found, key)[0] if key.retrieval == "knn" else NOTHING
            own = [value, *_name(key), str(len(found.runs[key]))]
            lines.append([*own, *_scores(found, key), vote])
    return table(heads, lines)


def neighbours(found: StudyResults) -> str:
    """By the number of neighbours, beside the first study's."""
    heads = ["k", "classifier", "seeds", *map(level_words, found.levels)]
    heads += ["best vote, clean", "seconds of training", "first study, ResNet-18, clean"]
    keys = [key for setting in found.settings("k-") for key in found.keys(setting)]
    keys += [key for key in found.keys(MAIN) if key.retrieval == "knn"] if keys else []
    shown = {key.backbone for key in keys if key.setting != MAIN}
    lines = []
    for key in sorted(keys, key=lambda key: (key.backbone, found.runs[key][0]["variant"]["k"])):
        if key.backbone in shown:
            k = found.runs[key][0]["variant"]["k"]
            seconds = f"{_seconds(found.runs[key], 'train'):.0f}"
            study = REFERENCE_K.get(k, NOTHING) if key.backbone == "resnet18" else NOTHING
            own = [str(k), key.backbone, str(len(found.runs[key])), *_scores(found, key)]
            lines.append([*own, _vote(found, key)[0], seconds, study])
    return table(heads, lines)


FUSIONS = {
    "fusion-study": "as in the first study",
    "fusion-attend": "ours, but neighbours are vectors without labels",
    "fusion-places": "ours, but after every stage",
    "fusion-gate": "ours, without the gate",
    "fusion-dropout": "ours, without neighbour dropout",
}


def fusion(found: StudyResults) -> str:
    """Ways to attend."""
    heads = ["fusion", "classifier", "seeds", *map(level_words, found.levels)]
    heads += ["weights", "seconds of training"]
    keys = [key for setting in found.settings("fusion-") for key in found.keys(setting)]
    shown = {key.backbone for key in keys}
    own = [key for key in found.keys(MAIN) if key.retrieval != "sampled" and key.backbone in shown]
    lines = []
    for key in sorted([*own, *keys], key=lambda key: key.backbone, reverse=True):
        runs = found.runs[key]
        name = FUSIONS.get(key.setting, "ours" if key.retrieval == "knn" else "no neighbours")
        seconds = f"{_seconds(runs, 'train'):.0f}"
        line = [name, key.backbone, str(len(runs)), *_scores(found, key)]
        lines.append([*line, f"{runs[0]['weights']:,}", seconds])
    return table(heads, lines)


def others(found: StudyResults) -> str:
    """Longer training, and a wider memory."""
    heads = ["setting", "classifier", "neighbours", "seeds", *map(level_words, found.levels)]
    heads += ["memory"]
    names = {
        "longer": "four times the epochs",
        "wider-encoder": "encoder of both sources, memory of the first",
        "wider-memory": "encoder and memory of both sources",
    }
    lines = [
        [
            told,
            *_name(key),
            str(len(found.runs[key])),
            *_scores(found, key),
            f"{found.runs[key][0]['rows'][0]['bank_size']:,}" if key.retrieval != "none" else "0",
        ]
        for setting, told in names.items()
        for key in found.keys(setting)
    ]
    return table(heads, lines)


def reliance(found: StudyResults) -> str:
    """What swapped neighbours do to the classifiers of `main`, on clean images."""
    heads = ["classifier", "trained with", "reliance", "own neighbours", "none", "another image's"]
    heads += ["random", "right class", "wrong class"]
    lines = []
    for key in found.keys(MAIN):
        swaps = [
            {row["swap"]: row for row in run.get("swaps", ()) if row["noise_std"] == 0}
            for run in found.runs[key]
        ]
        if not all(swaps):
            continue

        def top1(name: str, swaps: list = swaps) -> str:
            return percent([own[name]["top1"] for own in swaps if name in own])

        lines.append(
            [
                *_name(key),
                number([own[OTHER_IMAGE]["moved"] for own in swaps], 2),
                percent(found.top1(key, 0)),
                *map(top1, ("none", OTHER_IMAGE, "sampled", "same class", "wrong class")),
            ]
        )
    return table(heads, lines)


def losses(found: StudyResults) -> str:
    """What noise takes from classifiers, and whose failure it is of those with neighbours."""
    heads = ["classifier", "memory by", "images"]
    heads += ["neighbours still found, %", "of the right class, %"]
    heads += ["points lost", "since neighbours are worse", "with the clean image's neighbours"]
    lines = []
    for key in (*found.keys(MAIN), *found.keys(ROBUST)):
        if key.retrieval == "none":
            for place, level in enumerate(found.levels):
                kept = zip(found.top1(key, 0), found.top1(key, place), strict=True)
                points = [percent([clean - noisy for clean, noisy in kept]), NOTHING, NOTHING]
                own = [key.backbone, "none", level_words(level), NOTHING, NOTHING]
                lines.append([*own, *points])
        if key.retrieval == "knn" and not key.backbone.endswith(NOISY):
            encoder = found.runs[key][0]["encoder"]["kind"]
            drifts = [run["drift"] for run in found.runs[key]]
            for place, level in enumerate(found.levels):
                rows = [own[place] for own in drifts]
                shares = [f"{100 * rows[0][name]:.1f}" for name in ("recall", "purity")]
                failed = [
                    [row[name] for row in rows] for name in ("retrieval_failed", "fusion_failed")
                ]
                lost = [sum(both) for both in zip(*failed, strict=True)]
                points = [percent(own) for own in (lost, *failed)]
                lines.append([key.backbone, encoder, level_words(level), *shares, *points])
    return table(heads, lines)


def _seconds(runs: Sequence[Run], name: str) -> float:
    """Median of what a stage took, of trainings that were not interrupted if there are any."""
    timed = [run for run in runs if not run.get("resumed")] or runs
    return float(np.median([run["seconds"][name] for run in timed]))


def costs(found: StudyResults) -> str:
    """Weights and seconds of the classifiers of `main`, and how many times those of none."""
    heads = ["classifier", "neighbours", "weights", "times none's"]
    heads += ["seconds of training", "times none's", "of evaluation"]
    lines = []
    for key in found.keys(MAIN):
        weights, seconds = _cost(found.runs[key])
        more = [NOTHING, NOTHING]
        plain = key._replace(retrieval="none")
        if key != plain and plain in found.runs:
            others = _cost(found.runs[plain])
            more = [f"{weights / others[0]:.2f}", f"{seconds / others[1]:.2f}"]
        own = [f"{weights:,}", more[0], f"{seconds:.0f}", more[1]]
        lines.append([*_name(key), *own, f"{_seconds(found.runs[key], 'eval'):.0f}"])
    return table(heads, lines)


def _cost(runs: Sequence[Run]) -> tuple[int, float]:
    """Weights, and seconds of training."""
    return runs[0]["weights"], _seconds(runs, "train")


def machines(found: StudyResults) -> str:
    """What it ran on."""
    kinds: dict[str, int] = {}
    for run in found.every():
        own = run["machine"]
        name = own.get("gpu", own["processor"])
        told = (
            f"{name}, {own['threads']} thread(s) a process, {run['precision']}, "
            f"torch {own['torch']}, rapipe {own['rapipe']}"
        )
        kinds[told] = kinds.get(told, 0) + 1
    seconds = sum(sum(run["seconds"].values()) for run in found.every())
    seconds += sum(sum(own["costs"].values()) for own in found.encoders.values())
    lines = [[told, str(count)] for told, count in kinds.items()]
    total = f"\nAll of it: {seconds / 3600:.1f} hours of one process.\n"
    return table(["machine", "classifiers"], lines) + total


def blocks(found: StudyResults, made: Sequence[Claim]) -> Iterator[tuple[str, str, str]]:
    """Every table: its name, its heading, and itself."""
    yield "short", "In short", short(found)
    yield "accuracy", "Accuracy", accuracy(found)
    yield "speed", "How fast they learn", speed(found)
    for piece in dict.fromkeys(own.piece for own in made):
        yield f"claims-{piece}", f"Comparisons: {piece}", claims(made, piece)
    yield "votes", "Votes of the neighbours, without training", votes(found)
    yield "encoders", "Encoders", encoders(found)
    yield "floors", "Floors", floors(found)
    yield "cells", "The four cells", cells(found)
    yield "labels", "Few labels", series(found, "labels", "labels")
    yield "k", "How many neighbours", neighbours(found)
    yield "bank", "How large a memory", series(found, "bank", "images in the memory")
    yield "fusion", "Ways to attend", fusion(found)
    yield "others", "Longer training, wider memory", others(found)
    yield "reliance", "Swapped neighbours", reliance(found)
    yield "losses", "What noise takes", losses(found)
    yield "without", "Without lookalikes", without(found)
    yield "costs", "What it costs", costs(found)
    yield "machines", "Machines", machines(found)
