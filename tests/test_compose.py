from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rapipe.corpus import conflicts as conflicts_room
from rapipe.corpus import decode_cache
from rapipe.corpus.compose import Part, Report, Rules, compose, corpus_hash
from rapipe.corpus.contact_sheet import contact_sheet
from rapipe.corpus.decode import Decoding, pixel_hash
from rapipe.corpus.decode_cache import Workers, cache_key, decode_split
from rapipe.corpus.sources import SOURCES, SourceRequest
from rapipe.corpus.sources.base import Item, Source, Split
from rapipe.errors import UserError
from rapipe.records import SPLITS, Images

RULES = Rules(
    Decoding(8),
    skip=False,
    merge_classes=False,
    on_conflict="keep",
    validation_fraction=0.1,
    test_fraction=0.2,
    seed=0,
)


def source(classes: str = "ab", seed: int = 0, size: int = 8, **splits: int) -> Source:
    """A source with `splits` of random images, labels going round, one duplicate each 10."""

    def split(name: str, n: int) -> Split:
        def items() -> Iterator[Item]:
            rng = np.random.default_rng([seed, *name.encode()])
            last = None
            for row in range(n):
                pixels = rng.integers(0, 256, (size, size), dtype=np.uint8)
                last = last if row % 10 == 9 and last is not None else pixels
                yield Item(last, row % len(classes) if classes else -1, f"{name} {row}")

        return Split(n, items)

    return Source(tuple(classes), {name: split(name, n) for name, n in splits.items()}, ())


