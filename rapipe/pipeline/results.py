"""What has been measured: the evaluations that belong to the present setting, and the evidence.

Whatever differs is left out, and listed with what differs.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rapipe import paths
from rapipe.config import deciding
from rapipe.config.names import ENCODER, NOISY, SELF
from rapipe.config.schema import Params
from rapipe.config.variants import Variant, variants
from rapipe.errors import UserError
from rapipe.evaluation.comparisons import ENCODER_VOTE, PROBE
from rapipe.evaluation.evidence import (
    EncoderBaseline,
    Evidence,
    History,
    Stack,
    stack_counterfactuals,
)
from rapipe.evaluation.results import Condition, Results, Run
from rapipe.io import provenance
from rapipe.io.checksums import sha256
from rapipe.io.provenance import Facts, differences, listed
from rapipe.io.tables import NoChecksum, read_numbers
from rapipe.pipeline.inputs import (
    PARAMS,
    audit_facts,
    baseline_facts,
    checked,
    classifier_card,
    labelled,
    present_bank,
    present_shifts,
    read_result,
    setting,
)
from rapipe.records import Ids, Predictions

PRECISION = "train.precision"
SHARED = ("corpus", "encoder", "seed", "train.label_fraction")
"""What a classifier must share with the encoder's baselines to be compared with them."""
REPEAT = "run rapipe baselines, or dvc repro"


def read_results(params: Params) -> Results:
    """Every evaluation that belongs to the present setting.

    An evaluation belongs to it if its backbone, strategy and seed are among the present ones,
    and its setting is the one that present parameters and artefacts make. It may be of
    another k or bank. Where the memory was edited after the training, the classifier must
    have been evaluated with the present memory too.

    Raises:
        UserError: there is none; says what differs.
    """
    written = {path.stem: _read_run(path) for path in sorted(paths.RUNS.glob("*.json"))}
    one_seed = {(variant.backbone, variant.retrieval): variant for variant in variants(params)}
    expected = {strategy: _expected(params, variant) for strategy, variant in one_seed.items()}
    left_out: dict[str, str] = {}
    runs: dict[str, Run] = {}
    for name, run in written.items():
        reason = _difference(params, run, expected) if run else "is of an older version"
        if run and not reason:
            runs[name] = run
        else:
            left_out[name] = reason
    for compare in (_repeated, _other_memories, _other_precisions, _other_seeds):
        reasons = compare(params, runs)
        left_out |= reasons
        runs = {name: run for name, run in runs.items() if name not in reasons}
    _distinguish_memories(runs.values())
    if not runs:
        example = next((f" ({name} {reason})" for name, reason in left_out.items()), "")
        raise UserError(
            f"{paths.RUNS} holds no results of these parameters: run dvc repro{example}"
        )
    grid = params.classifiers.backbones, params.retrieval.strategies
    return Results(runs, *grid, dict(sorted(left_out.items())))


def _read_run(path: Path) -> Run | None:
    """One evaluation; None if it is of an older version, which recorded no setting."""
    try:
        run = read_result(path)
    except UserError as error:
        if isinstance(error.__cause__, NoChecksum):
            return None
        raise
    return run if isinstance(run["setting"], dict) else None


def _strategy(run: Run) -> tuple[str, str]:
    return run["rows"][0]["backbone"], run["rows"][0]["retrieval"]


def _expected(params: Params, variant: Variant) -> Facts | str:
    """The setting that results of a variant must have; or why there can be none."""
    try:
        return setting(params, variant, deciding.explicit_precision(params))
    except UserError as error:
        return str(error)


def _difference(params: Params, run: Run, expected: Mapping[tuple[str, str], Facts | str]) -> str:
    """Why an evaluation does not belong to the present setting; "" if it may."""
    present, seed = expected.get(_strategy(run)), run["rows"][0]["seed"]
    if present is None:
        backbone, strategy = _strategy(run)
        return f"is of {backbone} with {strategy}, which params.yaml does not name"
    if seed not in params.classifiers.seeds:
        return f"is of seed {seed}, which is not in classifiers.seeds"
    if isinstance(present, str):
        return f"cannot be compared: {present}"
    stale = differences(run["setting"], present, ignored=("store",))
    return f"was made with {listed(stale)}" if stale else ""


