"""`rapipe neighbors`: the neighbours of one image, and what a classifier predicts with them."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rapipe import metrics, paths
from rapipe.classifier.classifier import Classifier
from rapipe.classifier.neighbour_batch import DeviceBank, Shown
from rapipe.config.schema import Params
from rapipe.config.variants import Variant
from rapipe.corpus.decode import Decoding, decode, pixel_hash
from rapipe.device import device
from rapipe.encoder.imported import NoEncoderError, read_encoder
from rapipe.errors import UserError
from rapipe.evaluation.measures.attribution import Attribution, attribute
from rapipe.io.atomic import atomic_write
from rapipe.io.text import expand_home
from rapipe.pipeline.inputs import (
    bank_card,
    checked,
    classifier_card,
    corpus_card,
    images_of,
    present_bank,
)
from rapipe.pipeline.running.argument_keys import argument_keys
from rapipe.pipeline.trained import trained_variants
from rapipe.progress import print_line, say
from rapipe.records import Embeddings, Indices, Neighbours, Pixels
from rapipe.retrieval.search import search


@dataclass(frozen=True)
class QueryImage:
    """The image whose neighbours are retrieved."""

    pixels: Pixels  # (H, W, 3)
    label: int
    """-1 if unknown."""


@dataclass(frozen=True)
class Prediction:
    """A classifier's prediction for the image, and its attribution to the neighbours."""

    variant: Variant
    label: int
    probability: float
    without_neighbours: float
    """Probability of the same class without neighbours."""
    attribution: Attribution


@argument_keys(k="-k", bank="retrieval.bank", max_pixels="corpus.max_pixels")
def run(
    params: Params, image: str, k: int, classifier: str, picture: Path | None, as_json: bool
) -> None:
    """Print the k nearest of the bank: similarity, class, source, id, attention, effect.

    Attention and effect are those of a trained classifier with these k neighbours; the
    effect is what the probability of the class it predicts loses without the neighbour.

    Args:
        image: a file, or the row of a test image.
        classifier: name of a trained one; the first with neighbours by default.
    """
    present_bank(params)
    bank = Embeddings.read(checked(paths.BANK))
    encoder = read_encoder(checked(paths.ENCODER), paths.VECTORS).to(device())
    query = read_image(image)
    query_id = np.array([pixel_hash(query.pixels)])
    try:
        vectors = encoder.embed(query.pixels[None])
    except NoEncoderError:
        raise UserError(
            f"{image} has no imported vector, and no encoder is at hand that could embed it: name "
            "the one that made the vectors in pretrain.encoder, or look up a test image by its row"
        ) from None
    neighbours = search(vectors, bank, k, query_id)
    variant = _choose_variant(params, classifier)
    prediction = None
    if variant:
        shown = replace(neighbours, query_vectors=vectors if variant.with_self else None)
        prediction = _predict(params, variant, query, bank, shown)
    indices, similarities = neighbours.indices[0], neighbours.similarities[0].tolist()
    rows, facts = _rows(bank, indices, similarities, prediction), _facts(query, prediction)
    if as_json:
        print(json.dumps({**facts, "neighbours": rows}, indent=2))
    else:
        _print(facts, rows)
    if picture:
        from rapipe.report import pictures, style

        images = pictures.pixels_by_id(images_of("train"), bank.ids[indices])
        label = _class_name(query.label)
        same = label if query.label >= 0 else facts.get("predicted", label)
        figure = pictures.query_and_neighbours(
            query.pixels, _title(facts), images, rows, label, same
        )
        atomic_write(expand_home(picture), style.png(figure))


def _choose_variant(params: Params, name: str) -> Variant | None:
    """A trained classifier with neighbours; None if there is none."""
    trained = [variant for variant in trained_variants(params) if variant.rows_shown]
    if name:
        for variant in trained:
            if variant.name == name:
                return variant
        choices = ", ".join(v.name for v in trained) or "none yet: run rapipe train"
        raise UserError(f"--classifier is {name!r}; trained ones with neighbours are {choices}")
    if not trained:
        say("no classifier with neighbours is trained, so there is no attention and no effect")
        return None
    return next((v for v in trained if v.retrieval == "knn"), trained[0])


