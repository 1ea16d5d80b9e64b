"""What params.yaml holds: one typed, frozen model.

The docstring of a key is its comment in params.yaml and its description in params.schema.json
(`make schema` writes both). Names of methods (backbones, objectives, ...) are plain texts here:
`pipeline.running.check_names` compares them with their tables, so that a new method does not
mean editing this file.

    >>> params = load(Path("params.yaml"))
    >>> params.retrieval.k
    32
"""

from __future__ import annotations

from dataclasses import fields
from itertools import pairwise
from typing import Annotated, Literal, TypeVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from rapipe.config.names import CHECKPOINT, DISTILLED, SELF, ClassifierName
from rapipe.errors import UserError, unreadable
from rapipe.io.text import quoted
from rapipe.specs import (
    LISTED,
    MANY,
    NO_ENCODER,
    STRICT,
    Finite,
    FusionSpec,
    Limit,
    LimitOrNone,
    NoiseStd,
    PretrainingRecipe,
    Probability,
    Rate,
    Stem,
    TrainingRecipe,
    Width,
    ZeroOr,
    at_least,
)

NO_OBJECTIVE = "none"
"""The objective of an encoder that is taken as it is."""
IMPORTED = "imported"
"""The objective of a memory whose vectors come from a file."""
MOST_WEIGHTS = 2**28
"""Of the layers in `pretrain.head`: 1 GiB."""
Several = Field(max_length=LISTED)
Names = Annotated[tuple[str, ...], Several]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Side = Annotated[int, ZeroOr(8, 1024)]
HeldOut = Annotated[Finite, Field(gt=0, le=0.9)]
Spec = TypeVar("Spec", FusionSpec, PretrainingRecipe, TrainingRecipe)


def _spec(kind: type[Spec], group: object) -> Spec:
    """The part of a group that a library function takes."""
    return kind(**{field.name: getattr(group, field.name) for field in fields(kind)})


@dataclass(frozen=True, config=STRICT, kw_only=True)
class SourceParams:
    """One source of images; `rapipe.corpus.sources` has the kinds. Only `kind` is needed."""

    kind: str
    """digits | folder | parquet | idx | mnist | fashion-mnist | svhn | cifar10 | cifar100 | stl10 |
    tiny-imagenet | celeba"""
    path: str = ""
    """file or folder; public data sets lie in data/raw/KIND"""
    name: str = ""
    """what retrieval.bank calls it; its kind unless given"""
    label: str = ""
    """which of several labels: an attribute of CelebA, coarse for CIFAR-100, a column of Parquet"""
    image: str = ""
    """column of Parquet with the images; image or img unless given"""
    split: str = ""
    """column of Parquet that says train, validation or test; names of files unless given"""
    role: Literal["task", "memory"] = "task"
    """task (learned and tested) | memory (unlabelled, looked up, never a query)"""
    limit: int | float = 1.0
    """training images to use: a number of them, or a share up to 1.0"""
    weight: Annotated[Finite, Field(ge=0, le=100)] = 1.0
    """how often pretraining sees each image in an epoch; 0 = never"""

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


@dataclass(frozen=True, config=STRICT, kw_only=True)
class CorpusParams:
    """The images."""

    sources: Annotated[tuple[SourceParams, ...], Several]
    """each: kind, and if need be path, name, label, image, split, role, limit, weight
    (docs/sources.md)"""
    image_size: Annotated[int, Field(ge=8, le=512)]
    """side of the square images in pixels, 8 to 512"""
    resize: Literal["crop", "squash", "pad"]
    """images that are not square: crop (keep the centre) | squash | pad"""
    background: Literal["white", "grey", "black"]
    """behind transparent images and beside padded ones: white | grey | black"""
    max_pixels: Annotated[int, Field(ge=1, le=178_956_970)]
    """larger images (width times height) are not decoded"""
    depth: Annotated[int, Field(ge=8, le=16)]
    """bits of greyscale that is stored with more than 8: 16, or 10, 12, 14 as many cameras have"""
    on_error: Literal["stop", "skip"]
    """at an image that cannot be used: stop | skip (leave it out, list it in the card)"""
    merge_classes: bool
    """whether equal class names of several sources are one class, or a mistake"""
    on_conflict: Literal["keep", "drop", "stop"]
    """at equal images of two classes: keep (and say so) | drop (leave all copies out) | stop"""
    download: bool
    """whether to fetch public data sets that are not in data/raw"""
    validation_fraction: HeldOut
    """share of train held out where a source has no validation split"""
    test_fraction: HeldOut
    """share of train held out first where a source has no test split"""

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


