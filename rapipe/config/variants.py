"""Which classifiers the parameters ask for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rapipe.config.names import SELF, WITH_SELF, ClassifierName
from rapipe.config.schema import Params
from rapipe.specs import APART


@dataclass(frozen=True)
class Variant:
    """One classifier to train: a name of `classifiers.backbones`, how it retrieves, and a seed."""

    backbone: str
    retrieval: str
    k: int
    bank: int | str
    seed: int

    @classmethod
    def of(cls, params: Params, backbone: str, retrieval: str, seed: int) -> Variant:
        """The variant with the parameters' k and bank; k = 0 and bank 0 without retrieval."""
        if retrieval == "none":
            return cls(backbone, "none", 0, 0, seed)
        return cls(backbone, retrieval, params.retrieval.k, params.retrieval.bank, seed)

    @property
    def classifier(self) -> ClassifierName:
        """What its name in `classifiers.backbones` says."""
        return ClassifierName.parse(self.backbone)

    @property
    def rows_shown(self) -> int:
        """Rows of the bank that an image is shown: K, but 0 where that is its own vector alone."""
        return 0 if self.retrieval == SELF else self.k

    @property
    def with_self(self) -> bool:
        """Whether an image is shown its own vector."""
        return self.retrieval in WITH_SELF

    @property
    def name(self) -> str:
        """Name of the variant's folder; dvc.yaml spells the same name."""
        if self.retrieval == "none":
            return f"{self.backbone}-none-s{self.seed}"
        return f"{self.backbone}-{self.retrieval}-k{self.k}-{self.bank}-s{self.seed}"


class Project(NamedTuple):
    """Where a pipeline runs, and variants of it that are trained together."""

    folder: Path
    """The present one, or another."""
    params: Params
    variants: tuple[Variant, ...]


def variants(params: Params) -> list[Variant]:
    """Every variant that the parameters ask for, the baseline first."""
    return [
        Variant.of(params, backbone, retrieval, seed)
        for backbone in params.classifiers.backbones
        for retrieval in ("none", *params.retrieval.strategies)
        for seed in params.classifiers.seeds
    ]


def together(params: Params, selected: Sequence[Variant]) -> list[tuple[Variant, ...]]:
    """Variants that are trained together: those that have one network, with any neighbours."""
    groups: dict[object, list[Variant]] = {}
    for variant in selected:
        own = has_own_network(params, variant)
        key = variant if own else (variant.backbone, variant.seed)
        groups.setdefault(key, []).append(variant)
    return [tuple(group) for group in groups.values()]


def has_own_network(params: Params, variant: Variant) -> bool:
    """Whether what a variant looks up decides what its network learns.

    Unless the fusion learns apart from it, and no teacher with neighbours teaches it.
    """
    return params.retrieval.fusion not in APART or variant.classifier.distilled
