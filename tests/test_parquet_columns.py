"""Columns of Parquet files: those that a source names, and those that look like what is missing."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rapipe.corpus.sources import SOURCES, Source, SourceRequest
from rapipe.errors import UserError


def encoded(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (4, 4), value).save(buffer, "PNG")
    return buffer.getvalue()


def write(path: Path, names: dict[str, list[str]] | None = None, **columns: Any) -> Path:
    """A table whose column `image` has an image a row, unless it is given."""
    count = len(next(iter(columns.values())))
    table = pa.table({"image": [encoded(row) for row in range(count)], **columns})
    if "photo" in columns:
        table = table.drop_columns(["image"])
    if names:
        features = {name: {"names": list_, "_type": "ClassLabel"} for name, list_ in names.items()}
        metadata = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": metadata})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return path


def parquet(path: Path, **request: Any) -> Source:
    return SOURCES["parquet"](SourceRequest(str(path), **request))


def labels(source: Source) -> dict[str, list[str]]:
    """The class or the error of each row by split."""
    read = {}
    for split, data in source.splits.items():
        items = list(data.items())
        assert len(items) == data.size
        read[split] = [i.error or (source.classes[i.label] if i.label >= 0 else "") for i in items]
    return read


TEXTS = ["dog", "cat", "dog", "ant"]


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        (pa.array(TEXTS), ("ant", "cat", "dog")),
        (pa.array(TEXTS, pa.large_string()), ("ant", "cat", "dog")),
        (pa.array(TEXTS).dictionary_encode(), ("ant", "cat", "dog")),
        (pa.array([True, False, True, True]), ("False", "True")),
        (pa.array([7, 3, 7, -1], pa.int8()), ("3", "7")),
        (pa.array([7, 3, 7, 10]).dictionary_encode(), ("3", "7", "10")),
    ],
)
def test_labels_become_classes(tmp_path: Path, values: pa.Array, classes: tuple[str, ...]) -> None:
    source = parquet(write(tmp_path / "a.parquet", label=values))
    assert source.classes == classes
    expected = ["" if value == -1 else str(value) for value in values.to_pylist()]
    assert labels(source) == {"all": expected}


def test_texts_are_the_same_classes_in_all_files(tmp_path: Path) -> None:
    write(tmp_path / "train-0.parquet", label=["b", "c"])
    write(tmp_path / "train-1.parquet", label=pa.array(["a", None]).dictionary_encode())
    write(tmp_path / "test.parquet", label=["c", "d"])
    source = parquet(tmp_path)
    assert source.classes == ("a", "b", "c", "d")
    assert labels(source) == {
        "train": ["b", "c", "a", "has no label: 'label' is null"],
        "test": ["c", "d"],
    }
    write(tmp_path / "test.parquet", label=[1, 2])
    with pytest.raises(UserError, match=r"train-0\.parquet has other columns or class names than"):
        parquet(tmp_path)


def test_a_column_of_images_under_another_name(tmp_path: Path) -> None:
    photos = [encoded(1), encoded(2)]
    path = write(tmp_path / "a.parquet", photo=photos, label=[0, 1], note=["x", "y"])
    with pytest.raises(UserError, match=r"but none of image, img; write `image`: photo$"):
        parquet(path)
    first = next(parquet(path, image="photo").splits["all"].items())
    assert first.data == photos[0]
    with pytest.raises(UserError, match=r"'note' is string, not encoded images; write `image`: ph"):
        parquet(path, image="note")
    with pytest.raises(UserError, match=r"but none of picture; write `image`: photo"):
        parquet(path, image="picture")
    path = write(tmp_path / "b.parquet", photo=["a.png"], label=[0])
    with pytest.raises(UserError, match=r"but none of image, img$"):
        parquet(path)


def test_a_column_of_labels_under_another_name(tmp_path: Path) -> None:
    columns: dict[str, Any] = {
        "species": ["cat", "dog"] * 4,
        "caption": [f"a photograph, number {i}" for i in range(8)],
        "sharpness": [0.5] * 8,
        "set": ["train", "test"] * 4,
        "night": [True] * 7 + [False],
    }
    path = write(tmp_path / "a.parquet", **columns)
    with pytest.raises(UserError, match=r"coarse_label; write `label`: species or `label`: night$"):
        parquet(path)
    assert parquet(path, label="species").classes == ("cat", "dog")
    with pytest.raises(UserError, match=r"'sharpness' is double, not integers, texts or truth val"):
        parquet(path, label="sharpness")
    path = write(tmp_path / "a.parquet", {"kind": ["a", "b"]}, kind=[0, 1] * 4, **columns)
    with pytest.raises(UserError, match=r"coarse_label; write `label`: kind$"):
        parquet(path)


SPLITS = ["train", "val", "test", "Train", "testing", "train"]


def test_splits_by_a_column(tmp_path: Path) -> None:
    write(tmp_path / "part-0.parquet", label=list("abcabc"), fold=pa.array(SPLITS))
    write(tmp_path / "part-1.parquet", label=["d"], fold=pa.array(["test"]))
    source = parquet(tmp_path, split="fold")
    assert list(source.splits) == ["train", "validation", "test"]
    assert labels(source) == {
        "train": ["a", "a", "c"],
        "validation": ["b"],
        "test": ["c", "b", "d"],
    }
    locations = [item.location for item in source.splits["test"].items()]
    assert [location.rpartition("/")[2] for location in locations] == [
        *("part-0.parquet row 2", "part-0.parquet row 4", "part-1.parquet row 0")
    ]
    assert not source.hints
    encoded_splits = pa.array(SPLITS).dictionary_encode()
    path = write(tmp_path / "b.parquet", label=list("abcabc"), fold=encoded_splits)
    assert labels(parquet(path, split="fold"))["train"] == ["a", "a", "c"]
    numbers = write(tmp_path / "c.parquet", {"fold": ["train", "test"]}, label=[0, 1], fold=[1, 0])
    assert labels(parquet(numbers, split="fold")) == {"train": ["1"], "test": ["0"]}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["train", "extra"], r"'fold' has the value 'extra'; splits are train, validation, test"),
        (["train", None], r"'fold' has the value None; splits are"),
        ([0, 1], r"'fold' is int64, not names of splits"),
    ],
)
def test_columns_that_are_no_splits(tmp_path: Path, values: list[Any], message: str) -> None:
    path = write(tmp_path / "a.parquet", label=[0, 1], fold=values)
    with pytest.raises(UserError, match=message):
        parquet(path, split="fold")
    assert bool(parquet(path).hints) == (None in values)


def test_a_column_that_looks_like_splits_is_told_of(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", label=[0, 1], subset=["train", "test"])
    source = parquet(path)
    assert labels(source) == {"all": ["0", "1"]}
    assert source.hints == (
        "the column 'subset' looks like splits, but is not used: write `split`: subset to use it",
    )
    with pytest.raises(UserError, match=r"begin with the name of a split.* write `split`: subset"):
        parquet(tmp_path)
    with pytest.raises(UserError, match=r"but none of set; write `split`: subset"):
        parquet(path, split="set")


@pytest.mark.parametrize(
    "names",
    [
        ("train-00000-of-00001.parquet", "validation-00000-of-00001.parquet"),
        ("default/train/0000.parquet", "default/validation/0000.parquet"),
        ("birds-train.parquet", "birds-val.parquet"),
        ("TRAIN.parquet", "dev.snappy.parquet"),
    ],
)
def test_names_of_files_that_have_splits(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in names:
        write(tmp_path / name, label=["a"])
    assert list(parquet(tmp_path).splits) == ["train", "validation"]


def test_what_lies_beside_or_in_place_of_parquet(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", label=[0])
    (tmp_path / "README.md").write_text("words")
    write(tmp_path / "@eaDir/test.parquet", label=[0])
    assert parquet(tmp_path).passed_over == {".md": 1, "@eaDir/": 1}
    (tmp_path / "test.parquet").symlink_to("/mnt/annex/test.parquet")
    with pytest.raises(UserError, match=r"test\.parquet is a link to '.*', which does not exist"):
        parquet(tmp_path)
    pointer = tmp_path / "b.parquet"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(UserError, match=r"b\.parquet is a pointer of Git LFS"):
        parquet(pointer)


def test_memory_needs_no_labels_that_can_be_used(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", label=[0.5, 1.5])
    assert labels(parquet(path, labelled=False)) == {"all": ["", ""]}
    path = write(tmp_path / "b.parquet", label=["x", None])
    assert labels(parquet(path, labelled=False)) == {"all": ["x", ""]}
