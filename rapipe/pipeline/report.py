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
from rapipe.report.sections import SECTIONS
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
