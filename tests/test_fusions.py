"""Fusions: what neighbours do to tokens, and what they do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_embeddings, make_images, make_spec

from rapipe.batches.loader import CPU
from rapipe.classifier.classifier import Classifier, ClassifierSpec
from rapipe.classifier.fusions.cross_attention import CrossAttention, attention
from rapipe.classifier.neighbour_batch import DeviceBank, NeighbourBatch
from rapipe.specs import FusionSpec

ATTEND = ("embedding", "label", "both")


PLAIN = ((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


def retrieved(b: int = 5, k: int = 6, d: int = 8) -> NeighbourBatch:
    torch.manual_seed(1)
    labels = torch.randint(-1, 3, (b, k))
    return NeighbourBatch(torch.randn(b, k, d), labels, torch.ones(b, dtype=torch.bool))


def spec(backbone: str, attend: str = "both", **options: Any) -> ClassifierSpec:
    return make_spec(backbone, 8, "half", attend, 8, *PLAIN, **options)


def fusion_of(attend: str, gate: bool = False) -> CrossAttention:
    return CrossAttention(16, 8, 3, FusionSpec(attend=attend, gate=gate))


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


@pytest.mark.parametrize("gate", [True, False])
@pytest.mark.parametrize("attend", ATTEND)
def test_attention_in_the_space_of_the_vectors_is_the_same(attend: str, gate: bool) -> None:
    """With few tokens no neighbour is projected: same values, and same gradients of all weights."""
    torch.manual_seed(0)
    fusion, found = fusion_of(attend, gate), retrieved(k=40)
    tokens = torch.randn(5, 2, 16, requires_grad=True)
    present = torch.tensor([True, True, False, True, True])
    if fusion.nothing is not None:
        torch.nn.init.normal_(fusion.nothing)
    ways = []
    for projected in (False, True):
        fusion.zero_grad()
        tokens.grad = None
        fusion.train()
        fusion._projecting_is_dearer = lambda *_: not projected  # type: ignore[method-assign]  # noqa: B023
        fused = fusion(tokens, found._replace(present=present))
        fused.square().sum().backward()
        gradients = {name: weight.grad for name, weight in fusion.named_parameters()}
        ways.append((fused, tokens.grad, gradients))
    (one, one_tokens, one_weights), (two, two_tokens, two_weights) = ways
    torch.testing.assert_close(one, two)
    torch.testing.assert_close(one_tokens, two_tokens)
    for name, gradient in one_weights.items():
        torch.testing.assert_close(gradient, two_weights[name], rtol=1e-4, atol=1e-5, msg=name)


def test_the_way_of_attention_is_chosen_by_what_it_takes() -> None:
    """A vector of 128 is projected for many tokens of few channels, not for few of many."""
    few, many = (
        CrossAttention(channels, 128, 3, FusionSpec(attend="both")) for channels in (128, 16)
    )
    assert few._projecting_is_dearer(64, 4, 32)
    assert not few._projecting_is_dearer(64, 4, 4)
    assert not few._projecting_is_dearer(1, 4, 32)  # the weights' own product is once a batch
    assert not many._projecting_is_dearer(64, 256, 32)


def test_a_prediction_projects_always() -> None:
    """Else the last bits of an image's logits would depend on how many images there are."""
    fusion, found, tokens = fusion_of("both"), retrieved(k=40), torch.randn(5, 2, 16)
    fusion._projecting_is_dearer = lambda *_: True  # type: ignore[method-assign]
    fusion.eval()
    by_row = found._replace(
        vectors=found.vectors[:, :0],
        projected=lambda project: project(found.vectors, found.labels),
    )
    assert torch.equal(fusion(tokens, found), fusion(tokens, by_row))


@pytest.mark.parametrize("attend", ATTEND)
def test_fusion_ignores_the_order_of_neighbours(attend: str) -> None:
    fusion, tokens, found = fusion_of(attend), torch.randn(5, 7, 16), retrieved()
    order = torch.randperm(6)
    shuffled = NeighbourBatch(found.vectors[:, order], found.labels[:, order], found.present)
    torch.testing.assert_close(fusion(tokens, found), fusion(tokens, shuffled))


@pytest.mark.parametrize("attend", ATTEND)
def test_fusion_without_output_or_without_neighbours_changes_nothing(attend: str) -> None:
    fusion, tokens, found = fusion_of(attend), torch.randn(5, 7, 16), retrieved()
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
        fusion = fusion_of(attend)
        equal = torch.equal(fusion(tokens, found), fusion(tokens, other))
        assert equal is not differs, attend


def test_a_gate_that_takes_all_the_attention_leaves_tokens_as_they_are() -> None:
    """One that takes none of it is no gate. Tokens are alike here, so that one key suits all."""
    gated, open_ = fusion_of("both", gate=True), fusion_of("both")
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
    torch.testing.assert_close(gated.weights(tokens, found).sum(dim=-1), torch.ones(5, 4, 7))


def test_a_new_gate_is_one_more_neighbour() -> None:
    """Where every key is alike, each of six neighbours gets a seventh."""
    gated = fusion_of("both", gate=True)
    torch.nn.init.zeros_(gated.query.weight)
    shares = gated.weights(torch.randn(5, 7, 16), retrieved())
    torch.testing.assert_close(shares, torch.full((5, 4, 7, 6), 1 / 7))


@pytest.mark.parametrize("name", ["resnet18", "perceiver", "alexnet"])
def test_neighbours_at_the_last_place_alone(name: str) -> None:
    """One fusion, of the last width; earlier tokens are those of the plain network."""
    late = Classifier(spec(name, stages="last"))
    assert len(late.fusions) == 1
    assert late.fusions[0].out.out_features == late.backbone.widths[-1]
    bank, images = DeviceBank(make_embeddings(20), 3, CPU), make_images(9)
    indices = np.random.default_rng(0).integers(0, 20, (9, 4)).astype(np.int32)
    plain = Classifier(spec(name, ""))
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
    fusion = fusion_of("label")
    none = torch.full((5, 6), -1)
    found = retrieved()._replace(labels=none)
    optimiser = torch.optim.SGD(fusion.parameters(), 1.0)
    fusion(torch.randn(5, 7, 16), found).square().sum().backward()
    optimiser.step()
    assert (fusion.project(found.vectors, none) == 0).all()


def test_fusion_weights_are_the_softmax_of_a_loop() -> None:
    torch.manual_seed(0)
    fusion = CrossAttention(16, 8, 3, FusionSpec(attend="both"))
    tokens = torch.randn(2, 7, 16)
    neighbours = NeighbourBatch(
        torch.randn(2, 5, 8), torch.randint(0, 3, (2, 5)), torch.tensor([True, False])
    )
    weights = fusion.weights(tokens, neighbours)
    q = fusion.query(fusion.norm(tokens))[0]
    memory = (fusion.embedding(neighbours.vectors) + fusion.label(neighbours.labels))[0]
    keys = fusion.key_value(memory)[:, :16]
    slow = torch.zeros(4, 7, 5)
    for head in range(4):
        part = slice(4 * head, 4 * head + 4)
        for token in range(7):
            slow[head, token] = (keys[:, part] @ q[token, part] / 2).softmax(0)
    torch.testing.assert_close(weights[0], slow)
    assert not weights[1].any()
