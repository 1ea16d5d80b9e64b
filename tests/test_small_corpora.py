"""Corpora of a handful of images: each runs through all stages, or a sentence says what is few."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rapipe import paths
from rapipe.config import presets
from rapipe.config.corpus_params import SourceParams
from rapipe.config.loading import load
from rapipe.config.schema import Params
from rapipe.config.variants import variants
from rapipe.errors import UserError
from rapipe.pipeline import (
    audit,
    baselines,
    corpus,
    embed,
    evaluate,
    initialise,
    prefetch,
    pretrain,
    report,
    train,
)

MEMORY = SourceParams(kind="folder", path="memory", name="memory", role="memory")


@pytest.fixture(autouse=True)
def _inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def params_of(counts: list[int], k: int = 4, weight: float = 1.0, **more: int) -> Params:
    """The preset `tiny` on so many images of each class, and on one without a class."""
    side, alike = more.get("side", 24), more.get("alike", 0)
    for label, count in enumerate(counts):
        draw(Path(f"images/{label}"), 0 if alike else label, count, side, alike)
    draw(Path("memory"), 9, 1, side)
    presets.write("tiny", Path("params.yaml"))
    params = load(Path("params.yaml"))
    task = SourceParams(kind="folder", path="images", name="images", weight=weight)
    return replace(
        params,
        corpus=replace(params.corpus, sources=(task, MEMORY)),
        retrieval=replace(params.retrieval, k=k, strategies=("knn",)),
        classifiers=replace(params.classifiers, backbones=("resnet18",)),
        train=replace(params.train, precision="fp32"),
    )


def draw(folder: Path, label: int, count: int, side: int, alike: int = 0) -> None:
    """A square of a colour on noise."""
    folder.mkdir(parents=True)
    for number in range(count):
        rng = np.random.default_rng([label, 0 if alike else number])
        pixels = rng.integers(0, 90, (side, side, 3), dtype=np.uint8)
        pixels[side // 3 :, side // 3 :, label % 3] += 150
        Image.fromarray(pixels).save(folder / f"{number}.png")


@pytest.mark.parametrize(
    ("counts", "alike", "message"),
    [
        ([1, 1], 0, "validation split holds no labelled image; add images .*from three different"),
        ([1] * 9, 0, "validation split holds no labelled image; add images .*from three different"),
        ([8, 8], 1, "validation split holds no labelled image"),
    ],
)
def test_too_few_images_to_divide_are_a_sentence(
    counts: list[int], alike: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        corpus.run(params_of(counts, alike=alike))


def test_an_epoch_of_one_image_is_a_sentence() -> None:
    params = params_of([5, 5], weight=0.0)
    corpus.run(params)
    few = r"an epoch has 1 image, of 7 \(images: 6 of weight 0, memory: 1 of weight 1\)"
    with pytest.raises(UserError, match=f"pretraining: {few}, but two are needed"):
        pretrain.run(params)


def test_more_neighbours_than_images_are_a_sentence() -> None:
    params = params_of([3, 3], k=40)
    corpus.run(params)
    with pytest.raises(UserError, match=r"at most \d+ neighbours; .*, or add images"):
        pretrain.run(params)


@pytest.mark.ci  # some seconds each
@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize(
    ("counts", "k", "side"),
    [([3, 3], 1, 24), ([6, 6], 4, 24), ([40, 1], 4, 24), ([3] * 60, 4, 24), ([12, 12], 4, 1)],
)
def test_all_stages_run_on(counts: list[int], k: int, side: int, undrawn: None) -> None:
    params = params_of(counts, k, side=side)
    for stage in (corpus, pretrain, embed, prefetch, audit, baselines, initialise):
        stage.run(params)
    for variant in variants(params):
        train.run(params, variant)
        evaluate.run(params, variant)
    report.run(params)
    metrics = json.loads(paths.METRICS.read_text())
    assert metrics
    assert "NaN" not in json.dumps(metrics)
