"""Heads: one file a kind, one line a name in `HEADS`.

A head is made of (channels of the tokens, features, classes).
"""

from collections.abc import Callable

from rapipe.classifier.heads.attention import Attention
from rapipe.classifier.heads.base import Head
from rapipe.classifier.heads.graph import Graph
from rapipe.classifier.heads.linear import Linear
from rapipe.classifier.heads.projection import Projection

HEADS: dict[str, Callable[[int, int, int], Head]] = {
    "linear": Linear,
    "attention": Attention,
    "graph": Graph,
    "projection": Projection,
}

__all__ = ["HEADS", "Head"]
