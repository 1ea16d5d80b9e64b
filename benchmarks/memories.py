"""Memories by different encoders, side by side: the tables in docs/methods.md.

    python -m benchmarks.memories --photographs FOLDER [--seeds 3] [--only NAME] [--json]
    python -m benchmarks.memories --only nothing

For each encoder and each set of images (the digits, and 10,000 training images of CIFAR-10 from
FOLDER, which holds its train.parquet and test.parquet): accuracy of votes and of a linear probe on
all test images, drift of neighbours under noise, and what embedding costs. On CIFAR-10 also
ResNet-18 and a Perceiver, with no neighbours, their own vector, random neighbours and the
nearest. Each run adds a row to `results/methods/`; what has one is not run again. Then all rows
are printed, and the tables in docs/methods.md are made anew.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.common import machine
from benchmarks.methods import DOCS
from benchmarks.rows import (
    RESULTS,
    WORK,
    Row,
    add,
    content_of,
    done,
    percent,
    result_of,
    rows_of,
    top1_by_noise,
    with_tables,
)
from study.work import Content, Overrides, working_in

MEMORIES, CLASSIFIERS = RESULTS / "memories.csv", RESULTS / "memory_classifiers.csv"
BEGIN, END = "<!-- memories -->", "<!-- end of memories -->"
LITE0: Overrides = {
    "pretrain.objective": "none",
    "pretrain.encoder": "timm:tf_efficientnet_lite0",
    "pretrain.init": "package:efficientnet-lite0",
}
CONTINUED: Overrides = {
    **LITE0,
    "pretrain.objective": "byol",
    "pretrain.image_size": 64,
    "pretrain.epochs": 2,
    "pretrain.learning_rate": 0.002,
}
CASES: dict[str, Overrides] = {
    "random weights": {"pretrain.objective": "none"},
    "BYOL of ours": {},
    **{f"EfficientNet-Lite0, {s} px": {**LITE0, "pretrain.image_size": s} for s in (32, 64, 96)},
    **{f"EfficientNet-Lite0, {s} px": {**LITE0, "pretrain.image_size": s} for s in (128, 160)},
    "BYOL from EfficientNet-Lite0, 64 px": CONTINUED,
}
"""By name, parameters that differ from the default's."""
PHOTOGRAPHS: Overrides = {
    "corpus.validation_fraction": 0.1,
    "pretrain.views": "crop",
    "pretrain.epochs": 40,
    "pretrain.batch_size": 128,
    "pretrain.learning_rate": 0.12,
    "train.augment": "flip",
    "train.epochs": 6,
}
"""What CIFAR-10 needs, beside its source."""
IMAGES = 10_000
"""Training images of CIFAR-10, of which a tenth is for validation."""
NOISE = (0.1, 0.2)
ANY = "any"
"""The memory of classifiers that look nothing up."""
GRID: Overrides = {
    "classifiers.backbones": ["resnet18", "perceiver"],
    "retrieval.strategies": ["self", "sampled", "knn"],
    "retrieval.fusion": "cross-attention",
    "retrieval.stages": "all",
    "retrieval.query_noise": 0.0,
    "evaluate.noise_std": list(NOISE),
    "evaluate.swap_std": [],
    "evaluate.attributed": 0,
    "evaluate.maps": 0,
    "evaluate.corruptions": [],
    "train.probe_every": 0,
}


