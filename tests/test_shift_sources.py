"""Sources of the role shift: what is evaluated, what is left out, and that nothing else changes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_compose import RULES, Corpus, composed, labelled_shades, source
from test_corpus_stage import folder, params, with_sources, write_images

from rapipe import paths
from rapipe.config import deciding, presets
from rapipe.config.corpus_params import SourceParams
from rapipe.config.loading import parse
from rapipe.config.schema import Params
from rapipe.corpus.compose import Part
from rapipe.corpus.sources.base import Item, Source, Split
from rapipe.errors import UserError
from rapipe.pipeline import audit, corpus, describe
from rapipe.pipeline.inputs import (
    images_of,
    present_corpus,
    present_shifts,
    shift_images,
    shifts_card,
)
from rapipe.pipeline.memory import add
from rapipe.records import Embeddings, Images

__all__ = ["composed", "params"]  # fixtures


def task() -> Source:
    """Shades 0 to 59 in train, 60 to 69 in validation, 70 to 79 in test; classes a, b and c."""

    def split(first: int, last: int) -> Split:
        return labelled_shades(*((value, value % 3) for value in range(first, last)))

    splits = {"train": split(0, 60), "validation": split(60, 70), "test": split(70, 80)}
    return Source(("a", "b", "c"), splits, ())


def shift_of(composed: Corpus, part: Part) -> Images:
    """The images of the shift `far` of the task above."""
    composed(s=task(), far=part)
    return Images.read(composed.out / "shifts/far.arrow")


def values(images: Images) -> list[int]:
    return images.pixels[:, 0, 0, 0].tolist()


def test_classes_of_the_shift_are_those_of_the_task_by_name(composed: Corpus) -> None:
    pairs = [(200, 0), (201, 1), (202, 2), (203, 2), (204, -1), (205, 3), (206, 0)]
    splits = {"train": labelled_shades((210, 0)), "test": labelled_shades(*pairs)}
    far = Source(("c", "zebra", "a", "A"), splits, ())
    images = shift_of(composed, composed.part(far, "shift"))
    assert images.classes == ("a", "b", "c")
    assert list(zip(values(images), images.labels.tolist(), strict=True)) == [
        *((200, 2), (202, 0), (203, 0), (206, 2))
    ]
    assert set(images.sources) == {"far"}
    shift = composed.report.shifts["far"]
    assert shift.splits == ["test"]
    assert (shift.images, shift.unlabelled) == (4, 1)
    assert shift.other_classes == {"zebra": 1, "A": 1}
    assert str(shift) == (
        "4 images (test) are evaluated only; left out: 1 without a label; of classes that the "
        "task lacks 1 zebra, 1 A"
    )


def test_without_a_test_split_all_images_are_read(composed: Corpus) -> None:
    splits = {"train": labelled_shades((200, 0)), "validation": labelled_shades((201, 1))}
    images = shift_of(composed, composed.part(Source(("a", "b"), splits, ()), "shift"))
    assert values(images) == [200, 201]
    assert composed.report.shifts["far"].splits == ["train", "validation"]
    undivided = Source(("b",), {"all": labelled_shades((200, 0))}, ())
    assert shift_of(composed, composed.part(undivided, "shift")).labels.tolist() == [1]


def test_copies_of_what_is_learned_or_chosen_on_are_left_out(composed: Corpus) -> None:
    """Those of test images stay."""
    pairs = [(5, 0), (6, 1), (65, 0), (75, 0), (200, 1)]
    far = Source(("a", "b"), {"test": labelled_shades(*pairs)}, ())
    assert values(shift_of(composed, composed.part(far, "shift"))) == [75, 200]
    assert composed.report.shifts["far"].copies == {"train": 2, "validation": 1}
    assert "left out: 2 also in train; 1 also in validation" in str(composed.report.shifts["far"])
    memory = composed.part(Source((), {"train": labelled_shades((200, -1))}, ()), "memory")
    composed(s=task(), m=memory, far=composed.part(far, "shift"))
    assert composed.report.shifts["far"].copies == {"train": 3, "validation": 1}
    known = Source(("a",), {"test": labelled_shades((5, 0))}, ())
    with pytest.raises(UserError, match=r"`sources`: of far, 0 images .*; left out: 1 also in tra"):
        shift_of(composed, composed.part(known, "shift"))


def test_a_limit_keeps_proportions_of_the_shift(composed: Corpus) -> None:
    pairs = [(value, value % 2) for value in range(100, 200)]
    far = Source(("a", "b"), {"test": labelled_shades(*pairs)}, ())
    few, more = (values(shift_of(composed, composed.part(far, "shift", n))) for n in (10, 0.2))
    assert len(few) == 10
    assert len(more) == 20
    assert set(few) < set(more)
    assert sum(value % 2 for value in few) == 5


def test_a_shift_must_share_a_class(composed: Corpus) -> None:
    far = Source(("A", "zebra"), {"test": labelled_shades((200, 0))}, ())
    message = (
        "`sources`: far, whose role is shift, has no class of the task: its classes are A, zebra, "
        "those of the task a, b, c"
    )
    with pytest.raises(UserError, match=message):
        shift_of(composed, composed.part(far, "shift"))
    bare = Source((), {"all": labelled_shades((200, -1))}, ())
    with pytest.raises(UserError, match="its classes are none, those of the task a, b, c"):
        shift_of(composed, composed.part(bare, "shift"))
    with pytest.raises(UserError, match="`sources`: all have the role shift; one must have the"):
        composed(far=composed.part(far, "shift"))


def test_what_has_no_training_images_can_only_be_a_shift(composed: Corpus) -> None:
    far = Source(("a", "b"), {"test": labelled_shades((200, 0))}, ())
    for role in ("task", "memory", "training", "both"):
        message = f"`sources`: far has no train split, only test: its role cannot be {role}; in"
        with pytest.raises(UserError, match=message):
            composed(s=task(), far=composed.part(far, role))


def test_what_the_task_leaves_out_is_of_another_class(composed: Corpus) -> None:
    """Classes without training images, that is."""
    splits = {
        "train": labelled_shades(*((v, v % 2) for v in range(40))),
        "test": task().splits["test"],
    }
    lacking = Source(("a", "b", "c"), splits, ())
    far = Source(("c", "b"), {"test": labelled_shades((200, 0), (201, 1))}, ())
    composed(replace(RULES, skip=True), s=lacking, far=composed.part(far, "shift"))
    assert composed.report.shifts["far"].other_classes == {"c": 1}


def test_images_that_cannot_be_used_are_skipped(composed: Corpus) -> None:
    def items() -> Iterator[Item]:
        yield Item(b"no image", 0, "row 0")
        yield Item(np.full((8, 8), 200, np.uint8), 0, "row 1")

    far = composed.part(Source(("a",), {"test": Split(2, items)}, ()), "shift")
    with pytest.raises(UserError, match=r"^row 0 is no image"):
        shift_of(composed, far)
    composed(replace(RULES, skip=True), s=task(), far=far)
    assert [image.location for image in composed.report.skipped["far"]] == ["row 0"]


def test_splits_are_the_same_bytes_with_and_without(composed: Corpus) -> None:
    sources = {"s": source("abc", all=300), "m": composed.part(source("", 2, all=40), "memory")}
    composed(**sources)
    without = composed.out
    composed(**sources, far=composed.part(source("abx", 3, all=60), "shift"))
    with_shift = composed.out
    for name in ("train.arrow", "validation.arrow", "test.arrow", "locations.csv"):
        assert (without / name).read_bytes() == (with_shift / name).read_bytes()


@pytest.fixture
def shifted(params: Params) -> Params:
    """Cats and dogs, and two shifts, of which one has birds too."""
    write_images("a", "cat", "dog")
    write_images("far", "cat", "bird", count=4)
    write_images("near", "dog", count=3)
    return with_sources(params, folder("a"), folder("far", "shift"), folder("near", "shift"))


def files(root: Path) -> dict[str, bytes]:
    """All files of the corpus but those of the shifts."""
    return {p.name: p.read_bytes() for p in root.iterdir() if p.is_file()}


def test_the_stage_writes_shifts_apart(shifted: Params, capsys: pytest.CaptureFixture[str]) -> None:
    """No other file of the corpus knows of them, and stale ones vanish."""
    corpus.run(shifted)
    line = "far: 4 images (all) are evaluated only; left out: of classes that the task lacks 4 bird"
    assert line in capsys.readouterr().err
    shifts = shift_images()
    assert {name: len(images) for name, images in shifts.items()} == {"far": 4, "near": 3}
    assert shifts["near"].classes == images_of("train").classes == ("cat", "dog")
    assert shifts["near"].labels.tolist() == [1, 1, 1]
    card = shifts_card()["sources"]["far"]
    assert card["by_class"] == {"cat": 4, "dog": 0}
    assert card["shift"] == {
        **{"splits": ["all"], "images": 4, "other_classes": {"bird": 4}, "unlabelled": 0},
        "copies": {"train": 0, "validation": 0},
    }
    assert (paths.SHIFTS / "far.png").is_file()
    describe.run()
    assert line in capsys.readouterr().out
    with_shifts = files(paths.CORPUS)
    corpus.run(with_sources(shifted, folder("a")))
    assert files(paths.CORPUS) == with_shifts
    assert shift_images() == {}
    assert sorted(p.name for p in paths.SHIFTS.iterdir()) == ["SHA256SUMS", "card.json"]


def test_trainings_do_not_depend_on_shifts_and_evaluations_do(shifted: Params) -> None:
    plain = with_sources(shifted, folder("a"))
    for decided in (deciding.of_corpus, lambda params: deciding.of_encoder(params, "fp32")):
        assert decided(plain) == decided(shifted)
    corpus.run(plain)
    assert present_shifts(plain) == {}
    assert present_corpus(shifted) == present_corpus(plain)
    with pytest.raises(UserError, match=r"data/corpus/shifts was made with .*: run rapipe corpus"):
        present_shifts(shifted)
    corpus.run(shifted)
    facts = present_shifts(shifted)
    assert set(facts) == {"shift far", "shift near"}
    fewer = with_sources(shifted, folder("a"), folder("far", "shift", limit=2))
    for other in (fewer, plain):
        with pytest.raises(UserError, match=r"shifts was made with corpus\.sources of the role sh"):
            present_shifts(other)
    shutil.rmtree(paths.SHIFTS)  # as in corpora of older versions
    assert shift_images() == present_shifts(plain) == {}
    corpus.run(fewer)
    assert present_shifts(fewer)["shift far"] != facts["shift far"]


def test_a_changed_file_is_refused(shifted: Params) -> None:
    corpus.run(shifted)
    with paths.shift("far").open("r+b") as file:
        file.write(b"other")
    with pytest.raises(UserError, match=r"far\.arrow is not what was written there .* corpus"):
        shift_images()


def test_shifts_are_no_part_of_the_memory(shifted: Params) -> None:
    corpus.run(shifted)
    with pytest.raises(UserError, match=r"the role of 'far' in corpus\.sources is shift, which is"):
        add._source_params(shifted, "far", "")
    far = shift_images()["far"]
    assert np.isin(far.ids, add._held_out()).all()
    vectors = np.eye(len(far), dtype=np.float32)
    bank = Embeddings(far.ids, vectors, far.labels, far.sources, np.full(len(far), "train"))
    splits = {split: images_of(split) for split in ("train", "validation", "test")}
    with pytest.raises(UserError, match="bank holds images of far, whose role is shift: 4, the"):
        audit.check_bank(bank, splits)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"weight": 0.5}, "the weight of far is 0.5, but images of the role shift are never pret"),
        ({"name": ".far"}, "the name '.far' is that of a file too, since its role is shift"),
        ({"name": "x" * 201}, "it may not begin with a dot, or have over 200 bytes"),
        ({"kind": "generated"}, "the role of far is shift, but nothing is tested on images of the"),
    ],
)
def test_mistakes_in_a_shift_are_sentences(options: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        SourceParams(**{"kind": "folder", "name": "far", "role": "shift", **options})


def test_what_no_shift_can_stand_for() -> None:
    content = json.loads(json.dumps(presets.content("tiny")))
    content["corpus"]["sources"].append({"kind": "stl10", "role": "shift"})
    parse(content)
    content["retrieval"]["bank"] = "digits+stl10"
    message = "role of 'stl10' in corpus.sources is shift, which is never looked up: leave it out$"
    with pytest.raises(UserError, match=message):
        parse(content)
    content["retrieval"]["bank"] = "all"
    content["corpus"]["sources"][0]["weight"] = 0
    with pytest.raises(UserError, match="every weight is 0, so there is nothing to pretrain on"):
        parse(content)
