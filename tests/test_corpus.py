from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from rapipe.corpus import compose, decode, held_out, pixel_hash
from rapipe.errors import UserError
from rapipe.sources.base import Item, Source, Split


def source(classes: str = "ab", seed: int = 0, **splits: int) -> Source:
    """A source with `splits` of random 8x8 images, labels going round, one duplicate each 10."""

    def split(name: str, n: int) -> Split:
        def items() -> Iterator[Item]:
            rng = np.random.default_rng([seed, *name.encode()])
            last = None
            for row in range(n):
                pixels = rng.integers(0, 256, (8, 8), dtype=np.uint8)
                last = last if row % 10 == 9 and last is not None else pixels
                yield Item(last, row % len(classes), f"{name} {row}")

        return Split(n, items)

    return Source(tuple(classes), {name: split(name, n) for name, n in splits.items()})


def composed(sources: dict[str, Source], seed: int = 0, size: int = 8) -> dict:
    return compose(sources, size, 0.1, 0.2, seed)


def test_undivided_source_is_divided_without_shared_pixels() -> None:
    splits = composed({"s": source(all=400)})
    sizes = {name: len(images) for name, images in splits.items()}
    assert sum(sizes.values()) == 400
    assert sizes["test"] == pytest.approx(80, abs=4)
    assert sizes["validation"] == pytest.approx(32, abs=4)
    ids = {name: set(images.ids.tolist()) for name, images in splits.items()}
    assert not ids["train"] & ids["validation"]
    assert not ids["train"] & ids["test"]
    assert not ids["validation"] & ids["test"]
    for images in splits.values():
        share = np.bincount(images.labels) / len(images)
        assert share == pytest.approx([0.5, 0.5], abs=0.06)


def test_given_splits_are_kept() -> None:
    splits = composed({"s": source(train=50, validation=20, test=30)})
    assert {name: len(images) for name, images in splits.items()} == {
        "train": 50,
        "validation": 20,
        "test": 30,
    }


def test_seed_decides_the_division_alone() -> None:
    one, same, other = (composed({"s": source(all=300)}, seed) for seed in (0, 0, 1))
    assert np.array_equal(one["test"].ids, same["test"].ids)
    assert np.array_equal(one["train"].pixels, same["train"].pixels)
    assert not np.array_equal(one["test"].ids, other["test"].ids)


def test_sources_are_joined_by_class_name() -> None:
    splits = composed({"one": source("ab", 1, all=100), "two": source("bc", 2, all=100)})
    train = splits["train"]
    assert train.classes == ("a", "b", "c")
    assert set(train.sources) == {"one", "two"}
    assert set(train.labels[train.sources == "two"]) == {1, 2}


def test_ids_are_hashes_of_pixels() -> None:
    train = composed({"s": source(all=200)})["train"]
    for row, pixels in enumerate(train.pixels):
        assert pixel_hash(pixels) == train.ids[row]
    unique = len(np.unique(train.pixels.reshape(len(train), -1), axis=0))
    assert unique == len(np.unique(train.ids)) < len(train)


def test_missing_splits_are_told() -> None:
    with pytest.raises(UserError, match="s has no test split, only train"):
        composed({"s": source(train=50)})
    with pytest.raises(UserError, match="s has no train split"):
        composed({"s": source(test=50)})
    with pytest.raises(UserError, match="the train split of s holds no images"):
        composed({"s": source(train=0, test=5)})
    with pytest.raises(UserError, match="the validation split holds no labelled image"):
        composed({"s": source(train=4, test=5)})


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_decode_makes_squares_of_three_channels() -> None:
    wide = np.zeros((20, 40), np.uint8)
    wide[:, 10:30] = 200  # the centre that cropping keeps
    for data in (wide, png(Image.fromarray(wide)), png(Image.fromarray(wide).convert("P"))):
        pixels = decode(Item(data, 0, "x"), 10)
        assert pixels.shape == (10, 10, 3)
        assert (pixels[2:8, 2:8] == 200).all()
    exact = np.random.default_rng(0).integers(0, 256, (10, 10, 3), dtype=np.uint8)
    assert np.array_equal(decode(Item(png(Image.fromarray(exact)), 0, "x"), 10), exact)


def test_decode_turns_as_exif_says() -> None:
    image = Image.new("RGB", (8, 8))
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    assert decode(Item(buffer.getvalue(), 0, "x"), 8)[7, 7, 0] == 255


@pytest.mark.parametrize("data", [b"", b"no image", png(Image.new("RGB", (30, 30), 9))[:60]])
def test_what_is_no_image_is_told_with_its_place(data: bytes) -> None:
    with pytest.raises(UserError, match=r"row 7 is no image that can be read"):
        decode(Item(data, 0, "f.parquet row 7"), 8)


def test_held_out_shares() -> None:
    ids, labels = np.arange(100), np.repeat([0, 1], [80, 20])
    mask = held_out(ids, labels, 0.25, np.random.default_rng(0))
    assert np.bincount(labels[mask]).tolist() == [20, 5]
