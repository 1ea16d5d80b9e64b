"""Typed, frozen parameters, read once from params.yaml.

Import rule: nothing of ours but `errors`. Names of methods (backbones,
objectives, ...) are checked against their tables in `pipeline.checks`, so that
adding a method never means editing this file.

    >>> params = load(Path("params.yaml"))
    >>> params.retrieval.k
    32
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml

from rapipe.errors import UserError, unreadable


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
        if math.isinf(self.high):
            return f"{multiple}{'more than' if self.above else 'at least'} {self.low:g}"
        low = f"more than {self.low:g}, up to" if self.above else f"from {self.low:g} to"
        return f"{multiple}{low} {self.high:g}"


@dataclass(frozen=True)
class Choices:
    """The values a string may take."""

    names: tuple[str, ...]

    def __contains__(self, value: str) -> bool:
        return value in self.names

    def __str__(self) -> str:
        return "one of " + ", ".join(self.names)


Count = Annotated[int, Range(1, math.inf)]
Seed = Annotated[int, Range(0, 2**32 - 1)]
Rate = Annotated[float, Range(0, 1, above=True)]
Fraction = Annotated[float, Range(0, 0.9, above=True)]
Probability = Annotated[float, Range(0, 1)]
NoiseStd = Annotated[float, Range(0, 1, above=True)]
ImageSize = Annotated[int, Range(8, 512)]
Width = Annotated[int, Range(4, 512, step=4)]
Stem = Annotated[str, Choices(("cifar", "half", "imagenet"))]
STARTS = ("corpus", "elsewhere")
"""Words behind a backbone's name: where it was pretrained; without one it starts from scratch."""
FROZEN, DISTILLED, NOISE = "frozen", "distilled", "noise"
"""Words behind a backbone's name: its weights stay; it has a teacher; it sees noisy images too."""
NOISY = "+" + NOISE


@dataclass(frozen=True)
class SourceParams:
    """One place that images come from; see `rapipe.sources` for the kinds."""

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
            raise UserError(f"corpus.sources: the name {self.name!r} {why}")
        for letter in "+/":
            if letter in self.name:
                raise UserError(
                    f"corpus.sources: the name {self.name!r} may not contain {letter!r}"
                )
        share = isinstance(self.limit, float)
        if not self.limit > 0 or (share and not self.limit <= 1):
            raise UserError(
                f"corpus.sources: the limit of {self.name} is {self.limit}; it must be a number of "
                "images of at least 1, or a share of more than 0, up to 1.0"
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
                f"corpus.sources: the name {min(twice)!r} stands twice; give each source a `name`"
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
    head: tuple[Count, ...]
    """Widths of the projection head's layers, the last its output; empty = the objective's own."""
    temperature: Annotated[float, Range(0, 100)]
    """Of NT-Xent, for simclr and moco; 0 = the objective's own."""
    optimiser: str
    epochs: Count
    batch_size: Annotated[int, Range(2, math.inf)]
    learning_rate: Annotated[float, Range(0, 100, above=True)]


@dataclass(frozen=True)
class RetrievalParams:
    strategies: tuple[str, ...]
    k: Count
    diversity: Probability
    """Of `diverse`: weight of the unlikeness among neighbours against the likeness to the query."""
    replay: Count
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
        if isinstance(self.bank, int) and self.bank < 1:
            raise UserError(
                f"retrieval.bank is {self.bank}; choose all, a number of images of at least 1, "
                "or names of sources joined by +"
            )


@dataclass(frozen=True)
class Entry:
    """What a name in `train.backbones` says: NAME[+START][+frozen][+HEAD][+distilled][+noise]."""

    network: str
    """The backbone's name in the table of backbones."""
    start: str
    """`scratch`, or one of STARTS."""
    frozen: bool
    """Only what is put onto the backbone learns: its head, and the fusion with neighbours."""
    head: str
    """Its name in the table of heads."""
    distilled: bool
    """It learns from what the teacher of `train.distill` says, on all images."""
    noisy: bool
    """It is trained on noisy images too."""


def entry(text: str) -> Entry:
    """Read a name of `train.backbones`; `UserError` if its words are not in their order."""
    network, *words = text.split("+")
    left = list(words)

    def taken(*known: str) -> str:
        return left.pop(0) if left and left[0] in known else ""

    start, frozen = taken(*STARTS), taken(FROZEN)
    head = left.pop(0) if left and left[0] not in (DISTILLED, NOISE) else ""
    distilled, noisy = taken(DISTILLED), taken(NOISE)
    if left or head in (*STARTS, FROZEN, "linear") or "" in (network, *words):
        raise UserError(
            f"{text!r} is no name of a classifier; write NAME[+{'|'.join(STARTS)}][+{FROZEN}]"
            f"[+HEAD][+{DISTILLED}][+{NOISE}], in this order"
        )
    return Entry(
        network, start or "scratch", bool(frozen), head or "linear", bool(distilled), bool(noisy)
    )


def _named(key: str, text: str) -> Entry:
    try:
        return entry(text)
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
    distill_temperature: Annotated[float, Range(0, 100, above=True)]
    noise_std: NoiseStd
    """Standard deviation of the noise on half of the training images of `NAME+noise`."""
    seeds: tuple[Seed, ...]
    width: Width
    stem: Stem
    augment: str
    mixup: Annotated[float, Range(0, 100)]
    """Alpha of the Beta distribution that images are mixed by; 0 = not at all."""
    label_smoothing: Annotated[float, Range(0, 0.9)]
    epochs: Count
    batch_size: Annotated[int, Range(2, math.inf)]
    accumulate: Count
    """Batches whose gradients are added up before a step."""
    learning_rate: Rate
    schedule: str
    warmup: Probability
    """Share of the steps in which the learning rate rises."""
    weight_decay: Annotated[float, Range(0, 1)]
    clip: Annotated[float, Range(0, math.inf)]
    """Largest norm of the gradient; 0 = any."""
    average: str
    """Of the weights over the steps."""
    patience: Annotated[int, Range(0, math.inf)]
    """Epochs without a better validation accuracy after which training stops; 0 = never."""
    tune: tuple[str, ...]
    """What is looked for before the training."""
    loggers: tuple[str, ...]
    """Who records the curves, beside `history.csv`."""
    probe_every: Annotated[int, Range(0, math.inf)]
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
                    f"train.distill is {self.distill!r}; a teacher learns from labels, so leave "
                    f"+{DISTILLED} out"
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
    attributed: Annotated[int, Range(0, math.inf)]
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
                raise UserError(f"{key} is {list(values)}: a value stands twice")
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
        bank = self.retrieval.bank
        sources = {source.name for source in self.corpus.sources}
        if isinstance(bank, str) and bank != "all":
            for name in bank.split("+"):
                if name not in sources:
                    raise UserError(
                        f"retrieval.bank is {bank!r}, but no source is named {name!r}; choose all, "
                        f"a number of images, or from {', '.join(sorted(sources))} joined by +"
                    )


@dataclass(frozen=True)
class Variant:
    """One classifier to train: a name of `train.backbones`, how it retrieves, and a seed."""

    backbone: str
    retrieval: str
    k: int
    bank: int | str
    seed: int

    @property
    def entry(self) -> Entry:
        """What its name in `train.backbones` says."""
        return entry(self.backbone)

    @property
    def name(self) -> str:
        """Name of the variant's folder; dvc.yaml spells the same name."""
        if self.retrieval == "none":
            return f"{self.backbone}-none-s{self.seed}"
        return f"{self.backbone}-{self.retrieval}-k{self.k}-{self.bank}-s{self.seed}"


def variant(params: Params, backbone: str, retrieval: str, seed: int) -> Variant:
    """The variant with the parameters' k and bank; k = 0 and bank 0 without retrieval."""
    if retrieval == "none":
        return Variant(backbone, "none", 0, 0, seed)
    return Variant(backbone, retrieval, params.retrieval.k, params.retrieval.bank, seed)


def variants(params: Params) -> list[Variant]:
    """Every variant that the parameters ask for, the baseline first."""
    return [
        variant(params, backbone, retrieval, seed)
        for backbone in params.train.backbones
        for retrieval in ("none", *params.retrieval.strategies)
        for seed in params.train.seeds
    ]


def load(path: Path) -> Params:
    """Read and check a params file.

    Raises:
        UserError: the file is missing or is no YAML, or a key is unknown,
            missing, of the wrong type or out of range. The message has the
            full key, the value and the valid choices.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(
            f"no {path} in {Path.cwd()}: run this at the top of a rapipe project"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    try:
        raw = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    return parse(raw)


def parse(raw: object) -> Params:
    """Turn the mapping that params.yaml holds into `Params`, or raise `UserError`."""
    parsed: Params = _parse(Params, raw, "")
    return parsed


class _Loader(yaml.SafeLoader):
    """Safe YAML that also reads 1e-3 as a number (YAML 1.2) and refuses repeated keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if not isinstance(key, str):
                raise yaml.YAMLError(f"the key {key!r} is not a name")
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"the key {key!r} stands twice")
        return super().construct_mapping(node, deep)


