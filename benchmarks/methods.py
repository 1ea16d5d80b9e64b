"""Every method once, at equal budget: what stands in the tables of docs/methods.md.

    python -m benchmarks.methods [--only KIND] [--seeds 1] [--photographs FOLDER] [--json]
    python -m benchmarks.methods --only nothing

Runs the stages of the pipeline on the digits that ship with rapipe, and pretraining also on
10 % of CIFAR-10 from FOLDER, which holds its train.parquet and test.parquet. Each run adds a
row to `results/methods/`; what has one is not run again. Then all rows are printed, as
Markdown tables or as JSON, and the tables in docs/methods.md are made anew. Each row is what
`dvc exp run` gives with its `-S` options.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.common import machine
from benchmarks.method_cases import CASES, ENCODER_KINDS, STRATEGIES, Case
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
    with_tables,
)
from study.work import ROOT, Overrides, working_in

ENCODERS, CLASSIFIERS = RESULTS / "encoders.csv", RESULTS / "classifiers.csv"
CIFAR = {"corpus.validation_fraction": 0.2, "pretrain.views": "crop"}
"""What photographs need, beside their source."""
OFF = {
    "retrieval.fusion": "cross-attention",
    "retrieval.stages": "all",
    "evaluate.attributed": 0,
    "evaluate.swap_std": [],
    "evaluate.maps": 0,
    "evaluate.corruptions": [],
    "retrieval.query_noise": 0.0,
    "train.probe_every": 0,
}
"""Where neighbours enter in every row; and what the tables do not show."""
DOCS = ROOT / "docs/methods.md"
BEGIN, END = "<!-- tables -->", "<!-- end of tables -->"


def main() -> None:
    """Run what has no row yet, and print all rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    kinds = list(dict.fromkeys(case.kind for case in CASES))
    parser.add_argument("--only", choices=[*kinds, "nothing"], help="this kind of method")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each classifier")
    parser.add_argument("--photographs", default="", help="folder of CIFAR-10's Parquet files")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    for case in CASES:
        if options.only in (None, case.kind):
            if case.kind in ENCODER_KINDS:
                pretrained(case, options.photographs)
            else:
                for seed in range(options.seeds):
                    classified(case, seed)
    if options.json:
        rows = {"encoders": rows_of(ENCODERS), "classifiers": rows_of(CLASSIFIERS)}
        print(json.dumps({"machine": machine("torch", "lightly", "timm"), **rows}, indent=2))
    else:
        print("\n".join(tables()))
    DOCS.write_text(with_tables(DOCS.read_text(), BEGIN, END, tables()))


def pretrained(case: Case, photographs: str) -> None:
    """Pretrain an encoder on each set of images."""
    corpora: dict[str, Overrides] = {"digits": {}}
    if photographs:
        source = {"kind": "parquet", "path": str(Path(photographs).absolute()), "limit": 0.1}
        corpora["cifar10"] = {**CIFAR, "corpus.sources": [source]}
    for images, overrides in corpora.items():
        key = {"kind": case.kind, "name": case.name, "images": images}
        if done(ENCODERS, key):
            continue
        content = content_of({**overrides, **case.overrides})
        with working_in(WORK / f"{images}-encoders", content):
            from rapipe.config.loading import parse
            from rapipe.pipeline import corpus, pretrain

            params = parse(content)
            corpus.run(params)
            pretrain.run(params)
            scores = json.loads(Path("results/pretraining/scores.json").read_text())
        names = ("knn_top1", "linear_top1", "random_init_knn_top1", "raw_pixels_knn_top1")
        rounded = {name: round(scores[name], 4) for name in names}
        add(ENCODERS, {**key, **rounded, "command": case.command})


def classified(case: Case, seed: int) -> None:
    """Train and test the classifiers of a case, one without neighbours and the others with."""
    from rapipe.config.loading import parse
    from rapipe.config.variants import variants

    grid = {"classifiers.seeds": [seed], "retrieval.strategies": list(case.strategies)}
    content = content_of({**OFF, **case.overrides, **grid})
    key = {"kind": case.kind, "name": case.name, "seed": seed}
    with working_in(WORK / "digits", content):
        params = parse(content)
        missing = [
            variant
            for variant in variants(params)
            if not done(CLASSIFIERS, {**key, "retrieval": variant.retrieval})
        ]
        if missing:
            prepare(params)
        for variant in missing:
            run = result_of(params, variant)
            by_noise = {row["noise_std"]: row for row in run["rows"]}
            row = {**key, "retrieval": variant.retrieval, "parameters": run["parameters"]}
            for std in (0.0, 0.1, 0.2):
                row[f"top1_noise_{std:g}"] = by_noise[std]["top1"]
            row["top3"] = by_noise[0.0]["top3"]
            add(CLASSIFIERS, {**row, "command": case.command})


