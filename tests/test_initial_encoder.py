"""A memory's encoder from elsewhere: taken as it is, or pretrained further."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_images

from rapipe import paths
from rapipe.config.schema import Params
from rapipe.config.variants import variants
from rapipe.encoder.encoder import Encoder, EncoderSpec
from rapipe.errors import UserError
from rapipe.pipeline import embed, evaluate, initialise, pretrain, train
from rapipe.pipeline.running.check_names import check
from rapipe.pretraining import pretrain as library
from rapipe.retrieval.store import Store
from rapipe.specs import PretrainingRecipe

PLAIN = (0.5,) * 3, (0.3,) * 3
SPEC = EncoderSpec("resnet18", 4, "half", 16, *PLAIN)


def with_pretrain(params: Params, **fields: Any) -> Params:
    return dataclasses.replace(params, pretrain=dataclasses.replace(params.pretrain, **fields))


@pytest.fixture
def project(tiny: tuple[Path, Params], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """The folder of `tiny` to write to, up to its encoder."""
    for name in ("corpus", "encoder"):
        shutil.copytree(tiny[0] / "data" / name, tmp_path / "data" / name)
    monkeypatch.chdir(tmp_path)
    return tiny[1]


def test_without_an_objective_the_weights_stay() -> None:
    torch.manual_seed(1)
    initial = SPEC.build()
    images, validation = make_images(40), make_images(20, seed=1)
    recipe = PretrainingRecipe(objective="none")
    result = library.pretrain(images, validation, SPEC, recipe, initial=initial, precision="fp32")
    expected = Encoder(SPEC, initial).embed(images.pixels)
    assert np.array_equal(result.encoder.embed(images.pixels), expected)
    (row,) = result.history
    assert (row["epoch"], row["step"], row["images_seen"]) == (0, 0, 0)
    assert set(result.scores) == {
        "knn_top1", "linear_top1", "random_init_knn_top1", "raw_pixels_knn_top1"
    }  # fmt: skip


def test_without_an_objective_images_that_are_all_alike_are_no_collapse() -> None:
    images = make_images(30)
    images.pixels[:] = 7
    result = library.pretrain(images, images, SPEC, PretrainingRecipe(objective="none"))
    assert result.history[0]["effective_rank"] < 2


def test_pretraining_goes_on_from_initial_weights() -> None:
    """A rate of almost nothing leaves them where they were; from random ones it ends elsewhere."""
    torch.manual_seed(1)
    initial = SPEC.build()
    images = make_images(32)
    recipe = PretrainingRecipe(epochs=1, batch_size=16, learning_rate=1e-9)
    names = [name for name, _ in initial.named_parameters()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library.CollapseCheck, "refuse", lambda *_: None)
        result = library.pretrain(
            images, images, SPEC, recipe, initial=initial, precision="fp32"
        ).encoder.backbone
    for name in names:
        learned = result.get_parameter(name)
        assert torch.allclose(learned, initial.get_parameter(name), atol=1e-6), name


def test_scores_of_many_images_are_of_some_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "SCORED", 25)
    images = make_images(60)
    sizes: list[int] = []
    original = Encoder.embed

    def record(self: Encoder, pixels: Any, progress: str = "") -> Any:
        sizes.append(len(pixels))
        return original(self, pixels, progress)

    monkeypatch.setattr(Encoder, "embed", record)
    library.pretrain(images, make_images(30, seed=1), SPEC, PretrainingRecipe(objective="none"))
    assert max(sizes[:2]) == 25


def test_a_checkpoint_of_ours_becomes_the_memory_of_a_project(project: Params) -> None:
    """Its constants come with it, its weights stay, and the card says where it is from."""
    before = Encoder.read(paths.ENCODER)
    shutil.copytree(paths.ENCODER, "elsewhere")
    card = json.loads(Path("elsewhere/card.json").read_text())
    card["spec"]["mean"] = [0.25, 0.5, 0.75]
    Path("elsewhere/card.json").write_text(json.dumps(card))
    params = with_pretrain(project, objective="none", init="elsewhere")
    check(params)
    pretrain.run(params)
    encoder = Encoder.read(paths.ENCODER)
    assert encoder.spec.mean == (0.25, 0.5, 0.75)
    weights = before.backbone.state_dict()
    assert all(
        torch.equal(value, weights[name]) for name, value in encoder.backbone.state_dict().items()
    )
    written = json.loads((paths.ENCODER / "card.json").read_text())
    assert written["published"]["init"] == "elsewhere"
    embed.run(params)
    assert len(Store.open(paths.STORE, paths.STORE_MANIFEST)) > 0
    with pytest.raises(UserError, match=r"pretrain\.init"):
        embed.run(with_pretrain(params, init=""))


def test_an_encoder_sees_another_size_than_is_stored(project: Params) -> None:
    params = with_pretrain(project, objective="none", image_size=24)
    pretrain.run(params)
    encoder = Encoder.read(paths.ENCODER)
    assert encoder.spec.image_size == 24
    embed.run(params)
    images = make_images(3, size=params.corpus.image_size)
    assert encoder.embed(images.pixels).shape == (3, encoder.features)


def test_the_memory_s_encoder_is_a_classifier_too(
    tiny: tuple[Path, Params], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its own input, with its weights; `encoder+frozen` keeps them."""
    for name in ("corpus", "encoder", "store", "neighbours"):
        shutil.copytree(tiny[0] / "data" / name, tmp_path / "data" / name)
    shutil.copy(tiny[0] / "data/store.json", tmp_path / "data/store.json")
    monkeypatch.chdir(tmp_path)
    names = ("encoder", "encoder+frozen")
    classifiers = dataclasses.replace(tiny[1].classifiers, backbones=names)
    small = dataclasses.replace(tiny[1].train, width=8, image_size=8)  # not the encoder's
    params = dataclasses.replace(tiny[1], classifiers=classifiers, train=small)
    check(params)
    initialise.run(params)
    encoder = Encoder.read(paths.ENCODER)
    for variant in [v for v in variants(params) if v.retrieval == "none"]:
        train.run(params, variant)
        evaluate.run(params, variant)
        card = json.loads((paths.MODELS / variant.name / "card.json").read_text())
        assert card["spec"]["network"] == json.loads(json.dumps(dataclasses.asdict(encoder.spec)))
    from rapipe.classifier.classifier import Classifier

    frozen, _ = Classifier.read(
        paths.MODELS / f"encoder+frozen-none-s{params.classifiers.seeds[0]}"
    )
    states = encoder.backbone.state_dict()
    assert all(torch.equal(v, states[n]) for n, v in frozen.backbone.state_dict().items())


