"""Graph attention among the tokens of a backbone beside classic attention and neither."""

from __future__ import annotations

from collections.abc import Sequence

from rapipe.evaluation.results import Condition, Row, over_seeds
from rapipe.report.material import Material
from rapipe.report.starts import FROZEN, STARTS
from rapipe.report.tables import Table, percent

HEADS = {"graph": "graph attention", "attention": "classic attention"}
"""Heads that let tokens attend to each other, by the word behind a backbone's name."""
ENCODER = "encoder"
"""The backbone that brings the memory's weights."""


def table(material: Material) -> Table:
    """Attention among tokens, joint with the backbone or on a frozen one.

    Top-1 and top-3 accuracy on clean test images in percent, mean ± standard deviation over
    seeds. Scratch: the backbone alone, from random weights. Joint: it learns together with the
    attention among its last tokens. Frozen: it keeps the weights that it starts with, and the
    attention alone learns; so the frozen lines say whether graph attention gets more out of the
    same tokens than the classic one.
    """
    return heads_table(material.results.rows())


def heads_table(rows: Sequence[Row]) -> Table:
    """A line a condition, by network and retrieval; empty if none has such a head."""
    top1, top3 = over_seeds(rows, "top1"), over_seeds(rows, "top3")
    if not any(HEADS.keys() & set(condition.backbone.split("+")) for condition in top1):
        return Table([], [])
    lines = []
    for condition in top1:
        network, start, learning = _describe(condition)
        cells = [percent(values[condition].get(0.0, [])) for values in (top1, top3)]
        lines.append([network, condition.retrieval, learning, start, *cells])
    networks = list(dict.fromkeys(line[0] for line in lines))
    lines.sort(key=lambda line: (networks.index(line[0]), line[1] != "none", line[1]))
    return Table(["backbone", "retrieval", "what learns", "start", "top-1", "top-3"], lines)


def _describe(condition: Condition) -> tuple[str, str, str]:
    """The network with other words of its name, its start, and what of it learns."""
    network, *words = condition.backbone.split("+")
    start = next((STARTS[word] for word in words if word in STARTS), STARTS[""])
    start = "the memory's encoder" if network == ENCODER else start
    head = next((HEADS[word] for word in words if word in HEADS), "")
    others = [word for word in words if word not in (*STARTS, *HEADS, FROZEN)]
    if FROZEN in words:
        learning = f"frozen + {head or 'linear'}"
    elif head:
        learning = f"joint: {head}"
    else:
        learning = "scratch" if start == STARTS[""] else "fine-tuned"
    return "+".join([network, *others]), start, learning
