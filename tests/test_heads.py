"""Heads, and the classifier that gives them tokens: what must hold whatever their weights."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_embeddings, make_images, make_spec
from torch import Tensor, nn
from torch.nn import functional as F

from rapipe.batches.loader import CPU
from rapipe.classifier.classifier import Classifier, ClassifierSpec
from rapipe.classifier.heads import HEADS
from rapipe.classifier.heads.graph import SLOPE, GraphAttention
from rapipe.classifier.neighbour_batch import DeviceBank, NeighbourBatch, Shown

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
TOKEN_HEADS = [name for name in HEADS if name not in ("linear", "projection")]


def spec(backbone: str, head: str, attend: str = "both", frozen: bool = False) -> ClassifierSpec:
    return make_spec(backbone, 8, "cifar", attend, mean=MEAN, std=STD, head=head, frozen=frozen)


def stored_neighbours(n: int = 9) -> tuple[np.ndarray, DeviceBank, np.ndarray]:
    indices = np.random.default_rng(0).integers(0, 20, (n, 4)).astype(np.int32)
    return make_images(n).pixels, DeviceBank(make_embeddings(20), 3, CPU), indices


def neighbour_batch(b: int) -> NeighbourBatch:
    torch.manual_seed(1)
    labels = torch.randint(-1, 3, (b, 6))
    return NeighbourBatch(torch.randn(b, 6, 8), labels, torch.ones(b, dtype=torch.bool))


def test_linear_is_torchs() -> None:
    """The same random numbers, names and results as before there were other heads."""
    torch.manual_seed(0)
    head, after = HEADS["linear"](7, 16, 3), torch.randn(2)
    torch.manual_seed(0)
    plain, expected = nn.Linear(16, 3), torch.randn(2)
    assert torch.equal(after, expected)
    assert list(head.state_dict()) == ["weight", "bias"]
    features = torch.randn(5, 16)
    assert torch.equal(head(features), plain(features))


def slow_graph_attention(layer: GraphAttention, tokens: Tensor) -> Tensor:
    """The formula of the paper, a pair of nodes at a time."""
    b, t, c = tokens.shape
    heads, d = layer.left.shape
    out = torch.zeros(b, t, c)
    for image in range(b):
        nodes = [layer.project.weight @ tokens[image, i] for i in range(t)]
        for head in range(heads):
            channels = slice(head * d, (head + 1) * d)
            a = torch.cat((layer.left[head], layer.right[head]))
            for i in range(t):
                pairs = [torch.cat((nodes[i][channels], nodes[j][channels])) for j in range(t)]
                scores = [float(a @ pair) for pair in pairs]
                powers = [math.exp(s if s > 0 else SLOPE * s) for s in scores]
                for j in range(t):
                    out[image, i, channels] += powers[j] / sum(powers) * nodes[j][channels]
    return tokens + torch.where(out > 0, out, out.exp() - 1)


@torch.no_grad()
@pytest.mark.parametrize("channels", [8, 6])
def test_graph_attention_is_that_of_the_paper(channels: int) -> None:
    torch.manual_seed(0)
    layer, tokens = GraphAttention(channels), 2 * torch.randn(2, 5, channels)
    torch.testing.assert_close(layer(tokens), slow_graph_attention(layer, tokens))


def slow_block(block: nn.TransformerEncoderLayer, tokens: Tensor) -> Tensor:
    """Pre-norm self-attention and feed-forward, one image and one head at a time."""
    attend, heads = block.self_attn, block.self_attn.num_heads
    out = []
    for x in tokens:
        q, k, v = F.linear(block.norm1(x), attend.in_proj_weight, attend.in_proj_bias).chunk(3, 1)
        attended = [
            torch.softmax(a @ b.T / math.sqrt(a.shape[1]), 1) @ c
            for a, b, c in zip(*(y.chunk(heads, 1) for y in (q, k, v)), strict=True)
        ]
        x = x + attend.out_proj(torch.cat(attended, 1))
        out.append(x + block.linear2(F.gelu(block.linear1(block.norm2(x)))))
    return torch.stack(out)


@torch.no_grad()
@pytest.mark.parametrize("fast", [True, False])
def test_attention_is_that_of_the_paper(fast: bool) -> None:
    """With torch's fused blocks, which it takes where no gradients are asked for, and without."""
    head = HEADS["attention"](8, 16, 3).eval()
    tokens = torch.randn(2, 8, 5).transpose(1, 2)  # a map's positions: not contiguous
    expected = tokens
    for block in head.layers:
        expected = slow_block(block, expected)
    with torch.set_grad_enabled(not fast):
        torch.testing.assert_close(head.layers(tokens), expected)
        logits = head(torch.randn(2, 16), tokens)
    torch.testing.assert_close(logits, head.out(head.norm(expected.mean(1))))


