"""Fusion, classifiers and encoders: what must hold whatever their weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_embeddings, make_images

from rapipe.batches.loader import CPU
from rapipe.classifier.classifier import Classifier, ClassifierSpec
from rapipe.classifier.fusions.cross_attention import CrossAttention, attention
from rapipe.classifier.neighbour_batch import DeviceBank, NeighbourBatch
from rapipe.encoder.backbones import BACKBONES
from rapipe.encoder.encoder import Encoder, EncoderSpec
from rapipe.errors import UserError

ATTEND = ("embedding", "label", "both")
PLAIN = ((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


def retrieved(b: int = 5, k: int = 6, d: int = 8) -> NeighbourBatch:
    torch.manual_seed(1)
    labels = torch.randint(-1, 3, (b, k))
    return NeighbourBatch(torch.randn(b, k, d), labels, torch.ones(b, dtype=torch.bool))


def spec(backbone: str, retrieval: str = "knn", attend: str = "both") -> ClassifierSpec:
    return ClassifierSpec(backbone, 8, "half", 16, 3, *PLAIN, retrieval, 8, attend)


def test_attention_is_torchs() -> None:
    """GPUs take torch's kernel, CPUs the formula: values and gradients are the same."""
    found = []
    for attend_ in (attention, torch.nn.functional.scaled_dot_product_attention):
        torch.manual_seed(0)
        q, k, v = (torch.randn(2, 4, n, 8, requires_grad=True) for n in (9, 5, 5))
        read = attend_(q, k, v)
        read.square().sum().backward()
        found.append((read, q.grad, k.grad, v.grad))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("attend", ATTEND)
def test_fusion_ignores_the_order_of_neighbours(attend: str) -> None:
    fusion, tokens, found = CrossAttention(16, 8, 3, attend), torch.randn(5, 7, 16), retrieved()
    order = torch.randperm(6)
    shuffled = NeighbourBatch(found.vectors[:, order], found.labels[:, order], found.present)
    torch.testing.assert_close(fusion(tokens, found), fusion(tokens, shuffled))


@pytest.mark.parametrize("attend", ATTEND)
def test_fusion_without_output_or_without_neighbours_changes_nothing(attend: str) -> None:
    fusion, tokens, found = CrossAttention(16, 8, 3, attend), torch.randn(5, 7, 16), retrieved()
    present = torch.tensor([True, False, True, False, True])
    fused = fusion(tokens, found._replace(present=present))
    assert torch.equal(fused[~present], tokens[~present])
    assert (fused[present] - tokens[present]).abs().amax((1, 2)).min() > 1e-4
    torch.nn.init.zeros_(fusion.out.weight)
    torch.nn.init.zeros_(fusion.out.bias)
    assert torch.equal(fusion(tokens, found), tokens)


def test_fusion_sees_what_attend_says_and_nothing_else() -> None:
    tokens, found = torch.randn(5, 7, 16), retrieved()
    moved = found._replace(vectors=found.vectors + torch.randn_like(found.vectors))
    renamed = found._replace(labels=(found.labels + 1) % 3)
    for attend, other, differs in (
        ("embedding", moved, True),
        ("embedding", renamed, False),
        ("label", moved, False),
        ("label", renamed, True),
        ("both", moved, True),
        ("both", renamed, True),
    ):
        fusion = CrossAttention(16, 8, 3, attend)
        equal = torch.equal(fusion(tokens, found), fusion(tokens, other))
        assert equal is not differs, attend


def test_a_gate_that_takes_all_the_attention_leaves_tokens_as_they_are() -> None:
    """One that takes none of it is no gate. Tokens are alike here, so that one key suits all."""
    gated, open_ = CrossAttention(16, 8, 3, "both", gate=True), CrossAttention(16, 8, 3, "both")
    torch.nn.init.eye_(gated.query.weight)
    torch.nn.init.zeros_(gated.out.bias)
    open_.load_state_dict({k: v for k, v in gated.state_dict().items() if k != "nothing"})
    tokens, found = torch.arange(16.0).expand(5, 7, 16), retrieved()
    toward = gated.norm(tokens)[0, 0].detach()
    gated.nothing.data = 1e4 * toward  # type: ignore[union-attr]
    torch.testing.assert_close(gated(tokens, found), tokens)
    assert gated.weights(tokens, found).max() < 1e-6
    gated.nothing.data = -1e4 * toward  # type: ignore[union-attr]
    torch.testing.assert_close(gated(tokens, found), open_(tokens, found))
    torch.testing.assert_close(gated.weights(tokens, found).sum(dim=1), torch.ones(5))


