"""Which questions the study asks, and with which parameters: one list for every scale.

A scale is a preset (`study`, `study-cpu`, `tiny`). An experiment is what one command runs: one
or more settings, each the preset with some parameters changed. `main` is the preset itself; the
others leave out what `main` has already trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from rapipe.config.names import NOISY
from rapipe.config.schema import Params
from rapipe.config.variants import Variant
from study.work import Overrides

KS = (5, 15, 50, 100, 300, 500, 1000)
"""Numbers of neighbours, those of the first study."""
SHARES = (0.01, 0.1, 0.3)
"""Of the memory; all of it is in `main`."""
FRACTIONS = {0.01: 32, 0.1: 5}
"""Of the labels, and how many times as many epochs they get; all labels are in `main`."""
SEEDS = 3
"""Of every experiment but `main`, `noise` and `robust`, which have all of the preset's."""
TASK, RANDOM, WIDER, ROBUST = "own", "random", "wider", "robust"
"""Encoders: pretrained on the task's images, not at all, on another source's too, with noise."""
ENCODERS: dict[str, Overrides] = {ROBUST: {"pretrain.views": "noisy-crop"}}
"""What differs from the preset for an encoder, if anything."""
QUIET: Overrides = {"evaluate.swap_std": [], "evaluate.attributed": 0}
"""What only `main` looks at."""


@dataclass(frozen=True)
class Setting:
    """Classifiers that share all parameters but backbone, strategy and seed.

    Args:
        name: of its folder.
        overrides: what differs from the preset.
        retrievals: whose classifiers are trained: strategies, and `none`.
        seeds: how many of the preset's; 0 for all.
        encoder: which encoder the memory is made with.
    """

    name: str
    overrides: Overrides = field(default_factory=dict)
    retrievals: tuple[str, ...] = ("knn",)
    seeds: int = SEEDS
    encoder: str = TASK

    def variants(self, params: Params) -> list[Variant]:
        """The classifiers, seed by seed."""
        seeds = params.classifiers.seeds[: self.seeds or None]
        return [
            Variant.of(params, backbone, retrieval, seed)
            for seed in seeds
            for backbone in params.classifiers.backbones
            for retrieval in self.retrievals
        ]


@dataclass(frozen=True)
class Experiment:
    """What one command runs."""

    about: str
    settings: Callable[[Params, int], Iterator[Setting]]
    """Of the preset's parameters, and the rows of the memory."""


def main(params: Params, rows: int) -> Iterator[Setting]:
    """The preset itself."""
    yield Setting("main", {}, ("none", *params.retrieval.strategies), 0)


def baselines(params: Params, rows: int) -> Iterator[Setting]:
    """The encoder without a memory: its features under a linear classifier, and as initial weights.

    What neighbours add to these; and to the same network from scratch, where that is not the
    preset's.
    """
    encoder = params.pretrain
    name = encoder.encoder
    shared = {"train.width": encoder.width, "train.stem": encoder.stem, **QUIET}
    pretrained = [f"{name}+pretrained+frozen", f"{name}+pretrained"]
    yield Setting("encoder", {"classifiers.backbones": pretrained, **shared}, ("none", "knn"))
    of_preset = (name in params.classifiers.backbones, params.train.width, params.train.stem)
    if of_preset != (True, encoder.width, encoder.stem):
        yield Setting("scratch", {"classifiers.backbones": [name], **shared}, ("none", "knn"))


def random(params: Params, rows: int) -> Iterator[Setting]:
    """A memory of the same images, embedded by the encoder before it was pretrained."""
    yield Setting("random", {"classifiers.backbones": _one(params), **QUIET}, encoder=RANDOM)


def noise(params: Params, rows: int) -> Iterator[Setting]:
    """Noise in training, with and without neighbours: with `main` the four cells."""
    names = [name + NOISY for name in _two(params)]
    yield Setting("noise", {"classifiers.backbones": names, **QUIET}, ("none", "knn"), 0)


def robust(params: Params, rows: int) -> Iterator[Setting]:
    """An encoder that has seen noise: neighbours that noise does not change so much."""
    plain = _two(params)
    overrides = {"classifiers.backbones": [*plain, *(name + NOISY for name in plain)], **QUIET}
    yield Setting("robust", overrides, seeds=0, encoder=ROBUST)


