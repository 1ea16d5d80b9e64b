"""Generated images as a source: roles, splits, sentences, and the stage on a handful of images."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import make_embeddings
from test_compose import RULES, Corpus, source
from test_generation import stop

from rapipe import paths
from rapipe.config import presets
from rapipe.config.loading import parse
from rapipe.config.schema import Params
from rapipe.corpus.compose import Part
from rapipe.corpus.sources import SOURCES, SourceRequest
from rapipe.errors import ArgumentError, UserError
from rapipe.generation.module import GenerationModule
from rapipe.io.tables import parse_checksummed
from rapipe.pipeline import (
    audit,
    corpus,
    generate,
    pretrain,
)
from rapipe.pipeline.inputs import images_of, labelled
from rapipe.pipeline.running.check_names import check as check_names
from rapipe.pipeline.running.whole import run_all
from rapipe.records import SPLITS, Images
from rapipe.retrieval.bank import select_bank


@pytest.fixture
def composed(tmp_path: Path) -> Corpus:
    return Corpus(tmp_path)


@pytest.fixture
def project(
    with_generated: tuple[Path, Params], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Params:
    """A copy of the folder, to write in."""
    shutil.copytree(with_generated[0], tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return with_generated[1]


def with_source(params: Params, **changed: Any) -> Params:
    """The same parameters with a changed generated source."""
    real, generated = params.corpus.sources
    sources = (real, dataclasses.replace(generated, **changed))
    return dataclasses.replace(params, corpus=dataclasses.replace(params.corpus, sources=sources))


def without_source(params: Params) -> Params:
    real = params.corpus.sources[:1]
    return dataclasses.replace(params, corpus=dataclasses.replace(params.corpus, sources=real))


def files_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("role", ["memory", "training", "both"])
def test_splits_of_real_images_are_the_same_with_generated_ones(
    role: str, composed: Corpus
) -> None:
    """All generated images are in train, labelled by the name of their class."""
    real, generated = source(all=200), source(classes="ba", seed=5, train=30)
    alone = composed(s=real)
    moments = composed.report.mean, composed.report.std
    part = Part(generated, role, 1.0, composed.folder / "generated", generated=True)
    both = composed(s=real, g=part)
    assert (composed.report.mean, composed.report.std) == moments
    for split in SPLITS:
        rows = np.flatnonzero(both[split].sources == "s")
        assert np.array_equal(both[split].ids[rows], alone[split].ids)
        assert np.array_equal(both[split].labels[rows], alone[split].labels)
    train = both["train"]
    labels = train.labels[train.sources == "g"]
    assert np.bincount(labels).tolist() == [15, 15]
    assert labels[:2].tolist() == [1, 0], "its first class is b"
    assert set(both["validation"].sources) == set(both["test"].sources) == {"s"}


def test_generated_images_give_way_to_equal_real_ones(composed: Corpus) -> None:
    """So no real image is in a conflict because of one, and none is left out."""
    real, copies = source(all=200), source(classes="ba", all=200)
    rules = dataclasses.replace(RULES, on_conflict="drop")
    alone = composed(rules, s=real)
    copying = dataclasses.replace(copies, splits={"train": copies.splits["all"]})
    part = Part(copying, "both", 1.0, composed.folder / "generated", generated=True)
    both = composed(rules, s=real, g=part)
    assert composed.report.copies == 200
    for split in SPLITS:
        assert np.array_equal(both[split].ids, alone[split].ids)


def test_other_sources_may_be_for_training_alone(composed: Corpus) -> None:
    extra = composed.part(source(seed=9, train=20, test=10), "training")
    splits = composed(s=source(all=100), extra=extra)
    assert (splits["train"].labels[splits["train"].sources == "extra"] >= 0).all()
    assert "extra" not in splits["test"].sources
    strange = composed.part(source(classes="az", seed=9, train=20), "training")
    with pytest.raises(ArgumentError, match="class 'z' of extra, whose role is training, is in no"):
        composed(s=source(all=100), extra=strange)


def test_images_for_training_alone_are_never_looked_up() -> None:
    rows = make_embeddings(20)
    sources = np.array(["real", "fake"] * 10)
    facts = (rows.ids, sources, rows.splits, rows.ids[:0])
    assert set(sources[select_bank(*facts, "all", 0, ["fake"])]) == {"real"}
    drawn = select_bank(*facts, 5, 0, ["fake"])
    alone = select_bank(*(part[::2] for part in facts[:3]), facts[3], 5, 0)
    assert np.array_equal(drawn, 2 * alone), "the draw is that without them"


def test_the_stage_writes_images_card_and_pictures(project: Params) -> None:
    card = json.loads(paths.GENERATED_CARD.read_text())
    assert card["images"] == 12
    assert card["classes"] == ["a", "b", "c"]
    assert card["spec"]["method"] == "acgan"
    assert card["params"]["generate.images"] == 4
    images = Images.read(paths.GENERATED_IMAGES)
    train = images_of("train")
    rows = np.flatnonzero(train.sources == "generated")
    assert np.array_equal(train.pixels[rows], images.pixels), "decoding changes nothing"
    assert np.array_equal(train.ids[rows], images.ids)
    assert np.array_equal(train.labels[rows], images.labels)
    assert card["training_images"] == len(train) - 12
    assert {"sheet.png", "weights.safetensors", "history.csv"} <= files_of(paths.GENERATED).keys()
    assert not paths.REVERSE.exists(), "acgan takes one step"


def test_another_role_needs_no_other_images(
    project: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC runs the stage again, and removes its output first: what was trained is still there."""
    before = files_of(paths.GENERATED)
    shutil.rmtree(paths.GENERATED)
    monkeypatch.setattr(GenerationModule, "training_step", stop)
    params = with_source(project, role="memory")
    generate.run(params)
    assert files_of(paths.GENERATED) == before
    corpus.run(params)
    assert set(labelled("train").sources) == {"folder"}, "what is only looked up is no query"
    train = images_of("train")
    assert (train.labels[train.sources == "generated"] >= 0).all(), "but it lends labels"


