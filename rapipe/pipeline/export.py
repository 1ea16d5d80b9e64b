"""`rapipe export`: a trained classifier as a folder that needs no project."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rapipe import paths
from rapipe.config.schema import Params
from rapipe.io import weights
from rapipe.pipeline.inputs import checked, labelled
from rapipe.pipeline.predict import KEYS, READS, Chosen, choose
from rapipe.pipeline.running.argument_keys import argument_keys
from rapipe.prediction.exported import export
from rapipe.progress import say

__all__ = ["READS", "run", "write_export"]
BEST = "best"
COMPARED = 3
"""Validation images that ONNX files are compared with torch on."""


@argument_keys(**{**KEYS, "folder": "FOLDER"})
def run(params: Params, classifier: str, folder: Path, risk: float) -> None:
    """Write weights, bank, card and ONNX files of a classifier into a folder.

    Args:
        classifier: name of a trained one, or `best`: on validation.
        folder: a new or an empty one, or an earlier export.
        risk: accepted share of errors among the answers, from 0 to 1.
    """
    chosen, card = write_export(params, classifier, folder, risk)
    say(f"{folder} holds {chosen.variant.name}; it {chosen.predictor.abstention}")
    for network in card["onnx"].values():
        if "file" in network:
            say(
                f"{network['file']} differs from torch by {network['difference']:.1e} at most "
                f"(tolerance {network['tolerance']:g})"
            )


def write_export(
    params: Params, classifier: str, folder: Path, risk: float
) -> tuple[Chosen, dict[str, Any]]:
    """Write the folder; returns the classifier, and the card of the folder."""
    chosen = choose(params, "" if classifier == BEST else classifier, risk)
    facts = {
        "classifier": chosen.variant.name,
        **{name: chosen.card[name] for name in ("validation_top1", "parameters", "setting")},
    }
    if chosen.predictor.retriever:
        encoder = weights.read_card(checked(paths.ENCODER), "pretrain")
        if "published" in encoder:  # whose it is, and its licence
            facts["encoder_published"] = encoder["published"]
    pixels = labelled("validation").pixels[:COMPARED]
    return chosen, export(chosen.predictor, folder, facts, pixels)
