"""What has been measured: the runs that belong to the present setting."""

from __future__ import annotations

from typing import Any

from rapipe import paths
from rapipe.errors import UserError
from rapipe.params import Params, variants
from rapipe.pipeline.inputs import read_json

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
)
"""Keys of a row; `rapipe results --json` promises them."""


def rows(params: Params) -> list[dict[str, Any]]:
    """One row a (backbone, retrieval, k, bank size, seed, noise level).

    Runs of other k, bank or seeds than the present ones are kept where they
    share their setting (corpus, memory and training recipe) with the present
    run of the same backbone and strategy; others are stale and left out.

    Raises:
        UserError: nothing has been evaluated yet.
    """
    present = {(v.backbone, v.retrieval): _setting(v.name) for v in variants(params)}
    found: list[dict[str, Any]] = []
    for path in sorted(paths.RUNS.glob("*.json")):
        run = read_json(path, "eval")
        found += [
            {key: row[key] for key in KEYS}
            for row in run["rows"]
            if present.get((row["backbone"], row["retrieval"])) == run["setting"]
        ]
    if not found:
        raise UserError(f"{paths.RUNS} holds no results of these parameters: run dvc repro")
    order = {name: i for i, name in enumerate(("none", *params.retrieval.strategies))}
    return sorted(
        found,
        key=lambda row: (
            params.train.backbones.index(row["backbone"]),
            order[row["retrieval"]],
            row["k"],
            row["bank_size"],
            row["seed"],
            row["noise_std"],
        ),
    )


def _setting(name: str) -> str | None:
    path = paths.RUNS / f"{name}.json"
    return read_json(path, "eval")["setting"] if path.exists() else None