def test_without_such_a_source_nothing_is_generated(project: Params) -> None:
    params = without_source(project)
    generate.run(params)
    first = files_of(paths.GENERATED)
    assert set(first) == {"SHA256SUMS"}
    generate.run(dataclasses.replace(params, seed=1))
    assert files_of(paths.GENERATED) == first
    with pytest.raises(UserError, match=r"generated/card\.json is missing: run rapipe generate"):
        corpus.run(project)


def test_the_corpus_refuses_images_of_other_parameters(project: Params) -> None:
    other = dataclasses.replace(project.generate, images=5)
    params = dataclasses.replace(project, generate=other)
    with pytest.raises(UserError, match=r"made with generate\.images 4, not 5: run rapipe gen"):
        corpus.run(params)
    with pytest.raises(UserError, match=r"corpus was made with generate\.images 4, not 5"):
        pretrain.run(params)


def test_the_audit_refuses_generated_images_that_are_held_out(project: Params) -> None:
    splits = {split: images_of(split) for split in SPLITS}
    train = splits["train"]
    rows = np.flatnonzero(train.sources == "generated")
    bank = dataclasses.replace(make_embeddings(4), sources=np.array(["folder", "generated"] * 2))
    assert audit.check_sources(bank, splits) == {
        "generated_held_out": len(splits["validation"]) + len(splits["test"])
    }
    with pytest.raises(UserError, match=r"test\.arrow holds generated images: 1, the first is"):
        audit.check_sources(bank, {**splits, "test": train.take(rows[:1])})
    corpus.run(with_source(project, role="training"))
    with pytest.raises(UserError, match="holds images of a source whose role is training: 2"):
        audit.check_sources(bank, splits)


