"""What was run on what, in words."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from typing import Any

from rapipe.evaluation.results import Row
from rapipe.specs import APART, ATTENDING, NO_ENCODER, FusionSpec, TrainingRecipe

TRICKS = (
    *("accumulate", "average", "clip", "label_smoothing", "mixup", "patience", "schedule"),
    *("tune", "warmup"),
)
"""Parts of a recipe that are named where they differ from a plain training."""


def setting_words(
    corpus: dict[str, Any],
    shifts: Iterable[str],
    image_size: int,
    encoder: str,
    recipe: TrainingRecipe,
    retrieval: str,
    initial: str,
) -> str:
    """A paragraph of HTML.

    Args:
        corpus: the card of the corpus.
        shifts: names of sources that classifiers are only evaluated on.
        encoder: a sentence on it; "" if there is none.
        retrieval: what classifiers look up, and how; "" if nothing.
        initial: sentences on what classifiers start from, and learn from besides all labels.
    """
    counts = ", ".join(f"{split['images']:,} {name}" for name, split in corpus["splits"].items())
    roles = {name: card["role"] for name, card in corpus["sources"].items()}
    roles |= dict.fromkeys(shifts, "shift")
    sources = ", ".join(f"{name} ({role})" for name, role in roles.items())
    removed = corpus["duplicates"]["removed"]
    plain = TrainingRecipe()
    tricks = ", ".join(
        f"{name} {getattr(recipe, name)}"
        for name in TRICKS
        if getattr(recipe, name) != getattr(plain, name)
    )
    words = (
        f"Images: {sources}; {counts}; {len(corpus['classes'])} classes, {image_size} pixels; "
        f"{removed} images with the pixels of a held-out one were removed. {encoder} Classifiers: "
        f"{recipe.epochs} epochs{retrieval and f', {retrieval}'}. {initial}"
    )
    training = f" Training: {tricks}." if tricks else ""
    return f"<p>{html.escape(' '.join((words + training).split()))}</p>"


def fusion_words(retrieval: str, fusion: FusionSpec, query_noise: float, noisy: bool) -> str:
    """How many neighbours there are and how they were retrieved, and how they enter.

    Args:
        query_noise: largest standard deviation of noisy copies whose neighbours are shown.
        noisy: whether a classifier has noise in training.
    """
    copies = f"half of training images with those of a noisy copy (up to {query_noise:g})"
    if not query_noise:
        copies = "training images with those of their clean selves"
        if noisy:
            copies += ", those with noise too, which is not what they meet in testing"
    shown = f", neighbours as {fusion.attend} (both = embedding and label)"
    apart = ", which learns apart from the network"
    dropout = f", neighbour dropout {fusion.dropout:g}"
    return (
        f"{retrieval}, by {fusion.fusion}{shown if fusion.fusion in ATTENDING else ''}"
        f"{apart if fusion.fusion in APART else dropout}, {copies}"
    )


def encoder_sentence(encoder: str, scores: Row) -> str:
    """What the encoder is, and how good a vote of its nearest training images is."""
    random = (
        f"random initialisation {scores['random_init_knn_top1']:.1%}, "
        if "random_init_knn_top1" in scores
        else ""
    )
    return (
        f"Encoder: {encoder}; a vote of its nearest training images is right for "
        f"{scores['knn_top1']:.1%} of validation ({random}raw pixels "
        f"{scores['raw_pixels_knn_top1']:.1%})."
    )


def encoder_words(spec: Mapping[str, Any], published: Mapping[str, Any], training: str) -> str:
    """What the memory's encoder is, and how it sees its images.

    Args:
        spec: of its card.
        published: where its initial weights are from: init, revision, licence; empty if random.
        training: what was trained here.
    """
    if spec["backbone"] == NO_ENCODER:
        return "none: the vectors were imported"
    words = f"{spec['backbone']} of width {spec['width']} {training}"
    if not published:
        return words
    facts = [
        f"sees {spec['image_size']} pixels",
        f"pool {spec['pool']}",
        *(f"{name} {published[name]}" for name in ("revision", "licence") if published[name]),
    ]
    return f"{spec['backbone']} from {published['init']} ({', '.join(facts)}) {training}"
