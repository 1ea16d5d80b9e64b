"""What the results hold of an encoder and of a classifier: one JSON file each.

Keys of these files are older than some words in the code: a `piece` is an experiment, and
`lookalikes` are near duplicates.
"""

from __future__ import annotations

import base64
import json
import platform
from dataclasses import fields
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rapipe import __version__, paths
from rapipe.config import presets
from rapipe.config.corpus_params import SourceParams
from rapipe.config.variants import Variant
from rapipe.errors import UserError
from rapipe.io.tables import parse_checksummed, read_numbers
from rapipe.pipeline.inputs import bank_card, checked, corpus_card, read_card, read_result
from rapipe.progress import say
from study.work import preset_content

PACKAGES = ("torch", "lightly", "timm", "perceiver-pytorch", "faiss-cpu", "lancedb", "numpy")
Record = dict[str, Any]
GRID = ("backbones", "seeds")
"""Parameters of `classifiers` that only say which classifiers there are."""


def pack_bits(bits: npt.NDArray[np.bool_]) -> str:
    """Bits (N,) as text: eight in a byte, in base 64."""
    return base64.b64encode(np.packbits(bits).tobytes()).decode()


def unpack_bits(text: str, count: int) -> npt.NDArray[np.bool_]:
    """The bits (N,) that `pack_bits` got."""
    flat = np.frombuffer(base64.b64decode(text), np.uint8)
    return np.unpackbits(flat, count=count).astype(bool)


def read_record(path: Path) -> Record:
    """What a file holds; `UserError` if it is damaged.

    A parameter that is younger than the file has the value of what was done before: its default,
    unless `BEFORE` has another.
    """
    try:
        record = parse_checksummed(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(
            f"{path} is damaged ({error}): delete it, and run its experiment again"
        ) from None
    for group, values in _defaults().items():
        recorded = record["parameters"].get(group)
        if isinstance(values, dict) and recorded is not None:
            record["parameters"][group] = {**values, **recorded}
    plain = {field.name: field.default for field in fields(SourceParams)}
    corpus = record["parameters"]["corpus"]
    corpus["sources"] = [{**plain, **source} for source in corpus["sources"]]
    return record


BEFORE: Record = {"retrieval": {"query_noise": 0.0}, "evaluate": {"corruptions": []}}
"""What was done before there was a parameter, where that is not its default."""


@cache
def _defaults() -> Record:
    defaults = preset_content(presets.DEFAULT)
    changed = {group: {**defaults[group], **values} for group, values in BEFORE.items()}
    return {**defaults, **changed}


def has_record(path: Path, parameters: Record) -> bool:
    """Whether a classifier has a record, of these parameters."""
    if not path.exists():
        return False
    try:
        record = read_record(path)
    except UserError as error:
        say(f"{error}; it is made again")
        return False
    if _decisive(record["parameters"]) != _decisive(parameters):
        say(f"{path} is of other parameters, and is made again")
        return False
    return True


def _decisive(content: Record) -> Record:
    """Parameters without those that only say which other classifiers there are."""
    classifiers = {name: x for name, x in content["classifiers"].items() if name not in GRID}
    return {**content, "classifiers": classifiers}


def encoder_record() -> Record:
    """Of the encoder and its memory in the present folder."""
    from rapipe.pipeline.inputs import labelled
    from rapipe.pipeline.results import read_duplicates
    from rapipe.pipeline.running import costs

    leakage = read_result(paths.LEAKAGE)
    near_duplicates = [int(row["test_id"]) for row in read_duplicates(leakage)]
    history = paths.PRETRAINING / "history.csv"
    card, names = corpus_card(), ("hash", "splits", "classes", "sources")
    return {
        "corpus": {name: card[name] for name in names if name in card},
        "weights": json.loads((paths.ENCODER / "card.json").read_text())["hash"],
        "memory": bank_card()["rows"],
        "store": json.loads(paths.STORE_MANIFEST.read_text())["sha256"],
        "scores": json.loads((paths.PRETRAINING / "scores.json").read_text()),
        "history": read_numbers(history) if history.exists() else [],
        "leakage": leakage,
        "lookalikes": pack_bits(np.isin(labelled("test").ids, near_duplicates)),
        "costs": {row["stage"]: row["seconds"] for row in costs.read_costs()},
        "machine": machine(),
    }


def classifier_record(variant: Variant) -> Record:
    """Of a classifier in the present folder: all but its weights."""
    from rapipe.records import Predictions

    name = variant.name
    run = read_result(paths.RUNS / f"{name}.json")
    card = read_card(paths.MODELS / name / "card.json")
    predictions = Predictions.read(checked(paths.EVIDENCE / name / paths.PREDICTIONS))
    votes = () if predictions.vote_correct is None else predictions.vote_correct
    analysis: Record = {part: run[part] for part in ("votes", "drift", "swaps") if part in run}
    if "attribution" in run:
        attribution, lists = run["attribution"].items(), ("harm", "help")
        analysis["attribution"] = {key: fact for key, fact in attribution if key not in lists}
    scores = ("noise_std", "top1", "top3", "nll", "ece", "n_test", "bank_size")
    return {
        "corpus": corpus_card()["hash"],
        "machine": machine(),
        "weights": run["parameters"],
        "weights_trained": card["trained_parameters"],
        "weights_sha256": card["hash"],
        "store": run["store"],
        "precision": card["precision"],
        "best_epoch": run["best_epoch"],
        "validation_top1": card["validation_top1"],
        "rows": [{score: row[score] for score in scores} for row in run["rows"]],
        "correct": [pack_bits(level) for level in predictions.correct],
        "voted": [pack_bits(level) for level in votes],
        **analysis,
        "history": read_numbers(paths.MODELS / name / "history.csv"),
    }


def machine() -> Record:
    """What it runs on."""
    import torch

    from rapipe.device import processor

    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return {
        "processor": processor(),
        **gpu,
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "python": platform.python_version(),
        "rapipe": __version__,
        **{name: version(name) for name in PACKAGES},
    }
