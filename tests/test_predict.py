"""New images: the answers of evaluation, wherever the images lie and wherever answers go."""

from __future__ import annotations

import csv
import io
import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import make_images
from PIL import Image
from predictors import CLASSES, SIDE, K, predictor_of, stored_images
from typer.testing import CliRunner

import rapipe
from rapipe import metrics, paths
from rapipe.cli import app
from rapipe.config.schema import Params
from rapipe.config.variants import Variant
from rapipe.corpus.decode_cache import SkippedImage
from rapipe.errors import ArgumentError, UserError
from rapipe.pipeline import predict
from rapipe.pipeline.inputs import labelled
from rapipe.prediction import abstention, decoding
from rapipe.prediction.answers import Answers, joined
from rapipe.prediction.output import answers_file
from rapipe.prediction.sources import open_paths
from rapipe.records import Predictions


def same(one: Answers, other: Answers) -> None:
    for name in ("probabilities", "abstain", "neighbour_ids", "similarities", "neighbour_classes"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_pngs(folder: Path, images: np.ndarray, *names: str) -> list[Path]:
    files = [folder / name for name in names or [f"{i:03}.png" for i in range(len(images))]]
    for file, pixels in zip(files, images, strict=True):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(pixels))
    return files


@pytest.mark.parametrize("retrieval", ["none", "knn", "sampled"])
def test_answers_are_those_of_evaluation(retrieval: str, in_tiny: Params) -> None:
    variant = Variant.of(in_tiny, "alexnet", retrieval, 0)
    predictor = predict.choose(in_tiny, variant.name, 0.05).predictor
    test = labelled("test")
    answers = predictor.predict(test.pixels)
    evidence = Predictions.read(paths.EVIDENCE / variant.name / paths.PREDICTIONS)
    np.testing.assert_array_equal(answers.confidence.astype(np.float32), evidence.confidence[0])
    correct = metrics.hits(answers.probabilities, test.labels)
    np.testing.assert_array_equal(correct, evidence.correct[0])
    if retrieval == "none":
        assert answers.neighbour_ids.shape == (1000, 0)
        return
    means = answers.similarities.mean(axis=1)
    np.testing.assert_array_equal(means, evidence.similarity[0])  # type: ignore[index]
    classes = [bool(name) for name in answers.neighbour_classes.ravel()]
    assert all(classes)


def test_the_threshold_is_of_validation_and_holds_for_it(in_tiny: Params) -> None:
    chosen = predict.choose(in_tiny, Variant.of(in_tiny, "perceiver", "knn", 0).name, 0.6)
    threshold, validation = chosen.predictor.abstention, labelled("validation")
    answers = chosen.predictor.predict(validation.pixels)
    assert threshold is not None
    answered = ~answers.abstain
    assert 0 < answered.mean() == threshold.coverage
    wrong = ~metrics.hits(answers.probabilities, validation.labels)[answered]
    assert wrong.mean() == pytest.approx(threshold.errors)
    assert threshold.errors <= 0.6
    again = chosen.predictor.abstaining(validation, 0.6)  # with neighbours that are found now
    assert again.abstention == threshold


def test_answers_do_not_depend_on_order_or_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "BLOCK_IMAGES", 64)
    predictor, pixels = predictor_of(), make_images(150, seed=1).pixels
    together = predictor.predict(pixels)
    assert together.locations[149] == "image 149"
    for rows in (np.random.default_rng(0).permutation(150), np.array([7]), np.arange(64)):
        part = predictor.predict(pixels[rows])
        np.testing.assert_array_equal(part.probabilities, together.probabilities[rows])
        np.testing.assert_array_equal(part.neighbour_ids, together.neighbour_ids[rows])
    same(predictor.predict(list(pixels)), together)


def test_an_image_in_the_memory_does_not_find_itself() -> None:
    stored = stored_images()
    answers = predictor_of().predict(stored.pixels)
    assert np.isin(answers.neighbour_ids, stored.ids).all()
    assert not (answers.neighbour_ids == stored.ids[:, None]).any()
    names = dict(zip(stored.ids.tolist(), [(*CLASSES, "")[i] for i in stored.labels], strict=True))
    for ids, classes in zip(answers.neighbour_ids, answers.neighbour_classes, strict=True):
        assert [names[i] for i in ids.tolist()] == classes.tolist()


