"""What classifiers start from and learn from: pretrained, frozen, few labels, a teacher."""

from __future__ import annotations

import dataclasses
import inspect
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from rapipe import paths
from rapipe.classifier import train as library
from rapipe.config import deciding
from rapipe.config.names import ClassifierName
from rapipe.config.schema import Params
from rapipe.config.variants import variants
from rapipe.encoder.backbones import build
from rapipe.encoder.initial_weights import InitialWeights
from rapipe.errors import UserError
from rapipe.io.checksums import CHECKSUMS, write_checksums
from rapipe.io.tables import read_json
from rapipe.pipeline import audit, evaluate, initialise, prefetch, pretrain, train
from rapipe.pipeline.inputs import setting
from rapipe.records import Embeddings, Images, Neighbours


@pytest.fixture
def own(tiny: tuple[Path, Params], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """The folder of `tiny` to write to, up to its neighbours."""
    for name in ("corpus", "encoder", "store", "neighbours"):
        shutil.copytree(tiny[0] / "data" / name, tmp_path / "data" / name)
    shutil.copy(tiny[0] / "data/store.json", tmp_path / "data/store.json")
    monkeypatch.chdir(tmp_path)
    return tiny[1]


def changed(params: Params, **more: Any) -> Params:
    """Parameters with others in `classifiers` and `train`; `retrieval__k` is one of retrieval."""
    groups: dict[str, dict[str, Any]] = {"classifiers": {}, "train": {}, "retrieval": {}}
    for key, value in more.items():
        group, _, name = key.rpartition("__")
        group = group or ("classifiers" if hasattr(params.classifiers, name) else "train")
        groups[group][name] = value
    replaced = {
        group: dataclasses.replace(getattr(params, group), **values)
        for group, values in groups.items()
    }
    return dataclasses.replace(params, **replaced)


def weights_of(folder: Path, prefix: str = "") -> dict[str, np.ndarray]:
    found = load_file(folder / "weights.safetensors")
    return {k.removeprefix(prefix): v for k, v in found.items() if k.startswith(prefix)}


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    assert set(one) == set(other)
    return all(np.array_equal(one[name], other[name]) for name in one)


def test_the_encoder_is_what_the_same_backbone_starts_from(
    own: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not pretrained again, and its weights are found again when they are wanted again."""
    monkeypatch.setattr(pretrain, "pretrained", None)
    names = ("resnet18", "resnet18+pretrained", "resnet18+pretrained+frozen")
    params = changed(own, backbones=names)
    initialise.run(params)
    first = (paths.INITIAL / "resnet18+pretrained/card.json").read_bytes()
    for name in ("resnet18+pretrained", "resnet18+pretrained+frozen"):
        assert same(weights_of(paths.INITIAL / name), weights_of(paths.ENCODER))
    assert not (paths.INITIAL / "resnet18/weights.safetensors").exists()
    initialise.run(changed(own, backbones=("resnet18",)))
    assert sorted(own.name for own in paths.INITIAL.iterdir()) == [CHECKSUMS, "resnet18"]
    shutil.rmtree(paths.ENCODER)
    initialise.run(params)
    assert (paths.INITIAL / "resnet18+pretrained/card.json").read_bytes() == first


def test_another_backbone_is_pretrained_once_for_all_that_start_from_it(
    own: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    real = pretrain.pretrained

    def counted(params: Params, source: Any) -> Any:
        calls.append(source.spec.backbone)
        return real(params, source)

    monkeypatch.setattr(pretrain, "pretrained", counted)
    initialise.run(changed(own, backbones=("alexnet+pretrained", "alexnet+pretrained+noise")))
    assert calls == ["alexnet"]
    names = ("alexnet+pretrained", "alexnet+pretrained+noise")
    assert same(*(weights_of(paths.INITIAL / name) for name in names))
    (history,) = paths.INITIAL_CACHE.glob("*/history.csv")
    assert "linear_top1" in history.read_text()
    assert not list(paths.CHECKPOINTS.glob("*"))


@pytest.mark.parametrize("retrieval", ["none", "knn"])
@pytest.mark.parametrize(
    "words", ["+pretrained", "+pretrained+frozen", "+frozen", "+pretrained+frozen+graph"]
)
def test_only_what_is_not_frozen_moves(own: Params, words: str, retrieval: str) -> None:
    params = changed(own, backbones=(f"resnet18{words}",))
    variant = next(v for v in variants(params) if v.retrieval == retrieval)
    initialise.run(params)
    train.run(params, variant)
    folder = paths.MODELS / variant.name
    trained, card = weights_of(folder, "backbone."), read_json(folder / "card.json", "train")
    moved = not same(trained, weights_of(paths.ENCODER)) if "pretrained" in words else None
    assert moved is (None if "pretrained" not in words else "frozen" not in words)
    assert (card["trained_parameters"] < card["parameters"]) is ("frozen" in words)
    evaluate.run(params, variant)
    assert 0 <= read_json(paths.RUNS / f"{variant.name}.json", "eval")["rows"][0]["top1"] <= 1


def test_pretrained_elsewhere(own: Params) -> None:
    """Here elsewhere is a folder of ours; tests/test_checkpoints.py has the other forms."""
    params = changed(own, backbones=("resnet18+checkpoint",), init="data/encoder")
    initialise.run(params)
    assert same(weights_of(paths.INITIAL / "resnet18+checkpoint"), weights_of(paths.ENCODER))
    with pytest.raises(UserError, match=r"classifiers\.init"):
        initialise.run(changed(params, init="data/nowhere.pth"))
    with pytest.raises(UserError, match="is of another network"):
        initialise.run(changed(params, backbones=("alexnet+checkpoint",)))


def test_each_backbone_starts_from_a_checkpoint_that_is_named_for_it(own: Params) -> None:
    """Side by side in one run; another start of one puts only that one out of date."""
    starts = {}
    for seed, backbone in enumerate(("resnet18", "alexnet")):
        torch.manual_seed(seed)
        network = build(backbone, own.train.width, own.train.stem, own.corpus.image_size)
        starts[backbone] = f"{backbone}.pth"
        torch.save(network.state_dict(), starts[backbone])
    torch.save(network.state_dict(), "other.pth")
    names = ("resnet18+checkpoint", "alexnet+checkpoint", "alexnet+checkpoint+frozen")
    params = changed(own, backbones=names, init=starts)
    initialise.run(params)
    for name in names:
        weights = {n: t.numpy() for n, t in torch.load(f"{name.split('+')[0]}.pth").items()}
        assert same(weights_of(paths.INITIAL / name), weights)
    card = read_json(paths.INITIAL / names[1] / "card.json", "initialise")
    assert card["params"]["classifiers.init"] == "alexnet.pth"
    other = changed(params, init={**starts, "alexnet": "other.pth"})
    for name, stays in zip(names, (True, False, False), strict=True):
        facts = [deciding.of_initial(p, name, "fp32") for p in (params, other)]
        assert (facts[0] == facts[1]) is stays, name
    alone = changed(own, backbones=names[1:], init="alexnet.pth")
    for p in (params, alone):  # a text for all says the same of it
        assert deciding.of_initial(p, names[1], "fp32")["classifiers.init"] == "alexnet.pth"
    taught = changed(
        own, backbones=("alexnet+checkpoint+distilled",), distill=names[0], init=starts
    )
    both = {"alexnet": "alexnet.pth", "resnet18": "resnet18.pth"}
    facts = deciding.of_initial(taught, taught.classifiers.backbones[0], "fp32")
    assert facts["classifiers.init"] == both


def test_a_start_of_another_network_is_refused(own: Params) -> None:
    params = changed(own, backbones=("resnet18+pretrained",))
    initialise.run(params)
    wider = changed(params, width=8)
    with pytest.raises(UserError, match=r"made with train\.width 4, not 8: run rapipe initialise"):
        train.run(wider, variants(wider)[0])
    shutil.rmtree(paths.INITIAL)
    with pytest.raises(UserError, match="is missing: run rapipe initialise"):
        train.run(params, variants(params)[0])


def test_withheld_labels_are_known_to_nobody(own: Params) -> None:
    params = changed(own, backbones=("alexnet",), label_fraction=0.1)
    initialise.run(params)
    with pytest.raises(UserError, match=r"with train\.label_fraction 1\.0, not 0\.1: run"):
        train.run(params, variants(params)[-1])
    prefetch.run(params)
    bank, images = Embeddings.read(paths.BANK), Images.read(paths.split("train"))
    assert len(bank) == len(images), "the images stay in the memory"
    kept = bank.labels >= 0
    assert 0.1 * len(images) <= kept.sum() <= 0.1 * len(images) + 10
    truth = dict(zip(images.ids.tolist(), images.labels.tolist(), strict=True))
    assert bank.labels[kept].tolist() == [truth[own] for own in bank.ids[kept].tolist()]
    audit.run(params)
    for variant in variants(params):
        if variant.retrieval != "sampled":
            train.run(params, variant)
            card = read_json(paths.MODELS / variant.name / "card.json", "train")
            assert card["labels"] == kept.sum()
    spoiled = bank.take(np.arange(len(bank)))  # in memory: its file is written over
    dataclasses.replace(spoiled, labels=np.zeros(len(bank), np.int64)).write(paths.BANK)
    write_checksums(paths.NEIGHBOURS)
    with pytest.raises(UserError, match=r"labels that train\.label_fraction withholds"):
        audit.run(params)


def test_a_student_learns_from_images_without_labels(
    own: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The teacher sees the known labels, the student all images and none of the labels."""
    images = Images.read(paths.split("train"))
    labels = images.labels.copy()
    labels[:500] = -1
    dataclasses.replace(
        images, labels=labels, ids=images.ids.copy(), pixels=images.pixels.copy()
    ).write(paths.split("train"))
    write_checksums(paths.CORPUS)
    params = changed(
        own,
        backbones=("alexnet+distilled",),
        distill="resnet18+pretrained",
        label_fraction=0.2,
        retrieval__strategies=("knn",),
    )
    initialise.run(params)
    prefetch.run(params)
    audit.run(params)
    assert len(Neighbours.read(paths.table("knn", "train")).query_ids) == len(images)
    modules: list[tuple[str, int, bool]] = []
    real = library.ClassifierModule

    def noted(*given: Any) -> Any:
        made = inspect.signature(real).bind(*given).arguments
        backbone = made["classifier"].spec.network.backbone
        modules.append((backbone, len(made["images"]), made["teacher"] is not None))
        return real(*given)

    monkeypatch.setattr(library, "ClassifierModule", noted)
    for variant in variants(params):
        train.run(params, variant)
        card = read_json(paths.MODELS / variant.name / "card.json", "train")
        assert card["spec"]["network"]["backbone"] == "alexnet"
        few = card["labels"]
        assert 0 < few < 0.25 * len(images)
        assert modules == [("resnet18", few, False), ("alexnet", len(images), True)]
        assert not list(paths.CHECKPOINTS.glob("*teacher*"))
        modules.clear()


def test_a_teacher_is_not_trained_twice(own: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    params = changed(own, backbones=("alexnet+distilled",), distill="alexnet")
    initialise.run(params)
    variant = variants(params)[0]
    taught: list[str] = []
    real = train.train_classifier

    def dies(*args: Any, teacher: Any, **options: Any) -> Any:
        taught.append("teacher" if teacher is None else "student")
        if taught == ["teacher", "student"]:
            raise KeyboardInterrupt
        return real(*args, teacher=teacher, **options)

    monkeypatch.setattr(train, "train_classifier", dies)
    with pytest.raises(KeyboardInterrupt):
        train.run(params, variant)
    train.run(params, variant)
    assert taught == ["teacher", "student", "student"]


def test_results_of_other_starts_have_another_setting(own: Params) -> None:
    """What a classifier starts from, and its teacher's noise, keep results apart."""
    settings: set[tuple[str, str]] = set()
    recipes = [own.pretrain, dataclasses.replace(own.pretrain, learning_rate=0.1)]
    entries = ("resnet18+pretrained", "alexnet+distilled", "alexnet+noise", "alexnet")
    for number, recipe in enumerate(recipes):
        params = changed(
            own, backbones=entries, distill="alexnet+noise", noise_std=0.1 * (number + 1)
        )
        params = dataclasses.replace(params, pretrain=recipe)
        if number:
            pretrain.run(params)
        initialise.run(params)
        for variant in variants(params):
            if variant.retrieval == "none":
                facts = setting(params, variant, "fp32")
                settings.add((variant.backbone, json.dumps(facts)))
    assert Counter(name for name, _ in settings) == dict.fromkeys(entries[:3], 2) | {"alexnet": 1}


def test_what_a_start_says_is_read_or_told(own: Params) -> None:
    initialise.run(changed(own, backbones=("alexnet+distilled",), distill="alexnet"))
    folder = paths.INITIAL / "alexnet+distilled"
    assert InitialWeights.read(folder).teacher == "alexnet"
    (folder / "card.json").write_text("{}")
    write_checksums(paths.INITIAL)
    with pytest.raises(UserError, match=r"is damaged .*run rapipe initialise"):
        InitialWeights.read(folder)


@pytest.mark.parametrize(
    "text",
    [
        "resnet18+frozen+pretrained",
        "resnet18+",
        "+pretrained",
        "a+noise+distilled",
        "a+x+y",
        "a+linear",
        "a+pretrained+checkpoint",
    ],
)
def test_words_in_another_order_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"is no name of a classifier; write .*in this order"):
        ClassifierName.parse(text)


def test_what_contradicts_itself_is_refused(own: Params) -> None:
    for more, told in (
        ({"backbones": ("alexnet+distilled",)}, r"classifiers\.distill names no teacher"),
        (
            {"backbones": ("alexnet+distilled",), "distill": "alexnet+distilled"},
            "learns from labels",
        ),
        ({"backbones": ("alexnet+checkpoint",)}, r"classifiers\.init is empty"),
    ):
        with pytest.raises(UserError, match=told):
            changed(own, **more)
    with pytest.raises(UserError, match="sees every label"):
        dataclasses.replace(
            changed(own, label_fraction=0.5),
            pretrain=dataclasses.replace(own.pretrain, objective="supervised"),
        )
