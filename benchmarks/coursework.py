"""The tables of the coursework that this project grew from, made anew: docs/coursework.md.

    python -m benchmarks.coursework --cifar10 FOLDER --tiny-imagenet FOLDER [--only TABLE]
    python -m benchmarks.coursework --only nothing

The folders hold train.parquet and test.parquet. Each table is a list of settings: the default's
parameters with some of them changed, and the classifiers to train with them, several seeds each.
Each classifier adds a row to `results/methods/coursework.csv`; what has one is not trained again.
Then the tables in docs/coursework.md are made anew, and the figures beside it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.common import machine
from benchmarks.rows import (
    RESULTS,
    WORK,
    Row,
    add,
    content_of,
    done,
    fewer_tested,
    percent,
    results_of,
    rows_of,
    with_tables,
)
from rapipe.config.loading import parse
from rapipe.config.schema import Params
from rapipe.config.variants import Variant, together, variants
from study.work import ROOT, Overrides, working_in

ROWS = RESULTS / "coursework.csv"
DOCS, FIGURES = ROOT / "docs/coursework.md", ROOT / "docs/coursework"
DIGITS, CIFAR10, TINY_IMAGENET = "the digits", "CIFAR-10", "Tiny ImageNet"
SEEDS = (0, 1, 2)
PLAIN = "none"
UNKNOWN = "&ndash;"
"""What the reports say nothing of, or has not been measured."""
QUIET: Overrides = {
    "classifiers.seeds": list(SEEDS),
    "evaluate.noise_std": [],
    "evaluate.swap_std": [],
    "evaluate.attributed": 0,
    "evaluate.maps": 0,
    "evaluate.corruptions": [],
    "train.probe_every": 0,
}
"""What no table shows."""
PHOTOGRAPHS: Overrides = {
    "corpus.validation_fraction": 0.1,
    "pretrain.objective": "none",
    "pretrain.encoder": "timm:tf_efficientnet_lite0",
    "pretrain.init": "package:efficientnet-lite0",
    "pretrain.image_size": 64,
    "pretrain.views": "crop",
    "retrieval.k": 50,
    "retrieval.fusion": "cross-attention",
    "retrieval.attend": "both",
    "retrieval.query_noise": 0.0,
    "train.augment": "flip",
}
"""Photographs have a memory by EfficientNet-Lite0."""
IMAGES = 5_000
"""Training images, of which a tenth is for validation."""
TRANSFORMERS = {
    "perceiver_m": 4,
    "perceiver_l": 2,
    "perceiver_xl": 1,
    "perceiver_io": 1,
    "timm:mixer_s16_224": 1,
    "timm:swin_tiny_patch4_window7_224": 1,
    "timm:tnt_s_patch16_224": 1,
}
"""Epochs in which each trains for half a minute to three minutes, by its images a second."""


@dataclass(frozen=True)
class Setting:
    """Classifiers with the same parameters."""

    overrides: Overrides
    backbones: tuple[str, ...]
    images: str = CIFAR10
    retrievals: tuple[str, ...] = (PLAIN, "knn")
    name: str = ""
    """What tells it from others of its table."""


@dataclass(frozen=True)
class Report:
    """A table of the coursework.

    Args:
        about: what it asks.
        theirs: test accuracy in percent by images, name of the setting, and classifier.
        top3: whether the table has it too.
        compared: keys whose values are drawn by `rapipe compare`.
    """

    about: str
    settings: tuple[Setting, ...]
    theirs: Mapping[tuple[str, str, str], str] = field(default_factory=dict)
    top3: bool = False
    compared: tuple[str, ...] = ()


def transformers() -> Report:
    """Perceivers and other transformers from scratch."""
    shared: Overrides = {
        "train.width": 64,
        "train.batch_size": 64,
        "train.warmup": 0.05,
        "train.measure_every": 6,  # the last epoch alone
        "train.precision": "fp32",  # on every machine, since rows have no column for it
        "retrieval.fusion": "trust",  # beside the network that has no neighbours, in its steps
        "retrieval.query_noise": 0.2,
    }
    # Accuracy after 100 epochs; STL-10 cannot be had here.
    theirs = {
        (CIFAR10, "perceiver_m"): "66.1",
        (CIFAR10, "perceiver_l"): "67.0",
        (CIFAR10, "perceiver_xl"): "67.7",
        (CIFAR10, "perceiver_io"): "56.2",
        (CIFAR10, "timm:mixer_s16_224"): "59",
        (TINY_IMAGENET, "perceiver_m"): "24",
        (TINY_IMAGENET, "perceiver_l"): "24",
        (TINY_IMAGENET, "perceiver_xl"): "24",
        (TINY_IMAGENET, "perceiver_io"): "12.0",
        (TINY_IMAGENET, "timm:mixer_s16_224"): "18",
    }
    return Report(
        "Perceivers of three sizes, Perceiver IO, MLP-Mixer, Swin and TNT from scratch.",
        tuple(
            Setting({**shared, "train.epochs": epochs}, (network,), images, name=_epochs(network))
            for images in (CIFAR10, TINY_IMAGENET)
            for network, epochs in TRANSFORMERS.items()
        ),
        {(images, _epochs(network), network): value for (images, network), value in theirs.items()},
    )


def _epochs(network: str) -> str:
    return f"{TRANSFORMERS[network]} epochs".replace("1 epochs", "1 epoch")


def swept(key: str, values: tuple[float, ...]) -> Report:
    """One parameter of the smallest Perceiver, as the report on transformers varied it."""
    return Report(
        f"The smallest Perceiver by `{key}`.",
        tuple(
            Setting(
                {"train.width": 64, "train.epochs": 6, key: value},
                ("perceiver_m",),
                retrievals=(PLAIN,),
                name=f"{value:g}",
            )
            for value in values
        ),
        compared=(key,),
    )


def simclr() -> Report:
    """SimCLR's 2 by 2 table at 10 % of the labels."""
    backbones = ("resnet18+frozen", "resnet18", "resnet18+pretrained+frozen", "resnet18+pretrained")
    theirs = ("15.6 / 34.4", "38.2 / 60.1", "71.3 / 93.6", "77.4 / 94.8")
    overrides: Overrides = {
        "pretrain.objective": "simclr",
        "pretrain.encoder": "resnet18",
        "pretrain.init": "",
        "pretrain.image_size": 0,
        "pretrain.head": [1024, 128],
        "pretrain.temperature": 0.5,
        "pretrain.optimiser": "adam",
        "pretrain.epochs": 50,
        "pretrain.batch_size": 256,
        "pretrain.learning_rate": 0.001,
        "train.label_fraction": 0.1,
        "train.epochs": 50,
        "train.measure_every": 10,
        "train.weight_decay": 0.00001,
    }
    return Report(
        "SimCLR at 10 % of the labels: frozen or fine-tuned, random or pretrained, top-1 / top-3.",
        (Setting(overrides, backbones),),
        {(CIFAR10, "", name): value for name, value in zip(backbones, theirs, strict=True)},
        top3=True,
    )


