from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_embeddings, make_images
from typer.testing import CliRunner

from rapipe import paths
from rapipe.cli import app
from rapipe.config import deciding, presets
from rapipe.config.loading import load
from rapipe.config.schema import Params
from rapipe.corpus.decode import pixel_hash
from rapipe.corpus.labels import hidden_label_ids
from rapipe.encoder.encoder import Encoder, EncoderSpec
from rapipe.evaluation import leakage
from rapipe.io.checksums import write_checksums
from rapipe.io.locations import write_locations
from rapipe.pipeline import audit, embed, prefetch
from rapipe.pipeline.inputs import PARAMS
from rapipe.pipeline.stored_vectors import stored_vectors, vectors_of
from rapipe.records import Embeddings, Images, Neighbours
from rapipe.retrieval.search import VectorsWithIds, search
from rapipe.retrieval.store import Store

COPIED, COPY = 4, 7
"""The test image that is a training image with one pixel changed, and that training image."""


def hashed(images: Images) -> Images:
    """The same images, with the ids that their pixels have."""
    return replace(images, ids=np.array([pixel_hash(pixels) for pixels in images.pixels]))


@pytest.fixture(scope="module")
def prefetched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as it is after prefetch: random images, a random encoder, one near duplicate."""
    folder = tmp_path_factory.mktemp("prefetched")
    counts = {"train": 60, "validation": 20, "test": 20}
    splits = {split: make_images(n, seed) for seed, (split, n) in enumerate(counts.items())}
    splits["test"].pixels[COPIED] = splits["train"].pixels[COPY]
    splits["test"].pixels[COPIED, 3, 3, 0] ^= 16
    assert splits["test"].labels[COPIED] == splits["train"].labels[COPY] == 1
    splits["test"].labels[0] = -1  # so that rows and queries are not numbered alike
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for split, images in splits.items():
            hashed(images).write(paths.split(split))
        presets.write("tiny", paths.PARAMS)
        params = load(paths.PARAMS)
        facts = {"hash": "of the images", PARAMS: deciding.of_corpus(params)}
        card = {"classes": splits["train"].classes, **facts}
        paths.CORPUS_CARD.write_text(json.dumps(card))
        locations = {split: [f"{split}/{i}.png" for i in range(n)] for split, n in counts.items()}
        write_locations(paths.LOCATIONS, locations)
        write_checksums(paths.CORPUS)
        torch.manual_seed(0)
        spec = EncoderSpec("resnet18", 16, "half", 16, (0.5,) * 3, (0.3,) * 3)
        made_with = {"corpus": facts["hash"], **deciding.of_encoder(params, "fp32")}
        Encoder(spec).write(paths.ENCODER, {PARAMS: made_with})
        write_checksums(paths.ENCODER)
        for stage in (embed, prefetch):
            stage.run(params)
    return folder


@pytest.fixture
def project(prefetched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """A copy of `prefetched` to work in."""
    shutil.copytree(prefetched, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return load(paths.PARAMS)


def written() -> list[dict[str, str]]:
    with paths.DUPLICATES.open() as file:
        return list(csv.DictReader(file))


def test_a_changed_pixel_is_listed(project: Params) -> None:
    audit.run(project)
    test, train = Images.read(paths.split("test")), Images.read(paths.split("train"))
    rows = written()
    assert tuple(rows[0]) == audit.COLUMNS
    first = {key: value for key, value in rows[0].items() if key != "similarity"}
    assert first == {
        "test_id": str(test.ids[COPIED]),
        "test_row": str(COPIED),
        "bank_id": str(train.ids[COPY]),
        "same_class": "1",
    }
    encoder = Encoder.read(paths.ENCODER)
    pair = encoder.embed(np.stack([test.pixels[COPIED], train.pixels[COPY]]))
    assert float(rows[0]["similarity"]) == pytest.approx(float(pair[0] @ pair[1]), abs=1e-5)
    card = json.loads(paths.LEAKAGE.read_text())
    assert card["near_duplicates"] == len(rows) < 10
    assert card["near_duplicates_share"] == len(rows) / card["test_images"]
    assert card["near_duplicates_of_same_class"] == sum(int(row["same_class"]) for row in rows)
    assert (card["validation_images"], card["test_images"], card["bank_rows"]) == (20, 19, 60)
    assert sum(card["histogram"]["test"]) == 19
    assert sum(card["histogram"]["validation"]) == 20
    similarities = [float(row["similarity"]) for row in rows]
    assert similarities == sorted(similarities, reverse=True)
    assert similarities[-1] > card["threshold"]
    assert {check["found"] for check in card["checks"].values()} == {0}
    assert card["checks"]["self_hits"]["checked"] == 2 * (60 + 20 + 19)
    before = [path.read_bytes() for path in audit.WRITES]
    audit.run(project)
    assert [path.read_bytes() for path in audit.WRITES] == before


def errors_written() -> list[dict[str, str]]:
    with paths.LABEL_ERRORS.open() as file:
        return list(csv.DictReader(file))


def relabel(split: str, row: int, label: int) -> None:
    images = Images.read(paths.split(split))
    labels = images.labels.copy()
    labels[row] = label
    replace(images, pixels=images.pixels.copy(), labels=labels).write(paths.split(split))
    write_checksums(paths.CORPUS)


def test_label_errors_are_listed(project: Params, capsys: pytest.CaptureFixture[str]) -> None:
    relabel("test", COPIED, 2)
    audit.run(project)
    card = json.loads(paths.LEAKAGE.read_text())["label_errors"]
    rows = errors_written()
    assert len(rows) == card["listed"] == card["found"] > 0
    assert card["judged"] == 60 + 20
    assert 0 <= card["validation_top1"] <= 1
    assert card["validation_commonest"] == pytest.approx(7 / 20)
    assert len(card["neighbours"]) == min(len(rows), 20)
    by_votes = [row for row in rows if "votes" in row["reason"]]
    assert len(by_votes) == card["by_votes"] > 0
    assert {row["split"] for row in by_votes} <= {"train", "validation"}
    margins = [float(row["confidence"]) - float(row["suggested_confidence"]) for row in by_votes]
    assert margins == sorted(margins)
    for row in rows:
        images = Images.read(paths.split(row["split"]))
        assert images.ids[int(row["row"])] == int(row["id"])
        assert images.classes[images.labels[int(row["row"])]] == row["class"] != row["suggested"]
        assert row["location"] == f"{row['split']}/{row['row']}.png"
    [copied] = [row for row in rows if row["split"] == "test" and row["row"] == str(COPIED)]
    assert (copied["reason"], copied["suggested"]) == ("near duplicate", "class 1")
    assert copied["confidence"] == ""
    assert copied["neighbour_id"] == str(Images.read(paths.split("train")).ids[COPY])
    said = capsys.readouterr().err
    assert f"possible label errors: {len(rows)} ({len(by_votes)} of 80 by votes, which are" in said
    assert said.endswith("listed in results/label_errors.csv\n")


def test_withheld_labels_neither_vote_nor_are_judged(project: Params) -> None:
    few = replace(project, train=replace(project.train, label_fraction=0.5))
    prefetch.run(few)
    train = Images.read(paths.split("train"))
    hidden = hidden_label_ids(train.ids, train.labels, 0.5, few.seed)
    assert len(hidden) == 30
    audit.run(few)
    assert json.loads(paths.LEAKAGE.read_text())["label_errors"]["judged"] == 30 + 20
    assert not {row["id"] for row in errors_written()} & set(map(str, hidden.tolist()))


def test_the_threshold_is_that_of_validation(project: Params) -> None:
    audit.run(project)
    validation, bank = Images.read(paths.split("validation")), Embeddings.read(paths.BANK)
    vectors = Encoder.read(paths.ENCODER).embed(validation.pixels)
    expected = slow_other_class(vectors, validation.labels, bank.vectors, bank.labels)
    card = json.loads(paths.LEAKAGE.read_text())
    assert card["threshold"] == pytest.approx(expected.max(), abs=1e-5)  # of 20, the largest


def test_what_the_memory_lacks_is_embedded(project: Params) -> None:
    test, store = Images.read(paths.split("test")), Store.open(paths.STORE, paths.STORE_MANIFEST)
    stored = stored_vectors(store, test.ids)
    assert len(stored.ids) == 20
    third = VectorsWithIds(stored.ids[::3], stored.vectors[::3])
    empty = stored_vectors(store, np.array([5]))
    assert empty.vectors.shape == (0, stored.vectors.shape[1])
    for vectors in (stored, third, empty):
        assert np.allclose(
            vectors_of(test, np.arange(20), vectors),
            Encoder.read(paths.ENCODER).embed(test.pixels),
            atol=1e-5,
        )


def test_a_memory_without_labels_justifies_no_threshold(
    project: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    bank = Embeddings.read(paths.BANK)
    vectors = np.array(bank.vectors)  # not mapped from the file that is written
    replace(bank, vectors=vectors, labels=np.full(len(bank), -1)).write(paths.BANK)
    write_checksums(paths.NEIGHBOURS)
    audit.run(project)
    card = json.loads(paths.LEAKAGE.read_text())
    for name in ("threshold", "near_duplicates", "near_duplicates_share"):
        assert card[name] is None
    assert card["validation_images"] == sum(card["histogram"]["validation"]) == 0
    assert paths.DUPLICATES.read_text() == "test_id,test_row,bank_id,similarity,same_class\n"
    assert "nothing says what a near duplicate is" in capsys.readouterr().err


def overlap(one: str, other: str) -> int:
    """Give an image of one split the id of one of another."""
    images, ids = Images.read(paths.split(one)), Images.read(paths.split(other)).ids
    planted = images.ids.copy()
    planted[2] = ids[5]
    replace(images, ids=planted).write(paths.split(one))
    write_checksums(paths.CORPUS)
    return int(ids[5])


def in_bank(split: str) -> int:
    bank, ids = Embeddings.read(paths.BANK), Images.read(paths.split(split)).ids
    planted = bank.ids.copy()
    planted[3] = ids[2]
    replace(bank, ids=planted, vectors=np.array(bank.vectors)).write(paths.BANK)
    write_checksums(paths.NEIGHBOURS)
    return int(ids[2])


def self_hit(strategy: str) -> int:
    path, bank = paths.table(strategy, "train"), Embeddings.read(paths.BANK)
    table = Neighbours.read(path)
    indices = table.indices.copy()
    indices[5, -1] = np.flatnonzero(bank.ids == table.query_ids[5])[0]
    replace(table, indices=indices).write(path)
    write_checksums(paths.NEIGHBOURS)
    return int(table.query_ids[5])


def absent(row: int) -> int:
    path = paths.table("knn", "test")
    table = Neighbours.read(path)
    indices = table.indices.copy()
    wrong = replace(table, indices=indices)
    indices[1, 2] = row
    wrong.write(path)
    write_checksums(paths.NEIGHBOURS)
    return int(table.query_ids[1])


def stranger() -> int:
    path = paths.table("sampled", "validation")
    table = Neighbours.read(path)
    ids = table.query_ids.copy()
    ids[4] = 12345
    replace(table, query_ids=ids).write(path)
    write_checksums(paths.NEIGHBOURS)
    return 12345


@pytest.mark.parametrize(
    ("plant", "message"),
    [
        (lambda: overlap("train", "test"), "data/corpus holds images of train that are in test"),
        (lambda: overlap("train", "validation"), "images of train that are in validation too: 1,"),
        (lambda: overlap("validation", "test"), "images of validation that are in test too: 1,"),
        (lambda: in_bank("test"), "data/neighbours/bank holds images of the test split: 1,"),
        (lambda: in_bank("validation"), "bank holds images of the validation split: 1,"),
        (lambda: self_hit("knn"), "knn/train.arrow holds queries that find themselves: 1,"),
        (lambda: self_hit("sampled"), "sampled/train.arrow holds queries that find themselves"),
        (lambda: absent(60), "knn/test.arrow holds queries with a row outside the bank of 60 rows"),
        (stranger, "validation.arrow holds queries that are no labelled images of validation: 1,"),
    ],
)
def test_a_planted_leak_is_refused(project: Params, plant: Callable[[], int], message: str) -> None:
    audit.run(project)
    image_id = plant()
    result = CliRunner().invoke(app, ["audit"])
    assert result.exit_code == 2
    assert message in result.stderr
    assert f"the first is {image_id}; run " in result.stderr
    assert not paths.LEAKAGE.exists()
    assert not paths.DUPLICATES.exists()
    assert not paths.LABEL_ERRORS.exists()


def test_a_negative_row_is_refused(project: Params) -> None:
    absent(-1)
    result = CliRunner().invoke(app, ["audit"])
    assert result.exit_code == 2
    assert "knn/test.arrow contradicts itself (an index is negative)" in result.stderr


def test_the_tiny_pipeline_passes(in_tiny: Params) -> None:
    checks = json.loads(paths.LEAKAGE.read_text())["checks"]
    assert checks == {
        "split_overlap": {"checked": 5000, "found": 0},
        "held_out_in_bank": {"checked": 3500, "found": 0},
        "withheld_labels": {"checked": 0, "found": 0},
        **{
            name: {"checked": 10000, "found": 0}
            for name in ("strangers", "outside_bank", "self_hits")
        },
    }


def slow_other_class(
    queries: np.ndarray, labels: np.ndarray, bank: np.ndarray, bank_labels: np.ndarray
) -> np.ndarray:
    closest = []
    for query, label in zip(queries, labels, strict=True):
        others = [
            float(row.astype(np.float64) @ query)
            for row, bank_label in zip(bank, bank_labels, strict=True)
            if bank_label >= 0 and bank_label != label
        ]
        closest.append(max(others, default=np.nan))
    return np.array(closest)


@pytest.mark.parametrize("blocks", [(1024, 8192), (7, 11), (1, 1)])
def test_other_class_similarity(monkeypatch: pytest.MonkeyPatch, blocks: tuple[int, int]) -> None:
    monkeypatch.setattr(leakage, "CHUNK", blocks[0])
    monkeypatch.setattr(leakage, "TILE", blocks[1])
    rng = np.random.default_rng(0)
    queries, bank = make_embeddings(20), make_embeddings(50, seed=1)
    labels, bank_labels = rng.integers(0, 3, 20), rng.integers(-1, 6, 50)
    similarities = leakage.other_class_similarity(
        queries.vectors, labels, bank.vectors, bank_labels
    )
    expected = slow_other_class(queries.vectors, labels, bank.vectors, bank_labels)
    assert np.allclose(similarities, expected, atol=1e-6)
    one = np.where(bank_labels >= 0, 2, -1)  # a bank of one class
    similarities = leakage.other_class_similarity(queries.vectors, labels, bank.vectors, one)
    assert np.array_equal(np.isnan(similarities), labels == 2)
    none = np.full(50, -1)
    similarities = leakage.other_class_similarity(queries.vectors, labels, bank.vectors, none)
    assert np.isnan(similarities).all()
    assert similarities.dtype == np.float32


def test_threshold() -> None:
    likeness = np.random.default_rng(0).permutation(2001).astype(np.float32)
    assert leakage.threshold(likeness) == 1998
    assert (likeness > 1998).mean() <= 0.001
    four = np.array([0.1, np.nan, 0.3, 0.2], np.float32)
    assert leakage.threshold(four) == np.float32(0.3)
    assert leakage.threshold(four, 0.5) == np.float32(0.2)
    assert leakage.threshold(np.full(3, np.nan, np.float32)) is None


def test_near_duplicates() -> None:
    likeness = np.array([[0.9], [0.99], [0.5], [0.95], [0.99]], np.float32)
    nearest = Neighbours(np.arange(5), np.array([[0], [1], [2], [3], [1]], np.int32), likeness)
    labels, bank_labels = np.array([0, 1, 0, 2, 0]), np.array([0, 1, 0, -1])
    duplicates = leakage.near_duplicates(nearest, labels, bank_labels, 0.9)
    assert duplicates.queries.tolist() == [1, 4, 3]  # not 0: it is not above
    assert duplicates.rows.tolist() == [1, 1, 3]
    assert duplicates.same_class.tolist() == [True, False, False]
    assert not len(leakage.near_duplicates(nearest, labels, bank_labels, None).queries)


def test_self_hits_and_rows_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leakage, "TILE", 4)
    bank, queries = make_embeddings(30), make_embeddings(30).take(np.arange(10))
    table = search(queries.vectors, bank, 3, queries.ids)
    assert not len(leakage.self_hits(table, bank.ids))
    assert not len(leakage.outside_bank(table, 30))
    for row in (3, 8):
        table.indices[row, 1] = row
    assert leakage.self_hits(table, bank.ids).tolist() == queries.ids[[3, 8]].tolist()
    table.indices[9, 2] = 30
    assert leakage.outside_bank(table, 30).tolist() == [queries.ids[9]]
    nobody = Neighbours(queries.ids[:0], table.indices[:0], table.similarities[:0])
    assert not len(leakage.self_hits(nobody, bank.ids))
    assert not len(leakage.outside_bank(nobody, 30))


def test_histograms_share_their_edges() -> None:
    one, other = np.array([0.557, 0.8, 1.0000001], np.float32), np.array([0.6, np.nan], np.float32)
    histograms = leakage.histograms(9, one=one, other=other)
    assert histograms["edges"] == pytest.approx(np.arange(0.55, 1.01, 0.05).tolist())
    assert histograms["one"] == [1, 0, 0, 0, 0, 1, 0, 0, 1]
    assert histograms["other"] == [0, 1, 0, 0, 0, 0, 0, 0, 0]
    nothing = np.full(2, np.nan, np.float32)
    histograms = leakage.histograms(2, none=nothing, same=np.ones(3, np.float32))
    assert histograms == {"edges": [0.99, 0.995, 1.0], "none": [0, 0], "same": [0, 3]}
