"""The table of frozen or fine-tuned, from a start or from none."""

from __future__ import annotations

from typing import Any

from rapipe.report.starts import starts_table
from rapipe.report.tables import NOTHING


def row(backbone: str, top1: float, retrieval: str = "none", seed: int = 0) -> dict[str, Any]:
    return {
        "backbone": backbone,
        "retrieval": retrieval,
        "k": 0,
        "bank_size": 0,
        "seed": seed,
        "noise_std": 0.0,
        "top1": top1,
        "top3": top1 + 0.1,
    }


def test_four_cells_of_two_starts() -> None:
    rows = [
        row("resnet50", 0.382),
        row("resnet50+frozen", 0.156),
        row("resnet50+pretrained", 0.774),
        row("resnet50+pretrained+frozen", 0.713),
        row("resnet50+pretrained+frozen+graph", 0.5),  # of another head: alone
        row("alexnet", 0.5),
        row("alexnet+pretrained", 0.6),  # never frozen
    ]
    rows += [{**rows[0], "noise_std": 0.1, "top1": 0.0, "top3": 0.0}]
    table = starts_table(rows)
    assert table.rows == [
        ["resnet50", "none", "random initialisation", "15.6", "25.6", "38.2", "48.2"],
        ["resnet50", "none", "pretrained here", "71.3", "81.3", "77.4", "87.4"],
    ]
    assert len(table.heads) == len(table.rows[0])
    assert not starts_table(rows[:3]).rows


def test_seeds_are_summarised_and_retrieval_stays_apart() -> None:
    names = ("a+noise", "a+frozen+noise", "a+checkpoint+noise", "a+checkpoint+frozen+noise")
    rows = [row(name, 0.5 + 0.1 * seed, seed=seed) for name in names for seed in (0, 1)]
    rows += [row(name, 0.2, "knn") for name in names[:3]]
    table = starts_table(rows)
    assert [line[:3] for line in table.rows] == [
        ["a+noise", "none", "random initialisation"],
        ["a+noise", "none", "pretrained elsewhere"],
    ]
    assert table.rows[0][3] == "55.0 ± 7.1"
    assert NOTHING not in table.rows[0]