def _predict(
    params: Params, variant: Variant, query: QueryImage, bank: Embeddings, shown: Neighbours
) -> Prediction:
    """Predict with all neighbours, with none, and without each."""
    classifier_card(params, variant)
    classifier, _ = Classifier.read(checked(paths.MODELS / variant.name))
    classifier.to(device())
    device_bank, pixels = DeviceBank(bank, classifier.spec.classes, device()), query.pixels[None]
    with_all = classifier.predict(pixels, *Shown.of(device_bank, shown))
    probabilities = metrics.softmax(with_all)[0]
    label = int(probabilities.argmax())
    without = metrics.softmax(classifier.predict(pixels, query_vectors=shown.query_vectors))[0]
    attribution = attribute(classifier, pixels, np.array([label]), device_bank, shown)
    return Prediction(
        variant, label, float(probabilities[label]), float(without[label]), attribution
    )


def _rows(
    bank: Embeddings, indices: Indices, similarities: list[float], prediction: Prediction | None
) -> list[dict[str, Any]]:
    """One a neighbour, the nearest first."""
    rows = []
    for rank, (index, similarity) in enumerate(zip(indices, similarities, strict=True)):
        row = {
            "similarity": round(similarity, 6),
            "class": _class_name(int(bank.labels[index])),
            "source": str(bank.sources[index]),
            "id": int(bank.ids[index]),
        }
        if prediction:
            row["attention"] = round(float(prediction.attribution.attention[0, rank]), 6)
            row["effect"] = round(float(prediction.attribution.effect[0, rank]), 6)
        rows.append(row)
    return rows


def _facts(query: QueryImage, prediction: Prediction | None) -> dict[str, Any]:
    """The class of the image, and the prediction."""
    facts: dict[str, Any] = {"class": _class_name(query.label)}
    if prediction:
        facts |= {
            "classifier": prediction.variant.name,
            "predicted": _class_name(prediction.label),
            "probability": round(prediction.probability, 6),
            "without neighbours": round(prediction.without_neighbours, 6),
        }
    return facts


def _title(facts: dict[str, Any]) -> str:
    if "predicted" not in facts:
        return "Nearest in the bank"
    return (
        f"{facts['classifier']} says {facts['predicted']} ({facts['probability']:.1%}; "
        f"without neighbours {facts['without neighbours']:.1%})"
    )


def _print(facts: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    if "predicted" in facts:
        print_line(_title(facts) + (f"; it is {facts['class']}" if facts["class"] != "?" else ""))
        print_line("similarity  attention  effect   class            source           id")
    for row in rows:
        effect = f"{row['attention']:9.3f}  {row['effect']:+.4f}  " if "attention" in row else ""
        similarity = f"{row['similarity']:10.4f}"
        print_line(f"{similarity}  {effect}{row['class']:16} {row['source']:16} {row['id']}")


def _class_name(label: int) -> str:
    return str(bank_card()["classes"][label]) if label >= 0 else "?"


def read_image(image: str) -> QueryImage:
    """A test image by its row, or a file."""
    if image.isdecimal():
        test = images_of("test")
        if int(image) >= len(test):
            raise UserError(f"there is no test image {image}; choose from 0 to {len(test) - 1}")
        return QueryImage(test.pixels[int(image)], int(test.labels[int(image)]))
    try:
        data = expand_home(image).read_bytes()
    except OSError as error:
        raise UserError(
            f"{image!r} is no file that can be read ({error.strerror}), and no row of a test image"
        ) from None
    return QueryImage(decode(data, image, Decoding(**corpus_card()["decoding"])), -1)