@pytest.mark.parametrize(
    ("pretraining", "backbones", "message"),
    [
        ({"objective": "none"}, ("resnet18+pretrained",), "pretrains nothing"),
        ({"init": "data/encoder"}, ("resnet18+pretrained",), "write encoder"),
        ({"init": "nowhere.pth"}, ("resnet18",), r"pretrain.init is 'nowhere.pth'"),
        ({"pool": "cls"}, ("resnet18",), r"pretrain.pool"),
        ({"objective": "imported", "encoder": "none"}, ("encoder",), "pretrain.encoder is none"),
    ],
)
def test_what_cannot_be_pretrained_is_refused(
    project: Params, pretraining: dict[str, Any], backbones: tuple[str, ...], message: str
) -> None:
    classifiers = dataclasses.replace(project.classifiers, backbones=backbones)
    params = with_pretrain(dataclasses.replace(project, classifiers=classifiers), **pretraining)
    with pytest.raises(UserError, match=message):
        check(params)


def test_no_encoder_needs_imported_vectors(project: Params) -> None:
    with pytest.raises(UserError, match=r"needs pretrain\.objective: imported"):
        with_pretrain(project, encoder="none")
    params = with_pretrain(project, encoder="none", objective="imported")
    with pytest.raises(UserError, match="run rapipe store import FILE"):
        pretrain.run(params)


def test_encoder_takes_no_weights_of_its_own(project: Params) -> None:
    with pytest.raises(UserError, match="leave \\+checkpoint out"):
        dataclasses.replace(project.classifiers, backbones=("encoder+checkpoint",))