def labels(params: Params, rows: int) -> Iterator[Setting]:
    """Few labels: those of the others are unknown to the classifier and to the memory."""
    for share, times in FRACTIONS.items():
        overrides = {
            "train.label_fraction": share,
            "train.epochs": times * params.train.epochs,
            "train.measure_every": times * params.train.measure_every,
            "classifiers.backbones": _two(params),
            **QUIET,
        }
        yield Setting(f"labels-{100 * share:g}", overrides, ("none", "knn"))


def neighbours(params: Params, rows: int) -> Iterator[Setting]:
    """How many neighbours."""
    for k in KS:
        if k != params.retrieval.k and k < rows:
            yield Setting(
                f"k-{k}", {"retrieval.k": k, "classifiers.backbones": _one(params), **QUIET}
            )


def bank(params: Params, rows: int) -> Iterator[Setting]:
    """How large a memory; a smaller one is part of a larger one."""
    for share in SHARES:
        size = round(share * rows)
        if size >= params.retrieval.k:
            overrides = {"retrieval.bank": size, "classifiers.backbones": _one(params), **QUIET}
            yield Setting(f"bank-{100 * share:g}", overrides)


def wider(params: Params, rows: int) -> Iterator[Setting]:
    """Images of the preset's memory sources too, without labels: for the encoder, for both."""
    names = [source.name for source in params.corpus.sources if source.role == "task"]
    if len(names) < len(params.corpus.sources):
        shared = {"classifiers.backbones": _one(params), **QUIET}
        yield Setting("wider-encoder", {"retrieval.bank": "+".join(names), **shared}, encoder=WIDER)
        yield Setting("wider-memory", shared, encoder=WIDER)


def fusion(params: Params, rows: int) -> Iterator[Setting]:
    """The first study's way to attend, and each of ours taken back alone."""
    study: Overrides = {
        "retrieval.attend": "embedding",
        "retrieval.stages": "all",
        "retrieval.gate": False,
        "retrieval.dropout": 0.0,
    }
    shared = {"classifiers.backbones": _one(params), **QUIET}
    yield Setting("fusion-study", {**study, **shared})
    for key, value in study.items():
        group, name = key.split(".")
        if getattr(getattr(params, group), name) != value:
            label = {"stages": "places"}.get(name, name)  # as the results on disk are called
            yield Setting(f"fusion-{label}", {key: value, **shared})


def longer(params: Params, rows: int) -> Iterator[Setting]:
    """Four times the epochs: is what neighbours add still there at the end?"""
    times = {name: 4 * getattr(params.train, name) for name in ("epochs", "measure_every")}
    overrides = {f"train.{name}": value for name, value in times.items()}
    overrides |= {"classifiers.backbones": _two(params), **QUIET}
    yield Setting("longer", overrides, ("none", "knn"))


def _plain(params: Params) -> list[str]:
    """The preset's backbones but those that see noise in training."""
    return [name for name in params.classifiers.backbones if not name.endswith(NOISY)]


def _two(params: Params) -> list[str]:
    """The convolutional network and the transformer that the questions are about."""
    names = _plain(params)
    return [name for name in ("resnet18", "perceiver") if name in names] or names[:1]


def _one(params: Params) -> list[str]:
    """The network of the first study's sweeps."""
    return _two(params)[:1]


EXPERIMENTS: dict[str, Experiment] = {
    "main": Experiment(
        "every classifier, without neighbours, with them, and with random ones", main
    ),
    "noise": Experiment("noise in training, with neighbours and without", noise),
    "labels": Experiment("1 % and 10 % of the labels", labels),
    "baselines": Experiment("the encoder itself as a classifier", baselines),
    "fusion": Experiment("the first study's fusion, and ours with one part taken back", fusion),
    "k": Experiment("5 to 1000 neighbours", neighbours),
    "bank": Experiment("1 % to 100 % of the memory", bank),
    "random": Experiment("a memory made by a random encoder", random),
    "robust": Experiment("a memory made by an encoder that has seen noise", robust),
    "longer": Experiment("four times the epochs", longer),
    "wider": Experiment("unlabelled images of a second source in the memory", wider),
}
"""In the order in which they are worth running."""
