"""Typed, frozen parameters, read once from params.yaml.

Import rule: nothing of ours but `errors` and `text`. Names of methods (backbones,
objectives, ...) are checked against their tables in `pipeline.checks`, so that
adding a method never means editing this file.

    >>> params = load(Path("params.yaml"))
    >>> params.retrieval.k
    32
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

from rapipe.config.names import DISTILLED, ClassifierName, parse_name
from rapipe.config.variants import variants
from rapipe.errors import UserError, unreadable
from rapipe.io.text import quoted


@dataclass(frozen=True)
class Range:
    """Closed range of a number; `above` makes the lower end open, `step` asks for multiples."""

    low: float
    high: float
    above: bool = False
    step: int = 0

    def __contains__(self, value: float) -> bool:
        inside = (self.low < value if self.above else self.low <= value) and value <= self.high
        return inside and not (self.step and value % self.step)

    def __str__(self) -> str:
        multiple = f"a multiple of {self.step} " if self.step else ""
        low = f"more than {self.low:g}, up to" if self.above else f"from {self.low:g} to"
        return f"{multiple}{low} {self.high:g}"


@dataclass(frozen=True)
class AtLeast:
    """A number from `low` on; `most` is only there to refuse what nobody can mean."""

    low: int
    most: int

    def __contains__(self, value: int) -> bool:
        return self.low <= value <= self.most

    def __str__(self) -> str:
        return f"at least {self.low}, and at most {self.most:,}"


@dataclass(frozen=True)
class ZeroOr:
    """0, which turns something off, or a closed range of what works."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return value == 0 or self.low <= value <= self.high

    def __str__(self) -> str:
        return f"0, or from {self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Choices:
    """The values a string may take."""

    names: tuple[str, ...]

    def __contains__(self, value: str) -> bool:
        return value in self.names

    def __str__(self) -> str:
        return "one of " + ", ".join(self.names)


MANY = 10**9
"""More than there is of anything: where a number is only a limit."""
LISTED = 100
"""Most entries of a list."""
Epochs = Annotated[int, AtLeast(1, 100_000)]
BatchSize = Annotated[int, AtLeast(2, 1_000_000)]
Neighbours = Annotated[int, AtLeast(1, 1000)]
Layer = Annotated[int, AtLeast(1, 65_536)]
Limit = Annotated[int, AtLeast(1, MANY)]
LimitOrNone = Annotated[int, AtLeast(0, MANY)]
Temperature = Annotated[float, ZeroOr(0.001, 100)]
MOST_WEIGHTS = 2**28
"""Of the layers in `pretrain.head`: 1 GiB."""
LONGEST_NAME = 200
"""Bytes of a variant's name, of which files are called; they may have 255 with what is added."""
Seed = Annotated[int, Range(0, 2**32 - 1)]
Rate = Annotated[float, Range(0, 1, above=True)]
Fraction = Annotated[float, Range(0, 0.9, above=True)]
Probability = Annotated[float, Range(0, 1)]
NoiseStd = Annotated[float, Range(0, 1, above=True)]
ImageSize = Annotated[int, Range(8, 512)]
Width = Annotated[int, Range(4, 512, step=4)]
Stem = Annotated[str, Choices(("cifar", "half", "imagenet"))]


@dataclass(frozen=True)
class SourceParams:
    """One place that images come from; see `rapipe.corpus.sources` for the kinds."""

    kind: str
    path: str = ""
    """File or folder; public data sets live in `data/raw/KIND` unless given."""
    name: str = ""
    """What `retrieval.bank` calls this source; its kind unless given."""
    label: str = ""
    """Which of several labels: an attribute of CelebA, `coarse` for CIFAR-100, a column."""
    role: Annotated[str, Choices(("task", "memory"))] = "task"
    """`task`: learned and tested; `memory`: unlabelled, looked up, never a query."""
    limit: int | float = 1.0
    """Training images to keep: a number, or a share up to 1.0."""
    weight: Annotated[float, Range(0, 100)] = 1.0
    """How often pretraining sees each image in an epoch; 0 leaves the source out of it."""

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self.kind)
        if why := unreadable(self.name):
            raise UserError(f"corpus.sources: the name {quoted(self.name)} {why}")
        for letter in "+/\\":
            if letter in self.name:
                raise UserError(
                    f"corpus.sources: the name {quoted(self.name)} may not contain {letter!r}"
                )
        share = isinstance(self.limit, float)
        if not 0 < self.limit <= (1 if share else MANY):
            raise UserError(
                f"corpus.sources: the limit of {self.name} is {quoted(self.limit)}; it must be a "
                "number of images of at least 1, or a share of more than 0, up to 1.0"
            )


