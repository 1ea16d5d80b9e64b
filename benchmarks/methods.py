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
import csv
import json
import statistics
from collections.abc import Iterator
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import machine

WORK = Path("data/methods")
ROOT = Path(__file__).parent.parent
FOUND = ROOT / "results/methods"
ENCODERS, CLASSIFIERS = FOUND / "encoders.csv", FOUND / "classifiers.csv"
CIFAR = {
    "corpus.validation_fraction": 0.2,
    "pretrain.views": "crop",
}
"""What photographs need, beside their source."""
EPOCHS = 10
"""Of pretraining."""
VIT = "timm:vit_tiny_patch16_224"
OFF = {"evaluate.attributed": 0, "evaluate.swap_std": [], "train.probe_every": 0}
"""What the tables do not show."""
DOCS = ROOT / "docs/methods.md"
BEGIN, END = "<!-- tables -->", "<!-- end of tables -->"
Row = dict[str, Any]
Sets = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A method, and the parameters that differ from the default's."""

    kind: str
    method: str
    """Its name in `rapipe methods`."""
    sets: Sets
    shown: str = ""
    """What tables call it, where that is not the method's name."""
    strategies: tuple[str, ...] = ("knn",)
    """What classifiers look up, beside nothing."""

    @property
    def name(self) -> str:
        """What tables call it."""
        return self.shown or self.method

    @property
    def command(self) -> str:
        """How to run it in the pipeline."""
        shown = {**self.sets, "retrieval.strategies": list(self.strategies)}
        if self.kind in ENCODER_KINDS:
            del shown["retrieval.strategies"]
        texts = {k: json.dumps(v).replace('"', "") for k, v in shown.items()}
        return " ".join(f"-S '{key}={text}'" for key, text in texts.items())


def encoder(kind: str, method: str, rate: float, **more: Any) -> Case:
    """A case of pretraining."""
    own = {f"pretrain.{key}": value for key, value in {**more, "epochs": EPOCHS}.items()}
    told = [str(more[key]) for key in ("encoder", "head") if key in more]
    shown = f"{method}, {', '.join(told)}" if told else ""
    return Case(kind, method, {**own, "pretrain.learning_rate": rate}, shown)


def classifier(
    kind: str, method: str, backbone: str = "alexnet", shown: str = "", **more: Any
) -> Case:
    """A case of training one entry of `train.backbones`."""
    own = {f"train.{key}": value for key, value in more.items()}
    return Case(kind, method, {"train.backbones": [backbone], **own}, shown)


