"""A predictor as a folder that needs no project: weights, bank and card; no pickle.

>>> rapipe.export(predictor, "digits-classifier")
>>> rapipe.load("digits-classifier").predict(["new/1.jpg"])
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from rapipe import __version__
from rapipe.classifier.classifier import Classifier
from rapipe.corpus.decode import Decoding
from rapipe.encoder.encoder import Encoder
from rapipe.encoder.retriever import Retriever
from rapipe.errors import ArgumentError, UserError
from rapipe.io.atomic import atomic_write
from rapipe.io.checksums import CHECKSUMS, verify_checksums
from rapipe.io.folders import atomic_folder
from rapipe.io.tables import read_json, write_json
from rapipe.io.text import expand_home
from rapipe.io.weights import CARD
from rapipe.prediction.abstention import Abstention
from rapipe.prediction.onnx_files import CLASSIFIER_ONNX, ENCODER_ONNX, write_onnx
from rapipe.prediction.predictor import Predictor
from rapipe.records import Embeddings, Pixels
from rapipe.retrieval.strategies import STRATEGIES, RetrievalRequest

FORMAT = 1
"""Of the folder; one of a higher number was written by a later version."""
CLASSIFIER, ENCODER, BANK, README = "classifier", "encoder", "bank", "README.md"
ONNX = {CLASSIFIER_ONNX, ENCODER_ONNX}
OURS = {CLASSIFIER, ENCODER, BANK, README, CARD, CHECKSUMS, *ONNX, *(f"{n}.data" for n in ONNX)}
"""All that an export may hold; weights of more than 2 GB are beside their ONNX file."""
REQUEST = ("k", "seed", "diversity", "replay")
"""Fields of a request that an answer may depend on."""


def export(
    predictor: Predictor,
    folder: str | Path,
    facts: Mapping[str, Any] | None = None,
    pixels: Pixels | None = None,
) -> dict[str, Any]:
    """Write a predictor into a folder that `load` reads, wherever it is then; returns its card.

    If the packages `onnx`, `onnxscript` and `onnxruntime` are there, both networks are written as
    ONNX too, and compared with torch on some images. A network that cannot be written so is told
    in one sentence, and the rest is written all the same.

    Args:
        folder: a new or an empty one, or one that was exported before, which is replaced.
        facts: more keys of the card, such as a name and an accuracy.
        pixels: (N, S, S, 3) uint8, a few images to compare on; random ones unless given.

    Raises:
        ArgumentError: `folder` is a file, or holds something else.
        UserError: the memory is of imported vectors, and there is no encoder to export.
    """
    target = expand_home(folder).absolute()
    _check_replaceable(target)
    retriever = predictor.retriever
    if retriever and not isinstance(retriever.encoder, Encoder):
        raise UserError(
            "this memory is of imported vectors, without an encoder that could embed new images: "
            "there is nothing to export"
        )
    with atomic_folder(target) as part:
        predictor.classifier.write(part / CLASSIFIER, {})
        if retriever and isinstance(retriever.encoder, Encoder):
            retriever.encoder.write(part / ENCODER, {})
            _bank_of(retriever).write(part / BANK)
        card = {
            "format": FORMAT,
            "rapipe": __version__,
            **(facts or {}),
            **_facts(predictor),
            "onnx": write_onnx(predictor, part, pixels),
        }
        write_json(part / CARD, card)
        atomic_write(part / README, _readme(card).encode())
    return card


def _facts(predictor: Predictor) -> dict[str, Any]:
    """All of a predictor that is not in the folders of its parts."""
    retriever, fusion = predictor.retriever, predictor.classifier.spec.fusion
    request, bank_classes, rows = None, list[str](), 0
    if retriever:
        fields = {name: getattr(retriever.request, name) for name in REQUEST}
        request = {"strategy": retriever.strategy, **fields}
        bank_classes, rows = list(predictor.bank_classes), len(_bank_of(retriever))
    return {
        "classes": list(predictor.classes),
        "image_size": predictor.size,
        "decoding": asdict(predictor.decoding),
        "retrieval": request,
        "fusion": asdict(fusion) if fusion else None,
        "bank_classes": bank_classes,
        "bank_rows": rows,
        "abstention": asdict(predictor.abstention) if predictor.abstention else None,
    }


def _bank_of(retriever: Retriever) -> Embeddings:
    """The rows that an answer may depend on: none where an image is shown only its own vector."""
    if retriever.strategy == "self":
        return retriever.bank.take(np.empty(0, np.int64))
    return retriever.bank


def _check_replaceable(folder: Path) -> None:
    """Raise `ArgumentError` if there is something that an export must not replace."""
    if folder.exists() and not folder.is_dir():
        raise ArgumentError(f"`folder` is {str(folder)!r}, which is a file: name another")
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if names and (CHECKSUMS not in names or names - OURS):
        raise ArgumentError(
            f"`folder` is {str(folder)!r}, which holds other files than an export: name another"
        )


def load(folder: str | Path) -> Predictor:
    """The predictor that `export` or `rapipe export` wrote into a folder.

    >>> answers = rapipe.load("digits-classifier").predict(["new/1.jpg", "new/2.jpg"])
    >>> answers.class_names, answers.confidence, answers.abstain

    Raises:
        UserError: the folder is missing, is no export, is damaged, or of a later version.
    """
    root = expand_home(folder)
    _verify(root)
    card = read_json(root / CARD, "export")
    if card.get("format") != FORMAT:
        raise UserError(
            f"{root} has the format {card.get('format')}, but rapipe {__version__} reads "
            f"{FORMAT}: install rapipe {card.get('rapipe')}"
        )
    classifier, _ = Classifier.read(root / CLASSIFIER)
    classes, retrieval = tuple(card["classes"]), card["retrieval"]
    retriever = None
    if retrieval:
        strategy = retrieval.pop("strategy")
        if strategy not in STRATEGIES:
            raise UserError(f"{root} wants the strategy {strategy!r}, which is none of this rapipe")
        encoder, bank = Encoder.read(root / ENCODER), Embeddings.read(root / BANK)
        request = RetrievalRequest(**retrieval)
        retriever = Retriever(encoder, bank, strategy, request, len(classes))
    abstention = Abstention(**card["abstention"]) if card["abstention"] else None
    decoding, names = Decoding(**card["decoding"]), tuple(card["bank_classes"])
    return Predictor(classifier, classes, decoding, retriever, names, abstention)


def _verify(root: Path) -> None:
    """Raise `UserError` unless all is what was written."""
    if not (root / CARD).is_file() or not (root / CLASSIFIER).is_dir():
        raise UserError(f"{root} is no folder that rapipe export wrote")
    try:
        verify_checksums(root, "export")
    except UserError as error:
        what = str(error).partition(": run rapipe")[0]
        raise UserError(f"{what}: copy the folder again, or export it again") from None


def _readme(card: Mapping[str, Any]) -> str:
    """How to use the folder, in a few lines."""
    classes, limit = card["classes"], 20
    listed = ", ".join(classes[:limit]) + (", ..." if len(classes) > limit else "")
    neighbours = ""
    if card["bank_rows"]:
        neighbours = f" It looks up {card['retrieval']['k']} of {card['bank_rows']:,} images."
    lines = [
        "# An image classifier, exported by rapipe",
        "",
        f"It tells {len(classes)} classes: {listed}.{neighbours}",
        "",
        f"    pip install rapipe=={card['rapipe']}",
        "    python -c \"import rapipe; p = rapipe.load('.'); "
        "print(p.predict(['image.jpg']).rows())\"",
        "",
        "`card.json` has classes, image size, accuracy and threshold. `sha256sum -c SHA256SUMS`",
        "verifies the files. Weights are safetensors, the memory is `.npy` and Arrow.",
    ]
    if any("file" in facts for facts in card["onnx"].values()):
        lines.append("`*.onnx` need no rapipe: `onnx` in `card.json` says what they take and give.")
    return "\n".join(lines) + "\n"
