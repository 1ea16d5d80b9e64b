"""Fusions: how neighbours enter a classifier. One file each, one line each in `FUSIONS`.

A fusion is made of (channels of the tokens or number of features, dimension of the neighbours'
vectors, classes, `FusionSpec`): once for each stage of the backbone where neighbours enter, or
once where it changes what the head says.
"""

from rapipe.classifier.fusions.base import ApartFusion, Fusion, LateFusion, TokenFusion
from rapipe.classifier.fusions.cross_attention import CrossAttention
from rapipe.classifier.fusions.distance import DistanceAttention
from rapipe.classifier.fusions.knn_lm import KnnLm
from rapipe.classifier.fusions.modern_nca import ModernNca
from rapipe.classifier.fusions.rac import Rac
from rapipe.classifier.fusions.tabr import TabR
from rapipe.classifier.fusions.tip_adapter import TipAdapter
from rapipe.classifier.fusions.trust import Trust

FUSIONS: dict[str, type[TokenFusion] | type[LateFusion]] = {
    "cross-attention": CrossAttention,
    "distance": DistanceAttention,
    "tabr": TabR,
    "knn-lm": KnnLm,
    "tip-adapter": TipAdapter,
    "rac": Rac,
    "modern-nca": ModernNca,
    "trust": Trust,
}

__all__ = ["FUSIONS", "ApartFusion", "Fusion", "LateFusion", "TokenFusion"]