@pytest.mark.parametrize("strategy", ["self", "self+knn", "none"])
def test_what_is_looked_up_is_told(strategy: str) -> None:
    answers = predictor_of(strategy).predict(make_images(5, seed=1).pixels)
    assert answers.neighbour_ids.shape == (5, K if strategy == "self+knn" else 0)
    assert answers.probabilities.sum(axis=1) == pytest.approx(1)


def test_files_folders_archives_and_parquet_are_the_same_images(tmp_path: Path) -> None:
    pixels, predictor = make_images(6, seed=1).pixels, predictor_of()
    expected = predictor.predict(pixels)
    names = [f"{folder}/{i}.png" for i, folder in enumerate(["a", "a", "b", "b/c", "b/c", "d"])]
    own = write_pngs(tmp_path / "photos", pixels, *names)
    (tmp_path / "photos/a/words.txt").write_text("no image")
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        for name, image in zip(names, pixels, strict=True):
            archive.writestr(name, png(image))
    cells = [{"bytes": png(image), "path": None} for image in pixels]
    pq.write_table(pa.table({"image": cells, "label": [0.5] * 6}), tmp_path / "photos.parquet")
    (tmp_path / "tables").mkdir()
    pq.write_table(pa.table({"img": [png(p) for p in pixels]}), tmp_path / "tables/x.parquet")
    for given, first in (
        (own, str(own[0])),
        ([tmp_path / "photos"], str(own[0])),
        ([own[0], tmp_path / "photos/a/1.png", *map(str, own[2:])], str(own[0])),
        ([tmp_path / "photos.zip"], f"{tmp_path / 'photos.zip'}: a/0.png"),
        ([tmp_path / "photos.parquet"], f"{tmp_path / 'photos.parquet'}#0"),
        ([tmp_path / "tables"], f"{tmp_path / 'tables/x.parquet'}#0"),
    ):
        answers = joined(list(predictor.stream(given)))
        assert answers.locations[0] == first
        same(answers, expected)
    pq.write_table(pa.table({"photo": [png(p) for p in pixels]}), tmp_path / "other.parquet")
    files = open_paths([tmp_path / "other.parquet"], column="photo")
    assert files.size == 6
    same(joined(list(predictor.stream(files))), expected)


def test_a_program_may_have_images_in_any_form(tmp_path: Path) -> None:
    predictor = predictor_of()
    pixels = np.random.default_rng(0).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    (file,) = write_pngs(tmp_path, pixels[None])
    expected = predictor.predict(str(file))
    for form in (file, file.read_bytes(), Image.open(file), pixels):
        same(predictor.predict([form]), expected)
        same(predictor.predict(form), expected)
    clear = Image.fromarray(pixels).convert("RGBA")
    clear.putalpha(0)  # nothing but the background, which is white
    white = np.full((SIDE, SIDE, 3), 255, np.uint8)
    same(predictor.predict([clear]), predictor.predict([white]))
    grey = Image.fromarray(pixels).convert("L")
    same(predictor.predict([grey]), predictor.predict(np.asarray(grey)))
    assert len(predictor.predict([])) == 0
    for wrong, told in (
        (7, "image 0 is 7; it must be a path"),
        (np.zeros((4, 4)), "image 0 is an array of float64"),
        (np.zeros((4, 4, 2), np.uint8), "image 0 is an array 4 x 4 x 2"),
    ):
        with pytest.raises(ArgumentError, match=told):
            predictor.predict([wrong])
    with pytest.raises(ArgumentError, match=r"missing.png cannot be read: No such file"):
        predictor.predict([tmp_path / "missing.png"])


def test_bad_files_stop_or_are_skipped(tmp_path: Path) -> None:
    pixels, predictor = make_images(3, seed=1).pixels, predictor_of()
    write_pngs(tmp_path, pixels)
    (tmp_path / "001a.png").write_bytes(png(pixels[0])[:60])
    (tmp_path / "002a.heic").write_bytes(b"")
    with pytest.raises(ArgumentError, match=r"001a.png is no image that can be read"):
        list(predictor.stream([tmp_path]))
    skipped: list[SkippedImage] = []
    answers = joined(list(predictor.stream([tmp_path], skipped)))
    same(answers, predictor.predict(pixels))
    assert [Path(image.location).name for image in skipped] == ["001a.png", "002a.heic"]
    assert "convert it to PNG" in skipped[1].reason