@pytest.mark.parametrize(
    ("source_yaml", "others", "sentence"),
    [
        ("{kind: generated}", {}, "role of generated is task, .* choose training, memory or both"),
        (
            "{kind: generated, role: both, path: x}",
            {},
            "path of generated is 'x', but the kind generated has none",
        ),
        (
            "{kind: generated, role: both}",
            {"train.label_fraction": 0.5},
            r"made with every label, but train\.label_fraction is 0\.5",
        ),
        (
            "{kind: generated, role: training}",
            {"retrieval.bank": "digits+generated"},
            "role of 'generated' in corpus.sources is training, which is never looked up",
        ),
        (
            "{kind: generated, role: both}",
            {"generate.method": "vae"},
            r"generate\.method is 'vae'; it must be one of ddpm, acgan",
        ),
        (
            "{kind: generated, role: both}",
            {"corpus.image_size": 30},
            r"corpus\.image_size is 30, but generate\.method is one that halves",
        ),
    ],
)
def test_mistakes_are_sentences(source_yaml: str, others: dict[str, Any], sentence: str) -> None:
    content = presets.content("tiny")
    content["corpus"]["sources"].append(dict(_yaml(source_yaml)))
    for key, value in others.items():
        group, name = key.split(".")
        content[group][name] = value
    with pytest.raises(UserError, match=sentence):
        check_names(parse(content))


def _yaml(text: str) -> dict[str, Any]:
    from rapipe.config.yaml_text import read_yaml

    values: dict[str, Any] = read_yaml(text)
    return values


def test_generated_images_of_nothing_are_a_sentence(tmp_path: Path) -> None:
    content = presets.content("tiny")
    content["corpus"]["sources"] = [{"kind": "generated", "role": "both"}]
    with pytest.raises(UserError, match="all have the kind generated; name the images that"):
        parse(content)
    with pytest.raises(ArgumentError, match="the kind 'generated' takes no path, but has 'x'"):
        SOURCES["generated"](SourceRequest("x", home=tmp_path))
    with pytest.raises(UserError, match=r"images\.arrow is missing"):
        SOURCES["generated"](SourceRequest(home=tmp_path))


def test_a_preset_generates_digits() -> None:
    params = parse(presets.content("digits-generated"))
    assert params.generated_sources == ("generated",)
    assert params.corpus.sources[1].weight == 0, "the encoder that judges them has not seen them"
    check_names(params)


@pytest.mark.slow
@pytest.mark.parametrize("role", ["memory", "training", "both"])
def test_the_pipeline_with_generated_images(
    role: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From diffusion to the report: pictures, distances, and pairs, and a clean audit."""
    monkeypatch.chdir(tmp_path)
    presets.write("tiny", paths.PARAMS)
    content = _yaml(paths.PARAMS.read_text())
    content["corpus"]["sources"] = [
        {"kind": "digits", "limit": 300},
        {"kind": "generated", "role": role, "weight": 0.0},
    ]
    content["generate"] |= {"images": 3, "width": 4, "epochs": 1, "steps": 2}
    content["classifiers"]["backbones"] = ["alexnet"]
    params = parse(content)
    run_all(params)
    quality = parse_checksummed(paths.QUALITY.read_text())
    assert quality["images"]["generated"] == 30
    assert quality["compared"]["training"] == quality["compared"]["generated"] == 30
    assert quality["fid"]["generated"] > quality["fid"]["training"] > 0
    assert paths.MEMORISATION.read_text().count("\n") == 31
    leakage = parse_checksummed(paths.LEAKAGE.read_text())
    assert leakage["checks"]["generated_held_out"]["found"] == 0
    assert ("training_in_bank" in leakage["checks"]) == (role == "training")
    rows = json.loads((paths.NEIGHBOURS / "bank/card.json").read_text())["rows"]
    train_images = images_of("train")
    assert rows == len(np.unique(train_images.ids)) - (30 if role == "training" else 0)
    assert len(labelled("train")) == len(train_images) - (30 if role == "memory" else 0)
    page = paths.PAGE.read_text()
    for heading in ("Generated images", "out of noise", "like real images", "copies of training"):
        assert heading in page
    assert paths.REVERSE_FILM.stat().st_size > 100
