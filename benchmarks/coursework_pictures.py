"""The pictures of the coursework, made anew on the digits: docs/coursework/.

    python -m benchmarks.coursework_pictures [--only NAME]

Each is what the page of a run shows, whose parameters are the default's with some of them changed;
`downstream` is `rapipe downstream` after each of three encoders has been pretrained.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from benchmarks.rows import WORK, content_of
from study.work import ROOT, Overrides, working_in

FOLDER = ROOT / "docs/coursework"
VIT: Overrides = {"pretrain.encoder": "timm:vit_tiny_patch16_224", "pretrain.stem": "half"}
SMALL: Overrides = {
    "retrieval.strategies": ["knn"],
    "classifiers.backbones": ["perceiver"],
    "train.epochs": 1,
    "evaluate.noise_std": [],
    "evaluate.swap_std": [],
    "evaluate.attributed": 0,
    "evaluate.maps": 0,
    "evaluate.corruptions": [],
}
"""For pictures of which classifiers are no part."""
NOT_PRETRAINED: Overrides = {"pretrain.objective": "none"}


@dataclass(frozen=True)
class Run:
    """A run of the pipeline.

    Args:
        sections: of its page whose pictures are kept.
    """

    overrides: Overrides
    sections: tuple[str, ...]


RUNS = {
    "attribution": Run(
        {
            **SMALL,
            "classifiers.backbones": ["resnet18"],
            "train.epochs": 6,
            "evaluate.maps": 6,
        },
        ("maps",),
    ),
    "learning-rate": Run(
        {**SMALL, **NOT_PRETRAINED, "train.tune": ["learning_rate"]},
        ("rates",),
    ),
    "dino": Run(
        {
            **SMALL,
            **VIT,
            "pretrain.objective": "dino",
            "pretrain.local_crops": 6,
            "pretrain.optimiser": "adamw",
            "pretrain.learning_rate": 0.0005,
            "pretrain.epochs": 12,
        },
        ("encoder-attention", "pretraining"),
    ),
    "mae": Run(
        {
            **SMALL,
            **VIT,
            "pretrain.objective": "mae",
            "pretrain.optimiser": "adamw",
            "pretrain.learning_rate": 0.001,
        },
        ("reconstructions",),
    ),
    "generated": Run(
        {
            **SMALL,
            **NOT_PRETRAINED,
            "corpus.sources": [
                {"kind": "digits"},
                {"kind": "generated", "role": "both", "weight": 0.0},
            ],
            "generate.images": 20,
            "generate.width": 16,
            "generate.epochs": 15,
        },
        ("generated", "reverse"),
    ),
}
ENCODERS = ("resnet18", "resnet34", "resnet50")
DOWNSTREAM: Overrides = {
    "pretrain.objective": "simclr",
    "pretrain.epochs": 12,
    "pretrain.keep_every": 2,
    "classifiers.seeds": [0, 1, 2],
    "train.label_fraction": 0.1,
    "train.epochs": 20,
    "train.measure_every": 20,
    "train.probe_every": 0,
}
"""SimCLR of three models; classifiers are fine-tuned on a tenth of the labels."""


def main() -> None:
    """Make the pictures that are not there."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=[*RUNS, "downstream"], help="these alone")
    only = parser.parse_args().only
    for name, run in RUNS.items():
        if only in (None, name) and not all(map(Path.exists, pictures(name, run).values())):
            make(name, run)
    if only in (None, "downstream"):
        draw_downstream()


def pictures(name: str, run: Run) -> dict[str, Path]:
    """The file of each section's picture."""
    return {section: FOLDER / f"{name}-{section}.png" for section in run.sections}


def make(name: str, run: Run) -> None:
    """Run the pipeline, and copy what its page shows."""
    from rapipe import paths
    from rapipe.config.loading import parse
    from rapipe.pipeline.running.whole import run_all

    content = content_of(run.overrides)
    with working_in(WORK / "coursework" / f"pictures-{name}", content):
        run_all(parse(content))
        FOLDER.mkdir(exist_ok=True)
        for section, file in pictures(name, run).items():
            file.write_bytes((paths.FIGURES / f"{section}.png").read_bytes())


def draw_downstream() -> None:
    """Accuracy of classifiers from each encoder against its epochs of pretraining."""
    from rapipe.config.loading import parse
    from rapipe.pipeline import corpus, downstream, pretrain

    for encoder in ENCODERS:
        content = content_of({**DOWNSTREAM, "pretrain.encoder": encoder})
        with working_in(WORK / "coursework/pictures-downstream", content):
            params = parse(content)
            corpus.run(params)
            pretrain.run(params)
            downstream.run(params, fine_tune=True)
            FOLDER.mkdir(exist_ok=True)
            (FOLDER / "downstream.png").write_bytes(downstream.FIGURE.read_bytes())


if __name__ == "__main__":
    main()
