"""Typed, frozen parameters, read once from params.yaml.

Import rule: nothing of ours but `errors` and `text`. Names of methods (backbones,
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
import sys
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import yaml

from rapipe import text
from rapipe.errors import UserError, sentence, unreadable
from rapipe.text import shown


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
            raise UserError(f"corpus.sources: the name {shown(self.name)} {why}")
        for letter in "+/\\":
            if letter in self.name:
                raise UserError(
                    f"corpus.sources: the name {shown(self.name)} may not contain {letter!r}"
                )
        share = isinstance(self.limit, float)
        if not 0 < self.limit <= (1 if share else MANY):
            raise UserError(
                f"corpus.sources: the limit of {self.name} is {shown(self.limit)}; it must be a "
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
                f"corpus.sources: the name {shown(min(twice))} stands twice; give each source a "
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
                f"pretrain.head is {shown(list(self.head))}, layers of {weights:,} weights; they "
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
                f"retrieval.bank is {shown(self.bank)}; choose all, a number of images of at least "
                "1, or names of sources joined by +"
            )
        if isinstance(self.bank, int) and self.k > self.bank:
            raise UserError(
                f"retrieval.k is {self.k}, but retrieval.bank is {self.bank}: the memory must hold "
                "at least as many images as are looked up"
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
            f"{shown(text)} is no name of a classifier; write NAME[+{'|'.join(STARTS)}][+{FROZEN}]"
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
                    f"train.distill is {shown(self.distill)}; a teacher learns from labels, so "
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
                raise UserError(f"{key} is {shown(list(values))}: a value stands twice")
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
                    f"results of {shown(own.name)} would have a name of {size} bytes, and files "
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
                f"retrieval.bank is {shown(bank)}, which is a source's name and means "
                f"{'all' if bank == 'all' else 'a number of'} images besides: give the source "
                "another name in corpus.sources"
            )
        for name in bank.split("+") if bank != "all" else ():
            if name not in sources:
                raise UserError(
                    f"retrieval.bank is {shown(bank)}, but no source is named {shown(name)}; "
                    "choose all, a number of images, or from "
                    f"{', '.join(sorted(sources)[:10])} joined by +"
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
        raw = yaml.load(text.read(path), Loader=_Loader)
    except FileNotFoundError:
        raise UserError(
            f"no {path} in {Path.cwd()}: run this at the top of a rapipe project"
        ) from None
    except RecursionError:
        raise UserError(f"{path} is nested too deeply: it has groups, keys and lists") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {sentence(error)}") from None
    return parse(raw)


def parse(raw: object) -> Params:
    """Turn the mapping that params.yaml holds into `Params`, or raise `UserError`."""
    parsed: Params = _parse(Params, raw, "")
    return parsed


class _Loader(text.Shallow, yaml.SafeLoader):
    """YAML of texts, numbers, true and false, lists and mappings; it refuses all else.

    Numbers and booleans are those of YAML 1.2, as DVC reads them: 1e-3 is a number, 010 is ten,
    yes is a text. Keys are names, and none stands twice; so `<<` merges nothing.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        if not isinstance(node, yaml.MappingNode):
            line = node.start_mark.line + 1
            raise yaml.YAMLError(f"what is tagged map is no mapping (line {line})")
        for own, value in node.value:
            key = self.construct_object(own, deep=True)
            line = own.start_mark.line + 1
            if not isinstance(key, str):
                raise yaml.YAMLError(f"the key {shown(key)} is not a name (line {line})")
            if key in found:
                raise yaml.YAMLError(f"the key {shown(key)} stands twice (line {line})")
            found[key] = self.construct_object(value, deep=deep)
        return found

    def construct_known(self, node: yaml.ScalarNode) -> Any:
        """What a scalar means whose tag is one of `_SCALARS`, written or not."""
        written = str(self.construct_scalar(node))
        name = node.tag.rpartition(":")[2]
        pattern, meaning, _ = _SCALARS[name]
        if not pattern.fullmatch(written):
            line = node.start_mark.line + 1
            raise yaml.YAMLError(f"{shown(written)} is tagged {name}, but is none (line {line})")
        return meaning(written)

    def construct_unknown(self, node: yaml.Node) -> Any:
        line = node.start_mark.line + 1
        raise yaml.YAMLError(f"the tag {shown(node.tag)} is not read (line {line})")


