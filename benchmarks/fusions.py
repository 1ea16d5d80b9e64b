"""Fusions side by side, each with each memory.

    python -m benchmarks.fusions --photographs FOLDER [--seeds 3] [--memory NAME] [--json]

For each memory (the digits; 10,000 training and 2,000 test images of CIFAR-10 from FOLDER, embedded
by BYOL of ours and by EfficientNet-Lite0) and each fusion: ResNet-18 and a Perceiver with the
nearest neighbours, tested on clean images, with noise, and with the fifteen corruptions at severity
3, beside no neighbours and the image's own vector. Each training adds a row to `results/methods/`;
what has one is not run again. Once all seeds of a fusion are there, it is compared with no
neighbours and with the best vote, paired by image and seed. `python -m benchmarks.fusion_page`
makes tables and figures of the rows.
"""

from __future__ import annotations

import argparse
import json
import shutil
from base64 import b64decode, b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import memories
from benchmarks.common import machine
from benchmarks.rows import (
    RESULTS,
    WORK,
    Row,
    add,
    content_of,
    done,
    fewer_tested,
    results_of,
    rows_of,
)
from rapipe.classifier.fusions import FUSIONS
from rapipe.evaluation.corruptions import CORRUPTIONS
from study.work import Overrides, working_in

ROWS, COMPARED = RESULTS / "fusions.csv", RESULTS / "fusion_comparisons.csv"
PROBES = RESULTS / "fusion_probes.csv"
NEW_CLASS = RESULTS / "fusion_new_class.csv"
ENCODERS = RESULTS / "encoders"
"""Those that were pretrained for the rows, so that other rows can be added anywhere."""
ANSWERS = RESULTS / "fusion_answers.csv"
"""Which images are right, so that whoever doubts a comparison can make it again."""
NAMING = ("cross-attention", "knn-lm", "tip-adapter", "modern-nca", "trust")
"""Fusions that may name a class that they were not trained on, and one that may not."""
NOISE = (0.1, 0.2)
SEVERITY = 3
PLAIN = "none"
CORRECTED = "none, corrected"
"""What of a fusion's gain is the fit to noisy copies."""
DEFAULT = "cross-attention"
"""The fusion of a case that names none."""
OWN_VECTOR, OWN_VECTOR_TOO = "trust, own vector", "trust, own vector too"
"""What remains of it without neighbours; and with both."""
RANDOM = "trust, random neighbours"
NEIGHBOURS = ("trust", OWN_VECTOR_TOO)
"""Compared with the own vector alone: whether a memory holds more than its encoder says."""
GRID: Overrides = {
    "classifiers.backbones": ["resnet18", "perceiver"],
    "retrieval.fusion": DEFAULT,
    "retrieval.attend": "both",
    "classifiers.noise_std": 0.2,  # of NAME+noise
    "evaluate.noise_std": list(NOISE),
    "evaluate.swap_std": [],
    "evaluate.attributed": 0,
    "evaluate.maps": 0,
    "evaluate.corruptions": [f"{name}:{SEVERITY}" for name in CORRUPTIONS],
    "train.probe_every": 0,
    "train.measure_every": 2,
}
NOISY = (PLAIN, DEFAULT, "trust")
"""Cases that are also trained with noise on half of the images (NAME+noise), for the digits."""
TRUSTING = {
    PLAIN: PLAIN,
    "knn": "trust",
    "self": OWN_VECTOR,
    "self+knn": OWN_VECTOR_TOO,
    "sampled": RANDOM,
}
"""By strategy, the cases of one network, which are trained together: the network by itself, `trust`
beside it, and its controls, which are shown something in place of the nearest."""
CASES: dict[str, Overrides] = {
    "self": {"retrieval.strategies": ["self"]},
    **{
        name: {
            "retrieval.strategies": ["knn"],
            "retrieval.fusion": name,
            "retrieval.query_noise": 0.2,
        }
        for name in FUSIONS
    },
}
CASES["trust"]["retrieval.strategies"] = [name for name in TRUSTING if name != PLAIN]
"""By name, parameters that differ from those of the grid."""
PREFETCHED: list[Any] = []
"""Memory, strategies and query noise of the tables that are there: the last case's."""
LEVELS = {0.0: "clean", **{std: f"noise {std:g}" for std in NOISE}, -1.0: "corruptions"}
"""Columns; the last is the mean of the fifteen."""