def test_what_holds_no_image_is_refused(tmp_path: Path) -> None:
    predictor = predictor_of()
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/words.txt").write_text("no image")
    pq.write_table(pa.table({"photo": [b""]}), tmp_path / "t.parquet")
    for path, told in (
        ("nowhere", "'.*nowhere' is no file and no folder"),
        ("empty", "empty holds no image; passed over 1 .txt"),
        ("t.parquet", r"has the columns photo, but none of image, img; write --column: photo"),
    ):
        with pytest.raises(UserError, match=told):
            list(predictor.stream([tmp_path / path]))


def test_processes_decode_the_same_in_the_same_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "CHUNK_IMAGES", 8)
    pixels, predictor = make_images(70, seed=1).pixels, predictor_of()
    write_pngs(tmp_path, pixels)
    (tmp_path / "033a.png").write_bytes(b"nothing")
    skipped: list[SkippedImage] = []
    parts = list(predictor.stream([tmp_path], skipped, processes=2))
    assert [len(part) for part in parts] == [70]
    same(joined(parts), predictor.predict(pixels))
    assert len(skipped) == 1
    monkeypatch.setattr(decoding, "BLOCK_IMAGES", 64)
    assert [len(part) for part in predictor.stream([tmp_path], [])] == [64, 6]


