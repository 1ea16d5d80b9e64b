"""`rapipe attribute`: which pixels of an image speak for the class that classifiers predict."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rapipe import metrics, paths
from rapipe.classifier.classifier import Classifier
from rapipe.classifier.neighbour_batch import DeviceBank, Shown
from rapipe.config.schema import Params, RetrievalParams
from rapipe.config.variants import Variant
from rapipe.corpus.decode import pixel_hash
from rapipe.device import device
from rapipe.encoder.imported import NoEncoderError
from rapipe.errors import UserError
from rapipe.evaluation.measures.attribution_maps.methods import (
    COMPLETE,
    METHODS,
    DoesNotApplyError,
    completeness_error,
)
from rapipe.evaluation.measures.attribution_maps.subject import subjects
from rapipe.io.atomic import atomic_write
from rapipe.io.text import expand_home
from rapipe.pipeline.evaluate import retriever_of
from rapipe.pipeline.inputs import (
    checked,
    classifier_card,
    corpus_card,
    images_of,
    labelled,
    present_bank,
    shift_images,
)
from rapipe.pipeline.memory.look_up import QueryImage, read_image
from rapipe.pipeline.running.argument_keys import argument_keys, keys_of
from rapipe.pipeline.trained import trained_variants
from rapipe.progress import say
from rapipe.records import Neighbours, Pixels
from rapipe.report import attribution_maps, style
from rapipe.retrieval.search import VectorsWithIds

REFERENCES = 64
"""Training images that GradientSHAP compares with."""
KEYS = {**keys_of("retrieval", RetrievalParams), "max_pixels": "corpus.max_pixels"}


@argument_keys(**KEYS)
def run(
    params: Params, image: str, method: str, classifiers: Sequence[str], out: Path
) -> list[dict[str, Any]]:
    """Draw the maps of an image into a PNG file, a column a classifier; a row each is returned.

    Args:
        image: a file, or the row of a test image.
        method: its name in `METHODS`.
        classifiers: names of trained ones; unless given, those of the first backbone and seed.
    """
    if method not in METHODS:
        raise UserError(f"--method is {method!r}; choose from {', '.join(METHODS)}")
    chosen = _choose(params, classifiers)
    query = read_image(image)
    references = _references(params)
    columns: list[attribution_maps.Column] = []
    rows: list[dict[str, Any]] = []
    refusals: list[str] = []
    for variant in chosen:
        try:
            column, row = _explain(params, variant, query, image, method, references)
        except DoesNotApplyError as error:
            refusals.append(f"{variant.name}: {error}")
            continue
        columns.append(column)
        rows.append(row)
    if not columns:
        raise UserError("; ".join(refusals[:1]))
    for refusal in refusals:
        say(refusal)
    label = corpus_card()["classes"][query.label] if query.label >= 0 else ""
    figure = attribution_maps.columns(query.pixels, label, columns, method)
    atomic_write(expand_home(out), style.png(figure))
    return rows


def _choose(params: Params, names: Sequence[str]) -> list[Variant]:
    """Trained classifiers of these names, or all of the first backbone and seed that has any."""
    trained = trained_variants(params)
    if not trained:
        raise UserError("no classifier of params.yaml is trained yet: run rapipe train")
    by_name = {variant.name: variant for variant in trained}
    for name in names:
        if name not in by_name:
            choices = ", ".join(by_name)
            raise UserError(f"--classifier is {name!r}; trained ones are {choices}")
    first = trained[0]
    alike = [v for v in trained if (v.backbone, v.seed) == (first.backbone, first.seed)]
    return [by_name[name] for name in dict.fromkeys(names)] or alike


def _references(params: Params) -> Pixels:
    """Some training images, drawn from the seed."""
    train = labelled("train")
    rows = np.random.default_rng(params.seed).permutation(len(train))[:REFERENCES]
    return train.pixels[np.sort(rows)]


def _explain(
    params: Params,
    variant: Variant,
    query: QueryImage,
    name: str,
    method: str,
    references: Pixels,
) -> tuple[attribution_maps.Column, dict[str, Any]]:
    """The map of one classifier, and what there is to print of it."""
    classifier_card(params, variant)
    classifier, _ = Classifier.read(checked(paths.MODELS / variant.name))
    classifier.to(device())
    pixels, bank, neighbours = query.pixels[None], None, None
    if variant.retrieval != "none":
        bank, neighbours = _neighbours(params, variant, classifier, pixels, name)
    shown = Shown.of(bank, neighbours)
    probabilities = metrics.softmax(classifier.predict(pixels, *shown))[0]
    target = int(probabilities.argmax())
    targets = np.array([target])
    (subject,) = subjects(classifier, pixels, targets, bank, neighbours, references, params.seed)
    map_ = METHODS[method](subject)
    class_name = corpus_card()["classes"][target]
    probability = float(probabilities[target])
    row: dict[str, Any] = {
        "classifier": variant.name,
        "predicted": class_name,
        "probability": round(probability, 6),
    }
    if method in COMPLETE:
        row |= {
            "sum of map": round(float(map_.sum()), 4),
            "f(image) - f(baseline)": round(subject.difference, 4),
            "completeness error": round(completeness_error(subject, map_), 6),
        }
    title = f"{class_name} {probability:.1%}"
    return attribution_maps.Column(variant.name, title, map_.cpu().numpy()), row


def _neighbours(
    params: Params, variant: Variant, classifier: Classifier, pixels: Pixels, name: str
) -> tuple[DeviceBank, Neighbours]:
    """What the strategy of a classifier retrieves for an image that is not in the test split."""
    held_out = images_of("test"), shift_images()
    retriever = retriever_of(params, variant, present_bank(params), *held_out)
    try:
        vectors = retriever.encoder.embed(pixels)
    except NoEncoderError:
        raise UserError(
            f"{name} has no imported vector, and no encoder is at hand that could embed it: name "
            "the one that made the vectors in pretrain.encoder, or choose a test image by its row"
        ) from None
    queries = VectorsWithIds(np.array([pixel_hash(pixels[0])]), vectors)
    neighbours = retriever.neighbours(queries)
    return DeviceBank(retriever.bank, classifier.spec.classes, classifier.device), neighbours
