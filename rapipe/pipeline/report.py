"""Stage report: figures, the page, and the same data as CSV and JSON."""

from __future__ import annotations

import csv
import html
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from rapipe import paths
from rapipe.evaluation.statistics import area_under_accuracy
from rapipe.params import Params, Variant, variants
from rapipe.pipeline import claims, evidence, swapped, trust
from rapipe.pipeline.evidence import Evidence
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
from rapipe.report import curves, style, tables
from rapipe.report import pictures as shown
from rapipe.report.page import page
from rapipe.report.style import Condition

EXAMPLES = 6
SHOWN = 8
"""Neighbours shown beside each test image."""


def run(params: Params) -> None:
    """Write `results/`: figures, `index.html`, `results.csv`, `curves.csv`, `metrics.json`."""
    found = rows(params)
    histories = {v: read_history(paths.MODELS / v.name / "history.csv") for v in variants(params)}
    pretraining = read_history(paths.PRETRAINING / "history.csv")
    seen = evidence.read(params)
    made = claims.claims(seen)
    write_csv(paths.TABLE, found)
    write_csv(paths.CURVES, curves_of(histories))
    write_csv(paths.CLAIMS, claims.claim_rows(made))
    write_json(paths.METRICS, summary(found, pretraining[-1]))
    shutil.rmtree(paths.FIGURES, ignore_errors=True)

    contents: dict[str, str | bytes] = {
        "setting": setting(params, pretraining[-1]),
        "short": claims.in_short(seen, made),
        "corpus": paths.CONTACT_SHEET.read_bytes(),
        "table": tables.table(found, measured(seen, histories), claims.floor_lines(seen)),
        "claims": claims.claims_table(made),
        "trust": trust.trust_table(seen),
        "leakage": trust.leakage_words(seen),
        **edits(params),
        **swapped.tables_of(seen),
    }
    for name, figure in figures(params, found, histories, pretraining, seen).items():
        if figure is not None:
            contents[name] = style.save(figure, paths.FIGURES / f"{name}.png")
    sections = [
        (heading, words, contents[name]) for name, heading, words in SECTIONS if name in contents
    ]
    paths.PAGE.write_text(page("What is looking things up worth?", sections))


def figures(
    params: Params,
    found: list[dict[str, Any]],
    histories: dict[Variant, list[dict[str, float]]],
    pretraining: list[dict[str, float]],
    seen: Evidence,
) -> dict[str, Figure | None]:
    """Every figure by the name of its file and section; None where there is nothing to draw."""
    by_strategy = defaultdict(list)
    for v, history in histories.items():
        by_strategy[v.backbone, v.retrieval].append(history)
    train, test = Images.read(paths.split("train")), Images.read(paths.split("test"))
    return {
        "steps": curves.accuracy_curves(by_strategy, "step"),
        "epochs": curves.accuracy_curves(by_strategy, "epoch"),
        "noise": claims.accuracy_over_noise(seen),
        "differences": claims.differences_over_noise(seen),
        "cells": claims.four_cells(seen),
        "k": curves.ablation_curves(found, "k"),
        "bank": curves.ablation_curves(found, "bank_size"),
        **swapped.figures(seen, train),
        "reliability": trust.reliability_figure(seen),
        "risk": trust.risk_figure(seen),
        "likeness": trust.leakage_figure(seen),
        "lookalikes": trust.lookalikes_figure(train, test),
        "pretraining": curves.pretraining_curves(pretraining),
        "gallery": shown.gallery(neighbourhoods(params)),
    }


