"""What pretraining left for the report: its history, pictures, and accuracy by its epochs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from rapipe import paths
from rapipe.config.schema import Params
from rapipe.evaluation.evidence import History
from rapipe.evaluation.uses import Curve
from rapipe.io import provenance
from rapipe.io.provenance import Facts
from rapipe.io.tables import fingerprint, read_json, read_numbers
from rapipe.pipeline.inputs import checked, present_corpus, read_result
from rapipe.progress import say

NAMED = ("pretrain.encoder", "pretrain.objective")
"""Parameters that every curve is named by; others where they differ."""


def read_history(encoder: str) -> History:
    """Of the encoder with this fingerprint: that which embedded the bank, or is a start."""
    folder = checked(paths.PRETRAINING)
    scores = read_json(folder / "scores.json", "pretrain")
    recorded = {"encoder": scores.get("encoder")}
    provenance.check(folder, recorded, {"encoder": encoder}, "pretrain")
    return read_numbers(folder / "history.csv")


def read_pictures() -> dict[str, npt.NDArray[Any]]:
    """Of `rapipe.pretraining.pictures`; empty where the encoder has none."""
    from safetensors.numpy import load_file

    path = checked(paths.ENCODER) / paths.ENCODER_PICTURES.name
    return load_file(path) if path.exists() else {}


def read_curves(params: Params) -> list[Curve]:
    """What was measured by `rapipe downstream` of the present corpus and share of labels."""
    present = {
        "corpus": present_corpus(params)["hash"],
        "train.label_fraction": params.train.label_fraction,
    }
    contents = [read_result(path) for path in sorted(paths.DOWNSTREAM.glob("*.json"))]
    shared = [content for content in contents if present.items() <= content["facts"].items()]
    if left_out := len(contents) - len(shared):
        say(f"{left_out} in {paths.DOWNSTREAM} left out: of another corpus or train.label_fraction")
    names = _names([content["facts"] for content in shared])
    return [Curve(name, c["rows"]) for name, c in zip(names, shared, strict=True)]


def _names(all_facts: Sequence[Facts]) -> list[str]:
    """Encoder and objective of each; of those that share both, what else differs among them."""

    def short(facts: Facts) -> str:
        return " by ".join(str(facts[key]) for key in NAMED)

    def name(facts: Facts) -> str:
        alike = [other for other in all_facts if short(other) == short(facts)]
        differing = [
            f"{key.removeprefix('pretrain.')} {facts[key]}"
            for key in sorted(facts)
            if len({fingerprint(other.get(key)) for other in alike}) > 1
        ]
        return ", ".join([short(facts), *differing])

    return [name(facts) for facts in all_facts]
