"""Stage report: figures, the page, and the same data as CSV and JSON."""

from __future__ import annotations

import csv
import html
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from rapipe import paths, report
from rapipe.params import Params, Variant, variants
from rapipe.pipeline.inputs import (
    bank_card,
    corpus_card,
    labelled,
    pictures,
    read_json,
    write_csv,
    write_json,
)
from rapipe.pipeline.memory import told
from rapipe.pipeline.results import rows
from rapipe.records import Embeddings, Images, Neighbours

EXAMPLES = 6
SHOWN = 8
"""Neighbours shown beside each test image."""


def run(params: Params) -> None:
    """Write `results/`: figures, `index.html`, `results.csv`, `curves.csv`, `metrics.json`."""
    found = rows(params)
    histories = {v: read_history(paths.MODELS / v.name / "history.csv") for v in variants(params)}
    pretraining = read_history(paths.PRETRAINING / "history.csv")
    write_csv(paths.TABLE, found)
    write_csv(paths.CURVES, curves(histories))
    write_json(paths.METRICS, summary(found, pretraining[-1]))
    shutil.rmtree(paths.FIGURES, ignore_errors=True)

    by_strategy = defaultdict(list)
    for v, history in histories.items():
        by_strategy[v.backbone, v.retrieval].append(history)
    present = list(dict.fromkeys(condition(v) for v in histories))
    figures = {
        "steps": report.accuracy_curves(by_strategy, "step"),
        "epochs": report.accuracy_curves(by_strategy, "epoch"),
        "noise": report.noise_curves(found, present),
        "k": report.ablation_curves(found, "k"),
        "bank": report.ablation_curves(found, "bank_size"),
        "pretraining": report.pretraining_curves(pretraining),
        "gallery": report.gallery(neighbourhoods(params)),
    }
    pictures = {
        name: report.save(figure, paths.FIGURES / f"{name}.png")
        for name, figure in figures.items()
        if figure is not None
    }
    pictures["corpus"] = paths.CONTACT_SHEET.read_bytes()
    contents: dict[str, str | bytes] = {
        **pictures,
        "table": report.table(found, first_steps(histories)),
        **edits(params),
    }
    sections = [
        (heading, words, contents[name]) for name, heading, words in SECTIONS if name in contents
    ]
    sections.insert(0, ("Setting", "", setting(params, pretraining[-1])))
    paths.PAGE.write_text(report.page("What is looking things up worth?", sections))


SECTIONS = (
    (
        "corpus",
        "The images",
        "Some training images of each class, drawn at random, and how many there are. Unlabelled "
        "ones come first: they may be looked up, and are neither learned nor tested.",
    ),
    (
        "table",
        "Test accuracy",
        "Percent of the whole test split, mean ± standard deviation over seeds. Each classifier is "
        "the epoch that was best on validation. Noise is Gaussian on images in [0, 1], clipped and "
        "rounded; a noisy image looks up neighbours of its noisy self. “Steps to” gives the first "
        "measured step with that test accuracy.",
    ),
    (
        "steps",
        "Sample efficiency",
        "Test accuracy against optimiser steps, on a log scale. No choice was made on these "
        "measurements.",
    ),
    ("epochs", "Test accuracy by epoch", "The same at the ends of epochs."),
    (
        "noise",
        "Robustness to noise",
        "Test accuracy as noise grows. Classifiers saw no noise in training unless train.augment "
        "adds it; the encoder that finds neighbours may have, in its views (affine: noisy).",
    ),
    (
        "edits",
        "After edits of the memory",
        "The same trained classifiers, each with the memory it was trained with and with edited "
        "ones; nothing was trained again.",
    ),
    ("k", "Number of neighbours", "Clean test accuracy against k; dashed: without retrieval."),
    (
        "bank",
        "Size of the memory",
        "Clean test accuracy against images remembered; dashed: without retrieval.",
    ),
    (
        "pretraining",
        "The encoder",
        "Accuracy of a vote of nearest training images for validation images, beside two floors "
        "that needed no pretraining; then the loss, and signs of collapse (rank and spread near "
        "zero).",
    ),
    (
        "gallery",
        "What is looked up",
        "Test images (left) and their nearest neighbours in memory with cosine similarity. "
        "Green frames: same class.",
    ),
)


def read_history(path: Path) -> list[dict[str, float]]:
    """Rows of numbers from a CSV."""
    with path.open(newline="") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def edits(params: Params) -> dict[str, str]:
    """The section on edited memories, if any classifier was evaluated with one."""
    every = rows(params, edited=True)
    if len(every) == len(rows(params)):
        return {}
    several = defaultdict(set)
    for row in every:
        several[row["backbone"], row["retrieval"]].add(row["memory"])
    shown = [
        row
        for row in every
        if row["k"] in (0, params.retrieval.k)
        and len(several[row["backbone"], row["retrieval"]]) > 1
    ]
    return {"edits": report.edits_table(shown)}