def read_csv(path: Path) -> list[dict[str, Any]]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    lists = ("top_classes", "top_probabilities", "neighbour_ids", "neighbour_classes")
    return [
        {
            **row,
            "probability": float(row["probability"]),
            "abstain": row["abstain"] == "True",
            **{name: json.loads(row[name]) for name in (*lists, "similarities")},
        }
        for row in rows
    ]


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read_parquet(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


@pytest.mark.parametrize(
    ("suffix", "read"), [(".csv", read_csv), (".jsonl", read_jsonl), (".parquet", read_parquet)]
)
def test_what_is_written_is_read_back(
    suffix: str, read: Callable[[Path], list[dict[str, Any]]], tmp_path: Path
) -> None:
    odd = ['a,"b".png', "a\nb.png", "=1+1.png", "ü 猫.png", os.fsdecode(b"\xff.png")]
    pixels = make_images(5, seed=1).pixels
    write_pngs(tmp_path / "photos", pixels, *odd)
    parts = list(predictor_of().stream([tmp_path / "photos"]))
    out = tmp_path / "deep" / f"answers{suffix}"
    count = predict.write_answers(parts, answers_file(out))
    assert count == (5, 0)
    rows = [row for part in parts for row in part.rows()]
    assert read(out) == rows
    assert {Path(row["path"]).name for row in rows} == {*odd[:4], r"\udcff.png"}
    before = out.read_bytes()

    def broken() -> Any:
        yield parts[0]
        raise UserError("stop")

    with pytest.raises(UserError, match="stop"):
        predict.write_answers(broken(), answers_file(out))
    assert out.read_bytes() == before
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def slow_threshold(confidence: np.ndarray, correct: np.ndarray, risk: float) -> float | None:
    fitting = []
    for threshold in confidence.tolist():
        answered = [right for c, right in zip(confidence, correct, strict=True) if c >= threshold]
        if answered.count(False) / len(answered) <= risk:
            fitting.append(threshold)
    return min(fitting, default=None)


def test_the_threshold_is_that_of_a_loop() -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        n = int(rng.integers(1, 40))
        confidence = rng.integers(0, 12, n) / 12 + 0.0  # with ties
        correct = rng.random(n) < confidence
        for risk in (0, 0.05, 0.25, 1):
            chosen = abstention.choose(confidence, correct, risk)
            assert chosen.threshold == slow_threshold(confidence, correct, risk)
            answered = ~chosen.abstains(confidence)
            assert chosen.coverage == answered.mean()
            if answered.any():
                assert chosen.errors == pytest.approx((~correct[answered]).mean())
    none = abstention.choose(np.array([0.9, 0.4]), np.array([False, True]), 0.2)
    assert none.abstains(np.array([1.0])).all()
    assert str(none).startswith("abstains from everything")
    with pytest.raises(ArgumentError, match="`risk` is 2"):
        abstention.choose(np.array([0.5]), np.array([True]), 2)


def test_parts_that_do_not_fit_are_refused() -> None:
    predictor, plain = predictor_of(), predictor_of("none")
    with pytest.raises(ArgumentError, match="`classes` are 2, but `classifier`"):
        replace(predictor, classes=CLASSES[:2])
    with pytest.raises(ArgumentError, match="with neighbours: give a `retriever`"):
        replace(predictor, retriever=None)
    with pytest.raises(ArgumentError, match="without neighbours: give no `retriever`"):
        replace(plain, retriever=predictor.retriever)
    with pytest.raises(ArgumentError, match="`bank_classes` are 1, but the bank has the label 2"):
        replace(predictor, bank_classes=CLASSES[:1])


def test_the_command_prints_and_writes(in_tiny: Params, tmp_path: Path) -> None:
    test, name = labelled("test"), Variant.of(in_tiny, "alexnet", "knn", 0).name
    write_pngs(tmp_path / "new", test.pixels[:3])
    expected = predict.choose(in_tiny, name, 0.9).predictor.predict(test.pixels[:3]).rows()
    options = ["--classifier", name, "--risk", "0.9"]
    runner = CliRunner()
    printed = runner.invoke(app, ["predict", str(tmp_path / "new"), *options, "--json"])
    assert printed.exit_code == 0, printed.stderr
    rows = json.loads(printed.stdout)
    for row, own in zip(rows, expected, strict=True):
        assert {**row, "path": ""} == {**own, "path": ""}
    out = tmp_path / "answers.jsonl"
    written = runner.invoke(app, ["predict", str(tmp_path / "new"), *options, "--out", str(out)])
    assert written.exit_code == 0, written.stderr
    assert read_jsonl(out) == rows
    assert f"{name} answers from a confidence of" in written.stderr
    assert f"{out} has the answers" in written.stderr
    table = runner.invoke(app, ["predict", *map(str, sorted((tmp_path / "new").iterdir()))])
    assert table.exit_code == 0, table.stderr
    assert "has the best validation accuracy" in table.stderr
    assert len(table.stdout.splitlines()) == 4
    assert table.stdout.splitlines()[3].endswith("002.png")


def test_mistakes_are_one_sentence(in_tiny: Params, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"words")
    image, runner = str(tmp_path / "bad.png"), CliRunner()
    for wrong, told in (
        ([image, "--classifier", "x"], "--classifier is 'x'; trained ones are alexnet-none-s0, "),
        ([image, "--out", "a.xlsx"], "--out is 'a.xlsx'; it must end in .csv or .jsonl or .parq"),
        ([str(tmp_path / "no")], "PATH: '"),
        ([image], "bad.png is no image that can be read: it is none of"),
        ([image, "--risk", "2"], "'--risk': Input should be less than or equal to 1"),
    ):
        result = runner.invoke(app, ["predict", *wrong])
        assert result.exit_code == 2, result.stdout
        assert told in result.stderr.replace("\n", " ")
        assert "Traceback" not in result.stderr


def test_the_best_on_validation_is_taken(in_tiny: Params) -> None:
    chosen = predict.choose(in_tiny, "", 0.05)
    cards = [json.loads(p.read_text()) for p in paths.MODELS.glob("*/card.json")]
    assert chosen.card["validation_top1"] == max(card["validation_top1"] for card in cards)


def test_skipped_images_are_named_and_counted(
    in_tiny: Params, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_pngs(tmp_path, labelled("test").pixels[:1])
    for number in range(25):
        (tmp_path / f"bad{number:02}.png").write_bytes(b"words")
    name, out = Variant.of(in_tiny, "alexnet", "none", 0).name, tmp_path / "out.csv"
    predict.run(in_tiny, [str(tmp_path)], name, out, on_error="skip")
    told = capsys.readouterr().err
    assert told.count("skipped: ") == 20
    assert "25 skipped; 5 more are not listed" in told
    assert len(read_csv(tmp_path / "out.csv")) == 1


def test_the_library_says_what_it_has() -> None:
    for name in ("Predictor", "Decoding", "load", "export"):
        assert getattr(rapipe, name).__doc__