def graph() -> Report:
    """Graph attention: scratch, joint, frozen with graph attention, frozen with the classic one."""
    own: Overrides = {
        "pretrain.objective": "supervised",
        "pretrain.encoder": "resnet18",
        "pretrain.init": "",
        "pretrain.image_size": 0,
        "pretrain.epochs": 20,
        "pretrain.learning_rate": 0.05,
        "train.epochs": 5,
    }
    of_resnet = (
        "resnet18",
        "resnet18+graph",
        "resnet18+pretrained+frozen+graph",
        "resnet18+pretrained+frozen+attention",
    )
    of_lite0 = ("encoder+frozen+graph", "encoder+frozen+attention")
    theirs = ("92.6", "91.8", "93.5", "93.1")
    return Report(
        "Graph attention over a backbone's tokens: from scratch, joint, and on a frozen backbone.",
        (
            Setting({**own, "train.epochs": 20}, of_resnet[:2], name="pretrained here"),
            Setting(own, of_resnet[2:], name="pretrained here"),
            Setting({"train.epochs": 5}, of_lite0, name="EfficientNet-Lite0"),
        ),
        {
            (CIFAR10, "pretrained here", name): value
            for name, value in zip(of_resnet, theirs, strict=True)
        },
    )


def replay() -> Report:
    """Experience replay: which rows a memory keeps."""
    return Report(
        "Experience replay: a memory of 1,000 rows, first in first out, or kept by their loss.",
        (
            Setting(
                {"train.epochs": 6},
                ("resnet18", "perceiver"),
                retrievals=(PLAIN, "knn", "replay", "prioritised-replay"),
            ),
        ),
    )


REPORTS = {
    "transformers": transformers(),
    "learning-rate": swept("train.learning_rate", (0.0001, 0.0003, 0.001, 0.003)),
    "batch-size": swept("train.batch_size", (32, 64, 128, 256)),
    "simclr": simclr(),
    "graph": graph(),
    "replay": replay(),
}


def main() -> None:
    """Train what has no row yet, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=[*REPORTS, "nothing"], help="this table")
    parser.add_argument("--cifar10", default="", help="folder of CIFAR-10's Parquet files")
    parser.add_argument("--tiny-imagenet", default="", help="the same of Tiny ImageNet's")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    given = {CIFAR10: options.cifar10, TINY_IMAGENET: options.tiny_imagenet}
    folders = {images: fewer_tested(folder) if folder else "" for images, folder in given.items()}
    for name, report in REPORTS.items():
        if options.only in (None, name):
            for setting in report.settings:
                if setting.images == DIGITS or folders[setting.images]:
                    measure(name, setting, folders.get(setting.images, ""))
                    if report.compared and setting is report.settings[-1]:
                        draw(name, setting, folders.get(setting.images, ""))
    if options.json:
        print(json.dumps({"machine": machine("torch", "timm"), "rows": rows_of(ROWS)}, indent=2))
    else:
        print("\n".join(tables()))
    if DOCS.exists():
        for name in REPORTS:
            marks = f"<!-- {name} -->", f"<!-- end of {name} -->"
            DOCS.write_text(with_tables(DOCS.read_text(), *marks, table(name)))


def parameters(setting: Setting, folder: str) -> Overrides:
    """What differs from the default's parameters."""
    overrides = {**QUIET, "classifiers.backbones": list(setting.backbones)}
    overrides["retrieval.strategies"] = [name for name in setting.retrievals if name != PLAIN]
    if setting.images != DIGITS:
        path = str(Path(folder).absolute())
        source = {"kind": "parquet", "path": path, "limit": IMAGES}
        overrides |= {**PHOTOGRAPHS, "corpus.sources": [source]}
    return {**overrides, **setting.overrides}