ENCODER_KINDS = ("objective", "optimiser")
WHOLE = (
    "resnet18",
    "resnet34",
    "resnet50",
    "alexnet",
    "perceiver",
    "perceiver_m",
    "perceiver_l",
    "perceiver_xl",
    "perceiver_io",
)
OF_TIMM = (VIT, "timm:convnext_atto")
LARGE = ("timm:mixer_s32_224", "timm:swin_tiny_patch4_window7_224")
"""Of timm too; they come last, since each takes as long as ten others."""
FROZEN = "resnet18+corpus+frozen"
FEW: Sets = {"label_fraction": 0.1, "epochs": 20}
STRATEGIES = ("sampled", "knn", "class-balanced", "diverse", "hard", "replay")
PERCEIVER: Sets = {"train.backbones": ["perceiver"]}
CASES = (
    encoder("objective", "byol", 0.2, objective="byol"),
    encoder("objective", "simclr", 0.2, objective="simclr"),
    encoder("objective", "moco", 0.2, objective="moco"),
    encoder("objective", "simsiam", 0.2, objective="simsiam"),
    encoder("objective", "barlow-twins", 0.2, objective="barlow-twins"),
    encoder("objective", "barlow-twins", 0.2, objective="barlow-twins", head=[512, 128]),
    encoder("objective", "vicreg", 0.05, objective="vicreg"),
    encoder("objective", "dino", 0.05, objective="dino"),
    encoder("objective", "supervised", 0.05, objective="supervised"),
    encoder("objective", "mae", 0.001, objective="mae", encoder=VIT, optimiser="adamw"),
    encoder("optimiser", "sgd", 0.2, optimiser="sgd"),
    encoder("optimiser", "adamw", 0.001, optimiser="adamw"),
    encoder("optimiser", "lars", 2.0, optimiser="lars"),
    *(classifier("backbone", name, name) for name in WHOLE),
    *(classifier("backbone", "timm:NAME", name, name) for name in OF_TIMM),
    classifier("head", "linear", FROZEN),
    classifier("head", "attention", f"{FROZEN}+attention"),
    classifier("head", "graph", f"{FROZEN}+graph"),
    classifier("head", "attention", "resnet18+attention", "attention, not frozen"),
    classifier("head", "graph", "resnet18+graph", "graph, not frozen"),
    classifier("start", "scratch", "resnet18"),
    classifier("start", "+corpus", "resnet18+corpus"),
    classifier("start", "+frozen", "resnet18+frozen", "+frozen (random)"),
    classifier("start", "+frozen", FROZEN, "+corpus+frozen"),
    classifier("start", "+noise", "resnet18+noise"),
    classifier("start", "scratch", "resnet18", "scratch, 10 % of the labels", **FEW),
    classifier("start", "+corpus", "resnet18+corpus", "+corpus, 10 % of the labels", **FEW),
    classifier(
        "start", "+frozen", "resnet18+frozen", "+frozen (random), 10 % of the labels", **FEW
    ),
    classifier("start", "+frozen", FROZEN, "+corpus+frozen, 10 % of the labels", **FEW),
    classifier(
        "start",
        "+distilled",
        "resnet18+distilled",
        "+distilled, 10 % of the labels",
        distill="resnet18+corpus",
        **FEW,
    ),
    *(Case("strategy", name, PERCEIVER, "", (name,)) for name in STRATEGIES),
    *(
        classifier("views", name, augment=name)
        for name in ("none", "affine", "crop", "noisy-crop", "shift", "flip", "randaugment")
    ),
    *(
        classifier("schedule", name, schedule=name)
        for name in ("cosine", "linear", "constant", "step")
    ),
    *(classifier("average", name, average=name) for name in ("none", "ema", "swa")),
    Case("setting", "retrieval.dropout", {**PERCEIVER, "retrieval.dropout": 0.0}, "0"),
    Case("setting", "retrieval.dropout", {**PERCEIVER, "retrieval.dropout": 0.5}, "0.5"),
    *(
        Case(
            "setting",
            "train.label_fraction",
            {**PERCEIVER, "train.label_fraction": share},
            f"{share:g}",
        )
        for share in (0.01, 0.1, 1.0)
    ),
    classifier("tuned", "learning_rate", tune=["learning_rate"]),
    classifier("tuned", "batch_size", tune=["batch_size"]),
    classifier("trick", "accumulate", accumulate=2),
    classifier("trick", "clip", clip=1.0),
    classifier("trick", "patience", patience=1),
    classifier("trick", "warmup", warmup=0.1),
    classifier("trick", "label_smoothing", label_smoothing=0.1),
    classifier("trick", "mixup", mixup=0.2),
    *(classifier("backbone", "timm:NAME", name, name) for name in LARGE),
)


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
        found = {"encoders": rows_of(ENCODERS), "classifiers": rows_of(CLASSIFIERS)}
        print(json.dumps({"machine": machine("torch", "lightly", "timm"), **found}, indent=2))
    else:
        print("\n".join(tables()))
    DOCS.write_text(with_tables(DOCS.read_text()))


def params_of(sets: Sets) -> Any:
    """The default's parameters with these in the place of its own."""
    from ruamel.yaml import YAML

    from rapipe.config import presets
    from rapipe.config.loading import parse

    path = Path("params.yaml")
    presets.write(presets.DEFAULT, path)
    content = YAML(typ="safe").load(path.read_text())
    for key, value in sets.items():
        group, name = key.split(".")
        content[group][name] = value
    return parse(content)


def pretrained(case: Case, photographs: str) -> None:
    """Pretrain an encoder on each set of images."""
    sets: dict[str, Sets] = {"digits": {}}
    if photographs:
        source = {"kind": "parquet", "path": str(Path(photographs).absolute()), "limit": 0.1}
        sets["cifar10"] = {**CIFAR, "corpus.sources": [source]}
    for images, own in sets.items():
        key = {"kind": case.kind, "name": case.name, "images": images}
        if done(ENCODERS, key):
            continue
        with inside(WORK / f"{images}-encoders"):
            from rapipe.pipeline import corpus, pretrain

            params = params_of({**own, **case.sets})
            corpus.run(params)
            pretrain.run(params)
            found = json.loads(Path("results/pretraining/scores.json").read_text())
        names = ("knn_top1", "linear_top1", "random_init_knn_top1", "raw_pixels_knn_top1")
        scores = {name: round(found[name], 4) for name in names}
        add(ENCODERS, {**key, **scores, "command": case.command})


def classified(case: Case, seed: int) -> None:
    """Train and test the classifiers of a case, one without neighbours and the others with."""
    from rapipe.config.variants import variants

    with inside(WORK / "digits"):
        params = params_of(
            {
                **OFF,
                **case.sets,
                "train.seeds": [seed],
                "retrieval.strategies": list(case.strategies),
            }
        )
        own = {"kind": case.kind, "name": case.name, "seed": seed}
        todo = [
            v for v in variants(params) if not done(CLASSIFIERS, {**own, "retrieval": v.retrieval})
        ]
        if todo:
            prepare(params)
        for variant in todo:
            from rapipe.pipeline import evaluate, train

            train.run(params, variant)
            evaluate.run(params, variant)
            found = json.loads(Path(f"results/runs/{variant.name}.json").read_text())
            by_noise = {row["noise_std"]: row for row in found["rows"]}
            row = {**own, "retrieval": variant.retrieval, "parameters": found["parameters"]}
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