@torch.no_grad()
@pytest.mark.parametrize("name", TOKEN_HEADS)
def test_token_heads_ignore_order_and_features_but_no_token(name: str) -> None:
    torch.manual_seed(0)
    head, tokens = HEADS[name](8, 16, 3).eval(), torch.randn(4, 5, 8)
    logits = head(torch.randn(4, 16), tokens)
    assert logits.shape == (4, 3)
    torch.testing.assert_close(head(torch.randn(4, 16), tokens[:, torch.randperm(5)]), logits)
    for token in range(5):
        changed = tokens.clone()
        changed[:, token] += torch.randn(8)
        assert (head(torch.randn(4, 16), changed) - logits).abs().amax(1).min() > 1e-4
    with pytest.raises(ValueError, match="tokens"):
        head(torch.randn(4, 16))


@pytest.mark.parametrize("name", HEADS)
def test_a_head_of_any_width_learns(name: str) -> None:
    for channels in (8, 6, 5):
        torch.manual_seed(0)
        head = HEADS[name](channels, channels, 3)
        tokens, labels = torch.randn(12, 4, channels), torch.arange(12) % 3
        optimiser = torch.optim.AdamW(head.parameters(), 0.02)
        for _ in range(60):
            optimiser.zero_grad()
            loss = F.cross_entropy(head(tokens[:, 0], tokens), labels)
            loss.backward()
            assert all(p.grad is not None for p in head.parameters())
            optimiser.step()
        assert loss < 0.5


@pytest.mark.parametrize("name", TOKEN_HEADS)
def test_heads_read_the_tokens_after_the_last_fusion(name: str) -> None:
    """A head that only averages gives the mean of what the last fusion gave."""
    for backbone in ("resnet18", "alexnet", "perceiver"):
        classifier = Classifier(spec(backbone, name)).eval()
        fused: list[Tensor] = []
        classifier.fusions[-1].register_forward_hook(
            lambda m, i, out, fused=fused: fused.append(out)
        )
        classifier.head.layers = classifier.head.norm = classifier.head.out = nn.Identity()
        logits = classifier(torch.rand(2, 3, 16, 16), neighbour_batch(2))
        assert torch.equal(logits, fused[0].mean(1))


@pytest.mark.parametrize("name", TOKEN_HEADS)
def test_heads_read_tokens_without_retrieval_too(name: str) -> None:
    classifier = Classifier(spec("resnet18", name, "")).eval()
    classifier.head.layers = classifier.head.norm = classifier.head.out = nn.Identity()
    images = torch.rand(2, 3, 16, 16)
    pooled = classifier.backbone(classifier.preprocess(images))  # a ResNet's features are the mean
    torch.testing.assert_close(classifier(images), pooled)