def measure(report: str, setting: Setting, folder: str) -> None:
    """Train and test the classifiers of a setting that have no row."""
    content = content_of(parameters(setting, folder))
    key = {"report": report, "images": setting.images, "setting": setting.name}
    with working_in(folder_of(report, setting), content):
        params = parse(content)
        missing = [
            variant for variant in variants(params) if not done(ROWS, {**key, **parts(variant)})
        ]
        if missing:
            prepare(params)
        for group in together(params, missing):
            start = time.perf_counter()
            results = results_of(params, group)
            seconds = round(time.perf_counter() - start)  # of all that have one network
            for variant, result in zip(group, results, strict=True):
                clean = result["rows"][0]
                scores = {name: round(clean[name], 4) for name in ("top1", "top3")}
                numbers = {"parameters": result["parameters"], "seconds": seconds}
                add(ROWS, {**key, **parts(variant), **scores, **numbers})


def parts(variant: Variant) -> Row:
    """What tells a classifier from others of its setting."""
    return {name: getattr(variant, name) for name in ("backbone", "retrieval", "seed")}


def prepare(params: Params) -> None:
    """Everything up to the initial weights; the memory once for all settings of a folder."""
    from rapipe import paths
    from rapipe.pipeline import corpus, embed, generate, initialise, prefetch, pretrain

    if not paths.CORPUS_CARD.exists():
        for stage in (generate, corpus):
            stage.run(params)
    if params.retrieval.strategies:
        if not paths.STORE_MANIFEST.exists():
            for stage in (pretrain, embed):
                stage.run(params)
        prefetch.run(params)
    initialise.run(params)


def folder_of(report: str, setting: Setting) -> Path:
    """Where the stages run; settings with the same memory share it."""
    objective = setting.overrides.get("pretrain.objective", PHOTOGRAPHS["pretrain.objective"])
    return WORK / "coursework" / f"{report}-{setting.images}-{objective}".replace(" ", "-")


def draw(report: str, setting: Setting, folder: str) -> None:
    """The figures of `rapipe compare`, of all settings of a table."""
    from rapipe.pipeline import compare

    content = content_of(parameters(setting, folder))
    with working_in(folder_of(report, setting), content):
        compare.run(parse(content), REPORTS[report].compared, [], FIGURES)
    for name in ("ablations.md", "ablations.csv"):
        (FIGURES / name).unlink()


def tables() -> Iterator[str]:
    """Every table, in Markdown."""
    for name, report in REPORTS.items():
        yield f"\n{report.about}\n"
        yield from table(name)


def table(name: str) -> Iterator[str]:
    """Theirs, and ours by how it retrieves: means over seeds, lowest to highest."""
    report = REPORTS[name]
    rows = [row for row in rows_of(ROWS) if row["report"] == name]
    if not rows:
        yield f"\nNot measured yet: `python -m benchmarks.coursework --only {name}`."
        return
    retrievals = list(dict.fromkeys(row["retrieval"] for row in rows))
    heads = ["images", "setting", "classifier", "weights", "theirs", *retrievals]
    lines = []
    for key in dict.fromkeys((r["images"], r["setting"], r["backbone"]) for r in rows):
        group = [row for row in rows if (row["images"], row["setting"], row["backbone"]) == key]
        cells = [
            cell([row for row in group if row["retrieval"] == retrieval], report.top3)
            for retrieval in retrievals
        ]
        weights = f"{int(group[0]['parameters']) / 1e6:.2f} M"
        lines.append([*key, weights, report.theirs.get(key, UNKNOWN), *cells])
    if not any(line[1] for line in lines):
        heads.pop(1)
        lines = [[line[0], *line[2:]] for line in lines]
    yield ""
    yield f"| {' | '.join(heads)} |"
    yield "|---" * len(heads) + "|"
    yield from (f"| {' | '.join(line)} |" for line in lines)


def cell(rows: list[Row], top3: bool) -> str:
    """Accuracy in percent, when all seeds are there; and top-3 where theirs has it."""
    if len(rows) < len(SEEDS):
        return UNKNOWN
    values = [percent([row[name] for row in rows]) for name in ("top1", "top3")[: 1 + top3]]
    return " / ".join(values)


if __name__ == "__main__":
    main()