@dataclass(frozen=True, config=STRICT, kw_only=True)
class PretrainParams(PretrainingRecipe):
    """The encoder, and how it is pretrained."""

    encoder: str
    """backbone that embeds: resnet18 | timm:NAME | hf:NAME | open_clip:NAME/TAG ... (rapipe
    methods)"""
    init: str
    """its initial weights: "" (random) | a checkpoint file | hub:NAME (of timm) |
    package:efficientnet-lite0"""
    image_size: Side
    """side in pixels that it sees; 0 = the checkpoint's own, or corpus.image_size"""
    pool: Literal["model", "cls", "mean", "cls+mean"]
    """of a transformer's tokens: model (as its authors do) | cls | mean | cls+mean"""
    precision: Literal["fp32", "bf16"]
    """in which it embeds: fp32 | bf16 (measure its neighbours first)"""
    width: Width
    """channels of its first stage, a multiple of 4; 64 is the published size"""
    stem: Stem
    """first convolution: cifar (3x3) | half (3x3, stride 2) | imagenet (7x7, stride 2, max-pool)"""

    def __post_init__(self) -> None:
        if self.encoder == NO_ENCODER and self.objective != IMPORTED:
            raise UserError(
                f"pretrain.encoder is {NO_ENCODER}, which needs pretrain.objective: {IMPORTED}; "
                "name a backbone, or run rapipe store import"
            )
        if self.encoder == NO_ENCODER and self.init:
            raise UserError(
                f"pretrain.init is {quoted(self.init)}, but pretrain.encoder is {NO_ENCODER}: set "
                'it to ""'
            )
        weights = sum(a * b for a, b in pairwise(self.head))
        if weights > MOST_WEIGHTS:
            raise UserError(
                f"pretrain.head is {quoted(list(self.head))}, layers of {weights:,} weights; they "
                f"may have {MOST_WEIGHTS:,}"
            )

    @property
    def recipe(self) -> PretrainingRecipe:
        """All but the encoder."""
        return _spec(PretrainingRecipe, self)


@dataclass(frozen=True, config=STRICT, kw_only=True)
class RetrievalParams(FusionSpec):
    """The memory, how it is searched, and how neighbours enter a classifier."""

    strategies: Names
    """knn | sampled | class-balanced | diverse | hard | replay | self | self+knn; none always
    runs"""
    k: Annotated[int, at_least(1, 1000)]
    """neighbours an image"""
    diversity: Probability
    """of diverse: weight of unlikeness among neighbours, 0 (knn) to 1"""
    replay: Limit
    """of replay: rows of its first-in-first-out memory"""
    bank: int | str
    """memory: all training images | a number of them | names of sources joined by +"""
    backend: Literal["torch", "faiss", "lance", "auto"]
    """who searches: torch (exact) | faiss | lance | auto (exact while that is fastest)"""
    index: str
    """exact | for faiss a factory string, such as IVF256,Flat or HNSW32 | for lance IVF_FLAT or
    IVF_RQ"""
    min_recall: Rate
    """share of the true k nearest that an approximate index must find, or prefetch fails"""
    prune: Probability
    """share of the memory that eval leaves out once: what harms validation images most; 0 = none"""

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
                f"retrieval.bank is {quoted(self.bank)}; choose all, a number of images of at "
                "least 1, or names of sources joined by +"
            )
        shown = {*self.strategies} != {SELF}  # which shows nothing of it
        if shown and isinstance(self.bank, int) and self.k > self.bank:
            raise UserError(
                f"retrieval.k is {self.k}, but retrieval.bank is {self.bank}: the memory must hold "
                "at least as many images as are looked up"
            )

    @property
    def fusion_spec(self) -> FusionSpec:
        """How neighbours enter a classifier."""
        return _spec(FusionSpec, self)


