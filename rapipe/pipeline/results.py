"""What has been measured: the runs that belong to the present setting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rapipe import paths
from rapipe.config.schema import Params
from rapipe.config.variants import variants
from rapipe.errors import UserError
from rapipe.io.tables import NoChecksum
from rapipe.pipeline.inputs import read_card, read_result

KEYS = (
    "backbone",
    "retrieval",
    "k",
    "seed",
    "noise_std",
    "top1",
    "top3",
    "nll",
    "ece",
    "bank_size",
    "n_test",
    "memory",
)
"""Keys of a row; `rapipe results --json` promises them."""


def rows(params: Params, edited: bool = False) -> list[dict[str, Any]]:
    """One row a (backbone, retrieval, k, bank size, seed, noise level, memory).

    Args:
        edited: also those where the memory was edited after the training.

    Runs of other k, bank or seeds than the present ones are kept where they
    share their setting (corpus, memory and training recipe) with the present
    run of the same backbone and strategy; others are stale and left out.

    Raises:
        UserError: nothing has been evaluated yet.
    """
    found = [
        {key: row[key] for key in KEYS}
        for run in runs(params)
        for row in run["rows"]
        if edited or not run["edited"]
    ]
    order = {name: i for i, name in enumerate(("none", *params.retrieval.strategies))}
    return sorted(
        found,
        key=lambda row: (
            params.train.backbones.index(row["backbone"]),
            order[row["retrieval"]],
            row["k"],
            row["bank_size"],
            row["seed"],
            row["memory"],
            row["noise_std"],
        ),
    )


def runs(params: Params) -> list[dict[str, Any]]:
    """Every evaluation that belongs to the present setting; `UserError` if there is none."""
    present = {(v.backbone, v.retrieval): _setting(v.name) for v in variants(params)}
    written = [_run(path) for path in sorted(paths.RUNS.glob("*.json"))]
    found = [run for run in written if run]
    found = [run for run in found if run["setting"] == present.get(_strategy(run))]
    _tell_apart(found)
    if not found:
        old = " but some of an older version" if None in written else ""
        raise UserError(f"{paths.RUNS} holds no results of these parameters{old}: run dvc repro")
    return found


def _run(path: Path) -> dict[str, Any] | None:
    """One evaluation; None if it is of an older version, which put no seal on it."""
    try:
        return read_result(path)
    except UserError as error:
        if isinstance(error.__cause__, NoChecksum):
            return None
        raise


def by_class(params: Params) -> list[dict[str, Any]]:
    """One row a (backbone, retrieval, k, bank size, seed, memory): clean accuracy of each class."""
    keys = ("backbone", "retrieval", "k", "bank_size", "seed", "memory")
    return [
        {**{key: run["rows"][0][key] for key in keys}, **run["by_class"]} for run in runs(params)
    ]


def _strategy(run: dict[str, Any]) -> tuple[str, str]:
    return run["rows"][0]["backbone"], run["rows"][0]["retrieval"]


def _tell_apart(found: list[dict[str, Any]]) -> None:
    """Where two memories have had the same name, add the beginning of their hash to it."""
    stores: dict[str, set[str]] = {}
    for run in found:
        stores.setdefault(run["rows"][0]["memory"], set()).add(run["store"])
    for run in found:
        for row in run["rows"]:
            if len(stores.get(row["memory"], ())) > 1:
                row["memory"] += f"#{run['store'][:6]}"


def _setting(name: str) -> str | None:
    """What a variant's present results share: from its results, else from the classifier."""
    for path, read in (
        (paths.RUNS / f"{name}.json", _run),
        (paths.MODELS / name / "card.json", read_card),
    ):
        found = read(path) if path.exists() else None
        if found:
            setting: str = found["setting"]
            return setting
    return None
