"""Stages evaluate-plain and evaluate-retrieval: one classifier on the whole test split."""

from __future__ import annotations

from typing import Any

import numpy as np

from rapipe import paths
from rapipe.classifier.classifier import Classifier
from rapipe.config import deciding
from rapipe.config.schema import Params, RetrievalParams
from rapipe.config.variants import Variant
from rapipe.device import device
from rapipe.encoder.imported import ImportedVectors, read_encoder
from rapipe.encoder.retriever import Retriever
from rapipe.errors import UserError
from rapipe.evaluation.measures.analysis import RetrievalAnalysis, evaluate_levels
from rapipe.io.checksums import sha256
from rapipe.io.folders import atomic_folder
from rapipe.io.tables import write_checksummed, write_csv
from rapipe.pipeline.inputs import (
    bank_card,
    checked,
    classifier_card,
    labelled,
    neighbours_of,
    present_bank,
)
from rapipe.pipeline.requests import request_of
from rapipe.pipeline.running.argument_keys import argument_keys, keys_of
from rapipe.progress import say
from rapipe.records import Embeddings, Images
from rapipe.specs import NO_ENCODER

READS = (paths.CORPUS, paths.ENCODER, paths.NEIGHBOURS, paths.MODELS)
WRITES = (paths.EVIDENCE,)
"""This stands for the results beside it too."""


@argument_keys(**keys_of("retrieval", RetrievalParams))
def run(params: Params, variant: Variant) -> None:
    """Write `results/runs/<variant>.json`, and `data/evidence/<variant>/`: images and rows.

    If the memory has been edited since the classifier was trained, there is only
    `<variant>@<memory>.json`, so that both can be compared.
    """
    card = classifier_card(params, variant)
    classifier, _ = Classifier.read(paths.MODELS / variant.name)
    classifier.to(device())
    images = labelled("test")
    retriever, analysis, memory, store = None, None, "", ""
    if variant.retrieval != "none":
        bank = present_bank(params)
        if variant.rows_shown:
            memory, store = bank["memory"], bank["store"]
        retriever = retriever_of(params, variant, classifier, bank, images)
        analysis = analysis_of(params, variant, classifier, retriever, images)
    edited = store != card["memory"]
    levels = (0.0, *sorted(params.evaluate.noise_std))
    if retriever and isinstance(retriever.encoder, ImportedVectors):
        levels = levels[:1]
        say(f"pretrain.encoder is {NO_ENCODER}: noisy images have no vectors, and are left out")
    evaluation = evaluate_levels(classifier, images, levels, retriever, analysis, params.seed)
    predictions_sha256 = ""
    if not edited:
        with atomic_folder(paths.EVIDENCE / variant.name) as folder:
            evaluation.predictions.write(folder / paths.PREDICTIONS)
            predictions_sha256 = sha256(folder / paths.PREDICTIONS)
            if analysis and analysis.influence:
                write_csv(folder / paths.INFLUENCE, analysis.influence_rows())
    names = {"backbone": "backbone", "retrieval": "retrieval", "k": "rows_shown", "seed": "seed"}
    keys = {key: getattr(variant, name) for key, name in names.items()}
    write_checksummed(
        paths.RUNS / f"{variant.name}{'@' + memory if edited else ''}.json",
        {
            "setting": card["setting"],
            "evaluation": deciding.of_evaluation(params, variant),
            "parameters": card["parameters"],
            "best_epoch": card["best_epoch"],
            "edited": edited,
            "predictions_sha256": predictions_sha256,
            "store": store,
            "rows": [{**keys, **row, "memory": memory} for row in evaluation.rows],
            "by_class": evaluation.by_class,
            **(analysis.facts if analysis else {}),
        },
    )


def analysis_of(
    params: Params, variant: Variant, classifier: Classifier, retriever: Retriever, images: Images
) -> RetrievalAnalysis:
    """The analysis of a classifier's neighbours, with what validation images retrieve."""
    analysis = RetrievalAnalysis(
        classifier=classifier,
        retriever=retriever,
        images=images,
        bank_classes=bank_card()["classes"],
        seed=params.seed,
        levels=params.evaluate.swap_std,
        poisoned=params.evaluate.poisoned,
        strategies=params.retrieval.strategies,
        attributed=params.evaluate.attributed,
        prune=params.retrieval.prune,
    )
    validation = labelled("validation")
    neighbours = neighbours_of(validation, params, variant.retrieval, "validation")
    analysis.choose(validation, neighbours)
    return analysis


def retriever_of(
    params: Params,
    variant: Variant,
    classifier: Classifier,
    bank_facts: dict[str, Any],
    images: Images,
) -> Retriever:
    """The bank that was prefetched last; `UserError` if the classifier cannot use it."""
    bank = Embeddings.read(checked(paths.BANK))
    if np.isin(bank.ids, images.ids).any():
        raise UserError(f"{paths.BANK} holds images of the present test split: run rapipe prefetch")
    return Retriever(
        read_encoder(checked(paths.ENCODER), paths.VECTORS).to(device()),
        bank,
        variant.retrieval,
        request_of(params),
        len(images.classes),
        paths.QUERIES,
        bank_facts["encoder"],
    )
