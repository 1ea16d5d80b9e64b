"""The corpus stage: mistakes name keys of params.yaml, and the card lists skipped images."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rapipe import paths
from rapipe.config import presets
from rapipe.config.loading import load
from rapipe.config.schema import Params, SourceParams
from rapipe.errors import ArgumentError, UserError
from rapipe.pipeline import corpus
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
        with_sources(params, folder("a"), validation_fraction=0.001),
        "add images or change corpus.validation_fraction or corpus.test_fraction",
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


def test_commands_that_decode_name_the_keys_too(in_tiny: Params, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^corpus\.sources: .* holds no images as split/class"):
        add.run(in_tiny, str(tmp_path), [], 0, "", False)
    image = io.BytesIO()
    Image.new("1", (10_001, 10_000)).save(image, "PNG")
    path = tmp_path / "large.png"
    path.write_bytes(image.getvalue())
    with pytest.raises(UserError, match=r"pixels, more than corpus\.max_pixels, 100000000$"):
        look_up.run(in_tiny, str(path), 2, "", None, False)
