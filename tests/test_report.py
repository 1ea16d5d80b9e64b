from __future__ import annotations

import re
from pathlib import Path

import pytest

from rapipe import report


def row(retrieval: str, seed: int, top1: float, noise: float = 0.0, k: int = 4) -> dict:
    plain = retrieval == "none"
    return {
        "backbone": "net",
        "retrieval": retrieval,
        "k": 0 if plain else k,
        "bank_size": 0 if plain else 100,
        "seed": seed,
        "noise_std": noise,
        "top1": top1,
    }


def test_table_gives_mean_and_sample_deviation_over_seeds() -> None:
    rows = [row("none", 0, 0.5), row("none", 1, 0.6), row("knn", 0, 0.7), row("none", 0, 0.4, 0.1)]
    found = report.table(rows, {("net", "none", 0, 0): [21.0, 63.0]})
    lines = [re.findall(r"<t[dh]>(.*?)</t[dh]>", line) for line in found.split("<tr")[1:]]
    assert lines[0][-2:] == ["clean", "noise 0.1"]
    assert lines[1][4:] == ["2", "21", "63", "55.0 ± 7.1", "40.0"]
    assert lines[2][4:] == ["1", "&ndash;", "&ndash;", "70.0", "&ndash;"]


def test_first_step() -> None:
    history = [{"step": s, "test_top1_not_for_selection": a} for s, a in ((5, 0.1), (9, 0.8))]
    assert report.first_step([history], 0.8) == 9
    assert report.first_step([history, history[1:]], 0.1) == 7
    assert report.first_step([history, history[:1]], 0.8) is None


def test_curves_over_k_only_where_several_were_run() -> None:
    one = [row("none", 0, 0.5), row("knn", 0, 0.6)]
    assert report.ablation_curves(one, "k") is None
    assert report.ablation_curves(one[:1], "k") is None
    figure = report.ablation_curves([*one, row("knn", 0, 0.7, k=8), row("knn", 1, 0.9, k=8)], "k")
    assert figure is not None
    line = next(line for line in figure.axes[0].get_lines() if line.get_label() == "knn")
    assert line.get_xdata().tolist() == [4, 8]
    assert line.get_ydata().tolist() == pytest.approx([0.6, 0.8])
    assert report.ablation_curves([*one, row("knn", 0, 0.7, k=8)], "bank_size") is None


def test_pictures_are_the_same_bytes_again(tmp_path: Path) -> None:
    def drawn(name: str) -> bytes:
        history = [[{"step": 1.0, "epoch": 1.0, "test_top1_not_for_selection": 0.3}]]
        figure = report.accuracy_curves({("net", "none"): history}, "step")
        return report.save(figure, tmp_path / name)

    assert drawn("a.png") == drawn("b.png") == (tmp_path / "a.png").read_bytes()


def test_names_are_escaped() -> None:
    evil = "<script>alert(1)</script>"
    rows = [{**row("knn", 0, 0.5), "backbone": evil, "retrieval": evil}]
    page = report.page(evil, [(evil, "", report.table(rows, {})), (evil, "", b"png")])
    assert "<script" not in page
