"""Stage evaluate: each classifier on the whole test split."""

from __future__ import annotations

from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np

from rapipe import paths
from rapipe.classifier.classifier import Classifier, Said
from rapipe.config import deciding
from rapipe.config.schema import Params, RetrievalParams
from rapipe.config.variants import Project, Variant
from rapipe.device import device
from rapipe.encoder.imported import ImportedVectors, read_encoder
from rapipe.encoder.retriever import Retriever
from rapipe.errors import UserError
from rapipe.evaluation.measures.analysis import RetrievalAnalysis, evaluate_levels
from rapipe.evaluation.measures.attribution_maps.evaluate import evaluate_maps, spread
from rapipe.evaluation.measures.attribution_maps.record import AttributionMaps
from rapipe.evaluation.measures.shifts import evaluate_shifts
from rapipe.io.checksums import sha256
from rapipe.io.folders import atomic_folder
from rapipe.io.provenance import Facts
from rapipe.io.tables import fingerprint, read_numbers, write_checksummed, write_csv
from rapipe.pipeline.inputs import (
    PARAMS,
    bank_card,
    checked,
    classifier_card,
    kept_folder,
    labelled,
    neighbours_of,
    present_bank,
    present_shifts,
    shift_images,
)
from rapipe.pipeline.requests import request_of
from rapipe.pipeline.running.argument_keys import argument_keys, keys_of
from rapipe.progress import say
from rapipe.records import Embeddings, Images
from rapipe.retrieval.votes import best_vote
from rapipe.specs import NO_ENCODER

READS = (paths.CORPUS, paths.ENCODER, paths.NEIGHBOURS, paths.MODELS)
WRITES = (paths.EVIDENCE,)
"""This stands for the results beside it too; each that is kept has a file of its own."""


def run(params: Params, *variants: Variant) -> None:
    """Test variants one after the other; what one network says of images is computed once.

    Args:
        variants: one, or several of `rapipe.config.variants.together`.
    """
    run_across(Project(Path(), params, variants))


@argument_keys(**keys_of("retrieval", RetrievalParams))
def run_across(*projects: Project) -> None:
    """The same for variants of several projects."""
    said: dict[str, Said] = {}
    for folder, params, variants in projects:
        with chdir(folder):
            for variant in variants:
                _evaluate(params, variant, said)


def _evaluate(params: Params, variant: Variant, said: dict[str, Said]) -> None:
    """Write `results/runs/<variant>.json`, and `data/evidence/<variant>/`: images and rows.

    The result is also kept in `results/kept/`, beside those of other settings.
    If the memory has been edited since the classifier was trained, there is only
    `<variant>@<memory>.json`, so that both can be compared.

    Args:
        said: by networks, what they have said of images.
    """
    card = classifier_card(params, variant)
    classifier, _ = Classifier.read(paths.MODELS / variant.name)
    classifier.said = said.setdefault(classifier.network_digest(), {})
    classifier.to(device())
    images, shifts = labelled("test"), shift_images()
    retriever, analysis, memory, store = None, None, "", ""
    if variant.retrieval != "none":
        bank = present_bank(params)
        if variant.rows_shown:
            memory, store = bank["memory"], bank["store"]
        retriever = retriever_of(params, variant, bank, images, shifts)
        analysis = analysis_of(params, variant, classifier, retriever, images)
    edited = store != card["memory"]
    levels = (0.0, *sorted(params.evaluate.noise_std))
    if retriever and isinstance(retriever.encoder, ImportedVectors):
        levels = levels[:1]
        say(f"pretrain.encoder is {NO_ENCODER}: noisy images have no vectors, and are left out")
    evaluation = evaluate_levels(classifier, images, levels, retriever, analysis, params.seed)
    corrupted, elsewhere = shifted_rows(params, classifier, images, shifts, retriever, analysis)
    facts, predictions_sha256 = dict(analysis.facts) if analysis else {}, ""
    if not edited:
        with atomic_folder(paths.EVIDENCE / variant.name) as folder:
            evaluation.predictions.write(folder / paths.PREDICTIONS)
            predictions_sha256 = sha256(folder / paths.PREDICTIONS)
            if analysis and analysis.influence:
                write_csv(folder / paths.INFLUENCE, analysis.influence_rows())
            if params.evaluate.maps:
                maps, facts["maps"] = maps_of(params, classifier, images, analysis)
                maps.write(folder / paths.MAPS)
    names = {"backbone": "backbone", "retrieval": "retrieval", "k": "rows_shown", "seed": "seed"}
    keys = {key: getattr(variant, name) for key, name in names.items()}
    result = {
        "setting": card["setting"],
        "evaluation": evaluation_facts(params, variant),
        "parameters": card["parameters"],
        "best_epoch": card["best_epoch"],
        "edited": edited,
        "predictions_sha256": predictions_sha256,
        "store": store,
        "rows": [{**keys, **row, "memory": memory} for row in evaluation.rows],
        "by_class": evaluation.by_class,
        "corruptions": corrupted,
        "shifts": elsewhere,
        **facts,
    }
    write_checksummed(paths.RUNS / f"{variant.name}{'@' + memory if edited else ''}.json", result)
    if not edited:
        keep(params, variant, result)