@dataclass(frozen=True)
class CorpusParams:
    sources: tuple[SourceParams, ...]
    image_size: ImageSize
    """Side of the square images in pixels."""
    resize: Annotated[str, Choices(("crop", "squash", "pad"))]
    """What becomes of images that are not square."""
    background: Annotated[str, Choices(("white", "grey", "black"))]
    """Behind transparent images, and beside padded ones."""
    max_pixels: Annotated[int, Range(1, 178_956_970)]
    """Width times height above which an image is not decoded."""
    on_error: Annotated[str, Choices(("stop", "skip"))]
    """Stop at what cannot be used, or leave it out and list it in the corpus card."""
    merge_classes: bool
    """Equal class names of several task sources are one class."""
    download: bool
    """Fetch public data sets that are missing."""
    validation_fraction: Fraction
    """Share of train held out for validation where a source has no such split."""
    test_fraction: Fraction
    """Share of train held out first, for test, where a source has no such split."""

    def __post_init__(self) -> None:
        names = [source.name for source in self.sources]
        twice = {name for name in names if names.count(name) > 1}
        if not names:
            raise UserError("corpus.sources is empty: name at least one source")
        if twice:
            raise UserError(
                f"corpus.sources: the name {quoted(min(twice))} stands twice; give each source a "
                "`name`"
            )
        if not any(source.weight for source in self.sources):
            raise UserError("corpus.sources: every weight is 0, so there is nothing to pretrain on")


@dataclass(frozen=True)
class PretrainParams:
    objective: str
    encoder: str
    width: Width
    """Channels of the first stage; 64 is the full-size network."""
    stem: Stem
    views: str
    head: tuple[Layer, ...]
    """Widths of the projection head's layers, the last its output; empty = the objective's own."""
    temperature: Temperature
    """Of NT-Xent, for simclr and moco; 0 = the objective's own."""
    optimiser: str
    epochs: Epochs
    batch_size: BatchSize
    learning_rate: Annotated[float, Range(0, 100, above=True)]

    def __post_init__(self) -> None:
        weights = sum(a * b for a, b in pairwise(self.head))
        if weights > MOST_WEIGHTS:
            raise UserError(
                f"pretrain.head is {quoted(list(self.head))}, layers of {weights:,} weights; they "
                f"may have {MOST_WEIGHTS:,}"
            )


@dataclass(frozen=True)
class RetrievalParams:
    strategies: tuple[str, ...]
    k: Neighbours
    diversity: Probability
    """Of `diverse`: weight of the unlikeness among neighbours against the likeness to the query."""
    replay: Limit
    """Of `replay`: rows of its first-in-first-out memory."""
    bank: int | str
    """`all`, a number of images, or names of sources joined by `+`."""
    backend: Annotated[str, Choices(("torch", "faiss", "lance", "auto"))]
    """Who searches; `auto` is exact as long as that is the fastest."""
    index: str
    """`exact`; for faiss also a factory string; for lance IVF_FLAT or IVF_RQ."""
    min_recall: Rate
    """Share of the true neighbours that an index must find."""
    attend: Annotated[str, Choices(("embedding", "label", "both"))]
    places: Annotated[str, Choices(("all", "last"))]
    """Of the backbone, where neighbours enter."""
    gate: bool
    """Attention may go to no neighbour at all."""
    dropout: Probability
    """Share of training images that lose all their neighbours, each step anew."""
    prune: Probability
    """Share of the memory that `eval` leaves out once: the rows that harm validation most."""

    def __post_init__(self) -> None:
        if "none" in self.strategies:
            raise UserError(
                "retrieval.strategies: 'none' is always run as the baseline; leave it out"
            )
        if "replay" in self.strategies and self.replay < self.k:
            raise UserError(
                f"retrieval.replay is {self.replay}, but retrieval.k is {self.k}: the memory of "
                "'replay' must hold at least as many images as are looked up"
            )
        if isinstance(self.bank, int) and not 1 <= self.bank <= MANY:
            raise UserError(
                f"retrieval.bank is {quoted(self.bank)}; choose all, a number of images of at least "
                "1, or names of sources joined by +"
            )
        if isinstance(self.bank, int) and self.k > self.bank:
            raise UserError(
                f"retrieval.k is {self.k}, but retrieval.bank is {self.bank}: the memory must hold "
                "at least as many images as are looked up"
            )


def _named(key: str, text: str) -> ClassifierName:
    try:
        return parse_name(text)
    except UserError as error:
        raise UserError(f"{key}: {error}") from None