@pytest.mark.parametrize("name", HEADS)
def test_classifiers_predict_and_come_back(name: str, tmp_path: Path) -> None:
    classifier, (pixels, bank, indices) = Classifier(spec("resnet18", name)), stored_neighbours()
    logits = classifier.predict(pixels, bank, indices)
    assert logits.shape == (9, 3)
    assert classifier.training
    classifier.write(tmp_path, {})
    again, _ = Classifier.read(tmp_path)
    assert again.spec == classifier.spec
    assert np.array_equal(again.predict(pixels, bank, indices), logits)
    assert again.attention(pixels, Shown(bank, indices)).shape == (9, 4)


@pytest.mark.parametrize("name", HEADS)
def test_bfloat16(name: str) -> None:
    classifier = Classifier(spec("resnet18", name))
    with torch.autocast("cpu", torch.bfloat16):
        loss = classifier(torch.rand(4, 3, 16, 16), neighbour_batch(4)).float().square().mean()
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in classifier.head.parameters())


def step(classifier: Classifier) -> None:
    optimiser = torch.optim.SGD(classifier.parameters(), 0.1)
    images, labels = torch.rand(6, 3, 16, 16), torch.arange(6) % 3
    F.cross_entropy(classifier(images, neighbour_batch(6)), labels).backward()
    optimiser.step()


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("backbone", ["resnet18", "alexnet"])
def test_a_frozen_backbone_stays_while_the_rest_learns(backbone: str, name: str) -> None:
    torch.manual_seed(0)
    classifier = Classifier(spec(backbone, name, frozen=True))
    before = {n: t.clone() for n, t in classifier.state_dict().items()}
    for _ in range(2):  # Lightning, and `predict`, switch modes back and forth
        classifier.eval()
        classifier.train()
    step(classifier)
    assert classifier.training
    assert classifier.head.training
    assert not any(module.training for module in classifier.backbone.modules())
    for n, tensor in classifier.state_dict().items():
        assert torch.equal(tensor, before[n]) is n.startswith("backbone."), n


def test_gradients_reach_early_fusions_through_frozen_layers() -> None:
    classifier = Classifier(spec("resnet18", "linear", frozen=True))
    step(classifier)
    for fusion in classifier.fusions:
        assert fusion.out.weight.grad.abs().sum() > 0


def test_a_thawed_backbone_learns() -> None:
    """The proof that the test of the frozen one can fail."""
    classifier = Classifier(spec("resnet18", "linear"))
    before = classifier.backbone.net.bn1.running_mean.clone()
    step(classifier)
    assert classifier.backbone.net.conv1.weight.grad.abs().sum() > 0
    assert not torch.equal(classifier.backbone.net.bn1.running_mean, before)


def test_a_linear_head_takes_no_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without retrieval a map is not made into tokens: that would cost time."""
    from rapipe.encoder.backbones import no_fusion

    classifier, callbacks = Classifier(spec("resnet18", "linear", "")), []
    forward = classifier.backbone.forward
    monkeypatch.setattr(
        classifier.backbone, "forward", lambda x, fuse: callbacks.append(fuse) or forward(x, fuse)
    )
    classifier(torch.rand(2, 3, 16, 16))
    assert callbacks == [no_fusion]


def test_features_of_a_frozen_backbone_are_standardised() -> None:
    """A head on features of any scale learns at the same rate."""
    frozen = Classifier(spec("alexnet", "linear", "", frozen=True))
    features: list[torch.Tensor] = []
    frozen.head.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    torch.nn.init.constant_(frozen.backbone.hidden[-2].bias, 5.0)  # type: ignore[index,union-attr]
    frozen.train()(20 * torch.rand(64, 3, 16, 16))
    assert features[0].mean(dim=0).abs().max() < 1e-3
    assert features[0].std(dim=0).median() == pytest.approx(1, abs=0.05)
    learned = [name for name, p in frozen.named_parameters() if p.requires_grad]
    assert learned == ["head.weight", "head.bias"]
    plain = Classifier(spec("alexnet", "linear", ""))
    assert not any("standardise" in name for name in plain.state_dict())