def main() -> None:
    """Run what has no row yet, and print all rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=[*CASES, "nothing"], help="this memory")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each classifier")
    parser.add_argument("--photographs", default="", help="folder of CIFAR-10's Parquet files")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    for name in [name for name in CASES if options.only in (None, name)]:
        for images, overrides in corpora(options.photographs).items():
            seeds = options.seeds if images == "cifar10" else 0
            measure(name, images, {**GRID, **overrides, **CASES[name]}, seeds)
    if options.json:
        rows = {"memories": rows_of(MEMORIES), "classifiers": rows_of(CLASSIFIERS)}
        print(json.dumps({"machine": machine("torch", "timm"), **rows}, indent=2))
    else:
        print("\n".join(tables()))
    DOCS.write_text(with_tables(DOCS.read_text(), BEGIN, END, tables()))


def corpora(photographs: str) -> dict[str, Overrides]:
    """Parameters of each set of images."""
    sets: dict[str, Overrides] = {"digits": {}}
    if photographs:
        source = {"kind": "parquet", "path": str(Path(photographs).absolute()), "limit": IMAGES}
        sets["cifar10"] = {**PHOTOGRAPHS, "corpus.sources": [source]}
    return sets


def measure(name: str, images: str, overrides: Overrides, seeds: int) -> None:
    """Make a memory, measure it, and train classifiers with it."""
    from rapipe.config.loading import parse
    from rapipe.config.variants import variants

    content = content_of({**overrides, "classifiers.seeds": list(range(max(1, seeds)))})
    key = {"memory": name, "images": images}
    folder = WORK / "memories" / f"{images} {name}".replace(" ", "-").replace(",", "")
    with working_in(folder, content):
        params = parse(content)
        variants_left = [
            variant
            for variant in variants(params)
            if seeds and not done(CLASSIFIERS, _variant_key(name, variant))
        ]
        if not variants_left and done(MEMORIES, key):
            return
        prepare(content)
        if not done(MEMORIES, key):
            add(MEMORIES, {**key, **facts_of_memory()})
        for variant in variants_left:
            top1 = top1_by_noise(result_of(params, variant))
            add(CLASSIFIERS, {**_variant_key(name, variant), **top1})


def _variant_key(name: str, variant: Any) -> Row:
    """What tells a row of classifiers; without neighbours every memory has the same."""
    memory = ANY if variant.retrieval == "none" else name
    return {"memory": memory, **{k: getattr(variant, k) for k in ("backbone", "retrieval", "seed")}}


def prepare(content: Content) -> None:
    """Everything up to the baselines, once; embedding in a process of its own, for its memory."""
    from rapipe import paths
    from rapipe.config.loading import parse
    from rapipe.pipeline import baselines, corpus, initialise, prefetch, pretrain

    params = parse(content)
    if not Path("embedding.json").exists():
        corpus.run(params)
        pretrain.run(params)
        with get_context("spawn").Pool(1) as pool:
            Path("embedding.json").write_text(json.dumps(pool.apply(embed, (content,))))
    if not paths.BASELINES.exists():
        prefetch.run(params)
        initialise.run(params)
        baselines.run(params)


def embed(content: Content) -> Row:
    """Embed the corpus; seconds, images a second, and the peak of memory in gigabytes."""
    from rapipe.config.loading import parse
    from rapipe.pipeline import embed
    from rapipe.pipeline.memory.edit import open_store

    start = time.perf_counter()
    embed.run(parse(content))
    seconds, rows = time.perf_counter() - start, len(open_store())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return {"images_a_second": round(rows / seconds), "gigabytes": round(peak, 2)}


def facts_of_memory() -> Row:
    """Accuracies without any classifier, drift, and what embedding cost."""
    from rapipe import paths
    from rapipe.io.tables import parse_checksummed, read_json

    measured = read_json(paths.BASELINES, "baselines", parse_checksummed)
    facts: Row = {}
    for name in ("vote", "probe"):
        for row in measured[name]["rows"]:
            facts[f"{name}_noise_{row['noise_std']:g}"] = round(row["top1"], 4)
    for std in NOISE:
        recall, purity = drift_at(std)
        facts |= {f"recall_noise_{std:g}": recall, f"purity_noise_{std:g}": purity}
    card = json.loads((paths.ENCODER / "card.json").read_text())
    facts["random_init_knn_top1"] = round(card["scores"]["random_init_knn_top1"], 4)
    return {**facts, **json.loads(Path("embedding.json").read_text())}


def drift_at(std: float) -> tuple[float, float]:
    """Of noisy test images: the share of clean neighbours found again, and label purity."""
    from rapipe import paths
    from rapipe.batches.transforms import gaussian_noise
    from rapipe.device import device
    from rapipe.encoder.embedding_cache import embed_cached
    from rapipe.encoder.imported import read_encoder
    from rapipe.evaluation.measures.drift import drift
    from rapipe.pipeline.inputs import encoder_fingerprint, labelled
    from rapipe.records import Embeddings, Neighbours
    from rapipe.retrieval.search import search

    images, bank = labelled("test"), Embeddings.read(paths.BANK)
    clean = Neighbours.read(paths.table("knn", "test"))
    pixels = gaussian_noise(images.pixels, images.ids, std, 0)
    encoder = read_encoder(paths.ENCODER, paths.VECTORS).to(device())
    vectors = embed_cached(encoder, pixels, paths.QUERIES, encoder_fingerprint())
    noisy = search(vectors, bank, clean.indices.shape[1], images.ids)
    drifted = drift(clean, noisy, vectors, bank, images.labels)
    return round(drifted["recall"] or 0.0, 4), round(drifted["purity"] or 0.0, 4)


def tables() -> Iterator[str]:
    """What each memory is worth alone, and to classifiers, in Markdown."""
    for images, heading in (("cifar10", "CIFAR-10"), ("digits", "The digits")):
        rows = [row for row in rows_of(MEMORIES) if row["images"] == images]
        if rows:
            yield f"\n{heading}:\n"
            yield from alone(rows)
    rows = rows_of(CLASSIFIERS)
    for backbone in dict.fromkeys(row["backbone"] for row in rows):
        yield f"\n{backbone} on CIFAR-10, by what it sees too (clean / noise .1 / .2):\n"
        yield from with_classifiers([row for row in rows if row["backbone"] == backbone])


def alone(rows: list[Row]) -> Iterator[str]:
    """Votes, linear probe and drift, and what embedding cost."""
    heads = (
        "memory",
        "vote",
        "linear probe",
        "vote, noise .1",
        ".2",
        "found again, noise .1",
        ".2",
    )
    costs = {"images_a_second": "images a second", "gigabytes": "GB"}
    costs = costs if all(row["images_a_second"] for row in rows) else {}  # measured alone
    yield f"| {' | '.join((*heads, *costs.values()))} |"
    yield "|---" * (len(heads) + len(costs)) + "|"
    names = ("vote_noise_0", "probe_noise_0", "vote_noise_0.1", "vote_noise_0.2")
    for row in rows:
        values = [percent([row[name]]) for name in names]
        values += [percent([row[f"recall_noise_{std:g}"]]) for std in NOISE]
        values += [row[name] for name in costs]
        yield f"| {row['memory']} | {' | '.join(values)} |"


def with_classifiers(rows: list[Row]) -> Iterator[str]:
    """Mean accuracies over seeds; without neighbours a memory plays no part."""
    strategies = ("none", *GRID["retrieval.strategies"])
    yield f"| memory | {' | '.join(strategies)} |"
    yield "|---" * (1 + len(strategies)) + "|"
    for memory in dict.fromkeys(row["memory"] for row in rows if row["memory"] != ANY):
        cells = []
        for strategy in strategies:
            key = (ANY if strategy == "none" else memory, strategy)
            group = [row for row in rows if (row["memory"], row["retrieval"]) == key]
            means = [
                statistics.mean(100 * float(row[f"top1_noise_{std:g}"]) for row in group)
                for std in (0.0, *NOISE)
                if group
            ]
            cells.append(" / ".join(f"{mean:.1f}" for mean in means))
        yield f"| {memory} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
