"""Stages evaluate-plain and evaluate-retrieval: one classifier on the whole test split."""

from __future__ import annotations

from rapipe import paths
from rapipe.classifier import Classifier
from rapipe.device import device
from rapipe.encoder import Encoder
from rapipe.evaluation.noise import Lookup, evaluate
from rapipe.params import Params, Variant
from rapipe.pipeline.inputs import labelled, write_json
from rapipe.records import Embeddings


def run(params: Params, variant: Variant) -> None:
    """Write `results/runs/<variant>.json`: clean, and at each noise level."""
    classifier, card = Classifier.read(paths.MODELS / variant.name)
    lookup = None
    if variant.retrieval != "none":
        lookup = Lookup(
            Encoder.read(paths.ENCODER).to(device()),
            Embeddings.read(paths.BANK),
            variant.retrieval,
            variant.k,
            params.seed,
        )
    levels = (0.0, *params.evaluate.noise_std)
    scores = evaluate(classifier.to(device()), labelled("test"), levels, lookup, params.seed)
    keys = {
        "backbone": variant.backbone,
        "retrieval": variant.retrieval,
        "k": variant.k,
        "seed": variant.seed,
    }
    rows = [{**keys, **row, "bank_size": card["bank_size"]} for row in scores]
    write_json(
        paths.RUNS / f"{variant.name}.json",
        {
            "setting": card["setting"],
            "parameters": card["parameters"],
            "best_epoch": card["best_epoch"],
            "rows": rows,
        },
    )
