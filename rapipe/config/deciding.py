"""Which parameters decide each artefact: its card records them, and they are compared with it.

dvc.yaml lists the same keys for the stage that makes it (tests/test_provenance.py). Values are
those of JSON, by the full key.

    >>> of_table(params, "knn")
    {'seed': 0, 'retrieval.k': 32}
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rapipe.config.corpus_params import SourceParams
from rapipe.config.names import (
    CHECKPOINT,
    ENCODER,
    GENERATED,
    PRETRAINED,
    SCRATCH,
    SELF,
    SHIFT,
    ClassifierName,
    init_of,
)
from rapipe.config.schema import Params
from rapipe.config.variants import Variant
from rapipe.io.provenance import Facts
from rapipe.specs import deciding

STRATEGY_KEYS = {
    "diverse": ("diversity",),
    "replay": ("replay",),
    "prioritised-replay": ("replay",),
}
"""Parameters of `retrieval` that only one strategy has."""
EXACT = "exact"
OF_NETWORK = tuple(
    f"pretrain.{name}"
    for name in ("encoder", "width", "stem", "init", "image_size", "pool", "precision")
)
"""Parameters of the memory's encoder alone: a classifier's network pretrained by the same recipe
has its own."""
SHIFTS = f"corpus.sources of the role {SHIFT}"
"""Their names."""
KEEP_EVERY = "pretrain.keep_every"
"""It decides what is kept on the way, and not the last encoder, which classifiers start from."""


def of_params(params: Params) -> Facts:
    """Every parameter by its full key; results that differ are named by these."""
    groups = asdict(params)
    facts = {"seed": groups.pop("seed")}
    for group, values in groups.items():
        facts |= _keys(group, values)
    return facts


def of_corpus(params: Params) -> Facts:
    """Of the images, their labels and splits; not whether missing ones may be fetched.

    Nor those of the role shift, which nothing learns or looks up: `of_shifts`.
    """
    generated = of_generated(params, None) if params.generated_sources else {}
    return {**generated, **_of_images(params, params.corpus.sources)}


def of_shifts(params: Params) -> Facts:
    """Of the images that classifiers are only evaluated on, besides the corpus."""
    sources = [source for source in params.corpus.sources if source.role == SHIFT]
    return {
        SHIFTS: [source.name for source in sources],
        **{
            f"corpus.sources {key} of {source.name}": value
            for source in sources
            for key, value in asdict(source).items()
            if key not in ("name", "role", "weight")
        },
    }


def of_generated(params: Params, precision: str | None) -> Facts:
    """Of the generated images: all of the real ones, and how they are generated.

    Args:
        precision: of the generator's training; None if that is `auto`, and not measured.
    """
    real = [source for source in params.corpus.sources if source.kind != GENERATED]
    return {
        **_of_images(params, real),
        **_keys("generate", asdict(params.generate)),
        **({"train.precision": precision} if precision else {}),
    }


def _of_images(params: Params, sources: Sequence[SourceParams]) -> Facts:
    sources = [source for source in sources if source.role != SHIFT]
    corpus = {**asdict(params.corpus), "sources": len(sources)}
    del corpus["download"]
    by_source = {
        f"sources[{i}].{name}": value
        for i, source in enumerate(sources)
        for name, value in asdict(source).items()
        if name != "weight"  # of the encoder
    }
    return {"seed": params.seed, **_keys("corpus", {**corpus, **by_source})}


def of_encoder(params: Params, precision: str | None) -> Facts:
    """Of an encoder's weights, besides the corpus.

    Args:
        precision: of its training; None if that is `auto`, and not measured.
    """
    sources = (source for source in params.corpus.sources if source.role != SHIFT)
    weights = {source.name: source.weight for source in sources}
    return {
        "seed": params.seed,
        **_keys("pretrain", deciding(params.pretrain)),
        **{f"corpus.sources weight of {name}": weight for name, weight in weights.items()},
        **({"train.precision": precision} if precision else {}),
    }


def explicit_precision(params: Params) -> str | None:
    """The precision that the parameters name; None where it is measured."""
    return None if params.train.precision == "auto" else params.train.precision


def of_bank(params: Params) -> Facts:
    """Of the rows of the bank, besides the store."""
    return {
        "seed": params.seed,
        "retrieval.bank": params.retrieval.bank,
        "train.label_fraction": params.train.label_fraction,
    }


def of_table(params: Params, strategy: str) -> Facts:
    """Of a neighbour table, besides the bank; exact search is the same by every backend."""
    if strategy == SELF:  # nothing is searched
        return {"seed": params.seed}
    names = ["k", *STRATEGY_KEYS.get(strategy, ())]
    if params.retrieval.index != EXACT or params.retrieval.backend == "auto":
        names += ["backend", "index", "min_recall"]
    return {"seed": params.seed, **_chosen("retrieval", asdict(params.retrieval), names)}


def of_noisy_table(params: Params, strategy: str, noisy: bool) -> Facts:
    """Of the table of noisy copies of the training images.

    Args:
        noisy: those for classifiers whose images have noise too.
    """
    noise = {"retrieval.query_noise": params.retrieval.query_noise}
    if noisy:
        noise = {"classifiers.noise_std": params.classifiers.noise_std}
    return {**of_table(params, strategy), **noise}


def of_baselines(params: Params) -> Facts:
    """Of what the encoder knows by itself, besides its weights and the corpus."""
    levels = _chosen("evaluate", asdict(params.evaluate), ("noise_std",))
    return {"seed": params.seed, "train.label_fraction": params.train.label_fraction, **levels}


def of_initial(params: Params, text: str, precision: str | None) -> Facts:
    """Of what a classifier starts from and learns from besides labels, besides the corpus.

    Args:
        text: its name in `classifiers.backbones`.
    """
    names = names_of(params, text)
    grid, facts = asdict(params.classifiers), Facts()
    if names[0].distilled:
        facts |= _chosen("classifiers", grid, ("distill", "distill_temperature"))
    if any(name.noisy for name in names):
        facts |= _chosen("classifiers", grid, ("noise_std",))
    initial = {name.initial for name in names}
    starts = {
        name.backbone: init_of(params.classifiers.init, name.backbone)
        for name in names
        if name.initial == CHECKPOINT
    }
    if starts:  # as a mapping only where it must be
        alike = len(set(starts.values())) == 1
        facts["classifiers.init"] = next(iter(starts.values())) if alike else dict(starts)
    if PRETRAINED in initial:
        of_memory = any(name.backbone == ENCODER for name in names)
        encoder = of_encoder(params, precision)
        facts |= {
            key: value
            for key, value in encoder.items()
            if key != KEEP_EVERY and (of_memory or key not in OF_NETWORK)
        }
    if any(name.initial != SCRATCH and name.backbone != ENCODER for name in names):
        facts |= _chosen("train", asdict(params.train), ("width", "stem", "image_size"))
    return facts


def starts_from_weights(params: Params, text: str) -> bool:
    """Whether a classifier, or its teacher, starts from weights, which fit one corpus."""
    return any(name.initial != SCRATCH for name in names_of(params, text))


def names_of(params: Params, text: str) -> list[ClassifierName]:
    """A classifier's name, and its teacher's."""
    names = [ClassifierName.parse(text)]
    if names[0].distilled:
        names.append(ClassifierName.parse(params.classifiers.distill))
    return names


def of_training(params: Params, variant: Variant, precision: str | None) -> Facts:
    """Of a classifier's weights, besides the corpus, what it starts from, and its neighbours.

    What two results must share to be compared across k, bank and seeds.
    """
    facts = {"seed": params.seed, **_keys("train", deciding(params.train))}
    facts.pop("train.precision")
    if precision:  # what was done, not `auto`
        facts["train.precision"] = precision
    if variant.retrieval != "none":
        facts |= _keys("retrieval", asdict(params.retrieval.fusion_spec))
        facts |= _chosen("retrieval", asdict(params.retrieval), ("query_noise",))
    return facts


def of_evaluation(params: Params, variant: Variant) -> Facts:
    """Of what is measured of a classifier."""
    evaluation = asdict(params.evaluate)
    names = ["noise_std", "corruptions", "maps"]
    if variant.retrieval == SELF:  # of neighbours nothing is measured
        names.append("swap_std")
    if variant.retrieval in ("none", SELF):
        return {"seed": params.seed, **_chosen("evaluate", evaluation, names)}
    retrieval = _chosen("retrieval", asdict(params.retrieval), ("prune", "strategies"))
    return {"seed": params.seed, **_keys("evaluate", evaluation), **retrieval}


def _keys(group: str, values: Mapping[str, Any]) -> Facts:
    """Values by their full keys, as JSON has them."""
    facts: Facts = json.loads(json.dumps({f"{group}.{name}": v for name, v in values.items()}))
    return facts


def _chosen(group: str, values: Mapping[str, Any], names: Iterable[str]) -> Facts:
    return _keys(group, {name: values[name] for name in names})
