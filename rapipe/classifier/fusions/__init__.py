"""Fusions: how neighbours enter a classifier. One file each, one line each in `FUSIONS`.

A fusion is made of (channels of the tokens, dimension of the neighbours' vectors, classes,
`FusionSpec`), once for each stage of the backbone where neighbours enter.
"""

from rapipe.classifier.fusions.base import Fusion
from rapipe.classifier.fusions.cross_attention import CrossAttention

FUSIONS: dict[str, type[Fusion]] = {
    "cross-attention": CrossAttention,
}

__all__ = ["FUSIONS", "Fusion"]