@dataclass(frozen=True, config=STRICT, kw_only=True)
class ClassifiersParams:
    """Which classifiers there are, and what they start from and learn besides labels."""

    backbones: Names
    """NAME[+pretrained|+checkpoint][+frozen][+HEAD][+distilled][+noise]; encoder is the memory's"""
    seeds: Annotated[tuple[Seed, ...], Several]
    """one training a seed; claims need at least three"""
    init: str
    """what NAME+checkpoint starts from, as pretrain.init; NAME+pretrained is pretrained on ours"""
    distill: str
    """teacher that labels all images for NAME+distilled, written as in backbones"""
    distill_temperature: Annotated[Finite, Field(ge=0.001, le=100)]
    """tau of the teacher's and the student's softmax"""
    noise_std: NoiseStd
    """of the Gaussian noise on half of the training images of NAME+noise, on [0, 1]"""

    def __post_init__(self) -> None:
        names = [
            _name(f"classifiers.backbones[{i}]", name) for i, name in enumerate(self.backbones)
        ]
        if any(name.distilled for name in names):
            if not self.distill:
                raise UserError(
                    f"classifiers.backbones has {DISTILLED!r}, but classifiers.distill names no "
                    "teacher: write it as in classifiers.backbones, such as resnet18+pretrained"
                )
            teacher = _name("classifiers.distill", self.distill)
            if teacher.distilled:
                raise UserError(
                    f"classifiers.distill is {quoted(self.distill)}; a teacher learns from labels, "
                    f"so leave +{DISTILLED} out"
                )
            names.append(teacher)
        if any(name.initial == CHECKPOINT for name in names) and not self.init:
            raise UserError(
                f"classifiers.backbones has {CHECKPOINT!r}, but classifiers.init is empty: name a "
                "checkpoint file, or hub:NAME for one of timm's"
            )


def _name(key: str, text: str) -> ClassifierName:
    try:
        return ClassifierName.parse(text)
    except UserError as error:
        raise UserError(f"{key}: {error}") from None


@dataclass(frozen=True, config=STRICT, kw_only=True)
class TrainParams(TrainingRecipe):
    """The recipe of every classifier."""

    label_fraction: Rate
    """share of each class's training images whose labels are known; all stay in the memory"""
    width: Width
    """channels of the first stage, a multiple of 4 (a quarter of a Perceiver's); 64 is full size"""
    stem: Stem
    """as pretrain.stem"""
    image_size: Side
    """side in pixels that classifiers see; 0 = corpus.image_size"""

    @property
    def recipe(self) -> TrainingRecipe:
        """The part that is the same for every network."""
        return _spec(TrainingRecipe, self)


@dataclass(frozen=True, config=STRICT, kw_only=True)
class EvaluateParams:
    """What is measured besides accuracy on clean test images."""

    noise_std: Annotated[tuple[NoiseStd, ...], Several]
    """Gaussian noise on [0, 1]; the first five are CIFAR-10-C's"""
    swap_std: Annotated[tuple[Probability, ...], Several]
    """noise levels at which neighbours are swapped for others; 0 = clean; [] = never"""
    poisoned: Annotated[tuple[Probability, ...], Several]
    """shares of the memory whose contents are replaced, in such swaps"""
    attributed: LimitOrNone
    """validation images whose neighbours are left out one at a time; 0 = none"""


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Params:
    """Every parameter of the pipeline. `dvc repro` runs what a change here puts out of date."""

    seed: Seed
    """of splits, pretraining, sampled neighbours and noise; classifiers have classifiers.seeds"""
    corpus: CorpusParams
    pretrain: PretrainParams
    retrieval: RetrievalParams
    classifiers: ClassifiersParams
    train: TrainParams
    evaluate: EvaluateParams

    @property
    def noise_levels(self) -> tuple[float, ...]:
        """Where classifiers are evaluated: 0 alone if there is no encoder for noisy images."""
        noisy = () if self.pretrain.encoder == NO_ENCODER else sorted(self.evaluate.noise_std)
        return (0.0, *noisy)

    def __post_init__(self) -> None:
        lists = {
            "retrieval.strategies": self.retrieval.strategies,
            "classifiers.backbones": self.classifiers.backbones,
            "classifiers.seeds": self.classifiers.seeds,
            "evaluate.noise_std": self.evaluate.noise_std,
            "evaluate.swap_std": self.evaluate.swap_std,
            "evaluate.poisoned": self.evaluate.poisoned,
            "train.tune": self.train.tune,
            "train.loggers": self.train.loggers,
        }
        for key, values in lists.items():
            if len(set(values)) < len(values):
                raise UserError(f"{key} is {quoted(list(values))}: a value stands twice")
        for key in ("classifiers.backbones", "classifiers.seeds", "retrieval.strategies"):
            if not lists[key]:
                raise UserError(f"{key} is empty: name at least one")
        for std in self.evaluate.swap_std:
            if std not in (0, *self.evaluate.noise_std):
                levels = ", ".join(f"{level:g}" for level in (0, *self.evaluate.noise_std))
                raise UserError(
                    f"evaluate.swap_std has {std:g}, which is neither 0 nor in evaluate.noise_std: "
                    f"choose from {levels}"
                )
        if self.pretrain.objective == "supervised" and self.train.label_fraction < 1:
            raise UserError(
                "pretrain.objective is 'supervised', which sees every label, but "
                f"train.label_fraction is {self.train.label_fraction:g}: choose another objective, "
                "or 1"
            )
        self._check_bank()

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