def evaluation_facts(params: Params, variant: Variant) -> Facts:
    """All that decides what is measured, beside the classifier and the test split."""
    return {**deciding.of_evaluation(params, variant), **present_shifts(params)}


def shifted_rows(
    params: Params,
    classifier: Classifier,
    images: Images,
    shifts: dict[str, Images],
    retriever: Retriever | None,
    analysis: RetrievalAnalysis | None,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of corrupted test images, and of images from elsewhere.

    Imported vectors are of clean test images alone.
    """
    corruptions = params.evaluate.corruptions
    if retriever and isinstance(retriever.encoder, ImportedVectors):
        corruptions, shifts = (), {}
    bank, vote = (analysis.bank, best_vote(analysis.votes)) if analysis else (None, None)
    data = images, corruptions, shifts, retriever, bank, vote
    return evaluate_shifts(classifier, *data, params.seed)


def keep(params: Params, variant: Variant, result: dict[str, Any]) -> None:
    """Write `results/kept/<variant>-<fingerprint of its setting>.json`.

    No run with other parameters removes it, so that `rapipe compare` has both. Its setting has
    what made the memory too, and its history a row an epoch.
    """
    facts: Facts = {}
    if variant.retrieval != "none":
        facts = dict(present_bank(params)[PARAMS])
    if variant.rows_shown:
        facts |= {"retrieval.k": variant.k, "retrieval.index": params.retrieval.index}
    elif variant.retrieval != "none":  # its own vector alone, which is of no bank
        facts = {key: v for key, v in facts.items() if key not in ("retrieval.bank", "store")}
    facts |= result["setting"]
    history = read_numbers(checked(paths.MODELS / variant.name / "history.csv"))
    by_epoch = {row["epoch"]: row for row in history}
    write_checksummed(
        kept_folder() / f"{variant.name}-{fingerprint(facts)}.json",
        {
            "setting": facts,
            "history": list(by_epoch.values()),
            **{name: result[name] for name in ("parameters", "best_epoch", "rows")},
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


def maps_of(
    params: Params, classifier: Classifier, images: Images, analysis: RetrievalAnalysis | None
) -> tuple[AttributionMaps, Facts]:
    """Attribution maps of some test images, with the neighbours that these have when clean."""
    rows = spread(images.labels, params.evaluate.maps)
    bank, neighbours = None, None
    if analysis and analysis.clean and analysis.clean.retrieval:
        bank, neighbours = analysis.bank, analysis.clean.retrieval.neighbours.take(rows)
    return evaluate_maps(classifier, images.take(rows), bank, neighbours, params.seed)


def retriever_of(
    params: Params,
    variant: Variant,
    bank_facts: dict[str, Any],
    images: Images,
    shifts: dict[str, Images],
) -> Retriever:
    """The bank that was prefetched last; `UserError` if the classifier cannot use it.

    Args:
        images, shifts: of the test split, and from elsewhere; none may be in the bank.
    """
    bank = Embeddings.read(checked(paths.BANK))
    for name, part in {"test split": images, **shifts}.items():
        if np.isin(bank.ids, part.ids).any():
            raise UserError(f"{paths.BANK} holds images of the present {name}: run rapipe prefetch")
    return Retriever(
        read_encoder(checked(paths.ENCODER), paths.VECTORS).to(device()),
        bank,
        variant.retrieval,
        request_of(params),
        len(images.classes),
        paths.QUERIES,
        bank_facts["encoder"],
    )