@dataclass(frozen=True)
class TrainParams:
    backbones: tuple[str, ...]
    """Classifiers to train; `Entry` has the grammar."""
    init: str
    """What `NAME+elsewhere` starts from: a checkpoint, or `hub:NAME`."""
    label_fraction: Rate
    """Share of the training images of each class whose labels are known."""
    distill: str
    """The teacher of `NAME+distilled`, written as in `backbones`."""
    distill_temperature: Annotated[float, Range(0.001, 100)]
    noise_std: NoiseStd
    """Standard deviation of the noise on half of the training images of `NAME+noise`."""
    seeds: tuple[Seed, ...]
    width: Width
    stem: Stem
    augment: str
    mixup: Annotated[float, ZeroOr(0.001, 100)]
    """Alpha of the Beta distribution that images are mixed by; 0 = not at all."""
    label_smoothing: Annotated[float, Range(0, 0.9)]
    epochs: Epochs
    batch_size: BatchSize
    accumulate: Limit
    """Batches whose gradients are added up before a step."""
    learning_rate: Rate
    schedule: str
    warmup: Probability
    """Share of the steps in which the learning rate rises."""
    weight_decay: Annotated[float, Range(0, 1)]
    clip: Annotated[float, ZeroOr(1e-6, 1e6)]
    """Largest norm of the gradient; 0 = any."""
    average: str
    """Of the weights over the steps."""
    patience: LimitOrNone
    """Epochs without a better validation accuracy after which training stops; 0 = never."""
    tune: tuple[str, ...]
    """What is looked for before the training."""
    loggers: tuple[str, ...]
    """Who records the curves, beside `history.csv`."""
    measure_every: Limit
    """Epochs between two measurements, and two checkpoints; only measured ones can be the best.
    The last always is measured."""
    probe_every: LimitOrNone
    """Steps between two measurements in the first two epochs; 0 measures after epochs only."""
    precision: Annotated[str, Choices(("auto", "bf16", "fp32"))]
    """Of pretraining too; `auto` is bf16 where that is faster."""
    compile: bool
    """Let torch compile the networks, of pretraining too."""

    def __post_init__(self) -> None:
        entries = [_named(f"train.backbones[{i}]", own) for i, own in enumerate(self.backbones)]
        starts = {own.start for own in entries}
        if any(own.distilled for own in entries):
            if not self.distill:
                raise UserError(
                    f"train.backbones has {DISTILLED!r}, but train.distill names no teacher: "
                    "write it as in train.backbones, such as resnet18+corpus"
                )
            teacher = _named("train.distill", self.distill)
            if teacher.distilled:
                raise UserError(
                    f"train.distill is {quoted(self.distill)}; a teacher learns from labels, so "
                    f"leave +{DISTILLED} out"
                )
            starts.add(teacher.start)
        if "elsewhere" in starts and not self.init:
            raise UserError(
                "train.backbones has 'elsewhere', but train.init is empty: name a checkpoint file, "
                "or hub:NAME for one of timm's"
            )


@dataclass(frozen=True)
class EvaluateParams:
    noise_std: tuple[NoiseStd, ...]
    """Standard deviations of Gaussian noise on the scale where white is 1."""
    swap_std: tuple[Probability, ...]
    """Noise levels at which neighbours are swapped for others; 0 = clean."""
    poisoned: tuple[Probability, ...]
    """Shares of the memory whose contents are replaced, one after the other."""
    attributed: LimitOrNone
    """Validation images whose neighbours are left out one at a time."""


@dataclass(frozen=True)
class Params:
    seed: Seed
    corpus: CorpusParams
    pretrain: PretrainParams
    retrieval: RetrievalParams
    train: TrainParams
    evaluate: EvaluateParams

    def __post_init__(self) -> None:
        for key in (
            "retrieval.strategies",
            "train.backbones",
            "train.seeds",
            "evaluate.noise_std",
            "evaluate.swap_std",
            "evaluate.poisoned",
            "train.tune",
            "train.loggers",
        ):
            group, name = key.split(".")
            values = getattr(getattr(self, group), name)
            if len(set(values)) < len(values):
                raise UserError(f"{key} is {quoted(list(values))}: a value stands twice")
        for key in ("train.backbones", "train.seeds", "retrieval.strategies"):
            group, name = key.split(".")
            if not getattr(getattr(self, group), name):
                raise UserError(f"{key} is empty: name at least one")
        for std in self.evaluate.swap_std:
            if std not in (0, *self.evaluate.noise_std):
                raise UserError(
                    f"evaluate.swap_std has {std:g}, which is neither 0 nor in evaluate.noise_std: "
                    f"choose from 0, {', '.join(f'{own:g}' for own in self.evaluate.noise_std)}"
                )
        if self.pretrain.objective == "supervised" and self.train.label_fraction < 1:
            raise UserError(
                "pretrain.objective is 'supervised', which sees every label, but "
                f"train.label_fraction is {self.train.label_fraction:g}: choose another objective, "
                "or 1"
            )
        self._check_bank()
        for own in variants(self):
            size = len(f"{own.name}".encode())
            if size > LONGEST_NAME:
                raise UserError(
                    f"results of {quoted(own.name)} would have a name of {size} bytes, and files "
                    f"can be called by {LONGEST_NAME}: give the sources of retrieval.bank shorter "
                    "names"
                )

    def _check_bank(self) -> None:
        """Raise `UserError` unless `retrieval.bank` means one thing."""
        bank = self.retrieval.bank
        sources = {source.name for source in self.corpus.sources}
        if isinstance(bank, int):
            return
        if bank in sources and (bank == "all" or bank.isdecimal()):
            raise UserError(
                f"retrieval.bank is {quoted(bank)}, which is a source's name and means "
                f"{'all' if bank == 'all' else 'a number of'} images besides: give the source "
                "another name in corpus.sources"
            )
        for name in bank.split("+") if bank != "all" else ():
            if name not in sources:
                raise UserError(
                    f"retrieval.bank is {quoted(bank)}, but no source is named {quoted(name)}; "
                    "choose all, a number of images, or from "
                    f"{', '.join(sorted(sources)[:10])} joined by +"
                )