def inside(folder: Path) -> Any:
    """Work in this folder."""
    folder.mkdir(parents=True, exist_ok=True)
    return chdir(folder)


def rows_of(path: Path) -> list[Row]:
    """The rows of a table; none if it is not there."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def done(path: Path, key: Row) -> bool:
    """Whether a table has a row with these values."""
    return any(all(row[k] == str(v) for k, v in key.items()) for row in rows_of(path))


def add(path: Path, row: Row) -> None:
    """Add a row to a table."""
    rows = [*rows_of(path), row]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(row), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def with_tables(text: str) -> str:
    """The page with the present tables in the place of its own."""
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return "\n".join((head + BEGIN, *tables(), "", END + tail))


def tables() -> Iterator[str]:
    """A table a kind of method, in Markdown: its source, what was measured, how to run it."""
    from rapipe import methods

    for kind in methods.KINDS:
        known = {row["name"]: row for row in methods.rows(kind)}
        columns = ENCODER_COLUMNS if kind in ENCODER_KINDS else COLUMNS
        yield f"\n### {kind.capitalize()}\n"
        parameters = dict.fromkeys(row["parameter"] for row in known.values())
        yield f"{', '.join(f'`{own}`' for own in parameters)}\n"
        yield "| | " + " | ".join(columns) + " | source | options |"
        yield "|---" * (len(columns) + 3) + "|"
        for name, row in known.items():
            yield from lines_of(kind, name, row["source"], len(columns))


def lines_of(kind: str, name: str, source: str, columns: int) -> Iterator[str]:
    """The lines of a method; its source stands in the first, the options in a case's first."""
    cases = [case for case in CASES if (case.kind, case.method) == (kind, name)]
    for case in cases or [Case(kind, name, {})]:
        found = encoder_values(case) if kind in ENCODER_KINDS else classifier_values(case)
        shown = f"`{name}`" if case.name == name else f"`{name}`: {case.name}"
        command = f"`{case.command}`" if case.sets else ""
        for values in found or [[UNMEASURED.get(name, "&ndash;")] + [""] * (columns - 1)]:
            yield f"| {shown} | {' | '.join(values)} | {source} | {command} |"
            shown, source, command = "", "", ""


UNMEASURED = {
    "+elsewhere": "as `+corpus`, where the checkpoint is our own encoder",
    **dict.fromkeys(("csv", "tensorboard", "wandb", "wandb-offline"), "changes no result"),
}
"""What stands where there is nothing to measure."""
ENCODER_COLUMNS = ("digits kNN", "digits linear", "CIFAR-10 kNN", "CIFAR-10 linear")
COLUMNS = ("neighbours", "clean", "noise .1", "noise .2", "top-3", "parameters")


def encoder_values(case: Case) -> list[list[str]]:
    """The line of a case of pretraining."""
    own = {
        r["images"]: r
        for r in rows_of(ENCODERS)
        if (r["kind"], r["name"]) == (case.kind, case.name)
    }
    if not own:
        return []
    scores = [
        percent([own[images][score]]) if images in own else ""
        for images in ("digits", "cifar10")
        for score in ("knn_top1", "linear_top1")
    ]
    return [scores]


def classifier_values(case: Case) -> list[list[str]]:
    """The lines of a case of training: without neighbours, and with."""
    own = [r for r in rows_of(CLASSIFIERS) if (r["kind"], r["name"]) == (case.kind, case.name)]
    lines = []
    if case.kind == "strategy" and case.method != STRATEGIES[0]:
        own = [row for row in own if row["retrieval"] != "none"]  # it stands with the first
    for retrieval in dict.fromkeys(row["retrieval"] for row in own):
        rows = [row for row in own if row["retrieval"] == retrieval]
        scores = ("top1_noise_0", "top1_noise_0.1", "top1_noise_0.2", "top3")
        values = [percent([row[score] for row in rows]) for score in scores]
        lines.append([retrieval, *values, f"{int(rows[0]['parameters']):,}"])
    return lines


def percent(values: list[Any]) -> str:
    """The mean in percent, and the lowest and highest if there are several."""
    numbers = [100 * float(value) for value in values]
    spread = f" ({min(numbers):.1f} to {max(numbers):.1f})" if len(numbers) > 1 else ""
    return f"{statistics.mean(numbers):.1f}{spread}"


if __name__ == "__main__":
    main()
