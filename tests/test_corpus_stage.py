"""The corpus stage: mistakes name keys of params.yaml, and the card lists skipped images."""

from __future__ import annotations

import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rapipe import paths
from rapipe.config import presets
from rapipe.config.corpus_params import SourceParams
from rapipe.config.loading import load
from rapipe.config.schema import Params
from rapipe.errors import ArgumentError, UserError
from rapipe.io.checksums import write_checksums
from rapipe.pipeline import corpus, describe
from rapipe.pipeline.inputs import corpus_card
from rapipe.pipeline.memory import add, look_up


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """The preset `tiny`, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    presets.write("tiny", Path("params.yaml"))
    return load(Path("params.yaml"))


def folder(name: str, role: str = "task", **options: Any) -> SourceParams:
    return SourceParams(kind="folder", path=name, name=name, role=role, **options)


def with_sources(params: Params, *sources: SourceParams, **options: Any) -> Params:
    return replace(params, corpus=replace(params.corpus, sources=sources, **options))


def write_images(name: str, *classes: str, count: int = 20, size: int = 8) -> None:
    """A folder of images of noise."""
    rng = np.random.default_rng(list(name.encode()))
    for class_name in classes:
        Path(name, class_name).mkdir(parents=True, exist_ok=True)
        for row in range(count):
            pixels = rng.integers(0, 256, (size, size, 3), np.uint8)
            Image.fromarray(pixels).save(Path(name, class_name, f"{row:02}.png"))


def check(params: Params, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        corpus.run(params)
    assert not isinstance(caught.value, ArgumentError)
    assert not paths.CORPUS.exists()


def test_mistakes_in_a_source_name_its_key(params: Params) -> None:
    check(with_sources(params, folder("a")), "corpus.sources: the folder 'a' does not exist")
    mnist = SourceParams(kind="mnist", name="mnist")
    check(with_sources(params, mnist), ", or set corpus.download: true")
    check(
        with_sources(params, replace(mnist, label="x")),
        "corpus.sources: mnist has no label 'x'; it has one only; leave `label` out",
    )


def test_mistakes_in_the_composition_name_their_keys(params: Params) -> None:
    write_images("a", "cat", "dog")
    write_images("b", "cat")
    check(
        with_sources(params, folder("a", "memory")),
        "corpus.sources: all have the role memory; one must have the role task",
    )
    check(
        with_sources(params, folder("a"), folder("b")),
        "corpus.sources: the class 'cat' is in both a and b; set corpus.merge_classes: true if",
    )
    check(
        with_sources(params, folder("a", limit=1)),
        "remove the class, or set corpus.on_error: skip to leave it out",
    )
    check(
        with_sources(params, folder("a", limit=2)),
        "on), or change corpus.validation_fraction or corpus.test_fraction",
    )


def test_images_that_cannot_be_used_name_their_keys(params: Params) -> None:
    write_images("a", "cat", "dog")
    Path("a/cat/broken.png").write_bytes(b"no image")
    advice = "(corpus.on_error: skip leaves out and lists what is wrong)"
    check(with_sources(params, folder("a")), advice)
    Path("a/cat/broken.png").unlink()
    write_images("a", "large", size=9)
    large = "has 9 x 9 = 81 pixels, more than corpus.max_pixels, 80"
    check(with_sources(params, folder("a"), max_pixels=80), f"a/large/00.png {large} {advice}")
    corpus.run(with_sources(params, folder("a"), max_pixels=80, on_error="skip"))
    card = corpus_card()
    assert card["classes"] == ["cat", "dog"]
    assert card["sources"]["a"]["skipped_list"][0] == f"a/large/00.png {large}"
    assert card["sources"]["a"]["skipped"] == 21  # and the class


def test_what_is_passed_over_is_told_and_kept_in_the_card(
    params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images("a/seg_train/seg_train", "cat", "dog")
    write_images("a/seg_test/seg_test", "cat", "dog", "dog/@eaDir")
    Path("a/labels.csv").write_text("words")
    corpus.run(with_sources(params, folder("a")))
    lines = [
        *("passed over 1 .csv, 1 @eaDir/", "reads the folders seg_test as test, seg_train as train")
    ]
    assert capsys.readouterr().err.splitlines()[:2] == [f"a: {line}" for line in lines]
    card = corpus_card()["sources"]["a"]
    assert card["passed_over"] == {".csv": 1, "@eaDir/": 1}
    assert card["hints"] == lines[1:]
    describe.run()
    printed = capsys.readouterr().out.splitlines()
    assert f"a: {lines[0]}" in printed
    assert f"a: {lines[1]}" in printed


def test_links_to_nothing_stop_or_are_listed(params: Params) -> None:
    write_images("a", "cat", "dog")
    Path("a/cat/lost.png").symlink_to("/mnt/annex/lost.png")
    clause = "a/cat/lost.png is a link to '/mnt/annex/lost.png', which does not exist"
    check(with_sources(params, folder("a")), f"{clause} (corpus.on_error: skip leaves out")
    for _ in range(2):  # decoded, and from the cache
        corpus.run(with_sources(params, folder("a"), on_error="skip"))
        assert corpus_card()["sources"]["a"]["skipped_list"] == [clause]
    Path("a/cat/lost.png").unlink()
    corpus.run(with_sources(params, folder("a")))
    assert corpus_card()["sources"]["a"]["skipped"] == 0


def test_pixels_in_two_classes_are_named(
    params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images("a", "[red]cat", "dog")
    for row in range(4):
        shutil.copy(f"a/[red]cat/{row:02}.png", f"a/dog/copy{row}.png")
    pair = "a/[red]cat/00.png ([red]cat, {0}) = a/dog/copy0.png (dog, {0})"
    corpus.run(with_sources(params, folder("a")))
    card = corpus_card()["conflicts"]
    assert {key: card[key] for key in ("ids", "images", "left_out")} == {
        **{"ids": 4, "images": 8},
        "left_out": 0,
    }
    assert [copy["class_name"] for copy in card["list"][0]["images"]] == ["[red]cat", "dog"]
    first = next(c for c in card["list"] if c["images"][0]["location"].endswith("00.png"))
    split = first["images"][0]["split"]
    warned = capsys.readouterr().err
    assert warned.startswith("warning: 8 images have the pixels of another class's image: a/[red]")
    assert warned.endswith(" (corpus.on_conflict: keep, listed in data/corpus/card.json)\n")
    describe.run()
    told = capsys.readouterr().out
    assert "the same pixels in several classes: 4, in 8 images\n" in told
    assert pair.format(split) in told
    corpus.run(with_sources(params, folder("a"), on_conflict="drop"))
    assert corpus_card()["conflicts"]["left_out"] == 8
    assert sum(split["images"] for split in corpus_card()["splits"].values()) == 36
    message = "correct the labels, or set corpus.on_conflict to keep, or to drop, which leaves out"
    with pytest.raises(UserError, match=message):
        corpus.run(with_sources(params, folder("a"), on_conflict="stop"))
    assert corpus_card()["conflicts"]["left_out"] == 8  # nothing is lost


def test_classes_without_held_out_images_are_named(
    params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images("a/train", "cat", "dog", "heron", count=4)
    write_images("a/validation", "cat", count=2)
    write_images("a/test", "cat", "dog", count=2)
    corpus.run(with_sources(params, folder("a")))
    assert corpus_card()["absent_classes"] == {"validation": ["dog", "heron"], "test": ["heron"]}
    warned = capsys.readouterr().err
    assert "warning: no validation image of 2 of 3 classes: dog, heron;" in warned
    assert "warning: no test image of 1 of 3 classes: heron;" in warned
    describe.run()
    assert "no test image of 1 of 3 classes: heron\n" in capsys.readouterr().out
    card = corpus_card()
    del card["conflicts"]
    paths.CORPUS_CARD.write_text(json.dumps(card))
    write_checksums(paths.CORPUS)
    with pytest.raises(UserError, match="is of an older version: run rapipe corpus"):
        describe.run()


def test_greyscale_of_twelve_bits_gets_a_hint(
    params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images("scans", "cat", "dog")
    for file in Path("scans").glob("*/*.png"):
        deep = np.asarray(Image.open(file).convert("L")).astype(np.uint16) * 16
        Image.fromarray(deep).save(file)
    corpus.run(with_sources(params, folder("scans")))
    hint = "scans: 40 images are stored with more than 8 bits, but nearly all have no value above"
    assert f"warning: {hint}" in capsys.readouterr().err
    assert corpus_card()["sources"]["scans"]["values"]["deep"] == 40
    describe.run()
    printed = capsys.readouterr().out
    assert hint in printed
    assert "set corpus.depth: 12" in printed
    dark = corpus_card()["mean"]
    corpus.run(with_sources(params, folder("scans"), depth=12))
    assert "warning: scans" not in capsys.readouterr().err
    assert corpus_card()["mean"] == pytest.approx(np.multiply(dark, 16), rel=0.05)
    with pytest.raises(UserError, match=r"must hold 0 to 1023 \(corpus\.depth is 10\)"):
        corpus.run(with_sources(params, folder("scans"), depth=10))


def test_commands_that_decode_name_the_keys_too(in_tiny: Params, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^corpus\.sources: .* holds no images as split/class"):
        add.run(in_tiny, str(tmp_path), [], 0, "", False)
    image = io.BytesIO()
    Image.new("1", (10_001, 10_000)).save(image, "PNG")
    path = tmp_path / "large.png"
    path.write_bytes(image.getvalue())
    with pytest.raises(UserError, match=r"pixels, more than corpus\.max_pixels, 100000000$"):
        look_up.run(in_tiny, str(path), 2, "", None, False)
