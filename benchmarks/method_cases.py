"""The cases of `benchmarks.methods`: every method once, with the parameters that it needs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from study.work import Overrides

EPOCHS = 10
"""Of pretraining."""
VIT = "timm:vit_tiny_patch16_224"


@dataclass(frozen=True)
class Case:
    """A method, and the parameters that differ from the default's."""

    kind: str
    method: str
    """Its name in `rapipe methods`."""
    overrides: Overrides
    title: str = ""
    """What tables call it, where that is not the method's name."""
    strategies: tuple[str, ...] = ("knn",)
    """What classifiers look up, beside nothing."""

    @property
    def name(self) -> str:
        """What tables call it."""
        return self.title or self.method

    @property
    def command(self) -> str:
        """How to run it in the pipeline."""
        overrides = dict(self.overrides)
        if self.kind not in ENCODER_KINDS:
            overrides["retrieval.strategies"] = list(self.strategies)
        texts = {key: json.dumps(value).replace('"', "") for key, value in overrides.items()}
        return " ".join(f"-S '{key}={text}'" for key, text in texts.items())


def encoder(kind: str, method: str, rate: float, **options: Any) -> Case:
    """A case of pretraining."""
    options = {**options, "epochs": EPOCHS, "learning_rate": rate}
    overrides = {f"pretrain.{key}": value for key, value in options.items()}
    details = [str(options[key]) for key in ("encoder", "head") if key in options]
    return Case(kind, method, overrides, ", ".join([method, *details]) if details else "")


def classifier(
    kind: str, method: str, backbone: str = "alexnet", title: str = "", **options: Any
) -> Case:
    """A case of training one entry of `classifiers.backbones`."""
    groups = {"distill": "classifiers"}
    overrides = {f"{groups.get(key, 'train')}.{key}": value for key, value in options.items()}
    return Case(kind, method, {"classifiers.backbones": [backbone], **overrides}, title)


ENCODER_KINDS = ("objective", "optimiser")
BACKBONES = (
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
FROZEN = "resnet18+pretrained+frozen"
FEW_LABELS: Overrides = {"label_fraction": 0.1, "epochs": 20}
STRATEGIES = (
    *("sampled", "knn", "class-balanced", "diverse", "hard", "replay", "self", "self+knn"),
    "prioritised-replay",
)
PERCEIVER: Overrides = {"classifiers.backbones": ["perceiver"]}
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
    *(classifier("backbone", name, name) for name in BACKBONES),
    *(classifier("backbone", "timm:NAME", name, name) for name in OF_TIMM),
    classifier("head", "linear", FROZEN),
    classifier("head", "attention", f"{FROZEN}+attention"),
    classifier("head", "graph", f"{FROZEN}+graph"),
    classifier("head", "attention", "resnet18+attention", "attention, not frozen"),
    classifier("head", "graph", "resnet18+graph", "graph, not frozen"),
    classifier("start", "scratch", "resnet18"),
    classifier("start", "+pretrained", "resnet18+pretrained"),
    classifier("start", "+frozen", "resnet18+frozen", "+frozen (random)"),
    classifier("start", "+frozen", FROZEN, "+pretrained+frozen"),
    classifier("start", "+noise", "resnet18+noise"),
    classifier("start", "scratch", "resnet18", "scratch, 10 % of the labels", **FEW_LABELS),
    classifier(
        "start",
        "+pretrained",
        "resnet18+pretrained",
        "+pretrained, 10 % of the labels",
        **FEW_LABELS,
    ),
    classifier(
        "start", "+frozen", "resnet18+frozen", "+frozen (random), 10 % of the labels", **FEW_LABELS
    ),
    classifier("start", "+frozen", FROZEN, "+pretrained+frozen, 10 % of the labels", **FEW_LABELS),
    classifier(
        "start",
        "+distilled",
        "resnet18+distilled",
        "+distilled, 10 % of the labels",
        distill="resnet18+pretrained",
        **FEW_LABELS,
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