def _repeated(params: Params, runs: Mapping[str, Run]) -> dict[str, str]:
    """Evaluations that show nothing of the bank, under the name of another k or bank."""
    names = {variant.name for variant in variants(params)}
    return {
        name: f"is of {SELF}, which no k or bank makes another: that of the present ones counts"
        for name, run in runs.items()
        if _strategy(run)[1] == SELF and name not in names
    }


def _other_memories(params: Params, runs: Mapping[str, Run]) -> dict[str, str]:
    """Evaluations whose classifier was trained with another memory, and why they are left out.

    Not those of classifiers that have been evaluated with the present memory since.
    """
    retrieving = {name: run for name, run in runs.items() if run["setting"].get("store")}
    if not retrieving:
        return {}
    store = present_bank(params)["store"]
    names = {variant.name for variant in variants(params)}
    trained = {
        run["setting"]["store"]
        for name, run in retrieving.items()
        if name.partition("@")[0] in names and run["store"] == store
    }
    memory = store if store in trained or len(trained) != 1 else trained.pop()
    return {
        name: f"is of another memory than {paths.NEIGHBOURS}: run rapipe eval"
        for name, run in retrieving.items()
        if run["setting"]["store"] != memory
    }


def _other_precisions(params: Params, runs: Mapping[str, Run]) -> dict[str, str]:
    """Evaluations of another precision than most, where it is measured and so may change."""
    names: dict[Any, list[str]] = defaultdict(list)
    for name, run in runs.items():
        names[run["setting"][PRECISION]].append(name)
    most = max(names, key=lambda precision: len(names[precision]), default=None)
    return {
        name: f"was made with {PRECISION} {precision}, most others with {most}"
        for precision, group in names.items()
        if precision != most
        for name in group
    }


def _other_seeds(params: Params, runs: Mapping[str, Run]) -> dict[str, str]:
    """Evaluations of another k or bank that do not have every present seed: no mean is of others.

    Of the present k and bank, the report refuses to be without one.
    """
    names = {variant.name for variant in variants(params)}
    groups: dict[Condition, dict[str, int]] = defaultdict(dict)
    for name, run in runs.items():
        if name.partition("@")[0] not in names:
            groups[Condition.of(run["rows"][0])][name] = run["rows"][0]["seed"]
    present = sorted(params.classifiers.seeds)
    return {
        name: f"has the seeds {_numbers(group.values())} alone, not {_numbers(present)}"
        for group in groups.values()
        if sorted(set(group.values())) != present
        for name in group
    }


def _numbers(values: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(set(values))))


def _distinguish_memories(runs: Collection[Run]) -> None:
    """Where two memories have had the same name, add the beginning of their hash to it."""
    stores: dict[str, set[str]] = {}
    for run in runs:
        stores.setdefault(run["rows"][0]["memory"], set()).add(run["store"])
    for run in runs:
        for row in run["rows"]:
            if len(stores.get(row["memory"], ())) > 1:
                row["memory"] += f"#{run['store'][:6]}"


def read_evidence(params: Params, results: Results) -> Evidence:
    """What `rapipe eval` and `rapipe audit` wrote of the present classifiers.

    Without retrieval there is no memory that anything is compared with: no audit, no baselines.

    Raises:
        UserError: a classifier has no results of the present setting, or was evaluated on
            other images, or with other `evaluate.*`.
    """
    ids = labelled("test").ids
    levels = params.noise_levels
    seeds: dict[Condition, list[Predictions]] = {}
    runs: dict[Condition, list[Run]] = {}
    histories: dict[Condition, list[History]] = {}
    shifts = present_shifts(params)
    for variant in variants(params):
        name = variant.name
        if name not in results.runs:
            reason = results.left_out.get(name, "is missing")
            raise UserError(
                f"{paths.RUNS / name}.json {reason}: run rapipe train and eval, or dvc repro"
            )
        run = results.runs[name]
        present = {**deciding.of_evaluation(params, variant), **shifts}
        provenance.check(paths.RUNS / f"{name}.json", run["evaluation"], present, "eval")
        condition = Condition.of(run["rows"][0])
        seeds.setdefault(condition, []).append(_read_predictions(name, run, levels, ids))
        runs.setdefault(condition, []).append(run)
        classifier_card(params, variant)  # else its history would be of another training
        history = read_numbers(checked(paths.MODELS / name / "history.csv"))
        histories.setdefault(condition, []).append(history)
    retrieving = params.retrieval.strategies
    duplicates = read_duplicates(read_audit(params, results)) if retrieving else []
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
        encoder_baselines=read_baselines(params, levels, ids) if retrieving else {},
        fine_tuned=ENCODER if ENCODER in backbones else "",
    )