SECTIONS = (
    ("setting", "Setting", ""),
    ("short", "In short", ""),
    (
        "corpus",
        "The images",
        "Some training images of each class, drawn at random, and how many there are. Unlabelled "
        "ones come first: they may be looked up, and are neither learned nor tested.",
    ),
    (
        "table",
        "Test accuracy",
        "Percent of the whole test split, mean ± standard deviation over seeds. The first lines "
        "are floors: votes of the same neighbours without any training, each with the number of "
        "neighbours that was best on validation. Each classifier is the epoch that was best on "
        "validation. Noise is Gaussian on images in [0, 1], clipped and rounded; a noisy image "
        "looks up neighbours of its noisy self. “Steps to” gives the first measured step with that "
        "test accuracy, “area” the mean test accuracy over all images seen in training. Lookalikes "
        "are the test images that the audit below lists as most like the memory: copies or not.",
    ),
    (
        "claims",
        "Is the difference more than chance?",
        "Each line compares two classifiers, or one with the best vote of its neighbours, on the "
        "same test images. The interval is a bootstrap over images and seeds; McNemar's test asks "
        "the same of each training alone, its largest p-value is corrected for the number of "
        "lines. Words need both.",
    ),
    (
        "differences",
        "What neighbours add, as noise grows",
        "Accuracy with neighbours minus that of the same classifier without, on the same test "
        "images; an interval that holds 0 shows no difference.",
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
        "Test accuracy as noise grows. Classifiers saw no noise in training but for those with "
        "+noise, and for a train.augment that adds it; the encoder that finds neighbours may "
        "have, in its views (affine: noisy). Dotted: the best vote of the neighbours.",
    ),
    (
        "cells",
        "Neighbours, or simply noise in training?",
        "The same classifier in four ways: with neighbours or without, trained on clean images or "
        "with noise on half of them. Robustness that noise in training gives alone is no merit of "
        "retrieval.",
    ),
    (
        "matrix",
        "Trained with one kind of neighbours, tested with another",
        "A classifier that uses what it looks up loses when it is shown random neighbours or "
        "none; one without neighbours cannot tell.",
    ),
    (
        "swap-dots",
        "Does it use what it looks up?",
        "The trained classifiers with neighbours that are not theirs: drawn at random, none, those "
        "of another image, the nearest of the right class and of a wrong one (oracles, which know "
        "the answer), the image itself as its nearest neighbour (as if it had leaked), a memory "
        "whose contents are partly replaced, and one without the rows that harmed most on "
        "validation. Dashed: with their own.",
    ),
    (
        "swaps",
        "The same in numbers",
        "“Flips” are images whose predicted class changes; KL and “moved” (total variation, 0 to "
        "1) say how far the predicted probabilities move; “follows” is the share of images "
        "predicted as the class most of the shown neighbours have. “Moved” by another image's "
        "neighbours is the reliance.",
    ),
    (
        "drift",
        "What noise does to the neighbours",
        "Of the neighbours that a clean image finds, how many its noisy self still finds; how far "
        "their order stays (rank correlation); and how many of those found have its class.",
    ),
    (
        "losses",
        "Who fails under noise?",
        "The accuracy lost to noise, in two parts. Retrieval failed: what would be saved if the "
        "noisy image had the neighbours of its clean self. Fusion failed: what is lost even then.",
    ),
    (
        "reliability",
        "Does it know what it knows?",
        "How often a prediction of some confidence is right. On the diagonal confidence is honest; "
        "below it a classifier is too sure of itself. Larger points hold more images; bins of "
        "fewer than ten are left out.",
    ),
    (
        "risk",
        "What abstention buys",
        "Errors among the images that are answered, if the least certain are left out first: "
        "certain by the softmax, by the similarity of the neighbours, or by their unanimity. "
        "First seed.",
    ),
    (
        "trust",
        "Calibration and abstention in numbers",
        "ECE is the expected gap between confidence and accuracy. AURC is the mean error rate "
        "over all shares answered; a score that knows nothing has that of answering all.",
    ),
    (
        "attribution",
        "Which neighbours matter?",
        "Measured on validation images by leaving out one neighbour at a time. Attention entropy "
        "is 1 if all neighbours get the same attention, 0 if one gets it all; agreement is the "
        "rank correlation of attention with the size of the effect. The last columns leave out of "
        "the memory what harmed most, or as many rows at random, and test again.",
    ),
    (
        "blame",
        "Images of the memory that helped and harmed most",
        "With their class and the sum of their effects on the probability of the right class. "
        "Dashed frames harmed.",
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
    ("leakage", "Leakage audit", "What must never happen, and how like the memory the test is."),
    (
        "likeness",
        "How like the memory is the test?",
        "Similarity of test images to the nearest of the memory, and of validation images to the "
        "nearest of another class. Beyond the threshold a test image may be nearly a copy; images "
        "of one class may be as much alike without.",
    ),
    (
        "lookalikes",
        "The test images most like the memory",
        "Above the image of the memory that each is like, with the similarity. Look: copies, or "
        "only much alike?",
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
        "Test images (left) and their nearest neighbours in memory with cosine similarity. Solid "
        "blue frames: same class; dashed orange ones: another.",
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
    return {"edits": tables.edits_table(shown)}


def curves_of(histories: dict[Variant, list[dict[str, float]]]) -> list[dict[str, Any]]:
    """All histories in one long table."""
    return [
        {"backbone": v.backbone, "retrieval": v.retrieval, "k": v.k, "seed": v.seed, **row}
        for v, history in histories.items()
        for row in history
    ]


def condition(v: Variant) -> Condition:
    """The condition that a variant is one seed of."""
    row = read_json(paths.RUNS / f"{v.name}.json", "eval")["rows"][0]
    return (row["backbone"], row["retrieval"], row["k"], row["bank_size"])


def measured(
    seen: Evidence, histories: dict[Variant, list[dict[str, float]]]
) -> dict[Condition, tables.Measured]:
    """What the table of accuracies says of the present conditions."""
    seeds: dict[Condition, list[list[dict[str, float]]]] = defaultdict(list)
    for v, history in histories.items():
        seeds[condition(v)].append(history)
    clean = claims.without_lookalikes(seen)
    return {
        own: tables.Measured(
            [tables.first_step(several, target) for target in tables.TARGETS],
            float(np.mean([area(history) for history in several])),
            *clean[own[:2]],
        )
        for own, several in seeds.items()
    }


def area(history: list[dict[str, float]]) -> float:
    """Under test accuracy against images seen."""
    return area_under_accuracy(
        [row["images_seen"] for row in history],
        [row["test_top1_not_for_selection"] for row in history],
    )


def summary(found: list[dict[str, Any]], pretraining: dict[str, float]) -> dict[str, Any]:
    """Means over seeds, nested for `dvc metrics`: backbone, condition, noise level."""
    nested: dict[str, Any] = {"pretraining": pretraining}
    for (backbone, retrieval, k, bank), levels in style.over_seeds(found, "top1").items():
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
    removed = card["duplicates"]["removed"]
    return (
        f"<p>Images: {names}; {counts}; {len(card['classes'])} classes, "
        f"{params.corpus.image_size} pixels; {removed} images with the pixels of a held-out one "
        f"were removed. Encoder: {params.pretrain.encoder} of width "
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


def neighbourhoods(params: Params) -> list[shown.Neighbourhood]:
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
            shown.Neighbourhood(
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
