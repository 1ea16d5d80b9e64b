"""Stages evaluate-plain and evaluate-retrieval: one classifier on the whole test split."""

from __future__ import annotations

from typing import Any

import numpy as np

from rapipe import metrics, paths
from rapipe.classifier.classifier import Classifier
from rapipe.config.schema import Params
from rapipe.config.variants import Variant
from rapipe.device import device
from rapipe.encoder.encoder import Encoder
from rapipe.encoder.retriever import Retriever
from rapipe.errors import UserError
from rapipe.evaluation.analysis import RetrievalAnalysis
from rapipe.evaluation.noise_levels import (
    PredictionsBuilder,
    predict_levels,
    scores,
)
from rapipe.io.checksums import sha256
from rapipe.io.folders import atomic_folder
from rapipe.io.tables import write_checksummed, write_csv
from rapipe.pipeline.ask import request_of
from rapipe.pipeline.inputs import bank_card, checked, labelled
from rapipe.pipeline.provenance import check_encoder
from rapipe.records import Embeddings, Images
from rapipe.retrieval import votes

READS = (paths.CORPUS, paths.ENCODER, paths.NEIGHBOURS, paths.MODELS)
WRITES = (paths.EVIDENCE,)
"""This stands for the results beside it too."""


def run(params: Params, variant: Variant) -> None:
    """Write `results/runs/<variant>.json`, and `data/evidence/<variant>/`: images and rows.

    If the memory has been edited since the classifier was trained, there is only
    `<variant>@<memory>.json`, so that both can be compared.
    """
    classifier, card = Classifier.read(checked(paths.MODELS / variant.name))
    classifier.to(device())
    images = labelled("test")
    keys = {
        "backbone": variant.backbone,
        "retrieval": variant.retrieval,
        "k": variant.k,
        "seed": variant.seed,
    }
    examined, memory, store, lookup = None, "", "", None
    if variant.retrieval != "none":
        remembered = bank_card()
        memory, store = remembered["memory"], remembered["store"]
        lookup = retriever_of(params, variant, classifier, card, remembered, images)
        examined = RetrievalAnalysis(params, variant, classifier, lookup, images)
    edited = bool(lookup) and store != card.get("memory")
    bank = examined.bank if examined else None
    vote = votes.best_vote(examined.votes) if examined else None
    noted = PredictionsBuilder(images, lookup.bank if lookup else None, vote)
    rows: list[dict[str, Any]] = []
    by_class: list[float | None] = []
    levels = (0.0, *sorted(params.evaluate.noise_std))
    for seen in predict_levels(classifier, images, levels, lookup, bank, params.seed):
        noted.add(seen)
        row = {**keys, **scores(seen, images), "bank_size": len(lookup.bank) if lookup else 0}
        rows.append({**row, "memory": memory})
        by_class = by_class or metrics.by_class(seen.logits, images.labels, len(images.classes))
        if examined:
            examined.add(seen, noted)
    seen_sha256 = ""
    if not edited:
        with atomic_folder(paths.EVIDENCE / variant.name) as folder:
            noted.predictions().write(folder / paths.PREDICTIONS)
            seen_sha256 = sha256(folder / paths.PREDICTIONS)
            if examined and examined.blamed:
                write_csv(folder / paths.INFLUENCE, examined.blame_rows())
    write_checksummed(
        paths.RUNS / f"{variant.name}{'@' + memory if edited else ''}.json",
        {
            "setting": card["setting"],
            "parameters": card["parameters"],
            "best_epoch": card["best_epoch"],
            "edited": edited,
            "predictions_sha256": seen_sha256,
            "store": store,
            "rows": rows,
            "by_class": dict(zip(images.classes, by_class, strict=True)),
            **(examined.found if examined else {}),
        },
    )


def retriever_of(
    params: Params,
    variant: Variant,
    classifier: Classifier,
    card: dict[str, Any],
    remembered: dict[str, Any],
    images: Images,
) -> Retriever:
    """The bank that was prefetched last; `UserError` if the classifier cannot use it."""
    check_encoder(remembered["encoder"], paths.BANK, "prefetch")
    bank = Embeddings.read(checked(paths.BANK))
    d = classifier.spec.dimension
    if bank.vectors.shape[1] != d:
        raise UserError(
            f"{variant.name} was trained with vectors of {d} dimensions, but {paths.BANK} holds "
            f"vectors of {bank.vectors.shape[1]}: run rapipe train, or dvc repro"
        )
    known, asked = remembered.get("labels_known", [1.0])[0], card.get("label_fraction", 1.0)
    if known != asked:
        raise UserError(
            f"{variant.name} was trained with a train.label_fraction of {asked:g}, but "
            f"{paths.BANK} was made for {known:g}: run rapipe prefetch and train, or dvc repro"
        )
    if np.isin(bank.ids, images.ids).any():
        raise UserError(f"{paths.BANK} holds images of the present test split: run rapipe prefetch")
    return Retriever(
        Encoder.read(checked(paths.ENCODER)).to(device()),
        bank,
        variant.retrieval,
        request_of(params),
        len(images.classes),
        paths.QUERIES,
        remembered["encoder"],
    )
