"""Every method that params.yaml can name: what it does, and where it comes from.

What is said of a method stands in its own docstring: the first paragraph, and the
paragraph that begins with `Source:`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rapipe.batches.transforms import VIEWS
from rapipe.classifier.fusions import FUSIONS
from rapipe.classifier.heads import HEADS
from rapipe.device import deterministic
from rapipe.encoder.backbones import BACKBONES, FAMILIES
from rapipe.errors import UserError
from rapipe.evaluation.corruptions import CORRUPTIONS
from rapipe.evaluation.measures.attribution_maps.methods import METHODS as MAPS
from rapipe.generation import GENERATORS
from rapipe.pretraining.objectives import OBJECTIVES
from rapipe.pretraining.optimisers import OPTIMISERS
from rapipe.retrieval.strategies import STRATEGIES
from rapipe.training.averaging import AVERAGES
from rapipe.training.callbacks import EarlyStop
from rapipe.training.loggers import LOGGERS
from rapipe.training.loop import accumulation, clipping
from rapipe.training.mixing import label_smoothing, mixup
from rapipe.training.schedules import SCHEDULES, warmup
from rapipe.training.tuner import TUNERS

WORDS = {
    "scratch": (
        "A backbone without a word behind its name starts with random weights.",
        'He et al., "Delving Deep into Rectifiers", ICCV 2015, for the convolutions.',
    ),
    "+pretrained": (
        "Starts from the same backbone pretrained on the corpus by the parameters of pretrain.",
        'Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", '
        "ICML 2020.",
    ),
    "+checkpoint": (
        "Starts from classifiers.init: a checkpoint of lightly, solo-learn, torchvision, timm or "
        "rapipe, or hub:NAME.",
        'Kornblith, Shlens, Le, "Do Better ImageNet Models Transfer Better?", CVPR 2019.',
    ),
    "+frozen": (
        "The backbone keeps the weights it starts with; its head and its fusion learn.",
        'Zhang, Isola, Efros, "Colorful Image Colorization", ECCV 2016 (linear evaluation).',
    ),
    "+distilled": (
        "Learns what the teacher of classifiers.distill says of all images, labelled or not.",
        'Chen et al., "Big Self-Supervised Models are Strong Semi-Supervised Learners", '
        "NeurIPS 2020.",
    ),
    "+noise": (
        "Trained on noisy images too: half of each batch, at classifiers.noise_std.",
        'Rusak et al., "A simple way to make neural networks robust against diverse image '
        'corruptions", ECCV 2020.',
    ),
}
"""What may stand behind the name of a backbone, but for heads."""

SETTINGS = {
    "retrieval.dropout": (
        "Hides all neighbours from some training images at each step, so that none leans on them.",
        'Srivastava et al., "Dropout", JMLR 2014; of whole neighbourhoods: this project.',
    ),
    "train.label_fraction": (
        "Withholds labels, the same share of each class; the images stay in the memory.",
        'Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", '
        "ICML 2020.",
    ),
}
"""What is no choice among names."""

TRICKS: dict[str, Callable[..., Any]] = {
    "accumulate": accumulation,
    "clip": clipping,
    "patience": EarlyStop,
    "warmup": warmup,
    "label_smoothing": label_smoothing,
    "mixup": mixup,
    "deterministic": deterministic,
}
"""Those that are no choice among names, by their key in `params.yaml`; the others have tables."""

TABLES: tuple[tuple[str, str, Mapping[str, Any]], ...] = (
    ("generator", "generate.method", GENERATORS),
    ("objective", "pretrain.objective", OBJECTIVES),
    ("optimiser", "pretrain.optimiser", OPTIMISERS),
    ("views", "pretrain.views, train.augment", VIEWS),
    ("backbone", "pretrain.encoder, classifiers.backbones", BACKBONES),
    (
        "backbone",
        "pretrain.encoder, classifiers.backbones",
        {f"{k}:NAME": v for k, v in FAMILIES.items()},
    ),
    ("head", "classifiers.backbones", HEADS),
    ("start", "classifiers.backbones", WORDS),
    ("fusion", "retrieval.fusion", FUSIONS),
    ("strategy", "retrieval.strategies", STRATEGIES),
    ("corruption", "evaluate.corruptions", CORRUPTIONS),
    ("schedule", "train.schedule", SCHEDULES),
    ("average", "train.average", AVERAGES),
    ("tuned", "train.tune", TUNERS),
    ("trick", "train", TRICKS),
    ("setting", "", SETTINGS),
    ("logger", "train.loggers", LOGGERS),
    ("map", "rapipe attribute --method", MAPS),
)
SOURCES: dict[str, str] = {
    "corruption": 'Hendrycks, Dietterich, "Benchmarking Neural Network Robustness to Common '
    'Corruptions and Perturbations", ICLR 2019.',
}
"""Of all methods of a kind."""
KINDS = tuple(dict.fromkeys(kind for kind, _, _ in TABLES))


def rows(kind: str = "") -> list[dict[str, str]]:
    """A row a method: kind, name, parameter, about, source.

    Args:
        kind: only this kind; all if empty.

    Raises:
        UserError: there is no such kind.
    """
    if kind and kind not in KINDS:
        raise UserError(f"there is no kind {kind!r} of methods; choose from {', '.join(KINDS)}")
    return [row for row in _rows() if kind in ("", row["kind"])]


def _rows() -> Iterator[dict[str, str]]:
    for kind, parameter, table in TABLES:
        for name, method in table.items():
            about, source = method if isinstance(method, tuple) else documented(method)
            key = {"trick": f"{parameter}.{name}", "setting": name}.get(kind, parameter)
            yield {
                "kind": kind,
                "name": name,
                "parameter": key,
                "about": about,
                "source": SOURCES.get(kind) or source,
            }


def documented(method: object) -> tuple[str, str]:
    """The first paragraph of a docstring, and what stands behind `Source:` in it."""
    paragraphs = (inspect.getdoc(method) or "").split("\n\n")
    sources = [part for part in paragraphs if part.startswith("Source:")]
    about, source = paragraphs[0], sources[0].removeprefix("Source:") if sources else ""
    return " ".join(about.split()), " ".join(source.split())