def test_a_new_gate_is_one_more_neighbour() -> None:
    """Where every key is alike, each of six neighbours gets a seventh."""
    gated = CrossAttention(16, 8, 3, "both", gate=True)
    torch.nn.init.zeros_(gated.query.weight)
    shares = gated.weights(torch.randn(5, 7, 16), retrieved())
    torch.testing.assert_close(shares, torch.full((5, 6), 1 / 7))


@pytest.mark.parametrize("name", ["resnet18", "perceiver", "alexnet"])
def test_neighbours_at_the_last_place_alone(name: str) -> None:
    """One fusion, of the last width; earlier tokens are those of the plain network."""
    late = Classifier(replace(spec(name), places="last"))
    assert len(late.fusions) == 1
    assert late.fusions[0].out.out_features == late.backbone.widths[-1]
    bank, images = DeviceBank(make_embeddings(20), 3, CPU), make_images(9)
    indices = np.random.default_rng(0).integers(0, 20, (9, 4)).astype(np.int32)
    plain = Classifier(spec(name, "none"))
    shared = {k: v for k, v in late.state_dict().items() if not k.startswith("fusions")}
    plain.load_state_dict(shared)
    with_neighbours = late.predict(images.pixels, bank, indices)
    assert not np.allclose(with_neighbours, plain.predict(images.pixels))
    for part in (late.fusions[0].out.weight, late.fusions[0].out.bias):
        torch.nn.init.zeros_(part)
    np.testing.assert_allclose(
        late.predict(images.pixels, bank, indices), plain.predict(images.pixels), atol=1e-6
    )


def test_unlabelled_neighbours_lend_no_label() -> None:
    """With labels alone, an unlabelled neighbour is a zero vector, also after training."""
    fusion = CrossAttention(16, 8, 3, "label")
    none = torch.full((5, 6), -1)
    found = retrieved()._replace(labels=none)
    optimiser = torch.optim.SGD(fusion.parameters(), 1.0)
    fusion(torch.randn(5, 7, 16), found).square().sum().backward()
    optimiser.step()
    assert (fusion._memory(found) == 0).all()


@pytest.mark.parametrize("name", BACKBONES)
def test_classifier_with_silent_fusion_is_the_plain_one(name: str) -> None:
    fused, plain = Classifier(spec(name)), Classifier(spec(name, "none"))
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
    monkeypatch.setattr("rapipe.classifier.classifier.CHUNK", 3)
    assert np.allclose(classifier.predict(images.pixels, bank, indices), whole, atol=1e-5)
    assert classifier.training


def test_classifier_round_trip_and_damage(tmp_path: Path) -> None:
    classifier, images = Classifier(spec("resnet18", "none")), make_images(5)
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


def test_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, images = Encoder(EncoderSpec("resnet18", 8, "half", 16, *PLAIN)), make_images(11)
    encoder.train()
    vectors = encoder.embed(images.pixels)
    assert not encoder.training, "a frozen encoder never trains its BatchNorm"
    assert (vectors.shape, vectors.dtype) == ((11, 64), np.float32)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    monkeypatch.setattr("rapipe.encoder.encoder.CHUNK", 4)
    assert np.allclose(encoder.embed(images.pixels), vectors, atol=1e-5)
    encoder.write(tmp_path, {})
    assert np.allclose(Encoder.read(tmp_path).embed(images.pixels), vectors, atol=1e-5)
    damage(tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match="run rapipe pretrain"):
        Encoder.read(tmp_path)
    torch.nn.init.zeros_(encoder.backbone.net.conv1.weight)
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.zeros_(module.bias)
    with pytest.raises(UserError, match="no features at all"):
        encoder.embed(images.pixels)