DIGITS = 1000
"""More of them make an integer that Python is slow to read; none that is valid has so many."""
_Loader.yaml_implicit_resolvers, _Loader.yaml_constructors = {}, {}
_SCALARS: dict[str, tuple[re.Pattern[str], Callable[[str], Any], str]] = {
    "null": (re.compile("~|null|Null|NULL|"), lambda _: None, "~nN"),
    "bool": (
        re.compile("true|True|TRUE|false|False|FALSE"),
        lambda written: written.lower() == "true",
        "tTfF",
    ),
    "int": (
        re.compile("[-+]?[0-9][0-9_]*"),
        lambda written: int(written.replace("_", "")[:DIGITS]),
        "-+0123456789",
    ),
    "float": (
        re.compile(
            r"[-+]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?"
            r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
        ),
        lambda written: float(re.sub(r"_|\.(?=[iInN])", "", written)),
        "-+0123456789.",
    ),
}
"""How each is written, what it means, and the letters that it begins with; in this order."""
for _name, (_pattern, _, _first) in _SCALARS.items():
    _tag, _whole = f"tag:yaml.org,2002:{_name}", re.compile(f"({_pattern.pattern})$")
    _Loader.add_implicit_resolver(_tag, _whole, [*_first, *([""] if _name == "null" else [])])
    _Loader.add_constructor(_tag, _Loader.construct_known)
for _name in ("str", "seq", "map"):
    _own = getattr(_Loader, f"construct_yaml_{_name}")
    _Loader.add_constructor(f"tag:yaml.org,2002:{_name}", _own)
_Loader.add_constructor(None, _Loader.construct_unknown)


def _parse(kind: Any, value: object, key: str) -> Any:
    """Check `value` against the type `kind`; `key` is its full name, for messages."""
    origin = typing.get_origin(kind)
    if origin is Annotated:
        base, limit = typing.get_args(kind)
        parsed = _parse(base, value, key)
        if parsed not in limit:
            raise UserError(f"{key} is {shown(value)}; it must be {limit}")
        return parsed
    if origin is tuple:
        if not isinstance(value, list):
            raise UserError(f"{key} is {shown(value)}; it must be a list")
        if len(value) > LISTED:
            raise UserError(f"{key} has {len(value):,} entries; it may have {LISTED}")
        item = typing.get_args(kind)[0]
        return tuple(_parse(item, v, f"{key}[{i}]") for i, v in enumerate(value))
    if origin is types.UnionType:
        for choice in typing.get_args(kind):
            if type(value) is choice:
                return _parse(str, value, key) if choice is str else value
        names = " or ".join(_TYPE_NAMES[choice] for choice in typing.get_args(kind))
        raise UserError(f"{key} is {shown(value)}; it must be {names}")
    if dataclasses.is_dataclass(kind):
        return _parse_group(typing.cast(type, kind), value, key)
    if kind is float and type(value) is int:
        most = sys.float_info.max
        value = float(max(-most, min(value, most)))  # of more digits than a float may have
    if type(value) is not kind or (kind is float and not math.isfinite(typing.cast(float, value))):
        raise UserError(f"{key} is {shown(value)}; it must be {_TYPE_NAMES[kind]}")
    if isinstance(value, str):
        _check_text(value, key)
    return value


def _check_text(value: str, key: str) -> None:
    """Raise `UserError` for what no name and no path of a file has in it."""
    if len(value) > text.MOST_LETTERS:
        raise UserError(
            f"{key} is {shown(value)}, of {len(value):,} letters; it may have {text.MOST_LETTERS:,}"
        )
    if found := text.UNSEEN.search(value):
        raise UserError(f"{key} is {shown(value)}; it may not contain {found[0]!r}")


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
        raise UserError(f"{where} is {shown(value)}; it must have the keys {', '.join(fields)}")
    for name in value:
        if name not in fields:
            close = difflib.get_close_matches(name[: text.MOST_LETTERS], fields, n=1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            plain = name.isidentifier() and name.isprintable() and len(name) <= text.WIDTH
            full = f"{key}{'.' if key else ''}{name if plain else shown(name)}"
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