def read_baselines(
    params: Params, levels: tuple[float, ...], ids: Ids
) -> dict[str, EncoderBaseline]:
    """What the memory's encoder knows by itself.

    Raises:
        UserError: it is of another encoder, or of other labels, images or noise.
    """
    results = read_result(paths.BASELINES)
    recorded = results.get(PARAMS)
    provenance.check(paths.BASELINES, recorded, baseline_facts(params), "baselines")
    setting = {key: results[PARAMS][key] for key in SHARED}
    baselines = {}
    for name, words in (("probe", PROBE), ("vote", ENCODER_VOTE)):
        file = checked(paths.BASELINE_ANSWERS / f"{name}.arrow")
        answers = Predictions.read(file)
        if results[name]["predictions_sha256"] != sha256(file):
            raise UserError(f"{file} is of other results than {paths.BASELINES}: {REPEAT}")
        if answers.levels != levels or not np.array_equal(answers.ids, ids):
            raise UserError(f"{file} is of another test split: {REPEAT}")
        chosen, correct = results[name]["chosen"], answers.correct[None]  # (1, L, N)
        baselines[name] = EncoderBaseline(words, chosen, correct, setting)
    return baselines


def _read_predictions(name: str, run: Run, levels: tuple[float, ...], ids: Ids) -> Predictions:
    """What a classifier predicted for every image, in the evaluation that the run is of."""
    file = checked(paths.EVIDENCE / name / paths.PREDICTIONS)
    predictions = Predictions.read(file)
    if run["predictions_sha256"] != sha256(file):
        raise UserError(f"{file} is of another evaluation than the results: run rapipe eval")
    predictions = predictions.at_first_levels(len(levels))  # of all with neighbours too
    if predictions.levels != levels or not np.array_equal(predictions.ids, ids):
        raise UserError(f"{file} is of another test split: run rapipe eval, or dvc repro")
    return predictions


def read_audit(params: Params, results: Results) -> dict[str, Any]:
    """What the audit found in the present bank, or in the one that the classifiers learned with.

    Raises:
        UserError: it is of another bank.
    """
    audit, present = read_result(paths.LEAKAGE), audit_facts(params)
    recorded = audit.get(PARAMS)
    if recorded and recorded["store"] in {
        run["setting"].get("store") for run in results.runs.values()
    }:
        present["store"] = recorded["store"]
    provenance.check(paths.LEAKAGE, recorded, present, "audit")
    return audit


def read_duplicates(leakage: dict[str, Any]) -> list[dict[str, str]]:
    """The near duplicates that the audit listed."""
    return _read_listed(paths.DUPLICATES, leakage["duplicates_sha256"])


def read_label_errors(leakage: dict[str, Any]) -> list[dict[str, str]]:
    """The possible label errors that the audit listed."""
    return _read_listed(paths.LABEL_ERRORS, leakage["label_errors_sha256"])


def read_memorisation(quality: dict[str, Any]) -> list[dict[str, str]]:
    """The generated images, each with the nearest training image, as the audit listed them."""
    return _read_listed(paths.MEMORISATION, quality["memorisation_sha256"], paths.QUALITY)


def _read_listed(
    path: Path, digest: str, written_with: Path = paths.LEAKAGE
) -> list[dict[str, str]]:
    """The rows that the audit listed; `UserError` unless they are those that it speaks of."""
    text = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(text).hexdigest() != digest:
        raise UserError(
            f"{path} is not what {written_with} was written with: run rapipe audit, or dvc repro"
        )
    return list(csv.DictReader(io.StringIO(text.decode(), newline="")))
