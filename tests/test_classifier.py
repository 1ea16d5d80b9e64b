"""The classifier: with a silent fusion the plain one, in batches, on disk."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_embeddings, make_images, make_spec

from rapipe.batches.loader import CPU
from rapipe.classifier.classifier import Classifier, ClassifierSpec
from rapipe.classifier.neighbour_batch import DeviceBank, Shown
from rapipe.encoder.backbones import BACKBONES
from rapipe.errors import UserError
from rapipe.specs import FusionSpec

PLAIN = ((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


def spec(backbone: str, attend: str = "both", **options: Any) -> ClassifierSpec:
    return make_spec(backbone, 8, "half", attend, 8, *PLAIN, **options)


@pytest.mark.parametrize("name", BACKBONES)
def test_classifier_with_silent_fusion_is_the_plain_one(name: str) -> None:
    fused, plain = Classifier(spec(name)), Classifier(spec(name, ""))
    shared = {k: v for k, v in fused.state_dict().items() if not k.startswith("fusions")}
    plain.load_state_dict(shared)
    bank, images = DeviceBank(make_embeddings(20), 3, CPU), make_images(9)
    indices = np.random.default_rng(0).integers(0, 20, (9, 4)).astype(np.int32)
    expected = plain.predict(images.pixels)
    assert np.abs(fused.predict(images.pixels, bank, indices) - expected).max() > 1e-4
    for fusion in fused.fusions:
        torch.nn.init.zeros_(fusion.out.weight)
        torch.nn.init.zeros_(fusion.out.bias)
    assert np.allclose(fused.predict(images.pixels, bank, indices), expected, atol=1e-6)


@pytest.mark.parametrize("name", BACKBONES)
def test_predictions_do_not_depend_on_the_batch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier, bank, images = (
        Classifier(spec(name)),
        DeviceBank(make_embeddings(20), 3, CPU),
        make_images(13),
    )
    indices = np.random.default_rng(0).integers(0, 20, (13, 4)).astype(np.int32)
    whole = classifier.predict(images.pixels, bank, indices)
    monkeypatch.setattr("rapipe.batches.preprocess.CHUNK", 3)
    assert np.allclose(classifier.predict(images.pixels, bank, indices), whole, atol=1e-5)
    assert classifier.training


def test_classifier_round_trip_and_damage(tmp_path: Path) -> None:
    classifier, images = Classifier(spec("resnet18", "")), make_images(5)
    expected = classifier.predict(images.pixels)
    classifier.write(tmp_path, {"note": 1})
    again, card = Classifier.read(tmp_path)
    assert card["note"] == 1
    assert again.spec == classifier.spec
    assert np.array_equal(again.predict(images.pixels), expected)
    damage(tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match=r"weights\.safetensors does not .*run rapipe train"):
        Classifier.read(tmp_path)
    (tmp_path / "card.json").write_text("{")
    with pytest.raises(UserError, match=r"card\.json is damaged"):
        Classifier.read(tmp_path)
    (tmp_path / "card.json").unlink()
    with pytest.raises(UserError, match=r"card\.json is missing: run rapipe train"):
        Classifier.read(tmp_path)


def damage(path: Path) -> None:
    """Flip one byte near the end."""
    data = bytearray(path.read_bytes())
    data[-20] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize("stages", ["all", "last"])
@pytest.mark.parametrize(
    "name", ["resnet18", "alexnet", "perceiver", "perceiver_io", "timm:resnet10t"]
)
def test_sets_of_neighbours_together_give_what_each_gives_alone(name: str, stages: str) -> None:
    """Of other banks, numbers and none at all; also where a network cannot branch."""
    torch.manual_seed(0)
    classifier = Classifier(spec(name, stages=stages)).eval()
    images, rng = make_images(70), np.random.default_rng(0)
    bank, other = (DeviceBank(make_embeddings(20, seed=seed), 3, CPU) for seed in (0, 1))
    four, two = (rng.integers(0, 20, (70, k)).astype(np.int32) for k in (4, 2))
    own = rng.standard_normal((70, 8)).astype(np.float32)
    sets = [
        Shown(bank, four),
        Shown(bank, two),
        Shown(),
        Shown(other, four),
        Shown(bank, two, own),
        Shown(query_vectors=own),
    ]
    together = classifier.predict_with_each(images.pixels, sets)
    alone = [classifier.predict(images.pixels, *shown) for shown in sets]
    for one, expected in zip(together, alone, strict=True):
        np.testing.assert_allclose(one, expected, atol=1e-5)
    for first, second in itertools.combinations(together, 2):
        assert not np.allclose(first, second, atol=1e-5)


def test_what_comes_before_the_first_fusion_is_computed_once() -> None:
    classifier = Classifier(spec("alexnet")).eval()
    images, bank = make_images(64), DeviceBank(make_embeddings(20), 3, CPU)
    table = np.zeros((64, 1), np.int32)
    seen: list[int] = []
    backbone: Any = classifier.backbone
    for part in (backbone.convolutions, backbone.hidden):
        part.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    classifier.predict_with_each(images.pixels, [Shown(bank, table + row) for row in range(10)])
    assert seen == [64, 8 * 64, 64, 2 * 64]


def test_what_a_network_said_is_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """By whoever shares it; of other images, and by other networks, it is."""
    torch.manual_seed(0)
    plain = Classifier(spec("alexnet", "")).eval()
    trusting = plain.beside(FusionSpec(fusion="trust"), dimension=8, similarity=(0.5, 2.0))
    images, rng = make_images(70), np.random.default_rng(0)
    bank = DeviceBank(make_embeddings(20), 3, CPU)
    indices = rng.integers(0, 20, (2, 70, 4)).astype(np.int32)
    similarities = rng.random((70, 4), np.float32)
    shown = [Shown(bank, rows, None, similarities) for rows in indices]
    asked = [(plain, [Shown()]), (trusting, [*shown, Shown()])]
    expected = [own.predict_with_each(images.pixels, sets) for own, sets in asked]
    seen: list[int] = []
    backbone: Any = plain.backbone
    backbone.hidden.register_forward_hook(lambda *parts: seen.append(len(parts[-1])))
    assert trusting.network_digest() == plain.network_digest()
    plain.said = trusting.said = {}
    for (own, sets), before in zip(asked, expected, strict=True):
        for one, other in zip(own.predict_with_each(images.pixels, sets), before, strict=True):
            assert np.array_equal(one, other)
    assert seen == [128]  # 70, filled up
    np.testing.assert_allclose(plain.predict(images.pixels[1:]), expected[0][0][1:], atol=1e-5)
    assert seen == [128, 128]
    monkeypatch.setattr("rapipe.classifier.classifier.KEPT", 0)
    for _ in range(2):
        plain.predict(images.pixels[2:])
    assert seen == 4 * [128]
    assert Classifier(plain.spec).network_digest() != plain.network_digest()
    frozen = Classifier(spec("alexnet", "", frozen=True))
    frozen.load_state_dict(plain.state_dict(), strict=False)
    assert frozen.network_digest() != plain.network_digest()
