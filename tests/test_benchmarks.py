"""Every benchmark runs and prints one JSON object, so that none rots; nothing is timed here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

BENCHMARKS = {
    "corpus": ["--quick"],
    "embed": ["--quick"],
    "evaluate": ["--quick", "--images", "100"],
    "explore": ["--quick"],
    "predict": ["--quick"],
    "prefetch": ["--quick"],
    "pretrain": ["--quick"],
    "scale": ["--quick", "--images", "2000"],
    "search": ["--rows", "2000"],
    "startup": ["--quick"],
    "whole": ["--quick"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_runs(name: str) -> None:
    if name == "scale":
        pytest.importorskip("lance")
        pytest.importorskip("ray")
    command = [sys.executable, "-m", f"benchmarks.{name}", "--json", *BENCHMARKS[name]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)


@pytest.mark.slow
def test_memories_are_compared_with_classifiers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import memories
    from benchmarks.rows import rows_of

    monkeypatch.setattr(memories, "WORK", tmp_path)
    for name in ("MEMORIES", "CLASSIFIERS"):
        monkeypatch.setattr(memories, name, tmp_path / f"{name}.csv")
    overrides = {
        **memories.GRID,
        **memories.CASES["random weights"],
        "classifiers.backbones": ["perceiver"],
        "corpus.sources": [{"kind": "digits", "limit": 0.1}],
        "train.epochs": 1,
        "train.width": 8,
    }
    for _ in range(2):  # what has a row is not run again
        memories.measure("random weights", "cifar10", overrides, seeds=1)
    (memory,) = rows_of(memories.MEMORIES)
    assert 0.1 < float(memory["vote_noise_0"]) < 1
    assert 0 < float(memory["recall_noise_0.2"]) < float(memory["recall_noise_0.1"]) < 1
    classifiers = rows_of(memories.CLASSIFIERS)
    assert [row["retrieval"] for row in classifiers] == ["none", "self", "sampled", "knn"]
    assert {row["memory"] for row in classifiers[1:]} == {"random weights"}
    assert classifiers[0]["memory"] == memories.ANY
    table = "\n".join(memories.tables())
    assert "| random weights |" in table
    assert "perceiver on CIFAR-10" in table


@pytest.mark.slow
def test_fusions_are_compared_with_what_they_must_beat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import fusion_page, fusions
    from benchmarks.rows import rows_of

    monkeypatch.setattr(fusions, "WORK", tmp_path)
    for name in ("ROWS", "COMPARED", "PROBES", "NEW_CLASS", "ANSWERS", "ENCODERS"):
        monkeypatch.setattr(fusions, name, tmp_path / f"{name}.csv")
    overrides = {
        **fusions.GRID,
        "classifiers.backbones": ["perceiver"],
        "classifiers.seeds": [0, 1],
        "corpus.sources": [{"kind": "digits", "limit": 0.1}],
        "pretrain.objective": "none",
        "train.epochs": 1,
        "train.width": 8,
        "evaluate.corruptions": ["fog:3", "contrast:5"],
    }
    for case in ("trust", "trust"):  # what has a row is not run again
        fusions.measure("digits", case, overrides)
    every = rows_of(fusions.ROWS)
    corrected = [row for row in every if row["case"] == fusions.CORRECTED]
    assert len(corrected) == 4
    assert all(0 < float(row["top1_-1"]) < 1 for row in corrected)
    every = [row for row in every if row not in corrected]
    named = [(row["case"], row["seed"]) for row in every if row["backbone"] == "perceiver"]
    assert named == [(name, seed) for seed in "01" for name in fusions.TRUSTING.values()]
    noisy = [row["case"] for row in every if row["backbone"] == "perceiver+noise"]
    assert noisy == ["none", "trust"] * 2
    rows = [
        next(row for row in every if (row["case"], row["seed"]) == own)
        for own in (("none", "0"), ("none", "1"), ("trust", "0"), ("trust", "1"))
    ]
    assert 0 < float(rows[2]["neighbour_share_0.2"]) < 1
    assert rows[0]["purity_0"] == ""
    compared = [r for r in rows_of(fusions.COMPARED) if r["backbone"] == "perceiver"]
    peers = {"none", fusions.CORRECTED, "vote", fusions.OWN_VECTOR}
    assert {row["against"] for row in compared} == peers
    for row in compared:
        assert float(row["low"]) <= float(row["change"]) <= float(row["high"])
    means = [np.mean([float(row["top1_0.1"]) for row in part]) for part in (rows[2:], rows[:2])]
    (change,) = (
        float(row["change"])
        for row in compared
        if (row["case"], row["against"], row["noise_std"]) == ("trust", "none", "0.1")
    )
    assert change == pytest.approx(means[0] - means[1], abs=2e-4)
    monkeypatch.setattr(fusions, "NAMING", ("knn-lm",))
    fusions.add_a_class(overrides, "digits", [0])
    (new_class,) = rows_of(fusions.NEW_CLASS)
    assert float(new_class["new_before"]) == 0 < float(new_class["new_after"])
    (tmp_path / "README.md").write_text(f"# Fusions\n\n{fusion_page.BEGIN}{fusion_page.END}\n")
    monkeypatch.setattr(fusion_page, "PAGE", tmp_path / "README.md")
    monkeypatch.setattr(fusion_page, "DOCS", tmp_path / "README.md")
    fusion_page.main()
    page = (tmp_path / "README.md").read_text()
    assert page.count("| trust | ") >= 1
    assert (tmp_path / "accuracy.png").exists()
    assert (tmp_path / "trust.png").exists()


@pytest.mark.slow
def test_generated_images_are_compared_by_role(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import generated
    from benchmarks.rows import rows_of

    monkeypatch.setattr(generated, "WORK", tmp_path)
    for name in ("GENERATORS", "CLASSIFIERS"):
        monkeypatch.setattr(generated, name, tmp_path / f"{name}.csv")
    monkeypatch.setattr(generated, "OF_ACGAN", {"generate.learning_rate": 0.0005})
    overrides = {
        **generated.GRID,
        "classifiers.backbones": ["perceiver"],
        "corpus.sources": [{"kind": "digits", "limit": 0.1}],
        "generate.images": 3,
        "generate.width": 4,
        "generate.epochs": 1,
        "pretrain.epochs": 1,
        "train.epochs": 1,
        "train.width": 8,
    }
    for _ in range(2):  # what has a row is not run again
        for method in ("none", "acgan"):
            generated.measure("digits", method, overrides, seeds=1)
    (generator,) = rows_of(generated.GENERATORS)
    assert float(generator["fid_generated"]) > float(generator["fid_training"]) > 0
    rows = [(row["role"], row["retrieval"]) for row in rows_of(generated.CLASSIFIERS)]
    assert rows == [
        *(("neither", "none"), ("neither", "knn")),
        *(("training", "none"), ("training", "knn")),
        *(("memory", "knn"), ("both", "knn")),
    ]
    table = "\n".join(generated.tables())
    assert "| neither | " in table
    assert "| both, acgan | " in table
    assert "&ndash;" not in table


@pytest.mark.slow
def test_pictures_of_the_coursework_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import coursework_pictures as made

    for name in ("WORK", "FOLDER"):
        monkeypatch.setattr(made, name, tmp_path / name)
    few = {"corpus.sources": [{"kind": "digits", "limit": 0.1}], "train.width": 8}
    run = made.Run({**made.RUNS["learning-rate"].overrides, **few}, ("rates", "gallery"))
    made.make("few", run)
    assert all(map(Path.exists, made.pictures("few", run).values()))
    monkeypatch.setattr(made, "ENCODERS", ("alexnet", "resnet18"))
    changed = {"pretrain.epochs": 1, "pretrain.keep_every": 1, "classifiers.seeds": [0]}
    monkeypatch.setattr(
        made, "DOWNSTREAM", {**made.DOWNSTREAM, **few, **changed, "train.epochs": 1}
    )
    made.draw_downstream()
    assert (tmp_path / "FOLDER/downstream.png").exists()


@pytest.mark.slow
def test_tables_of_the_coursework_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import coursework
    from benchmarks.rows import rows_of

    rates = (0.001, 0.01)
    settings = [
        coursework.Setting(
            {
                "corpus.sources": [{"kind": "digits", "limit": 0.1}],
                "pretrain.objective": "none",
                "train.epochs": 1,
                "train.width": 8,
                "train.learning_rate": rate,
            },
            ("perceiver",),
            coursework.DIGITS,
            retrievals,
            f"{rate:g}",
        )
        for rate, retrievals in zip(rates, (("none",), ("none", "knn")), strict=True)
    ]
    key = (coursework.DIGITS, "0.01", "perceiver")
    report = coursework.Report(
        "About.", tuple(settings), {key: "12.3"}, True, ("train.learning_rate",)
    )
    monkeypatch.setattr(coursework, "REPORTS", {"rates": report})
    monkeypatch.setattr(coursework, "SEEDS", (0,))
    for name in ("WORK", "FIGURES"):
        monkeypatch.setattr(coursework, name, tmp_path / name)
    monkeypatch.setattr(coursework, "ROWS", tmp_path / "rows.csv")
    for _ in range(2):  # what has a row is not run again
        for setting in settings:
            coursework.measure("rates", setting, "")
    coursework.draw("rates", settings[-1], "")
    assert len(rows_of(coursework.ROWS)) == 9
    assert (tmp_path / "FIGURES/train.learning_rate-curves.png").exists()
    heads, _, first, second = list(coursework.table("rates"))[1:]
    assert heads == "| images | setting | classifier | weights | theirs | none | knn |"
    assert first.startswith("| the digits | 0.001 | perceiver |")
    assert first.endswith(f"| {coursework.UNKNOWN} |")
    assert "| 12.3 |" in second
    assert second.count(" / ") == 2