def curves(histories: dict[Variant, list[dict[str, float]]]) -> list[dict[str, Any]]:
    """All histories in one long table."""
    return [
        {"backbone": v.backbone, "retrieval": v.retrieval, "k": v.k, "seed": v.seed, **row}
        for v, history in histories.items()
        for row in history
    ]


def condition(v: Variant) -> report.Condition:
    """The condition that a variant is one seed of."""
    row = read_json(paths.RUNS / f"{v.name}.json", "eval")["rows"][0]
    return (row["backbone"], row["retrieval"], row["k"], row["bank_size"])


def first_steps(
    histories: dict[Variant, list[dict[str, float]]],
) -> dict[report.Condition, list[float | None]]:
    """By condition, the first step at each target."""
    seeds: dict[report.Condition, list[list[dict[str, float]]]] = defaultdict(list)
    for v, history in histories.items():
        seeds[condition(v)].append(history)
    return {c: [report.first_step(own, t) for t in report.TARGETS] for c, own in seeds.items()}


def summary(found: list[dict[str, Any]], pretraining: dict[str, float]) -> dict[str, Any]:
    """Means over seeds, nested for `dvc metrics`: backbone, condition, noise level."""
    nested: dict[str, Any] = {"pretraining": pretraining}
    for (backbone, retrieval, k, bank), levels in report.over_seeds(found, "top1").items():
        name = retrieval if retrieval == "none" else f"{retrieval}-k{k}-bank{bank}"
        nested.setdefault(backbone, {})[name] = {
            "clean" if level == 0 else f"noise {level:g}": round(float(np.mean(values)), 6)
            for level, values in levels.items()
        }
    return nested


def setting(params: Params, pretraining: dict[str, float]) -> str:
    """A sentence or two of HTML: what was run on what."""
    card = corpus_card()
    counts = ", ".join(f"{card['splits'][s]['images']:,} {s}" for s in card["splits"])
    names = html.escape(", ".join(f"{n} ({s['role']})" for n, s in card["sources"].items()))
    repeated = card["duplicates"]["test in train"]
    return (
        f"<p>Images: {names}; {counts}; {len(card['classes'])} classes, "
        f"{params.corpus.image_size} pixels; {repeated} test images have the pixels of a training "
        f"image (which is then never looked up). Encoder: {params.pretrain.encoder} of width "
        f"{params.pretrain.width} by {params.pretrain.objective}, {params.pretrain.epochs} epochs; "
        f"a vote of its nearest training images is right for "
        f"{pretraining['knn_top1']:.1%} of validation (random initialisation "
        f"{pretraining['random_init_knn_top1']:.1%}, raw pixels "
        f"{pretraining['raw_pixels_knn_top1']:.1%}). Classifiers: {params.train.epochs} epochs, "
        f"k = {params.retrieval.k} by {found_by(params)}, neighbours as {params.retrieval.attend} "
        f"(both = embedding and label), neighbour dropout {params.retrieval.dropout:g}.</p>"
    )


def found_by(params: Params) -> str:
    """How the neighbours of the test split were found, and with what recall."""
    searched = [
        told(facts, params.retrieval.k)
        for strategy in params.retrieval.strategies
        if "recall" in (facts := read_json(paths.table_card(strategy), "prefetch")["test"])
    ]
    return html.escape(searched[0] if searched else "chance")


def neighbourhoods(params: Params) -> list[report.Neighbourhood]:
    """Test images, of as many classes as there is room for, with their prefetched neighbours."""
    strategy = "knn" if "knn" in params.retrieval.strategies else params.retrieval.strategies[0]
    train, test = Images.read(paths.split("train")), labelled("test")
    bank, found = Embeddings.read(paths.BANK), Neighbours.read(paths.table(strategy, "test"))
    classes = bank_card()["classes"]
    _, firsts = np.unique(test.labels, return_index=True)
    spread = np.linspace(0, len(firsts) - 1, min(EXAMPLES, len(firsts))).round().astype(int)
    examples = []
    for query in firsts[spread]:
        rows_ = found.indices[query, :SHOWN]
        examples.append(
            report.Neighbourhood(
                test.pixels[query],
                test.classes[test.labels[query]],
                pictures(train, bank.ids[rows_]),
                tuple(
                    classes[label] if label >= 0 else f"({source})"
                    for label, source in zip(bank.labels[rows_], bank.sources[rows_], strict=True)
                ),
                tuple(found.similarities[query, :SHOWN].tolist()),
            )
        )
    return examples