class Corpus:
    """Composes sources, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = self.out = folder
        self.folders = 0
        self.report = Report()

    def part(self, source: Source, role: str = "task", limit: int | float = 1.0) -> Part:
        self.folders += 1
        return Part(source, role, limit, self.folder / f"cache{self.folders}")

    def __call__(self, rules: Rules = RULES, **sources: Source | Part) -> dict[str, Images]:
        self.folders += 1
        out = self.out = self.folder / f"out{self.folders}"
        parts = {
            name: source if isinstance(source, Part) else self.part(source)
            for name, source in sources.items()
        }
        with Workers() as workers:
            self.report = compose(parts, rules, out, workers)
        return {split: Images.read(out / f"{split}.arrow") for split in SPLITS}


@pytest.fixture
def composed(tmp_path: Path) -> Corpus:
    return Corpus(tmp_path)


def test_undivided_source_is_divided_without_shared_pixels(composed: Corpus) -> None:
    splits = composed(s=source(all=400))
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


def test_splits_of_a_source_stay(composed: Corpus) -> None:
    splits = composed(s=source(train=50, validation=20, test=30))
    sizes = {name: len(images) for name, images in splits.items()}
    assert sizes == {"train": 50, "validation": 20, "test": 30}


def test_only_the_seed_decides_the_division(composed: Corpus) -> None:
    one, same, other = (composed(replace(RULES, seed=s), s=source(all=300)) for s in (0, 0, 1))
    assert np.array_equal(one["test"].ids, same["test"].ids)
    assert np.array_equal(one["train"].pixels, same["train"].pixels)
    assert not np.array_equal(one["test"].ids, other["test"].ids)
    assert corpus_hash(one) == corpus_hash(same) != corpus_hash(other)


def test_ids_are_hashes_of_pixels_and_moments_are_those_of_train(composed: Corpus) -> None:
    train = composed(s=source(all=200), t=source("cd", 3, all=100))["train"]
    for row, pixels in enumerate(train.pixels):
        assert pixel_hash(pixels) == train.ids[row]
    unique = len(np.unique(train.pixels.reshape(len(train), -1), axis=0))
    assert unique == len(np.unique(train.ids)) < len(train)
    floats = train.pixels / 255
    assert composed.report.mean == pytest.approx(floats.mean((0, 1, 2)).tolist())
    assert composed.report.std == pytest.approx(floats.std((0, 1, 2)).tolist())


def test_task_sources_join_their_classes(composed: Corpus) -> None:
    train = composed(one=source("ab", 1, all=100), two=source("cd", 2, 12, all=100))["train"]
    assert train.classes == ("a", "b", "c", "d")
    assert set(train.labels[train.sources == "two"]) == {2, 3}
    assert composed.report.sizes["two"][0].tolist() == [[12, 12]] * 100


def test_a_clash_of_classes_names_both(composed: Corpus) -> None:
    one, two = source("ab", 1, all=100), source("cb", 2, all=100)
    with pytest.raises(UserError, match=r"the class 'b' is in both one and two; set `merge_"):
        composed(one=one, two=two)
    merged = composed(replace(RULES, merge_classes=True), one=one, two=two)["train"]
    assert merged.classes == ("a", "b", "c")
    assert set(merged.labels[merged.sources == "two"]) == {1, 2}


def test_a_memory_has_no_labels_and_is_never_a_query(composed: Corpus) -> None:
    memory = composed.part(source("ax", 2, train=60, test=40), "memory")
    undivided = composed.part(source("yz", 3, 16, all=30), "memory")
    bare = composed.part(source("", 4, all=20), "memory")
    splits = composed(task=source("ab", 1, train=50, test=20), m=memory, w=undivided, u=bare)
    train = splits["train"]
    assert train.classes == ("a", "b")
    assert Counter(train.sources.tolist()) == {"task": 44, "m": 60, "w": 30, "u": 20}
    assert (train.labels[train.sources != "task"] == -1).all()
    assert (train.labels[train.sources == "task"] >= 0).all()
    for split in ("validation", "test"):
        assert set(splits[split].sources) == {"task"}


def test_roles_that_leave_nothing_to_learn(composed: Corpus) -> None:
    with pytest.raises(
        UserError, match="`sources`: all have the role memory; one must have the role"
    ):
        composed(m=composed.part(source(all=9), "memory"))
    with pytest.raises(UserError, match="bare has no classes to learn: put its images into folder"):
        composed(bare=source("", all=9))


def test_a_limit_keeps_proportions_and_the_test_split(composed: Corpus) -> None:
    classes = source("abcd", train=400, test=100)
    sizes = {}
    for limit in (40, 0.1, 400, 1000, 1.0):
        splits = composed(s=composed.part(classes, "task", limit))
        labels = np.concatenate([splits[s].labels for s in ("train", "validation")])
        sizes[limit] = len(labels)
        assert set(np.bincount(labels)) == {len(labels) // 4}
        assert len(splits["test"]) == 100
    assert sizes == {40: 40, 0.1: 40, 400: 400, 1000: 400, 1.0: 400}
    with pytest.raises(UserError, match=r"the class '.' of s has no training image"):
        composed(s=composed.part(classes, "task", 0.0001))
    memory = composed.part(source("xyz", 5, train=90), "memory", 30)
    train = composed(task=source(all=100), m=memory)["train"]
    assert (train.sources == "m").sum() == 30


def test_missing_splits_are_reported(composed: Corpus) -> None:
    splits = composed(s=source(train=50))
    assert [len(splits[split]) for split in SPLITS] == pytest.approx([36, 4, 10], abs=2)
    with pytest.raises(UserError, match="s has no train split"):
        composed(s=source(test=50))
    with pytest.raises(UserError, match="the train split of s holds no images"):
        composed(s=source(train=0, test=5))
    with pytest.raises(UserError, match="the validation split holds no labelled image"):
        composed(s=source(train=2, test=5))


def test_unlabelled_images_all_stay_in_train(composed: Corpus) -> None:
    """As in STL-10, where they come with the training split."""

    def items() -> Iterator[Item]:
        for row, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (120, 8, 8))):
            yield Item(pixels.astype(np.uint8), row % 2 if row < 80 else -1, f"row {row}")

    splits = composed(s=Source(("a", "b"), {"all": Split(120, items)}, ()))
    assert [int((splits[split].labels < 0).sum()) for split in SPLITS] == [40, 0, 0]
    assert [int((splits[split].labels >= 0).sum()) for split in SPLITS] == [58, 6, 16]


def test_what_is_held_out_of_one_source_is_in_no_other(composed: Corpus) -> None:
    same = {"one": source(all=200), "two": source(all=200)}
    parts = {**same, "m": composed.part(source(all=200), "memory")}
    splits = composed(replace(RULES, merge_classes=True), **parts)
    ids = {split: set(images.ids.tolist()) for split, images in splits.items()}
    assert not ids["train"] & (ids["test"] | ids["validation"])
    assert not ids["validation"] & ids["test"]
    assert composed.report.repeated == 600 - sum(map(len, splits.values())) > 40


def shades(n: int, *values: int) -> Split:
    """Grey images of these values, labels going round `n` classes; -1 for unlabelled if n = 0."""

    def items() -> Iterator[Item]:
        for row, value in enumerate(values):
            yield Item(np.full((8, 8), value, np.uint8), row % n if n else -1, f"row {row}")

    return Split(len(values), items)


def test_splits_of_sources_that_overlap_are_separated(composed: Corpus) -> None:
    """Test is complete; validation gives way to it, and train to both, from any source."""
    splits_of_s = {
        "train": shades(2, *range(20), 20, 20, 30),
        "validation": shades(2, 20, 21, 30, 31, 40),
        "test": shades(2, 30, 31, 0, 0),
    }
    memory = {"train": shades(0, 30, 20, 50), "test": shades(0, 51)}
    parts = {
        "s": Source(("a", "b"), splits_of_s, ()),
        "other": Source(
            ("c", "d"), {"train": shades(2, *range(60, 80), 3), "test": shades(2, 3)}, ()
        ),
        "m": composed.part(Source((), memory, ()), "memory"),
    }
    splits = composed(**parts)
    value = {split: images.pixels[:, 0, 0, 0] for split, images in splits.items()}
    assert value["test"].tolist() == [30, 31, 0, 0, 3]
    of_s = splits["validation"].sources == "s"
    assert value["validation"][of_s].tolist() == [20, 21, 40]
    of_s = splits["train"].sources == "s"
    assert value["train"][of_s].tolist() == [*range(1, 3), *range(4, 20)]
    assert value["train"][splits["train"].sources == "m"].tolist() == [50]
    assert composed.report.repeated == 2 + 2 + 3 + 1 + 2  # 30 31; 0 3; 20 20 30; 3; 30 20


def test_a_validation_split_that_repeats_the_test_split(composed: Corpus) -> None:
    same = {"train": shades(2, *range(20)), "validation": shades(2, 30), "test": shades(2, 30)}
    message = r"validation split holds no labelled image \(1 left train or validation: they repeat"
    with pytest.raises(UserError, match=message):
        composed(s=Source(("a", "b"), same, ()))


def test_classes_without_training_images(composed: Corpus) -> None:
    def labelled(*labels: int) -> Split:
        def items() -> Iterator[Item]:
            for row, label in enumerate(labels):
                yield Item(np.full((8, 8), row + 10 * label, np.uint8), label, f"row {row}")

        return Split(len(labels), items)

    splits = {"train": labelled(*[0, 1] * 20), "test": labelled(0, 1, 2, 2)}
    lacking = Source(("a", "b", "late", "never"), splits, ())
    message = r"the class 'late' of s has no training image \(2 in test\): add some, remove the cla"
    with pytest.raises(UserError, match=message):
        composed(s=lacking)
    images = composed(replace(RULES, skip=True), s=lacking)
    assert images["train"].classes == ("a", "b")
    assert images["test"].labels.tolist() == [0, 1]
    assert [skipped.location for skipped in composed.report.skipped["s"]] == [
        "the class 'late'",
        "the class 'never'",
    ]
    one = Source(("a",), {"train": labelled(*[0] * 20), "test": labelled(0)}, ())
    with pytest.raises(UserError, match="nothing to tell apart with 1 class; at least two"):
        composed(s=one)


def labelled_shades(*pairs: tuple[int, int]) -> Split:
    """Grey images of these values, with these labels."""

    def items() -> Iterator[Item]:
        for row, (value, label) in enumerate(pairs):
            yield Item(np.full((8, 8), value, np.uint8), label, f"row {row}")

    return Split(len(pairs), items)


def contradicting(composed: Corpus) -> dict[str, Source | Part]:
    """Shade 0 has two classes in train, 1 has three over splits and sources; 2 is no conflict."""
    filler = [(value, value % 2) for value in range(100, 140)]
    one = {
        "train": labelled_shades((0, 0), (0, 1), (0, 0), (1, 0), (2, 1), (2, 1), (0, -1), *filler),
        "validation": labelled_shades((1, 1), (50, 0), (51, 1)),
        "test": labelled_shades((60, 0), (61, 1)),
    }
    two = {
        "train": labelled_shades((200, 0), (201, 1)),
        "validation": labelled_shades((202, 0)),
        "test": labelled_shades((1, 0), (2, -1)),
    }
    memory = composed.part(Source(("z",), {"train": labelled_shades((2, 0), (0, 0))}, ()), "memory")
    return {"one": Source(("a", "b"), one, ()), "two": Source(("c", "d"), two, ()), "m": memory}


def shade_counts(splits: dict[str, Images]) -> dict[str, list[int]]:
    """How often the shades 0, 1 and 2 are in each split."""
    values = {split: images.pixels[:, 0, 0, 0] for split, images in splits.items()}
    return {split: np.bincount(of, minlength=3)[:3].tolist() for split, of in values.items()}


def test_pixels_in_several_classes_are_counted_and_kept(composed: Corpus) -> None:
    splits = composed(**contradicting(composed))
    conflicts = composed.report.conflicts
    assert (conflicts.ids, conflicts.images, conflicts.left_out) == (2, 6, 0)
    assert [list(map(str, conflict.copies)) for conflict in conflicts.first] == [
        ["row 0 (a, train)", "row 1 (b, train)"],
        ["row 3 (a, train)", "row 0 (b, validation)", "row 0 (c, test)"],
    ]
    assert [copy.source for copy in conflicts.first[1].copies] == ["one", "one", "two"]
    assert [conflict.image_id for conflict in conflicts.first] == [
        pixel_hash(np.full((8, 8, 3), value, np.uint8)) for value in (0, 1)
    ]
    assert str(conflicts).startswith("6 images have the pixels of another class's image: row 0 (a")
    # Nothing but repeats left: 0 of the memory stays, 2 of train gives way to test.
    assert shade_counts(splits) == {"train": [5, 0, 0], "validation": [0, 0, 0], "test": [0, 1, 1]}


def test_pixels_in_several_classes_are_dropped_everywhere(composed: Corpus) -> None:
    splits = composed(replace(RULES, on_conflict="drop"), **contradicting(composed))
    assert shade_counts(splits) == {"train": [0, 0, 0], "validation": [0, 0, 0], "test": [0, 0, 1]}
    conflicts = composed.report.conflicts
    assert (conflicts.ids, conflicts.images, conflicts.left_out) == (2, 6, 8)
    assert len(splits["train"]) == 40 + 2
    assert composed.report.repeated == 3  # the two of train and one of the memory that are 2


def test_pixels_in_several_classes_stop(composed: Corpus) -> None:
    message = (
        r"^the same pixels are in several classes: row 0 \(a, train\) = row 1 \(b, train\), and 1 "
        r"more; correct the labels, or set `on_conflict` to keep, or to drop, which leaves out"
    )
    with pytest.raises(UserError, match=message):
        composed(replace(RULES, on_conflict="stop"), **contradicting(composed))
    copies = {"train": labelled_shades(*[(value, value % 2) for value in (*range(40), 1, 1)])}
    splits = composed(replace(RULES, on_conflict="stop"), s=Source(("a", "b"), copies, ()))
    assert sum(map(len, splits.values())) == 42


def test_a_class_that_conflicts_empty_says_so(composed: Corpus) -> None:
    pairs = [(value, value % 3) for value in range(60)]
    pairs += [(value, 0) for value in range(60) if value % 3 == 2]
    conflicting = Source(("a", "b", "c"), {"all": labelled_shades(*pairs)}, ())
    message = r"class 'c' of s has no training image .*\(`on_conflict`: drop left 40 images out\)"
    with pytest.raises(UserError, match=message):
        composed(replace(RULES, on_conflict="drop"), s=conflicting)
    splits = composed(replace(RULES, on_conflict="drop", skip=True), s=conflicting)
    assert splits["train"].classes == ("a", "b")
    merged = replace(conflicting, classes=("a", "b", "a"))
    composed(replace(RULES, merge_classes=True), s=merged)
    assert composed.report.conflicts.ids == 0  # they mean the same


def test_equal_pixels_of_two_classes_stay_in_one_split(composed: Corpus) -> None:
    pairs = [(value, label) for value in range(100) for label in (0, 1)]
    splits = composed(s=Source(("a", "b"), {"all": labelled_shades(*pairs)}, ()))
    assert composed.report.repeated == 0
    assert composed.report.conflicts.images == sum(map(len, splits.values())) == 200


def test_conflicts_beyond_those_listed_are_counted(
    composed: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conflicts_room, "LISTED", 4)
    monkeypatch.setattr(conflicts_room, "CLASSES", 2)
    pairs = [(value, label) for value in range(30) for label in (0, 1, 2)]
    composed(s=Source(("a", "b", "c"), {"all": labelled_shades(*pairs)}, ()))
    conflicts = composed.report.conflicts
    assert (conflicts.ids, conflicts.images, len(conflicts.first)) == (30, 90, 4)
    assert {len(conflict.copies) for conflict in conflicts.first} == {2}
    assert str(conflicts).endswith("; and 27 more")


def broken(n: int) -> Source:
    """Two classes; every seventh image is none, and every eleventh has no label that exists."""

    def items() -> Iterator[Item]:
        rng = np.random.default_rng(0)
        for row in range(n):
            pixels = rng.integers(0, 256, (8, 8), dtype=np.uint8)
            error = "has the label 9" if row % 11 == 10 else ""
            yield Item(b"no image" if row % 7 == 6 else pixels, row % 2, f"row {row}", error)

    return Source(("a", "b"), {"all": Split(n, items)}, ())


@pytest.mark.parametrize("chunk", [decode_cache.CHUNK_IMAGES, 16])
def test_what_cannot_be_used_stops_or_is_listed(
    composed: Corpus, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    """In this process (one chunk) and in several."""
    monkeypatch.setattr(decode_cache, "CHUNK_IMAGES", chunk)
    monkeypatch.setattr(decode_cache, "BLOCK_BYTES", 8 * 192)
    part = composed.part(broken(100))
    message = r"^row 6 is no image that can be read: .* \(`skip` leaves out and lists what is wrong"
    with pytest.raises(UserError, match=message):
        composed(s=part)
    assert not part.cache.exists() or not list(part.cache.glob("*/rows.npz"))
    splits = composed(replace(RULES, skip=True), s=part)
    unusable = {row for row in range(100) if row % 7 == 6 or row % 11 == 10}
    skipped = composed.report.skipped["s"]
    assert [image.location for image in skipped] == [f"row {row}" for row in sorted(unusable)]
    assert "row 10 has the label 9" in map(str, skipped)
    assert sum(map(len, splits.values())) == 100 - len(unusable)
    for images in splits.values():
        assert [pixel_hash(p) for p in images.pixels] == images.ids.tolist()
    with pytest.raises(UserError, match=r"^row 6 is no image"):
        composed(s=part)  # the cache of a run that skipped it does not hide it


def test_processes_and_one_process_agree(composed: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    one = composed(s=source(all=150))
    monkeypatch.setattr(decode_cache, "CHUNK_IMAGES", 16)
    monkeypatch.setattr(Workers, "submit", submit := Counted(Workers.submit))
    several = composed(s=source(all=150))
    assert submit.calls == (10 if os.cpu_count() != 1 else 0)
    for split in SPLITS:
        for name in ("ids", "pixels", "labels"):
            assert np.array_equal(getattr(one[split], name), getattr(several[split], name))


class Counted:
    """A method that counts its calls."""

    def __init__(self, method: object) -> None:
        self.method = method
        self.calls = 0

    def __get__(self, instance: object, owner: type) -> object:
        self.calls += 1
        return self.method.__get__(instance, owner)


def test_what_is_decoded_is_cached(composed: Corpus, tmp_path: Path) -> None:
    walked = []

    def counted(split: Split) -> Split:
        return Split(split.size, lambda: (walked.append(1), split.items())[1])

    images = source(train=30, test=10)
    images = replace(images, splits={name: counted(split) for name, split in images.splits.items()})
    part = composed.part(images)
    first = composed(s=part)
    assert len(walked) == 2
    again = composed(replace(RULES, seed=1), s=part)
    assert len(walked) == 2
    assert sorted(first["train"].ids) != sorted(again["train"].ids)
    with (part.cache / "test" / decode_cache.PIXELS).open("r+b") as file:
        file.truncate(100)  # damaged: it is decoded again
    composed(s=part)
    assert len(walked) == 3
    for damage in (b"", b"PK\3\4", (part.cache / "test" / decode_cache.ROWS).read_bytes()[:-30]):
        (part.cache / "test" / decode_cache.ROWS).write_bytes(damage)
        composed(s=part)
    assert len(walked) == 6


def test_the_key_of_a_source_changes_with_what_it_reads(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)

    def key(decoding: Decoding = RULES.decoding) -> str:
        request = SourceRequest(str(tmp_path))
        return cache_key("folder", request, SOURCES["folder"](request), decoding)

    keys = [key(), key(Decoding(9)), key(Decoding(8, "pad"))]
    Image.new("RGB", (5, 5)).save(tmp_path / "b/2.png")
    keys.append(key())
    Image.new("RGB", (4, 4)).save(tmp_path / "b/3.png")
    keys.append(key())
    (tmp_path / "b/3.png").rename(tmp_path / "a/3.png")
    keys.append(key())
    assert len(set(keys)) == len(keys)
    assert key() == keys[-1]


def test_an_interrupted_split_is_decoded_again(tmp_path: Path) -> None:
    def items() -> Iterator[Item]:
        yield Item(np.zeros((8, 8), np.uint8), 0, "row 0")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Workers() as workers:
        decode_split(Split(2, items), "s", Decoding(8), False, tmp_path / "train", workers)
    assert not (tmp_path / "train").exists()
    split = source(all=2).splits["all"]
    with Workers() as workers:
        decoded = decode_split(split, "s", Decoding(8), False, tmp_path / "train", workers)
    assert len(decoded.ids) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["train"]


def test_contact_sheet(composed: Corpus, tmp_path: Path) -> None:
    train = composed(s=source(all=200), m=composed.part(source("", 2, all=5), "memory"))["train"]
    contact_sheet(train, tmp_path / "one.png", seed=0)
    contact_sheet(train, tmp_path / "two.png", seed=0)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    with Image.open(tmp_path / "one.png") as sheet:
        drawn = np.asarray(sheet)
    assert len(drawn) == 6 + 3 * (64 + 6)  # the unlabelled source, and two classes
    first = train.pixels[train.sources == "m"][0]
    enlarged = np.repeat(np.repeat(first, 8, 0), 8, 1)
    assert np.array_equal(drawn[6 : 6 + 64, 190 : 190 + 64], enlarged)
