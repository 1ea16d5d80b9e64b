"""Stage report: figures, the page, and the same data as CSV and JSON."""

from __future__ import annotations

import csv
import html
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from rapipe import paths
from rapipe.config.schema import Params, TrainParams
from rapipe.config.variants import Variant, variants
from rapipe.evaluation import evidence
from rapipe.evaluation.comparisons import claims
from rapipe.evaluation.evidence import CONTROL, Evidence, level_words
from rapipe.evaluation.statistics import Interval
from rapipe.io.atomic import atomic_write
from rapipe.io.folders import atomic_folder
from rapipe.io.tables import write_csv, write_json
from rapipe.pipeline.inputs import (
    bank_card,
    checked,
    corpus_card,
    images_of,
    labelled,
    pictures,
    read_card,
    read_result,
)
from rapipe.pipeline.provenance import describe_search
from rapipe.pipeline.results import rows, runs
from rapipe.records import Embeddings, Neighbours
from rapipe.report import counterfactuals, curves, learning_curves, style, tables, trust
from rapipe.report import pictures as shown
from rapipe.report.claims import (
    accuracy_over_noise,
    baseline_lines,
    best_baseline,
    claim_rows,
    claims_table,
    clean_intervals,
    differences_over_noise,
    findings,
    four_cells,
    lookalikes_table,
    vote_baselines,
)
from rapipe.report.page import page
from rapipe.report.sections import SECTIONS
from rapipe.report.style import Condition, condition_of

READS = (
    paths.CORPUS,
    paths.DUPLICATES,
    paths.EVIDENCE,
    paths.LEAKAGE,
    paths.MODELS,
    paths.NEIGHBOURS,
    paths.PRETRAINING,
)
WRITES = (paths.PAGE,)

EXAMPLES = 6
SHOWN = 8
"""Neighbours shown beside each test image."""


def run(params: Params) -> None:
    """Write `results/`: figures, `index.html`, and what they show as CSV and JSON."""
    found = rows(params)
    histories = {
        v: read_history(checked(paths.MODELS / v.name / "history.csv")) for v in variants(params)
    }
    by_strategy = defaultdict(list)
    for v, history in histories.items():
        by_strategy[v.backbone, v.retrieval].append(history)
    pretraining = read_history(checked(paths.PRETRAINING / "history.csv"))
    seen = evidence.read_evidence(params)
    made, swaps = claims(seen), counterfactuals.swap_rows(seen)
    floors = baseline_lines(seen)
    contents: dict[str, str | bytes] = {
        "setting": setting(params, pretraining[-1]),
        "short": findings(seen, made),
        "corpus": checked(paths.CONTACT_SHEET).read_bytes(),
        "table": tables.table(present(params, found), intervals(params, seen), floors),
        "claims": claims_table(made),
        "efficiency": learning_curves.table(by_strategy, params.seed),
        "trust": trust.trust_table(seen),
        "leakage": trust.leakage_words(seen),
        "without": lookalikes_table(seen),
        "edits": edits(params),
        **counterfactuals.tables_of(seen, swaps),
    }
    drawn = {
        name: style.png(figure)
        for name, figure in figures(params, found, by_strategy, pretraining, seen, swaps)
        if figure is not None
    }
    contents.update(drawn)
    sections = [
        (heading, words, contents[name]) for name, heading, words in SECTIONS if contents.get(name)
    ]

    write_csv(paths.TABLE, found)
    write_csv(paths.CURVES, curves_of(histories))
    write_csv(paths.CLAIMS, claim_rows(made))
    write_csv(paths.SWAPS, swaps)
    write_json(paths.METRICS, summary(found, pretraining[-1], floors))
    with atomic_folder(paths.FIGURES) as folder:
        for name, data in drawn.items():
            atomic_write(folder / f"{name}.png", data)
    atomic_write(paths.PAGE, page("What is looking things up worth?", sections).encode())


def figures(
    params: Params,
    found: list[dict[str, Any]],
    histories: learning_curves.Histories,
    pretraining: list[dict[str, float]],
    seen: Evidence,
    swaps: list[dict[str, Any]],
) -> Iterator[tuple[str, Figure | None]]:
    """Each figure with the name of its file and section; None where there is nothing to draw.

    One after the other, so that no two need be open at once.
    """
    train, test = (images_of(name) for name in ("train", "test"))
    yield "steps", curves.accuracy_curves(histories, "step")
    yield "epochs", curves.accuracy_curves(histories, "epoch")
    yield "noise", accuracy_over_noise(seen)
    yield "differences", differences_over_noise(seen)
    yield "cells", four_cells(seen)
    yield "k", curves.ablation_curves(found, "k")
    yield "bank", curves.ablation_curves(found, "bank_size")
    yield from counterfactuals.figures(seen, swaps, train)
    yield "reliability", trust.reliability_figure(seen)
    yield "risk", trust.risk_figure(seen)
    yield "likeness", trust.leakage_figure(seen)
    yield "lookalikes", trust.lookalikes_figure(seen, train, test)
    yield "pretraining", curves.pretraining_curves(pretraining)
    yield "gallery", shown.gallery(neighbourhoods(params))


