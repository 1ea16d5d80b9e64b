"""What pretraining is worth to a classifier: frozen or fine-tuned, from a start or from none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rapipe.evaluation.results import Condition, Row, over_seeds
from rapipe.report.material import Material
from rapipe.report.tables import Table, percent

STARTS = {
    "": "random initialisation",
    "pretrained": "pretrained here",
    "checkpoint": "pretrained elsewhere",
}
"""By the word behind a backbone's name; in the order of lines."""
FROZEN = "frozen"


class Family(NamedTuple):
    """What classifiers share that differ only by their start and by what of them learns."""

    network: str
    """Backbone, and the words behind its name that say neither."""
    retrieval: str
    k: int
    bank_size: int


def table(material: Material) -> Table:
    """Where a backbone was trained frozen and whole, from a start and from none.

    Top-1 and top-3 accuracy on clean test images in percent, mean ± standard deviation over
    seeds. Frozen: the backbone keeps the weights that it starts with, and a linear layer, or
    the head in its name, learns. Fine-tuned: all of it learns. So the first line of a backbone
    says what its structure is worth, the next what its pretraining adds.
    """
    return starts_table(material.results.rows())


def starts_table(rows: Sequence[Row]) -> Table:
    """Two lines or more a family that has all four cells; two pairs of columns."""
    heads = ["classifier", "retrieval", "start", "frozen, top-1", "frozen, top-3"]
    heads += ["fine-tuned, top-1", "fine-tuned, top-3"]
    top1, top3 = over_seeds(rows, "top1"), over_seeds(rows, "top3")
    families: dict[Family, dict[tuple[str, bool], Condition]] = {}
    for condition in top1:
        words = condition.backbone.split("+")
        start = next((word for word in words if word in STARTS), "")
        others = [word for word in words if word not in (start, FROZEN)]
        family = Family("+".join(others), *condition[1:4])
        families.setdefault(family, {})[start, FROZEN in words] = condition
    lines = []
    for family, cells in families.items():
        starts = [start for start in STARTS if {(start, True), (start, False)} <= cells.keys()]
        if len(starts) < 2:
            continue
        for start in starts:
            line = [family.network, family.retrieval, STARTS[start]]
            for frozen in (True, False):
                condition = cells[start, frozen]
                line += [percent(values[condition].get(0.0, [])) for values in (top1, top3)]
            lines.append(line)
    return Table(heads, lines)