def prepare(params: Any) -> None:
    """Corpus, encoder and store once; neighbours and starts for these parameters."""
    from rapipe import paths
    from rapipe.pipeline import corpus, embed, initialise, prefetch, pretrain

    if not paths.STORE_MANIFEST.exists():
        for stage in (corpus, pretrain, embed):
            stage.run(params)
    prefetch.run(params)
    initialise.run(params)


def tables() -> Iterator[str]:
    """A table a kind of method, in Markdown: its source, what was measured, how to run it."""
    from rapipe import methods

    for kind in methods.KINDS:
        rows = {row["name"]: row for row in methods.rows(kind)}
        columns = ENCODER_COLUMNS if kind in ENCODER_KINDS else COLUMNS
        yield f"\n### {kind.capitalize()}\n"
        parameters = dict.fromkeys(row["parameter"] for row in rows.values())
        yield f"{', '.join(f'`{parameter}`' for parameter in parameters)}\n"
        yield "| | " + " | ".join(columns) + " | source | options |"
        yield "|---" * (len(columns) + 3) + "|"
        for name, row in rows.items():
            yield from lines_of(kind, name, row["source"], len(columns))


def lines_of(kind: str, name: str, source: str, columns: int) -> Iterator[str]:
    """The lines of a method; its source stands in the first, the options in a case's first."""
    cases = [case for case in CASES if (case.kind, case.method) == (kind, name)]
    for case in cases or [Case(kind, name, {})]:
        lines = encoder_values(case) if kind in ENCODER_KINDS else classifier_values(case)
        title = f"`{name}`" if case.name == name else f"`{name}`: {case.name}"
        command = f"`{case.command}`" if case.overrides else ""
        nothing = UNMEASURED.get(kind, UNMEASURED.get(name, "&ndash;"))
        for values in lines or [[nothing] + [""] * (columns - 1)]:
            yield f"| {title} | {' | '.join(values)} | {source} | {command} |"
            title, source, command = "", "", ""


UNMEASURED = {
    "+checkpoint": "as `+pretrained`, where the checkpoint is our own encoder",
    "cross-attention": "as all with neighbours in the other tables",
    **dict.fromkeys(("ddpm", "acgan"), "[generation.md](generation.md)"),
    **dict.fromkeys(
        ("csv", "tensorboard", "wandb", "wandb-offline", "trackio", "mlflow"), "changes no result"
    ),
    "deterministic": "on a CPU changes no result",
    "corruption": "[results.md](results.md#corruptions-and-shifts)",
}
"""What stands where there is nothing to measure, by kind or by method."""
ENCODER_COLUMNS = ("digits kNN", "digits linear", "CIFAR-10 kNN", "CIFAR-10 linear")
COLUMNS = ("neighbours", "clean", "noise .1", "noise .2", "top-3", "parameters")


def encoder_values(case: Case) -> list[list[str]]:
    """The line of a case of pretraining."""
    rows = {row["images"]: row for row in measured(ENCODERS, case)}
    if not rows:
        return []
    scores = [
        percent([rows[images][score]]) if images in rows else ""
        for images in ("digits", "cifar10")
        for score in ("knn_top1", "linear_top1")
    ]
    return [scores]


def measured(path: Path, case: Case) -> list[Row]:
    """The rows of a case."""
    names = (case.kind, case.name)
    return [row for row in rows_of(path) if (row["kind"], row["name"]) == names]


def classifier_values(case: Case) -> list[list[str]]:
    """The lines of a case of training: without neighbours, and with."""
    of_case = measured(CLASSIFIERS, case)
    lines = []
    if case.kind == "strategy" and case.method != STRATEGIES[0]:
        of_case = [row for row in of_case if row["retrieval"] != "none"]  # it stands with the first
    for retrieval in dict.fromkeys(row["retrieval"] for row in of_case):
        rows = [row for row in of_case if row["retrieval"] == retrieval]
        scores = ("top1_noise_0", "top1_noise_0.1", "top1_noise_0.2", "top3")
        values = [percent([row[score] for row in rows]) for score in scores]
        lines.append([retrieval, *values, f"{int(rows[0]['parameters']):,}"])
    return lines


if __name__ == "__main__":
    main()