def read_history(path: Path) -> list[dict[str, float]]:
    """Rows of numbers from a CSV, without those that are empty."""
    with path.open(newline="") as file:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]


def edits(params: Params) -> str:
    """The section on edited memories, if any classifier was evaluated with one."""
    every = rows(params, edited=True)
    if len(every) == len(rows(params)):
        return ""
    several = defaultdict(set)
    for row in every:
        several[row["backbone"], row["retrieval"]].add(row["memory"])
    shown = [
        row
        for row in every
        if row["k"] in (0, params.retrieval.k)
        and len(several[row["backbone"], row["retrieval"]]) > 1
    ]
    memories = {row["memory"] for row in shown}
    floors = {
        run["rows"][0]["memory"]: best_baseline(vote_baselines(run))
        for run in runs(params)
        if run["rows"][0]["retrieval"] not in ("none", CONTROL)
        and run["rows"][0]["memory"] in memories
    }
    return tables.edits_table(shown, {name: best for name, best in floors.items() if best})


def curves_of(histories: dict[Variant, list[dict[str, float]]]) -> list[dict[str, Any]]:
    """All histories in one long table; empty where nothing was measured."""
    measured = dict.fromkeys(name for own in histories.values() for row in own for name in row)
    return [
        {
            **{"backbone": v.backbone, "retrieval": v.retrieval, "k": v.k, "seed": v.seed},
            **{name: row.get(name) for name in measured},
        }
        for v, history in histories.items()
        for row in history
    ]


def condition(v: Variant) -> Condition:
    """The condition that a variant is one seed of."""
    return condition_of(read_result(paths.RUNS / f"{v.name}.json")["rows"][0])


def present(params: Params, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the table: of a present condition only the present seeds.

    So that its mean and its interval are of the same trainings.
    """
    now = {condition(v) for v in variants(params)}
    return [
        row for row in found if row["seed"] in params.train.seeds or condition_of(row) not in now
    ]


def intervals(params: Params, seen: Evidence) -> dict[Condition, Interval]:
    """Of clean accuracy, for the present conditions."""
    spans = clean_intervals(seen)
    return {condition(v): spans[v.backbone, v.retrieval] for v in variants(params)}


def summary(
    found: list[dict[str, Any]], pretraining: dict[str, float], floors: list[tables.VoteBaseline]
) -> dict[str, Any]:
    """Means over seeds, nested for `dvc metrics`: backbone, condition, noise level; and floors."""
    nested: dict[str, Any] = {"pretraining": pretraining}
    for floor in floors:
        votes = nested.setdefault(f"votes of {floor.retrieval}", {})
        votes[f"{floor.vote}-k{floor.k}"] = {
            level_words(std): own for std, own in floor.top1.items()
        }
    for (backbone, retrieval, k, bank), levels in style.over_seeds(found, "top1").items():
        name = retrieval if retrieval == "none" else f"{retrieval}-k{k}-bank{bank}"
        nested.setdefault(backbone, {})[name] = {
            level_words(level): round(float(np.mean(values)), 6) for level, values in levels.items()
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
        f"(both = embedding and label), neighbour dropout {params.retrieval.dropout:g}."
        f"{told_of_training(params.train)}</p>"
    )


def told_of_training(recipe: TrainParams) -> str:
    """Sentences of HTML on what differs from a plain training on all labels."""
    found = ""
    if recipe.label_fraction < 1:
        found += (
            f" Of the training labels {recipe.label_fraction:.0%} are known, to classifiers and "
            "memory alike; the figures of the encoder above, which nothing is chosen by, use all."
        )
    if recipe.distill:
        found += f" The teacher of +distilled is {html.escape(recipe.distill)}."
    if recipe.init:
        found += f" +elsewhere starts from {html.escape(recipe.init)}."
    used = {name: getattr(recipe, name) for name in PLAIN}
    tricks = [f"{name} {value}" for name, value in used.items() if value != PLAIN[name]]
    return found + (f" Training: {html.escape(', '.join(tricks))}." if tricks else "")


PLAIN = {
    "accumulate": 1,
    "average": "none",
    "clip": 0.0,
    "label_smoothing": 0.0,
    "mixup": 0.0,
    "patience": 0,
    "schedule": "cosine",
    "tune": (),
    "warmup": 0.0,
}
"""Tricks of training, and the value that each has where it is not used."""


def found_by(params: Params) -> str:
    """How the neighbours of the test split were found, each way once, and with what recall."""
    searched = [
        describe_search(facts, params.retrieval.k)
        for strategy in params.retrieval.strategies
        if "recall" in (facts := read_card(paths.table_card(strategy))["test"])
    ]
    return html.escape("; ".join(dict.fromkeys(searched)) or "chance")


def neighbourhoods(params: Params) -> list[shown.Neighbourhood]:
    """Test images, of as many classes as there is room for, with their prefetched neighbours."""
    named = params.retrieval.strategies
    order = ("knn", *(name for name in named if name != CONTROL), *named)
    strategy = next(name for name in order if name in named)
    train, test = images_of("train"), labelled("test")
    bank = Embeddings.read(checked(paths.BANK))
    found = Neighbours.read(checked(paths.table(strategy, "test")))
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
