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

from rapipe.config.corpus_params import CorpusParams
from rapipe.config.names import (
    CHECKPOINT,
    DISTILLED,
    GENERATED,
    SELF,
    SHIFT,
    TRAINING,
    ClassifierName,
    init_of,
)
from rapipe.errors import UserError
from rapipe.io.text import quoted
from rapipe.specs import (
    LISTED,
    MANY,
    NO_ENCODER,
    STRICT,
    Finite,
    FusionSpec,
    GenerationRecipe,
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
Spec = TypeVar("Spec", FusionSpec, PretrainingRecipe, TrainingRecipe)


def _spec(kind: type[Spec], group: object) -> Spec:
    """The part of a group that a library function takes."""
    return kind(**{field.name: getattr(group, field.name) for field in fields(kind)})


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
class EmbedParams:
    """Where the images of the corpus are embedded; the rows are the same.

    The cluster is that of `retrieval.engine` too.
    """

    engine: Literal["local", "ray"]
    """local (this machine) | ray (a Ray cluster; docs/scale.md)"""
    address: str
    """of ray: "" (starts one on this machine) | auto (the one it belongs to) | HOST:PORT"""
    storage: str
    """of ray, what all nodes reach: "" (data/checkpoints) | a folder | s3://BUCKET/PREFIX"""


@dataclass(frozen=True, config=STRICT, kw_only=True)
class RetrievalParams(FusionSpec):
    """The memory, how it is searched, and how neighbours enter a classifier."""

    strategies: Names
    """knn | sampled | class-balanced | diverse | hard | replay | prioritised-replay | self |
    self+knn; none always runs; [] = none alone"""
    k: Annotated[int, at_least(1, 1000)]
    """neighbours an image"""
    diversity: Probability
    """of diverse: weight of unlikeness among neighbours, 0 (knn) to 1"""
    replay: Limit
    """of replay and prioritised-replay: rows of the memory"""
    bank: int | str
    """memory: all training images | a number of them | names of sources joined by +"""
    backend: Literal["torch", "faiss", "lance", "auto"]
    """who searches: torch (exact) | faiss | lance | auto (exact while that is fastest)"""
    index: str
    """exact | for faiss a factory string, such as IVF256,Flat or HNSW32 | for lance IVF_FLAT or
    IVF_RQ"""
    engine: Literal["local", "ray"]
    """where prefetch runs knn and diverse: local (this machine) | ray (the cluster of
    embed.address)"""
    min_recall: Rate
    """share of the true k nearest that an approximate index must find, or prefetch fails"""
    query_noise: Probability
    """half of the training images see the neighbours of a noisy copy, of a standard deviation up
    to this (of NAME+noise: of noise_std), to learn when to trust them; 0 = none do"""
    prune: Probability
    """share of the memory that eval leaves out once: what harms validation images most; 0 = none"""

    def __post_init__(self) -> None:
        if "none" in self.strategies:
            raise UserError(
                "retrieval.strategies: 'none' is always run as the baseline; leave it out"
            )
        replaying = [name for name in self.strategies if name.endswith("replay")]
        if replaying and self.replay < self.k:
            raise UserError(
                f"retrieval.replay is {self.replay}, but retrieval.k is {self.k}: the memory of "
                f"{replaying[0]!r} must hold at least as many images as are looked up"
            )
        if isinstance(self.bank, int) and not 1 <= self.bank <= MANY:
            raise UserError(
                f"retrieval.bank is {quoted(self.bank)}; choose all, a number of images of at "
                "least 1, or names of sources joined by +"
            )
        shown = not {*self.strategies} <= {SELF}  # which shows nothing of it
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
    init: str | Annotated[dict[str, str], Several]
    """what NAME+checkpoint starts from, as pretrain.init; of several networks {NAME: init, ...}"""
    distill: str
    """teacher that labels all images for NAME+distilled, written as in backbones"""
    distill_temperature: Annotated[Finite, Field(ge=0.001, le=100)]
    """tau of the teacher's and the student's softmax"""
    noise_std: NoiseStd
    """of the Gaussian noise on half of the training images of NAME+noise, on [0, 1]"""

    @property
    def names(self) -> tuple[ClassifierName, ...]:
        """Each classifier's, and the teacher's."""
        teachers = (self.distill,) if self.distill else ()
        return tuple(map(ClassifierName.parse, (*self.backbones, *teachers)))

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
        for name in names:
            if name.initial == CHECKPOINT and not init_of(self.init, name.backbone):
                listed = f" for {quoted(name.backbone)}" if isinstance(self.init, dict) else ""
                raise UserError(
                    f"classifiers.backbones has {CHECKPOINT!r}, but classifiers.init is empty"
                    f"{listed}: name a checkpoint file, or hub:NAME for one of timm's"
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
    corruptions: Names
    """NAME:SEVERITY of CIFAR-10-C's fifteen, severity 1 to 5 (rapipe methods)"""
    swap_std: Annotated[tuple[Probability, ...], Several]
    """noise levels at which neighbours are swapped for others; 0 = clean; [] = never"""
    poisoned: Annotated[tuple[Probability, ...], Several]
    """shares of the memory whose contents are replaced, in such swaps"""
    attributed: LimitOrNone
    """validation images whose neighbours are left out one at a time; 0 = none"""
    maps: LimitOrNone
    """test images whose attribution maps are drawn, and checked (rapipe attribute); 0 = none"""


@dataclass(frozen=True, config=STRICT, kw_only=True)
class Params:
    """Every parameter of the pipeline. `dvc repro` runs what a change here puts out of date."""

    seed: Seed
    """of splits, pretraining, sampled neighbours and noise; classifiers have classifiers.seeds"""
    corpus: CorpusParams
    generate: GenerationRecipe
    pretrain: PretrainParams
    embed: EmbedParams
    retrieval: RetrievalParams
    classifiers: ClassifiersParams
    train: TrainParams
    evaluate: EvaluateParams

    @property
    def noise_levels(self) -> tuple[float, ...]:
        """Where classifiers are evaluated: 0 alone if there is no encoder for noisy images."""
        noisy = () if self.pretrain.encoder == NO_ENCODER else sorted(self.evaluate.noise_std)
        return (0.0, *noisy)

    @property
    def generated_sources(self) -> tuple[str, ...]:
        """Names of the sources whose images the stage generate makes; it is off without one."""
        return tuple(s.name for s in self.corpus.sources if s.kind == GENERATED)

    def __post_init__(self) -> None:
        lists = {
            "retrieval.strategies": self.retrieval.strategies,
            "classifiers.backbones": self.classifiers.backbones,
            "classifiers.seeds": self.classifiers.seeds,
            "evaluate.noise_std": self.evaluate.noise_std,
            "evaluate.corruptions": self.evaluate.corruptions,
            "evaluate.swap_std": self.evaluate.swap_std,
            "evaluate.poisoned": self.evaluate.poisoned,
            "train.tune": self.train.tune,
            "train.loggers": self.train.loggers,
        }
        for key, values in lists.items():
            if len(set(values)) < len(values):
                raise UserError(f"{key} is {quoted(list(values))}: a value stands twice")
        for key in ("classifiers.backbones", "classifiers.seeds"):
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
        if self.generated_sources and self.train.label_fraction < 1:
            raise UserError(
                f"corpus.sources has the kind {GENERATED}, whose images are made with every label, "
                f"but train.label_fraction is {self.train.label_fraction:g}: leave that source "
                "out, or choose 1"
            )
        self._check_bank()

    def _check_bank(self) -> None:
        """Raise `UserError` unless `retrieval.bank` means one thing."""
        bank = self.retrieval.bank
        sources = {source.name: source.role for source in self.corpus.sources}
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
            if sources[name] in (TRAINING, SHIFT):
                instead = ", or choose the role both" if sources[name] == TRAINING else ""
                raise UserError(
                    f"retrieval.bank is {quoted(bank)}, but the role of {quoted(name)} in "
                    f"corpus.sources is {sources[name]}, which is never looked up: leave it out"
                    f"{instead}"
                )