def corpora(photographs: str) -> dict[str, Overrides]:
    """Parameters of each memory."""
    images = memories.corpora(fewer_tested(photographs) if photographs else "")
    encoders = ("BYOL of ours", "EfficientNet-Lite0, 64 px") if photographs else ()
    cifar10 = {
        f"CIFAR-10, {name}": {**images["cifar10"], **memories.CASES[name]} for name in encoders
    }
    return {"digits": images["digits"], **cifar10}


def main() -> None:
    """Train what has no row yet."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--memory", help="this one alone")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each classifier")
    parser.add_argument("--photographs", default="", help="folder of CIFAR-10's Parquet files")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    for memory, overrides in corpora(options.photographs).items():
        if options.memory in (None, memory):
            seeds = list(range(options.seeds))
            for case in ("trust", *CASES):  # with the network that all are compared with
                measure(memory, case, {**GRID, **overrides, "classifiers.seeds": seeds})
            if memory == "digits":
                add_a_class({**GRID, **overrides}, memory, seeds)
    if options.json:
        rows = {"rows": rows_of(ROWS), "comparisons": rows_of(COMPARED)}
        print(json.dumps({"machine": machine("torch"), **rows}, indent=2))


def measure(memory: str, case: str, overrides: Overrides) -> None:
    """Train and test the classifiers of a case that have no row; compare them when all are there.

    All cases of a memory share a folder, and so the memory. With `trust` go all of `TRUSTING`.
    """
    from rapipe import paths
    from rapipe.config.loading import parse
    from rapipe.config.variants import together, variants
    from rapipe.pipeline import corpus, initialise, prefetch
    from rapipe.pipeline.inputs import bank_card
    from rapipe.records import Predictions
    from rapipe.training.precision import precision_of

    own = CASES[case]
    names = TRUSTING if case == "trust" else {own["retrieval.strategies"][0]: case}
    if memory == "digits" and case in NOISY:
        both = [name + end for name in overrides["classifiers.backbones"] for end in ("", "+noise")]
        overrides = {**overrides, "classifiers.backbones": both}
    content = content_of({**overrides, **own})
    with working_in(_folder(memory), content):
        params = parse(content)
        precision = precision_of(params.train.precision, paths.PRECISION)
        mine = [
            v
            for v in variants(params)
            if v.retrieval in names and (not v.classifier.noisy or names[v.retrieval] in NOISY)
        ]

        def group(variant: Any) -> Row:
            return {"memory": memory, "case": names[variant.retrieval], "precision": precision}

        def is_done(variant: Any) -> bool:
            """In any precision, but for what all others are compared with in theirs."""
            key = _key(group(variant), variant)
            if names[variant.retrieval] != PLAIN:
                del key["precision"]
            return done(ROWS, key)

        missing = [v for v in mine if not is_done(v)]
        if missing:
            if not paths.CORPUS_CARD.exists():
                corpus.run(params)
            if not paths.STORE_MANIFEST.exists():
                make_memory(memory, params)
            tables = (memory, params.retrieval.strategies, params.retrieval.query_noise)
            if tables not in PREFETCHED:
                prefetch.run(params)
                PREFETCHED[:] = [tables]
            initialise.run(params)
            check_memory(memory, bank_card()["encoder"])
        for trained in together(params, missing):
            results = results_of(params, trained)
            for variant, result in zip(trained, results, strict=True):
                key = _key(group(variant), variant)
                keep(key, Predictions.read(paths.EVIDENCE / variant.name / paths.PREDICTIONS))
                encoder = "" if variant.retrieval == PLAIN else bank_card()["encoder"]
                add(ROWS, {**key, "encoder": encoder, **scores(result)})
                if variant.retrieval == PLAIN:
                    correct({**group(variant), "case": CORRECTED}, params, variant)
        groups = [group(variant) for variant in mine]
        if PLAIN in names:
            groups.append({**groups[0], "case": CORRECTED})
        if not done(PROBES, {"memory": memory}):
            probe(memory, params)
        for key in {str(own): own for own in groups}.values():
            compare(key, [v for v in mine if names[v.retrieval] in (key["case"], PLAIN)])


def make_memory(memory: str, params: Any) -> None:
    """Embed by the encoder of the rows that are there, or pretrain one and keep it."""
    from rapipe import paths
    from rapipe.config.schema import NO_OBJECTIVE
    from rapipe.pipeline import embed, pretrain

    kept = ENCODERS / _folder(memory).name
    if kept.exists():
        shutil.copytree(kept, paths.ENCODER)
    else:
        pretrain.run(params)
        if params.pretrain.objective != NO_OBJECTIVE:
            shutil.copytree(paths.ENCODER, kept)
    embed.run(params)


def check_memory(memory: str, encoder: str = "") -> None:
    """Stop if there are rows of a memory that was made by another encoder of the same recipe.

    Another machine rounds differently, and pretrains another encoder from the same seed; so that of
    the rows is kept.
    """
    rows = [row for path in (ROWS, PROBES) for row in rows_of(path) if row["memory"] == memory]
    encoders = {row["encoder"] for row in rows} | {encoder}
    if len(encoders - {""}) > 1:
        raise SystemExit(f"{memory}: rows of several encoders; remove those of all but one")


def correct(group: Row, params: Any, variant: Any) -> None:
    """Add a row of the control that corrects a trained network without any neighbours."""
    from benchmarks import correction
    from rapipe import paths
    from rapipe.batches.transforms import gaussian_noise
    from rapipe.classifier.classifier import Classifier
    from rapipe.pipeline.copies import copied_pixels
    from rapipe.pipeline.inputs import labelled

    key = _key(group, variant)
    if done(ROWS, key):
        return
    classifier, _ = Classifier.read(paths.MODELS / variant.name)
    train, test = labelled("train"), labelled("test")
    copies = copied_pixels(train, params, variant.classifier.noisy)
    said = np.concatenate([classifier.predict(pixels) for pixels in (train.pixels, copies)])
    fitted = correction.fit(said, np.tile(train.labels, 2), variant.seed)

    def right(pixels: Any) -> npt.NDArray[np.bool_]:
        logits = correction.corrected(fitted, classifier.predict(pixels))
        return np.asarray(logits.argmax(axis=1) == test.labels)

    stds = (0.0, *NOISE)
    masks = [right(gaussian_noise(test.pixels, test.ids, std, params.seed)) for std in stds]
    corrupted = [
        right(corrupted(test.pixels, test.ids, SEVERITY, params.seed)).mean()
        for corrupted in CORRUPTIONS.values()
    ]
    for std, mask in zip(stds, masks, strict=True):
        row = {"images": len(mask), "correct": as_text(mask), "vote_correct": ""}
        add(ANSWERS, {**key, "noise_std": std, **row})
    shares = (*(mask.mean() for mask in masks), np.mean(corrupted))
    top1 = {f"top1_{level:g}": round(float(s), 4) for level, s in zip(LEVELS, shares, strict=True)}
    columns = list(rows_of(ROWS)[0])
    add(ROWS, {**dict.fromkeys(columns, ""), **key, **top1})


def probe(memory: str, params: Any) -> None:
    """Accuracy of a linear classifier of the encoder's vectors, by level, and what its memory is.

    Its penalty is chosen on validation images.
    """
    from rapipe import paths
    from rapipe.device import device
    from rapipe.encoder.embedding_cache import embed_cached
    from rapipe.encoder.imported import read_encoder
    from rapipe.evaluation.encoder_baselines import choose_probe
    from rapipe.pipeline.baselines import embedded, noisy
    from rapipe.pipeline.inputs import bank_card, labelled

    train, validation, test = embedded(params)
    model = choose_probe(train, validation)
    images, card = labelled("test"), bank_card()
    encoder = read_encoder(paths.ENCODER, paths.VECTORS).to(device())

    def corrupted(corrupt: Any) -> Any:
        pixels = corrupt(images.pixels, images.ids, SEVERITY, params.seed)
        return test._replace(vectors=embed_cached(encoder, pixels, paths.QUERIES, card["encoder"]))

    levels = [test, *(noisy(test, images, std, params.seed) for std in NOISE)]
    top1 = [
        float(model.answer(queries).correct.mean())
        for queries in (*levels, *map(corrupted, CORRUPTIONS.values()))
    ]
    means = (*top1[: len(levels)], float(np.mean(top1[len(levels) :])))
    by_level = {f"top1_{k:g}": round(v, 4) for k, v in zip(LEVELS, means, strict=True)}
    add(PROBES, {"memory": memory, "encoder": card["encoder"], **by_level})


def add_a_class(overrides: Overrides, memory: str, seeds: Sequence[int]) -> None:
    """Train without images of the last class, then add them to the memory alone.

    A row a fusion and seed: test accuracy on that class, and on the others, before and after.
    """
    from rapipe import metrics, paths
    from rapipe.classifier.neighbour_batch import DeviceBank
    from rapipe.classifier.train import train_classifier
    from rapipe.config.loading import parse
    from rapipe.device import device
    from rapipe.encoder.imported import read_encoder
    from rapipe.encoder.retriever import Retriever
    from rapipe.evaluation.measures.noise_levels import predict
    from rapipe.pipeline.inputs import labelled
    from rapipe.records import Embeddings
    from rapipe.retrieval.strategies import RetrievalRequest
    from rapipe.specs import FusionSpec

    content = content_of({**overrides, **CASES["cross-attention"]})
    with working_in(_folder(memory), content):
        params = parse(content)
        whole = Embeddings.read(paths.BANK)
        images = {split: labelled(split) for split in ("train", "validation", "test")}
        last = len(images["train"].classes) - 1
        known = {s: i.take(np.flatnonzero(i.labels != last)) for s, i in images.items()}
        encoder = read_encoder(paths.ENCODER, paths.VECTORS).to(device())
        request = RetrievalRequest(params.retrieval.k)
        before, after = (
            Retriever(encoder, bank, "knn", request, last + 1)
            for bank in (whole.take(np.flatnonzero(whole.labels != last)), whole)
        )
        tables = {split: before.retrieve(known[split]) for split in ("train", "validation")}
        for fusion in NAMING:
            for seed in seeds:
                if done(NEW_CLASS, {"fusion": fusion, "seed": seed}):
                    continue
                classifier = train_classifier(
                    {split: known[split] for split in tables},
                    tables,
                    before.bank,
                    fusion=FusionSpec(fusion=fusion, attend="both"),
                    recipe=params.train.recipe,
                    seed=seed,
                ).classifier.to(device())
                row: Row = {"fusion": fusion, "seed": seed}
                for name, retriever in (("before", before), ("after", after)):
                    test = images["test"]
                    bank = DeviceBank(retriever.bank, last + 1, device())
                    level = predict(classifier, test, test.pixels, retriever, bank)
                    right = metrics.hits(level.logits, test.labels)
                    row[f"new_{name}"] = round(float(right[test.labels == last].mean()), 4)
                    row[f"others_{name}"] = round(float(right[test.labels != last].mean()), 4)
                add(NEW_CLASS, row)


def _folder(memory: str) -> Path:
    return WORK / "fusions" / memory.replace(" ", "-").replace(",", "")


def _key(group: Row, variant: Any) -> Row:
    return {**group, "backbone": variant.backbone, "seed": variant.seed}


def keep(key: Row, answers: Any) -> None:
    """Add which images are right, by the classifier and by the vote: a row a noise level."""
    for level, std in enumerate(answers.levels):
        vote = answers.vote_correct
        if done(ANSWERS, {**key, "noise_std": std}):
            continue
        add(
            ANSWERS,
            {
                **key,
                "noise_std": std,
                "images": len(answers.ids),
                "correct": as_text(answers.correct[level]),
                "vote_correct": "" if vote is None else as_text(vote[level]),
            },
        )


def as_text(mask: npt.NDArray[np.bool_]) -> str:
    """A mask (N,) as base64 of its bits."""
    return b64encode(np.packbits(mask).tobytes()).decode()


def as_mask(text: str, count: int) -> npt.NDArray[np.bool_]:
    """The mask (N,) that `as_text` wrote."""
    bits = np.frombuffer(b64decode(text), np.uint8)
    return np.unpackbits(bits, count=count).astype(np.bool_)


def masks(group: Row, backbone: str, column: str) -> npt.NDArray[np.float64] | None:
    """Which images are right (S, L, N), by seed and noise level; None where nobody voted.

    Args:
        group: memory, case and precision.
    """
    key = {**group, "backbone": backbone}
    rows = [row for row in rows_of(ANSWERS) if all(row[k] == v for k, v in key.items())]
    if not rows or not all(row[column] for row in rows):
        return None
    by_seed: dict[str, list[npt.NDArray[np.bool_]]] = {}
    for row in rows:
        by_seed.setdefault(row["seed"], []).append(as_mask(row[column], int(row["images"])))
    return np.stack([np.stack(by_seed[seed]) for seed in sorted(by_seed)]).astype(np.float64)


def scores(result: Row) -> Row:
    """Accuracies by level; those of the votes and what is shown of trust too."""
    row = {f"top1_{r['noise_std']:g}": round(r["top1"], 4) for r in result["rows"]}
    corrupted = result["corruptions"]
    row["top1_-1"] = round(float(np.mean([r["top1"] for r in corrupted])), 4)
    for name in ("purity", "reliance", "neighbour_share"):
        for r in result["rows"]:
            row[f"{name}_{r['noise_std']:g}"] = round(r[name], 4) if name in r else ""
    votes = [r["vote_top1"] for r in corrupted if "vote_top1" in r]
    row["vote_-1"] = round(float(np.mean(votes)), 4) if votes else ""
    return row


def compare(group: Row, variants: Sequence[Any]) -> None:
    """Differences to no neighbours, the vote and such at each noise level, with 95 % intervals.

    Args:
        group: memory, case and precision; of the same memory and precision are its peers.
    """
    from rapipe.evaluation.statistics import interval_of_mean

    for backbone in dict.fromkeys(variant.backbone for variant in variants):
        if done(COMPARED, {**group, "backbone": backbone}):
            continue
        correct = masks(group, backbone, "correct")  # (S, L, N)
        if correct is None or len(correct) < len({variant.seed for variant in variants}):
            continue  # there are some, or all, in another precision
        peers = {
            PLAIN: masks({**group, "case": PLAIN}, backbone, "correct"),
            CORRECTED: masks({**group, "case": CORRECTED}, backbone, "correct"),
            "vote": masks(group, backbone, "vote_correct"),
        }
        if group["case"] in NEIGHBOURS:
            peers[OWN_VECTOR] = masks({**group, "case": OWN_VECTOR}, backbone, "correct")
        for against, reference in peers.items():
            if reference is None or against == group["case"]:
                continue
            for level, std in enumerate((0.0, *NOISE)):
                change = correct[:, level] - reference[:, level]
                low, high = interval_of_mean(change, 0)
                numbers = {"change": change.mean(), "low": low, "high": high}
                rounded = {name: round(float(value), 4) for name, value in numbers.items()}
                key = {**group, "backbone": backbone, "against": against, "noise_std": std}
                add(COMPARED, {**key, **rounded})


if __name__ == "__main__":
    main()
