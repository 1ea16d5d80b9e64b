"""Stage baselines: what the memory's encoder knows by itself, on test images, clean and noisy."""

from __future__ import annotations

from typing import Any

import numpy as np

from rapipe import paths
from rapipe.batches.transforms import gaussian_noise
from rapipe.config.names import MEMORY
from rapipe.config.schema import Params
from rapipe.corpus.labels import visible_label_mask
from rapipe.device import device
from rapipe.encoder.embedding_cache import embed_cached
from rapipe.encoder.imported import read_encoder
from rapipe.evaluation.encoder_baselines import (
    Answers,
    EncoderBaseline,
    LabelledVectors,
    choose_probe,
    choose_vote,
)
from rapipe.io.checksums import sha256
from rapipe.io.folders import atomic_folder
from rapipe.io.tables import write_checksummed
from rapipe.pipeline.inputs import (
    PARAMS,
    baseline_facts,
    check_encoder,
    checked,
    encoder_fingerprint,
    images_of,
    in_role,
    labelled,
)
from rapipe.pipeline.stored_vectors import stored_vectors, vectors_of
from rapipe.progress import say, track
from rapipe.records import Images, Predictions
from rapipe.retrieval.store import Store

READS = (paths.CORPUS, paths.ENCODER)
"""The store has its own lock."""
WRITES = (paths.BASELINES, paths.BASELINE_ANSWERS)


def run(params: Params) -> None:
    """Write `results/baselines.json`, and `data/baselines/`: the answers by image."""
    facts = baseline_facts(params)
    train, validation, test = embedded(params)
    images = labelled("test")
    baselines: dict[str, EncoderBaseline] = {
        "probe": choose_probe(train, validation),
        "vote": choose_vote(train, validation, len(images.classes)),
    }
    answers: dict[str, list[Answers]] = {name: [] for name in baselines}
    levels = params.noise_levels
    for std in track(levels, "testing baselines", len(levels)):
        queries = test if std == 0 else noisy(test, images, std, params.seed)
        for name, baseline in baselines.items():
            answers[name].append(baseline.answer(queries))
    results: dict[str, Any] = {PARAMS: facts, "labelled": len(train.ids), "n_test": len(images)}
    with atomic_folder(paths.BASELINE_ANSWERS) as folder:
        for name, baseline in baselines.items():
            correct, confidence = map(np.stack, zip(*answers[name], strict=True))
            file = folder / f"{name}.arrow"
            Predictions(images.ids, levels, correct, confidence).write(file)
            top1 = correct.mean(axis=1).tolist()
            rows = [{"noise_std": std, "top1": t} for std, t in zip(levels, top1, strict=True)]
            results[name] = {
                "chosen": baseline.words,
                **baseline.choice,
                "rows": rows,
                "predictions_sha256": sha256(file),
            }
            say(f"{name} ({baseline.words}): {top1[0]:.1%} of clean test images")
    write_checksummed(paths.BASELINES, results)


def embedded(params: Params) -> tuple[LabelledVectors, LabelledVectors, LabelledVectors]:
    """The training images whose labels are visible, those of validation, and the clean test ones.

    The labels are those of the corpus: what was added to the memory since is not learned from.
    """
    store = Store.open(paths.STORE, paths.STORE_MANIFEST)
    check_encoder(store.manifest.encoder, paths.STORE, "embed")
    train, validation, test = images_of("train"), labelled("validation"), labelled("test")
    visible = visible_label_mask(train.ids, train.labels, params.train.label_fraction, params.seed)
    held_out = np.isin(train.ids, np.concatenate([validation.ids, test.ids]))
    splits = [(train, np.flatnonzero(visible & ~held_out & ~in_role(train, MEMORY)))]
    splits += [(images, np.arange(len(images))) for images in (validation, test)]
    ids = np.concatenate([images.ids[rows] for images, rows in splits])
    stored = stored_vectors(store, ids)
    learned, chosen_by, tested = (
        LabelledVectors(images.ids[rows], vectors_of(images, rows, stored), images.labels[rows])
        for images, rows in splits
    )
    return learned, chosen_by, tested


def noisy(test: LabelledVectors, images: Images, std: float, seed: int) -> LabelledVectors:
    """The test images with the noise that classifiers see, as the encoder sees them."""
    encoder = read_encoder(checked(paths.ENCODER), paths.VECTORS).to(device())
    pixels = gaussian_noise(images.pixels, images.ids, std, seed)
    vectors = embed_cached(encoder, pixels, paths.QUERIES, encoder_fingerprint())
    return test._replace(vectors=vectors)
