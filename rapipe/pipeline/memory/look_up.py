"""What `rapipe neighbors` does: look one image up in the memory, and ask a classifier about it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rapipe import metrics, paths
from rapipe.classifier.classifier import Classifier
from rapipe.classifier.neighbour_batch import DeviceBank
from rapipe.config.schema import Params
from rapipe.config.variants import Variant, variants
from rapipe.corpus.decode import Decoding, decode, pixel_hash
from rapipe.device import device
from rapipe.encoder.encoder import Encoder
from rapipe.errors import UserError
from rapipe.evaluation.attribution import Attribution, attribute
from rapipe.io.atomic import atomic_write
from rapipe.pipeline.inputs import bank_card, checked, corpus_card, images_of, pictures
from rapipe.pipeline.provenance import check_encoder
from rapipe.progress import say
from rapipe.records import Embeddings, Indices, Pixels
from rapipe.retrieval.search import search


@dataclass(frozen=True)
class Asked:
    """The image that is looked up."""

    pixels: Pixels  # (H, W, 3)
    label: int
    """-1 where nobody knows."""


@dataclass(frozen=True)
class Answer:
    """What a classifier says of the image, and of each of its neighbours."""

    variant: Variant
    predicted: int
    probability: float
    alone: float
    """Probability of the same class without neighbours."""
    found: Attribution


def run(
    params: Params, image: str, k: int, classifier: str, picture: Path | None, as_json: bool
) -> None:
    """Print the k nearest of the bank: similarity, class, source, id, attention, effect.

    Attention and effect are those of a trained classifier that sees these k; the
    effect is what the probability of the class it predicts loses without the neighbour.

    Args:
        image: a file, or the row of a test image.
        classifier: name of a trained one; the first with neighbours unless given.
    """
    bank = Embeddings.read(checked(paths.BANK))
    check_encoder(bank_card()["encoder"], paths.BANK, "prefetch")
    encoder = Encoder.read(checked(paths.ENCODER)).to(device())
    asked = _open(image)
    own = np.array([pixel_hash(asked.pixels)])
    found = search(encoder.embed(asked.pixels[None]), bank, k, own)
    chosen = _choose(params, classifier)
    answer = _ask(chosen, asked, bank, found.indices) if chosen else None
    rows = _rows(bank, found.indices[0], found.similarities[0].tolist(), answer)
    if as_json:
        print(json.dumps({**_facts(asked, answer), "neighbours": rows}, indent=2))
    else:
        _print(_facts(asked, answer), rows)
    if picture:
        from rapipe.report import pictures as drawn
        from rapipe.report import style

        shown = pictures(images_of("train"), bank.ids[found.indices[0]])
        facts, label = _facts(asked, answer), _classes(asked.label)
        same = label if asked.label >= 0 else facts.get("predicted", label)
        figure = drawn.looked_up(asked.pixels, _title(facts), shown, rows, label, same)
        atomic_write(picture, style.png(figure))


def _choose(params: Params, name: str) -> Variant | None:
    """The trained classifier that is asked; None if none with neighbours has been trained."""
    known = [v for v in variants(params) if v.retrieval != "none"]
    trained = [v for v in known if (paths.MODELS / v.name / "card.json").exists()]
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


def _ask(variant: Variant, asked: Asked, bank: Embeddings, indices: Indices) -> Answer:
    """Predict with all neighbours, with none, and without each."""
    classifier, _ = Classifier.read(checked(paths.MODELS / variant.name))
    if classifier.spec.dimension != bank.vectors.shape[1]:
        raise UserError(
            f"{variant.name} was trained with vectors of {classifier.spec.dimension} dimensions, "
            f"but {paths.BANK} holds vectors of {bank.vectors.shape[1]}: run rapipe train"
        )
    classifier.to(device())
    there, pixels = DeviceBank(bank, classifier.spec.classes, device()), asked.pixels[None]
    chances = metrics.softmax(classifier.predict(pixels, there, indices))[0]
    predicted = int(chances.argmax())
    alone = metrics.softmax(classifier.predict(pixels))[0]
    found = attribute(classifier, pixels, np.array([predicted]), there, indices)
    return Answer(variant, predicted, float(chances[predicted]), float(alone[predicted]), found)


def _rows(
    bank: Embeddings, indices: Indices, similarities: list[float], answer: Answer | None
) -> list[dict[str, Any]]:
    """One a neighbour, the nearest first."""
    rows = []
    for place, (row, similarity) in enumerate(zip(indices, similarities, strict=True)):
        line = {
            "similarity": round(similarity, 6),
            "class": _classes(int(bank.labels[row])),
            "source": str(bank.sources[row]),
            "id": int(bank.ids[row]),
        }
        if answer:
            line["attention"] = round(float(answer.found.attention[0, place]), 6)
            line["effect"] = round(float(answer.found.effect[0, place]), 6)
        rows.append(line)
    return rows


def _facts(asked: Asked, answer: Answer | None) -> dict[str, Any]:
    """What is known and said of the image."""
    facts: dict[str, Any] = {"class": _classes(asked.label)}
    if answer:
        facts |= {
            "classifier": answer.variant.name,
            "predicted": _classes(answer.predicted),
            "probability": round(answer.probability, 6),
            "without neighbours": round(answer.alone, 6),
        }
    return facts


def _title(facts: dict[str, Any]) -> str:
    if "predicted" not in facts:
        return "Nearest in the memory"
    return (
        f"{facts['classifier']} says {facts['predicted']} ({facts['probability']:.1%}; "
        f"without neighbours {facts['without neighbours']:.1%})"
    )


def _print(facts: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    if "predicted" in facts:
        print(_title(facts) + (f"; it is {facts['class']}" if facts["class"] != "?" else ""))
        print("similarity  attention  effect   class            source           id")
    for line in rows:
        asked = f"{line['attention']:9.3f}  {line['effect']:+.4f}  " if "attention" in line else ""
        similarity = f"{line['similarity']:10.4f}"
        print(f"{similarity}  {asked}{line['class']:16} {line['source']:16} {line['id']}")


def _classes(label: int) -> str:
    return str(bank_card()["classes"][label]) if label >= 0 else "?"


def _open(image: str) -> Asked:
    """A test image by its row, or a file."""
    if image.isdecimal():
        test = images_of("test")
        if int(image) >= len(test):
            raise UserError(f"there is no test image {image}; choose from 0 to {len(test) - 1}")
        return Asked(test.pixels[int(image)], int(test.labels[int(image)]))
    try:
        data = Path(image).read_bytes()
    except OSError as error:
        raise UserError(
            f"{image!r} is no file that can be read ({error.strerror}), and no row of a test image"
        ) from None
    return Asked(decode(data, image, Decoding(**corpus_card()["decoding"])), -1)
