"""Which classifiers the parameters ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rapipe.config.names import ClassifierName, parse_name

if TYPE_CHECKING:
    from rapipe.config.schema import Params


@dataclass(frozen=True)
class Variant:
    """One classifier to train: a name of `train.backbones`, how it retrieves, and a seed."""

    backbone: str
    retrieval: str
    k: int
    bank: int | str
    seed: int

    @property
    def entry(self) -> ClassifierName:
        """What its name in `train.backbones` says."""
        return parse_name(self.backbone)

    @property
    def name(self) -> str:
        """Name of the variant's folder; dvc.yaml spells the same name."""
        if self.retrieval == "none":
            return f"{self.backbone}-none-s{self.seed}"
        return f"{self.backbone}-{self.retrieval}-k{self.k}-{self.bank}-s{self.seed}"


def make_variant(params: Params, backbone: str, retrieval: str, seed: int) -> Variant:
    """The variant with the parameters' k and bank; k = 0 and bank 0 without retrieval."""
    if retrieval == "none":
        return Variant(backbone, "none", 0, 0, seed)
    return Variant(backbone, retrieval, params.retrieval.k, params.retrieval.bank, seed)


def variants(params: Params) -> list[Variant]:
    """Every variant that the parameters ask for, the baseline first."""
    return [
        make_variant(params, backbone, retrieval, seed)
        for backbone in params.train.backbones
        for retrieval in ("none", *params.retrieval.strategies)
        for seed in params.train.seeds
    ]