_EXPONENT = re.compile(r"^[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+0123456789"))


def _parse(kind: Any, value: object, key: str) -> Any:
    """Check `value` against the type `kind`; `key` is its full name, for messages."""
    origin = typing.get_origin(kind)
    if origin is Annotated:
        base, limit = typing.get_args(kind)
        parsed = _parse(base, value, key)
        if parsed not in limit:
            raise UserError(f"{key} is {value!r}; it must be {limit}")
        return parsed
    if origin is tuple:
        if not isinstance(value, list):
            raise UserError(f"{key} is {value!r}; it must be a list")
        item = typing.get_args(kind)[0]
        return tuple(_parse(item, v, f"{key}[{i}]") for i, v in enumerate(value))
    if origin is types.UnionType:
        for choice in typing.get_args(kind):
            if type(value) is choice:
                return value
        names = " or ".join(_TYPE_NAMES[choice] for choice in typing.get_args(kind))
        raise UserError(f"{key} is {value!r}; it must be {names}")
    if dataclasses.is_dataclass(kind):
        return _parse_group(typing.cast(type, kind), value, key)
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind or (kind is float and not math.isfinite(typing.cast(float, value))):
        raise UserError(f"{key} is {value!r}; it must be {_TYPE_NAMES[kind]}")
    return value


_TYPE_NAMES: dict[type, str] = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
}


def _parse_group(kind: type, value: object, key: str) -> Any:
    where = key or "params.yaml"
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if not isinstance(value, dict):
        raise UserError(f"{where} is {value!r}; it must have the keys {', '.join(fields)}")
    for name in value:
        if name not in fields:
            close = difflib.get_close_matches(str(name), fields, n=1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            full = f"{key}.{name}" if key else name
            raise UserError(f"{full} is no parameter{hint}; {where} has {', '.join(fields)}")
    types_ = typing.get_type_hints(kind, include_extras=True)
    parsed = {}
    for name, field in fields.items():
        full = f"{key}.{name}" if key else name
        if name in value:
            parsed[name] = _parse(types_[name], value[name], full)
        elif field.default is dataclasses.MISSING:
            raise UserError(f"{full} is missing; {where} has {', '.join(fields)}")
    return kind(**parsed)
