"""What has been measured: the evaluations that belong to the present setting, and the evidence."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rapipe import paths
from rapipe.config.names import NOISY
from rapipe.config.schema import Params
from rapipe.config.variants import variants
from rapipe.errors import UserError
from rapipe.evaluation.evidence import Evidence, History, Stack, stack_counterfactuals
from rapipe.evaluation.results import Condition, Results, Run
from rapipe.io.checksums import sha256
from rapipe.io.tables import NoChecksum, read_numbers
from rapipe.pipeline.inputs import checked, labelled, read_card, read_result
from rapipe.records import Ids, Predictions


def read_results(params: Params) -> Results:
    """Every evaluation that belongs to the present setting.

    Runs of other k, bank or seeds than the present ones belong to it where they
    share their setting (corpus, memory and training recipe) with the present
    run of the same backbone and strategy; others are stale and left out.

    Raises:
        UserError: there is none.
    """
    written = {path.stem: _read_run(path) for path in sorted(paths.RUNS.glob("*.json"))}
    settings = {(v.backbone, v.retrieval): _setting(v.name, written) for v in variants(params)}
    runs = {
        name: run
        for name, run in written.items()
        if run and run["setting"] == settings.get(_strategy(run))
    }
    _distinguish_memories(runs.values())
    if not runs:
        old = " but some of an older version" if None in written.values() else ""
        raise UserError(f"{paths.RUNS} holds no results of these parameters{old}: run dvc repro")
    return Results(runs, params.classifiers.backbones, params.retrieval.strategies)


def _read_run(path: Path) -> Run | None:
    """One evaluation; None if it is of an older version, which wrote no checksum."""
    try:
        return read_result(path)
    except UserError as error:
        if isinstance(error.__cause__, NoChecksum):
            return None
        raise


def _strategy(run: Run) -> tuple[str, str]:
    return run["rows"][0]["backbone"], run["rows"][0]["retrieval"]


def _distinguish_memories(runs: Collection[Run]) -> None:
    """Where two memories have had the same name, add the beginning of their hash to it."""
    stores: dict[str, set[str]] = {}
    for run in runs:
        stores.setdefault(run["rows"][0]["memory"], set()).add(run["store"])
    for run in runs:
        for row in run["rows"]:
            if len(stores.get(row["memory"], ())) > 1:
                row["memory"] += f"#{run['store'][:6]}"


def _setting(name: str, written: Mapping[str, Run | None]) -> str | None:
    """What a variant's present results share: from its results, else from the classifier."""
    card = paths.MODELS / name / "card.json"
    facts = written.get(name) or (read_card(card) if card.exists() else {})
    return facts.get("setting")


def read_evidence(params: Params, results: Results) -> Evidence:
    """What `rapipe eval` and `rapipe audit` wrote of the present classifiers.

    Raises:
        UserError: a classifier was evaluated on other images, or with other `evaluate.*`.
    """
    ids = labelled("test").ids
    levels = (0.0, *sorted(params.evaluate.noise_std))
    seeds: dict[Condition, list[Predictions]] = {}
    runs: dict[Condition, list[Run]] = {}
    histories: dict[Condition, list[History]] = {}
    for variant in variants(params):
        name = variant.name
        run = results.runs.get(name) or read_result(paths.RUNS / f"{name}.json")
        condition = Condition.of(run["rows"][0])
        seeds.setdefault(condition, []).append(_read_predictions(params, name, run, levels, ids))
        runs.setdefault(condition, []).append(run)
        history = read_numbers(checked(paths.MODELS / name / "history.csv"))
        histories.setdefault(condition, []).append(history)
    duplicates = read_duplicates(read_result(paths.LEAKAGE))
    backbones = params.classifiers.backbones
    return Evidence(
        levels=levels,
        stacks={condition: Stack.of(predictions) for condition, predictions in seeds.items()},
        runs=runs,
        histories=histories,
        near_duplicates=np.isin(ids, [int(row["test_id"]) for row in duplicates]),
        seed=params.seed,
        counterfactuals={
            condition: stack_counterfactuals(runs[condition], predictions)
            for condition, predictions in seeds.items()
        },
        noise_augmented={name: name + NOISY for name in backbones if name + NOISY in backbones},
    )


def _read_predictions(
    params: Params, name: str, run: Run, levels: tuple[float, ...], ids: Ids
) -> Predictions:
    """What a classifier predicted for every image, in the evaluation that the run is of."""
    file = checked(paths.EVIDENCE / name / paths.PREDICTIONS)
    predictions = Predictions.read(file)
    if run["predictions_sha256"] != sha256(file):
        raise UserError(f"{file} is of another evaluation than the results: run rapipe eval")
    swapped = {row["noise_std"] for row in run.get("swaps", ())}
    other_swaps = run["rows"][0]["k"] and swapped != set(params.evaluate.swap_std)
    if predictions.levels != levels or other_swaps or not np.array_equal(predictions.ids, ids):
        raise UserError(
            f"{name} was evaluated with other evaluate.noise_std or evaluate.swap_std than "
            "params.yaml has now, or on another test split: run rapipe eval, or dvc repro"
        )
    return predictions


def read_duplicates(leakage: dict[str, Any]) -> list[dict[str, str]]:
    """The rows that the audit listed; `UserError` unless they are those that it speaks of."""
    text = paths.DUPLICATES.read_bytes() if paths.DUPLICATES.is_file() else b""
    if hashlib.sha256(text).hexdigest() != leakage["duplicates_sha256"]:
        raise UserError(
            f"{paths.DUPLICATES} is not what {paths.LEAKAGE} was written with: run rapipe audit, "
            "or dvc repro"
        )
    return list(csv.DictReader(io.StringIO(text.decode(), newline="")))
