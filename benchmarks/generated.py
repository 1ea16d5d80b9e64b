"""Do generated images help, learned, looked up, or both? The tables in docs/generation.md.

    python -m benchmarks.generated --photographs FOLDER [--seeds 3] [--only ddpm] [--json]
    python -m benchmarks.generated --only nothing

On the digits, and on 10,000 training images of CIFAR-10 from FOLDER, which holds its train.parquet
and test.parquet: one generator of each method, and ResNet-18 (on the digits a Perceiver too) with
its images and without, alone and with the nearest neighbours, several trainings each. All have the
same encoder, which has never seen a generated image. Each run adds a row to `results/methods/`;
what has one is not run again. Then all rows are printed, and the tables in docs/generation.md are
made anew.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.common import machine
from benchmarks.memories import IMAGES, PHOTOGRAPHS
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
from study.work import ROOT, Content, Overrides, working_in

CLASSIFIERS, GENERATORS = RESULTS / "generated.csv", RESULTS / "generators.csv"
DOCS = ROOT / "docs/generation.md"
BEGIN, END = "<!-- generated -->", "<!-- end of generated -->"
NOBODY = "none"
"""The method of images that are all real."""
METHODS = ("ddpm", "acgan")
ROLES = ("training", "memory", "both")
NEITHER = "neither"
NOISE = (0.1, 0.2)
GRID: Overrides = {
    "classifiers.backbones": ["resnet18", "perceiver"],
    "retrieval.strategies": ["knn"],
    "retrieval.fusion": "cross-attention",
    "evaluate.noise_std": list(NOISE),
    "evaluate.swap_std": [],
    "evaluate.attributed": 0,
    "evaluate.maps": 0,
    "evaluate.corruptions": [],
    "train.probe_every": 0,
}
GENERATION: dict[str, Overrides] = {
    "digits": {"generate.images": 300, "generate.width": 16, "generate.epochs": 15},
    "cifar10": {"generate.images": 300, "generate.width": 24, "generate.epochs": 20},
}
"""By images; a GAN's steps are cheaper, and it takes more of them at a lower rate."""
OF_ACGAN: Overrides = {"generate.epochs": 40, "generate.learning_rate": 0.0005}


