"""`rapipe predict`: classes of new images, how sure a classifier is, and what it looked up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any, NamedTuple

from rapipe import paths
from rapipe.classifier.classifier import Classifier
from rapipe.config.schema import Params, RetrievalParams
from rapipe.config.variants import Variant
from rapipe.cores import cores
from rapipe.corpus.decode import Decoding
from rapipe.corpus.decode_cache import SkippedImage
from rapipe.errors import UserError, rename_arguments
from rapipe.io.text import expand_home
from rapipe.pipeline.evaluate import retriever_of
from rapipe.pipeline.inputs import (
    bank_card,
    checked,
    classifier_card,
    corpus_card,
    images_of,
    labelled,
    neighbours_of,
    present_bank,
    shift_images,
)
from rapipe.pipeline.running.argument_keys import CORPUS_KEYS, argument_keys, keys_of
from rapipe.pipeline.trained import trained_variants
from rapipe.prediction.answers import Answers
from rapipe.prediction.output import JsonArray, Lines, Writer, answers_file, check_out
from rapipe.prediction.predictor import Predictor
from rapipe.prediction.sources import open_paths
from rapipe.progress import say

READS = (paths.CORPUS, paths.ENCODER, paths.NEIGHBOURS, paths.MODELS)
RISK = 0.05
"""Share of errors among the answers that is accepted unless another is given."""
NAMED = 20
"""Images that could not be used whose names are told; the rest are only counted."""
KEYS = {
    **keys_of("retrieval", RetrievalParams),
    **CORPUS_KEYS,
    **{
        "path": "PATH",
        "paths": "PATH",
        "out": "--out",
        "risk": "--risk",
        "skip": "--on-error skip",
    },
}


class Chosen(NamedTuple):
    """A trained classifier, ready for new images."""

    variant: Variant
    card: dict[str, Any]
    predictor: Predictor


@argument_keys(**KEYS)
def run(
    params: Params,
    images: Sequence[str],
    classifier: str = "",
    out: Path | None = None,
    risk: float = RISK,
    on_error: str = "",
    column: str = "",
    as_json: bool = False,
) -> None:
    """Write a row an image into a file, or print it.

    Args:
        images: files, folders, archives and Parquet, in this order.
        classifier: name of a trained one; the best on validation unless given.
        out: a file that ends in .csv, .jsonl or .parquet; without it rows are printed.
        risk: accepted share of errors among the answers, from 0 to 1.
        on_error: at an image that cannot be used: stop or skip; corpus.on_error unless given.
        column: of Parquet, where images are; `image` or `img` unless given.
        as_json: print rows as JSON.
    """
    target = expand_home(out) if out else None
    if target:
        check_out(target)
    files = open_paths(images, column)
    chosen = choose(params, classifier, risk)
    say(f"{chosen.variant.name} {chosen.predictor.abstention}")
    skips = (on_error or params.corpus.on_error) == "skip"
    skipped: list[SkippedImage] | None = [] if skips else None
    progress = "predicting" if target else ""
    stream = chosen.predictor.stream(files, skipped, cores(), progress)
    writer: AbstractContextManager[Writer] = (
        answers_file(target) if target else closing(JsonArray() if as_json else Lines())
    )
    count, unsure = write_answers(stream, writer)
    abstained = f"{unsure:,} of {count:,} images abstain"
    say(f"{target} has the answers: {abstained}" if target else abstained)
    tell_skipped(skipped or [])


def write_answers(
    stream: Iterable[Answers], writer: AbstractContextManager[Writer]
) -> tuple[int, int]:
    """Write answers as they come; returns how many there are, and how many of them abstain."""
    count = unsure = 0
    with writer as file:
        for answers in stream:
            file.write(answers.rows())
            count += len(answers)
            unsure += int(answers.abstain.sum())
    return count, unsure


def tell_skipped(skipped: Sequence[SkippedImage]) -> None:
    """Say which images could not be used."""
    for image in skipped[:NAMED]:
        say(f"skipped: {rename_arguments(str(image), CORPUS_KEYS)}")
    if skipped:
        more = len(skipped) - NAMED
        others = f"; {more:,} more are not listed" if more > 0 else ""
        say(f"{len(skipped):,} skipped{others}")


def choose(params: Params, name: str, risk: float) -> Chosen:
    """A trained classifier with all that it needs, and a threshold chosen on validation.

    Args:
        name: of a variant; the one of the best validation accuracy unless given, which is told.
        risk: accepted share of errors among the answers, from 0 to 1.

    Raises:
        UserError: there is none, it is out of date, or what it needs is.
    """
    variant, card = _choose_variant(params, name)
    classifier, _ = Classifier.read(checked(paths.MODELS / variant.name))
    corpus = corpus_card()
    decoding, classes = Decoding(**corpus["decoding"]), tuple(corpus["classes"])
    validation = labelled("validation")
    if variant.retrieval == "none":
        predictor = Predictor(classifier, classes, decoding)
        return Chosen(variant, card, predictor.abstaining(validation, risk))
    bank = present_bank(params)
    retriever = retriever_of(params, variant, bank, images_of("test"), shift_images())
    bank_classes = tuple(bank_card()["classes"])
    predictor = Predictor(classifier, classes, decoding, retriever, bank_classes)
    neighbours = neighbours_of(validation, params, variant.retrieval, "validation")
    return Chosen(variant, card, predictor.abstaining(validation, risk, neighbours))


def _choose_variant(params: Params, name: str) -> tuple[Variant, dict[str, Any]]:
    """A trained classifier of this name, or the best of all that are up to date; and its card."""
    trained = {variant.name: variant for variant in trained_variants(params)}
    if not trained:
        raise UserError("no classifier of params.yaml is trained yet: run rapipe train")
    if name and name not in trained:
        raise UserError(f"--classifier is {name!r}; trained ones are {', '.join(trained)}")
    if name:
        return trained[name], classifier_card(params, trained[name])
    cards: dict[str, dict[str, Any]] = {}
    problems: list[UserError] = []
    for variant in trained.values():
        try:
            cards[variant.name] = classifier_card(params, variant)
        except UserError as problem:
            problems.append(problem)
    if not cards:
        raise problems[0]
    best = max(cards, key=lambda name: cards[name]["validation_top1"])
    say(
        f"{best} has the best validation accuracy, {cards[best]['validation_top1']:.1%}, of "
        f"{len(cards)} trained classifiers (--classifier NAME takes another)"
    )
    return trained[best], cards[best]
