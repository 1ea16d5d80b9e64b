"""`rapipe store ...`, and what prefetch and eval make of an edited memory."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from rapipe import paths
from rapipe.cli import app
from rapipe.config.loading import load
from rapipe.config.schema import Params
from rapipe.io.atomic import part_path
from rapipe.io.checksums import write_checksums
from rapipe.io.tables import read_numbers
from rapipe.pipeline.report import read_material, setting
from rapipe.records import SPLITS, Embeddings, Images, Neighbours
from rapipe.report.accuracy import edits


@pytest.fixture(scope="module")
def copied(tiny: tuple[Path, Params], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the folder of `tiny`; tests below go on from each other's memories by name."""
    folder = tmp_path_factory.mktemp("edited") / "project"
    shutil.copytree(tiny[0], folder)
    return folder


@pytest.fixture
def project(copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose memory can be edited: a copy of its own."""
    folder = tmp_path / "project"
    shutil.copytree(copied, folder)
    monkeypatch.chdir(folder)
    return folder


def rapipe(*words: str, code: int = 0) -> str:
    """Run a command; its output."""
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == code, result.output
    return result.output


def data(*words: str) -> Any:
    """What a command prints as JSON."""
    result = CliRunner().invoke(app, [*words, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def accuracies(**keys: Any) -> dict[str, float]:
    """Clean accuracy by memory."""
    rows = data("results")
    return {
        row["memory"]: row["top1"]
        for row in rows
        if row["noise_std"] == 0 and all(row[key] == value for key, value in keys.items())
    }


def test_a_class_is_removed_and_comes_back(project: Path) -> None:
    before = (paths.RUNS / "alexnet-knn-k4-all-s0.json").read_bytes()
    bank_before = Embeddings.read(paths.BANK)
    table = paths.table("knn", "test").read_bytes()
    assert "version 1 is all" in rapipe("store", "tag", "all")
    assert "500 rows removed" in rapipe("store", "remove", "--class", "7")
    rapipe("store", "tag", "without-7")
    assert "embedding 350 query images" in rapipe("prefetch")
    bank = Embeddings.read(paths.BANK)
    assert set(bank.labels.tolist()) == set(range(10)) - {7}
    assert set(bank.ids) == set(bank_before.ids[bank_before.labels != 7])
    for split in SPLITS:
        queries = Neighbours.read(paths.table("knn", split)).query_ids
        assert np.array_equal(queries, Images.read(paths.split(split)).ids)
    rapipe("eval", "--backbone", "alexnet")
    assert (paths.RUNS / "alexnet-knn-k4-all-s0.json").read_bytes() == before
    assert set(accuracies(retrieval="knn", backbone="alexnet")) == {"v1", "without-7"}
    by_class = data("results", "--by-class")
    edited = [row for row in by_class if row["memory"] == "without-7"]
    assert {row["retrieval"] for row in edited} == {"knn", "sampled"}
    assert all(set("0123456789") < set(row) for row in edited)
    section = edits(read_material(load(paths.PARAMS))).html()
    assert all(f"<td>{name}</td>" in section for name in ("v1", "without-7", "no training"))

    assert "350 rows of digits added" in rapipe("store", "add", "digits", "--class", "7")
    rapipe("prefetch")
    assert sorted(Embeddings.read(paths.BANK).ids) == sorted(bank_before.ids)
    rapipe("store", "checkout", "all")
    rapipe("prefetch")
    assert paths.table("knn", "test").read_bytes() == table
    rapipe("eval", "--backbone", "alexnet", "--retrieval", "knn")
    assert "is intact" in rapipe("store", "verify")
    only = data("store", "diff", "all", "without-7")
    assert only["only in all"]["by class"] == {"7": 500}
    assert only["only in without-7"]["rows"] == 0
    assert "only in all: 500 rows: 7 500, digits 500" in rapipe("store", "diff", "all", "without-7")


@pytest.mark.ci
def test_a_new_class_from_a_folder(project: Path, undrawn: None) -> None:
    rng = np.random.default_rng(0)
    for name, count in (("cross", 6), ("7", 3)):
        (project / f"more/{name}").mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(project / f"more/{name}/{i}.png")
    test = Images.read(paths.split("test")).pixels[0]
    Image.fromarray(test).save(project / "more/7/leak.png")
    assert "5 rows of more added" in rapipe("store", "add", "more", "--limit", "5")
    again = ("--name", "again", "--class", "cross", "--limit", "4")
    assert "4 rows of again added" in rapipe("store", "add", "more", *again)
    assert "rows of plain added" in rapipe(
        "store", "add", "more", "--name", "plain", "--unlabelled"
    )
    facts = data("store", "info")
    assert facts["train by class"]["cross"] >= 4
    assert facts["train by class"]["(unlabelled)"] == 9
    assert facts["train by source"]["plain"] == 9
    assert [version["edit"] for version in facts["versions"]] == [
        "embed",
        "add more",
        "add more --class cross",
        "add more",
    ]
    listed = data("store", "list", "--source", "again")
    assert {row["class"] for row in listed} == {"cross"}
    rapipe("prefetch")
    bank = Embeddings.read(paths.BANK)
    assert len(bank) == 3500 + 5 + 4 + 9
    for backbone in ("alexnet", "perceiver"):
        rapipe("eval", "--backbone", backbone)  # which cannot name the new class
    rapipe("report")
    rapipe("neighbors", "more/cross/0.png", "-k", "3", "--picture", "found.png")
    assert "cross" in rapipe("neighbors", "more/cross/0.png", "-k", "30")
    error = rapipe("neighbors", "more/cross/0.png", "-k", "9999", code=2)
    assert "-k is 9999, but the bank offers a query at most 351" in error
    assert "raise retrieval.bank if it is limited, or add images" in error
    error = rapipe("store", "add", "more", "--class", "x", code=2)
    assert "--class 'x': more has no such class; it has 7, cross" in error
    error = rapipe("store", "add", "more", "--limit", "5", code=2)
    assert "nothing that the store does not have" in error
    error = rapipe("store", "add", "nowhere", code=2)
    assert (
        "'nowhere' is no file or folder, no source of corpus.sources (digits) and no kind" in error
    )


def test_images_are_unlearned_by_id_and_by_sql(project: Path) -> None:
    listed = data("store", "list", "--class", "3", "--limit", "2")
    ids = [str(row["id"]) for row in listed]
    assert "2 rows removed" in rapipe("store", "remove", "--id", ids[0], "--id", ids[1])
    error = rapipe("store", "remove", "--id", ids[0], code=2)
    assert f"--id {ids[0]}: the store has no image" in error
    output = rapipe("store", "remove", "--where", "label = 4 AND split = 'train'", "--purge")
    assert "350 rows removed from every version and from the disk" in output
    assert not paths.NEIGHBOURS.exists()
    facts = data("store", "info")
    assert facts["train by class"]["4"] == 0
    assert [version["version"] for version in facts["versions"]] == [3]
    assert "version 3: " in rapipe("store", "compact")
    error = rapipe("store", "list", "--where", "colour = 3", code=2)
    assert "--where 'colour = 3' is not understood" in error
    assert "no row is selected" in rapipe("store", "remove", code=2)
    for option, value in (("--class", "x"), ("--source", "y")):
        error = rapipe("store", "remove", option, value, code=2)
        assert f"{option} {value!r}: the store has no such" in error


def test_export_and_list_for_people(project: Path) -> None:
    assert "5,000 rows in out.parquet" in rapipe("store", "export", "out.parquet")
    assert "out.npy and out.rows.parquet" in rapipe("store", "export", "out.npy")
    assert "must end in" in rapipe("store", "export", "out.txt", code=2)
    text = rapipe("store", "list", "--limit", "2")
    assert "digits" in text
    assert "2 of 5,000 rows" in text
    assert "encoder is data/encoder  True" in rapipe("store", "info")


def test_files_in_the_home_folder(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undrawn: None
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    rng = np.random.default_rng(1)
    for name in ("one.png", "pets/cross/1.png", "pets/7/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    shutil.make_archive(str(tmp_path / "pets"), "zip", tmp_path, "pets")
    rapipe("neighbors", "~/one.png", "-k", "2", "--picture", "~/found.png")
    assert (tmp_path / "found.png").exists()
    assert "1 rows of one added" in rapipe("store", "add", "~/one.png")
    assert "2 rows of pets added" in rapipe("store", "add", "~/pets.zip")
    facts = data("store", "info")
    assert facts["train by class"]["(unlabelled)"] == 1
    assert facts["train by class"]["cross"] == 1
    (tmp_path / "pets/cross").rename(tmp_path / "pets/8")
    text = rapipe("store", "add", "~/pets", "--class", "8")
    assert "warning: 1 of them are in the store, or were added, with another label too" in text
    assert "5,004 rows in" in rapipe("store", "export", "~/out.parquet")
    assert (tmp_path / "out.parquet").exists()
    assert "there is no such home folder" in rapipe("store", "add", "~nobody-here/x", code=2)


def test_a_store_of_another_encoder_is_refused(project: Path) -> None:
    card = json.loads((paths.ENCODER / "card.json").read_text())
    card["spec"]["mean"] = [0.5, 0.5, 0.5]  # the same weights, another preparation of images
    (paths.ENCODER / "card.json").write_text(json.dumps(card))
    write_checksums(paths.ENCODER)
    for words in (["prefetch"], ["eval"], ["store", "verify"], ["store", "add", "digits"]):
        error = rapipe(*words, code=2)
        assert re.search("embedded by encoder|made with another encoder: run rapipe", error)
        assert len(error.strip().splitlines()[-1]) < 300
    assert "encoder is data/encoder  False" in rapipe("store", "info")


@pytest.mark.parametrize(
    ("backend", "index"),
    [("faiss", "Flat"), ("lance", "exact"), ("auto", "exact"), ("faiss", "IVF8,Flat")],
)
def test_prefetch_by_every_backend(project: Path, backend: str, index: str) -> None:
    before = {split: Neighbours.read(paths.table("knn", split)) for split in SPLITS}
    before = {s: (t.indices.copy(), t.similarities.copy()) for s, t in before.items()}
    text = Path("params.yaml").read_text()
    text = text.replace("backend: torch", f"backend: {backend}")
    Path("params.yaml").write_text(text.replace("index: exact", f"index: {index}"))
    output = rapipe("prefetch")
    for split, (indices, similarities) in before.items():
        table = Neighbours.read(paths.table("knn", split))
        if index != "IVF8,Flat":
            assert table.found_by["recall"] == 1
            assert np.array_equal(table.indices, indices)
            assert np.array_equal(table.similarities, similarities)
        else:
            assert table.found_by["recall"] >= 0.95
            assert f"knn of {split}: faiss IVF8,Flat (nprobe" in output
    pretraining = read_numbers(paths.PRETRAINING / "history.csv")
    in_report = setting(load(paths.PARAMS), pretraining)
    assert ("of the 4 nearest of 500 queries" in in_report) == (index == "IVF8,Flat")


def test_a_mistake_in_prefetch_loses_nothing(project: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in paths.NEIGHBOURS.rglob("*")}
    text = Path("params.yaml").read_text()
    for old, new, message in (
        ("  k: 4", "  k: 4000", "retrieval.k is 4000"),
        ("bank: all", "bank: 3501", "retrieval.bank is 3501"),
        ("index: exact", "index: IVF", "retrieval.index is 'IVF'"),
        ("backend: torch", "backend: faiss\n  index: PQ3", "stands twice"),
        ("min_recall: 0.95", "min_recall: 1.5", "retrieval.min_recall is 1.5"),
    ):
        assert old in text
        Path("params.yaml").write_text(text.replace(old, new))
        assert message in rapipe("prefetch", code=2)
    faiss = text.replace("backend: torch", "backend: faiss").replace("index: exact", "index: PQ3")
    Path("params.yaml").write_text(faiss)
    assert "FAISS cannot make it for 3500 vectors of 32" in rapipe("prefetch", code=2)
    assert {path: path.stat().st_mtime_ns for path in paths.NEIGHBOURS.rglob("*")} == before
    Path("params.yaml").write_text(text)
    rapipe("prefetch")
    assert not part_path(paths.NEIGHBOURS).exists()
    card = json.loads(paths.table_card("knn").read_text())
    assert card["test"] == {
        "queries": 1000,
        "backend": "torch",
        "index": "exact",
        "effort": "",
        "recall": 1.0,
        "sample": 0,
    }


def test_old_results_without_a_memory_are_stale_not_fatal(project: Path) -> None:
    path = paths.RUNS / "alexnet-none-s0.json"
    run = json.loads(path.read_text())
    del run["edited"], run["by_class"], run["seal"]
    path.write_text(json.dumps(run))
    rows = data("results")
    assert "none" not in {row["retrieval"] for row in rows if row["backbone"] == "alexnet"}