def main() -> None:
    """Run what has no row yet, and print all rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    choices = [NOBODY, *METHODS, "nothing"]
    parser.add_argument("--only", choices=choices, help="images by this method; none: real ones")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each classifier")
    parser.add_argument("--photographs", default="", help="folder of CIFAR-10's Parquet files")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    for images, overrides in corpora(options.photographs).items():
        for method in (NOBODY, *METHODS):
            if options.only in (None, method):
                measure(images, method, {**GRID, **overrides}, options.seeds)
    if options.json:
        rows = {"generators": rows_of(GENERATORS), "classifiers": rows_of(CLASSIFIERS)}
        print(json.dumps({"machine": machine("torch", "diffusers"), **rows}, indent=2))
    else:
        print("\n".join(tables()))
    DOCS.write_text(with_tables(DOCS.read_text(), BEGIN, END, tables()))


def corpora(photographs: str) -> dict[str, Overrides]:
    """Parameters of each set of images."""
    sets: dict[str, Overrides] = {"digits": {"corpus.sources": [{"kind": "digits"}]}}
    if photographs:
        source = {"kind": "parquet", "path": str(Path(photographs).absolute()), "limit": IMAGES}
        narrower = {"corpus.sources": [source], "classifiers.backbones": ["resnet18"]}
        sets["cifar10"] = {**PHOTOGRAPHS, **narrower}
    return {images: {**GENERATION[images], **overrides} for images, overrides in sets.items()}


def measure(images: str, method: str, overrides: Overrides, seeds: int) -> None:
    """Train and test classifiers with the images of a method in each role, or with real ones."""
    overrides = {**overrides, "classifiers.seeds": list(range(seeds))}
    if method == NOBODY:
        evaluate_role(images, method, NEITHER, overrides)
        return
    encoder = folder_of(images, NOBODY) / "data/encoder"
    if not encoder.exists():
        evaluate_role(images, NOBODY, NEITHER, overrides)
    overrides |= {"generate.method": method, **(OF_ACGAN if method == "acgan" else {})}
    overrides |= {"pretrain.objective": "none", "pretrain.init": str(encoder)}
    for role in ROLES:
        source = {"kind": "generated", "role": role, "weight": 0.0}
        sources = [*overrides["corpus.sources"], source]
        evaluate_role(images, method, role, {**overrides, "corpus.sources": sources})


def folder_of(images: str, method: str) -> Path:
    """Where the stages run; all roles share it, and so the generator."""
    return WORK / "generated" / f"{images}-{method}"


def evaluate_role(images: str, method: str, role: str, overrides: Overrides) -> None:
    """Add a row for each classifier that has none; of what is only looked up with neighbours."""
    content = content_of(overrides)
    key = {"images": images, "method": method, "role": role}
    with working_in(folder_of(images, method), content):
        from rapipe.config.loading import parse
        from rapipe.config.variants import variants

        params = parse(content)
        missing = [
            variant
            for variant in variants(params)
            if not done(CLASSIFIERS, {**key, **_parts(variant)})
            and (role in (NEITHER, "training") or variant.retrieval != "none")
        ]
        if not missing and Path("data/encoder").exists():
            return
        prepare(content, images, method)
        for variant in missing:
            top1 = top1_by_noise(result_of(params, variant))
            add(CLASSIFIERS, {**key, **_parts(variant), **top1})


def _parts(variant: Any) -> Row:
    return {name: getattr(variant, name) for name in ("backbone", "retrieval", "seed")}


def prepare(content: Content, images: str, method: str) -> None:
    """Everything up to the initial weights; and what the audit says of the generated images."""
    from rapipe import paths
    from rapipe.config.loading import parse
    from rapipe.io.tables import parse_checksummed, read_json
    from rapipe.pipeline import audit, corpus, embed, generate, initialise, prefetch, pretrain

    params, start = parse(content), time.perf_counter()
    generate.run(params)
    seconds = round(time.perf_counter() - start)
    for stage in (corpus, pretrain, embed, prefetch, initialise):
        stage.run(params)
    key = {"images": images, "method": method}
    if method == NOBODY or done(GENERATORS, key):
        return
    audit.run(params)
    quality = read_json(paths.QUALITY, "audit", parse_checksummed)
    distances = {
        f"{name}_{side}": round(quality[name][side], 5)
        for name in ("fid", "kid")
        for side in ("generated", "training")
    }
    near = round(quality["memorisation"]["near_share"], 4)
    sizes = {"generated": quality["images"]["generated"], "training": quality["images"]["training"]}
    add(GENERATORS, {**key, **sizes, **distances, "near_share": near, "seconds": seconds})


def tables() -> Iterator[str]:
    """How good the images are, and what they are worth, in Markdown."""
    rows = rows_of(GENERATORS)
    if rows:
        heads = ("images", "method", "training images", "generated", "FID", "of training images")
        more = ("KID", "of training images", "near copies", "minutes")
        yield f"\n| {' | '.join((*heads, *more))} |"
        yield "|---" * (len(heads) + len(more)) + "|"
    for row in rows:
        names = ("fid_generated", "fid_training", "kid_generated", "kid_training")
        values = [row["images"], row["method"], row["training"], row["generated"]]
        values += [f"{float(row[name]):.3f}" for name in names]
        values += [f"{percent([row['near_share']])} %", f"{float(row['seconds']) / 60:.0f}"]
        yield f"| {' | '.join(values)} |"
    rows = rows_of(CLASSIFIERS)
    for images in dict.fromkeys(row["images"] for row in rows):
        yield f"\n{images}, test accuracy (clean / noise .1 / .2):\n"
        yield from by_role([row for row in rows if row["images"] == images])


def by_role(rows: list[Row]) -> Iterator[str]:
    """Mean accuracies over seeds, and the spread of the clean one; a line a use of the images."""
    conditions = list(dict.fromkeys((row["backbone"], row["retrieval"]) for row in rows))
    yield f"| generated images | {' | '.join(f'{b}, {r}' for b, r in conditions)} |"
    yield "|---" * (1 + len(conditions)) + "|"
    for method, role in dict.fromkeys((row["method"], row["role"]) for row in rows):
        cells = []
        for backbone, retrieval in conditions:
            # Without neighbours a memory plays no part.
            looked_up = {"memory": (NOBODY, NEITHER), "both": (method, "training")}
            same = looked_up.get(role, (method, role)) if retrieval == "none" else (method, role)
            key = (*same, backbone, retrieval)
            group = [r for r in rows if tuple(r[name] for name in NAMES) == key]
            cells.append(accuracies(group) if group else "&ndash;")
        yield f"| {role if role == NEITHER else f'{role}, {method}'} | {' | '.join(cells)} |"


NAMES = ("method", "role", "backbone", "retrieval")


def accuracies(rows: list[Row]) -> str:
    """Means in percent by noise; of clean images the standard deviation over seeds too."""
    levels = [[100 * float(row[f"top1_noise_{std:g}"]) for row in rows] for std in (0.0, *NOISE)]
    means = [f"{statistics.mean(values):.1f}" for values in levels]
    if len(rows) > 1:
        means[0] += f" ± {statistics.stdev(levels[0]):.1f}"
    return " / ".join(means)


if __name__ == "__main__":
    main()
