"""What every fusion of the table does, and what each does that is known beforehand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_embeddings, make_images, make_neighbours, make_spec
from torch import Tensor, nn

import rapipe
from rapipe.batches.loader import CPU
from rapipe.classifier.classifier import Classifier
from rapipe.classifier.fusions import FUSIONS, ApartFusion, LateFusion
from rapipe.classifier.fusions.knn_lm import KnnLm
from rapipe.classifier.fusions.modern_nca import ModernNca
from rapipe.classifier.fusions.rac import Rac
from rapipe.classifier.fusions.tabr import TabR
from rapipe.classifier.fusions.tip_adapter import LOG_ALPHA, TipAdapter
from rapipe.classifier.fusions.trust import Trust
from rapipe.classifier.neighbour_batch import DeviceBank, NeighbourBatch, Shown
from rapipe.errors import ArgumentError
from rapipe.specs import (
    APART,
    ATTENDING,
    LABELS,
    SIMILARITIES,
    VECTORS,
    FusionSpec,
    TrainingRecipe,
)

EVERY = pytest.mark.parametrize("name", FUSIONS)
LATE = [name for name, fusion in FUSIONS.items() if fusion.late]
B, K, D, CLASSES, FEATURES = 5, 6, 8, 3, 16


def network(name: str, backbone: str = "alexnet", **options: Any) -> Classifier:
    torch.manual_seed(0)
    spec = make_spec(backbone, 8, fusion=name, similarity=(0.5, 0.25), **options)
    return Classifier(spec).eval()


def retrieved(b: int = B, k: int = K) -> NeighbourBatch:
    torch.manual_seed(1)
    labels = torch.randint(-1, CLASSES, (b, k))
    labels[:, 0] = 1
    present = torch.ones(b, dtype=torch.bool)
    return NeighbourBatch(torch.randn(b, k, D), labels, present, torch.rand(b, k))


def images(b: int = B) -> Tensor:
    torch.manual_seed(2)
    return torch.rand(b, 3, 16, 16)


def fusion_of(kind: type[Any]) -> Any:
    torch.manual_seed(0)
    return kind(FEATURES, D, CLASSES, FusionSpec())


@pytest.mark.parametrize("backbone", ["alexnet", "perceiver"])
@EVERY
def test_the_order_of_neighbours_is_irrelevant(name: str, backbone: str) -> None:
    made, shown = network(name, backbone), retrieved()
    order = torch.randperm(K)
    parts = [part[:, order] for part in (shown.vectors, shown.labels, shown.similarities)]
    shuffled = NeighbourBatch(parts[0], parts[1], shown.present, parts[2])
    torch.testing.assert_close(made(images(), shown), made(images(), shuffled))
    assert (made(images(), shown) - made(images())).abs().amax(1).min() > 1e-4


@pytest.mark.parametrize("backbone", ["alexnet", "perceiver"])
@EVERY
def test_without_neighbours_it_is_the_plain_classifier(name: str, backbone: str) -> None:
    made, shown = network(name, backbone), retrieved()
    plain = Classifier(make_spec(backbone, 8, attend="")).eval()
    plain.load_state_dict(
        {key: part for key, part in made.state_dict().items() if not key.startswith("fusions")}
    )
    expected = plain(images())
    if name in APART:  # which corrects what the plain one says
        assert torch.equal(made.beside(None)(images()), expected)
        expected = made.fusions[0].alone(expected)  # type: ignore[operator]
    torch.testing.assert_close(made(images()), expected, rtol=0, atol=0)
    present = torch.tensor([True, False, True, False, True])
    some = made(images(), shown._replace(present=present))
    torch.testing.assert_close(some[~present], expected[~present])
    assert (some[present] - expected[present]).abs().amax(1).min() > 1e-4


@pytest.mark.parametrize("name", LATE)
def test_neighbours_without_a_class_have_no_vote(name: str) -> None:
    """Where labels are all that a fusion reads of them, they are as good as absent."""
    fusion = fusion_of(FUSIONS[name])
    none = retrieved()._replace(labels=torch.full((B, K), -1))
    features, logits = torch.randn(B, FEATURES), torch.randn(B, CLASSES)
    if name in ("tabr", "rac", "trust"):  # which read more than votes
        assert torch.isfinite(fusion(features, logits, none)).all()
    else:
        assert torch.equal(fusion(features, logits, none), logits)
        assert not fusion.weights(features, logits, none).any()


@pytest.mark.parametrize("backbone", ["alexnet", "perceiver"])
@EVERY
def test_gradients_reach_every_parameter(name: str, backbone: str) -> None:
    made, shown = network(name, backbone).train(), retrieved(8)
    present = torch.arange(8) % 2 == 0  # the others train the head, also where nobody asks it
    targets = torch.arange(8) % CLASSES
    loss = nn.functional.cross_entropy(made(images(8), shown._replace(present=present)), targets)
    loss.backward()
    first = {"first": next(made.backbone.parameters())}
    learned = dict(made.fusions.named_parameters()) | dict(made.head.named_parameters()) | first
    for key, parameter in learned.items():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().max() > 0, key
        assert torch.isfinite(parameter.grad).all(), key


@EVERY
def test_it_sees_what_it_says_and_nothing_else(name: str) -> None:
    made, shown = network(name), retrieved()
    changes = {
        VECTORS: shown._replace(vectors=shown.vectors.flip(0)),
        LABELS: shown._replace(labels=torch.where(shown.labels < 0, -1, (shown.labels + 1) % 3)),
        SIMILARITIES: shown._replace(similarities=shown.similarities.flip(1)),  # type: ignore[union-attr]
    }
    for what, changed in changes.items():
        same = torch.equal(made(images(), shown), made(images(), changed))
        assert same is not (what in made.inputs), what


@EVERY
def test_shares_of_neighbours_sum_to_one_at_most(name: str) -> None:
    made = network(name)
    shown = retrieved()._replace(present=torch.tensor([True, True, False, True, True]))
    weights: list[Tensor] = []
    for fusion in made.fusions:
        fusion.register_forward_hook(lambda f, inputs, _: weights.append(f.weights(*inputs)))
    made(images(), shown)
    for part in weights:
        assert part.shape[0] == B
        assert part.shape[3] == K
        assert part.min() >= 0
        assert part.sum(dim=-1).max() <= 1 + 1e-5
        assert not part[2].any()
        assert part[0].any()


@pytest.mark.parametrize("strategy", ["knn", "self+knn"])
@EVERY
def test_a_prediction_is_the_forward_pass_whatever_it_is_asked_with(
    name: str, strategy: str
) -> None:
    """Rows of the bank that many images share are projected once, and in several sets."""
    made, bank = network(name), make_embeddings(20)
    if strategy == "self+knn" and VECTORS not in made.inputs:
        pytest.skip("it sees no vectors")
    part = make_images(70, seed=3)
    indices = np.random.default_rng(0).integers(0, 20, (70, 4))
    vectors = make_embeddings(70, seed=5).vectors if strategy == "self+knn" else None
    table, there = make_neighbours(indices, vectors), DeviceBank(bank, CLASSES, CPU)
    together, again = made.predict_with_each(part.pixels, [Shown.of(there, table)] * 2)
    np.testing.assert_array_equal(together, again)
    few = np.array([3, 69])
    alone = made.predict(part.pixels[few], *Shown.of(there, table.take(few)))
    np.testing.assert_allclose(alone, together[few], atol=1e-5)
    batch = there.take(torch.from_numpy(indices[few]))
    batch = batch._replace(similarities=torch.from_numpy(table.similarities[few]))
    if vectors is not None:
        own = torch.nn.functional.layer_norm(torch.from_numpy(vectors[few])[:, None], (D,))
        batch = batch._replace(
            vectors=torch.cat([own, batch.vectors], dim=1),
            labels=torch.cat([torch.full((2, 1), -1), batch.labels], dim=1),
            similarities=torch.cat([torch.ones(2, 1), batch.similarities], dim=1),  # type: ignore[list-item]
        )
    pixels = torch.from_numpy(part.pixels[few]).permute(0, 3, 1, 2) / 255
    np.testing.assert_allclose(made(pixels, batch).detach().numpy(), alone, atol=1e-5)


@EVERY
def test_it_is_read_as_it_was_written(name: str, tmp_path: Path) -> None:
    made, part = network(name), make_images(9)
    made.write(tmp_path / "model", {})
    again, _ = Classifier.read(tmp_path / "model")
    assert again.spec == made.spec
    shown = Shown.of(DeviceBank(make_embeddings(20), CLASSES, CPU), make_neighbours(np.eye(9, 4)))
    np.testing.assert_array_equal(
        again.predict(part.pixels, *shown), made.predict(part.pixels, *shown)
    )


@pytest.mark.parametrize("name", ["distance", "knn-lm"])
def test_similarities_are_needed_where_they_are_seen(name: str) -> None:
    bank = DeviceBank(make_embeddings(20), CLASSES, CPU)
    with pytest.raises(ArgumentError, match="`similarities` of the neighbours are needed"):
        network(name).predict(make_images(9).pixels, bank, np.zeros((9, 4), np.int32))


@EVERY
def test_it_overfits_a_handful_of_images_by_their_neighbours(name: str) -> None:
    """Images are noise without a pattern for a backbone that is frozen: only neighbours tell."""
    bank, rng = make_embeddings(60, seed=4), np.random.default_rng(0)
    vectors = np.eye(D, dtype=np.float32)[bank.labels] + 0.1 * bank.vectors
    bank = replace(bank, vectors=vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    parts = {"train": make_images(48, seed=1), "validation": make_images(24, seed=2)}
    tables = {}
    for split, part in parts.items():
        of_class = [np.flatnonzero(bank.labels == label) for label in part.labels]
        indices = np.stack([rng.permutation(rows)[:4] for rows in of_class])
        table = make_neighbours(indices)
        tables[split] = replace(table, query_ids=part.ids)
    trained = rapipe.train_classifier(
        parts,
        tables,
        bank,
        network=make_spec(width=4).network,
        frozen=True,
        fusion=FusionSpec(fusion=name, attend="both", dropout=0.0),
        recipe=TrainingRecipe(epochs=12, batch_size=8, learning_rate=0.01, precision="fp32"),
    )
    assert trained.best["validation_top1"] > 0.95
    wrong = tables["validation"].take(np.argsort(parts["validation"].labels, kind="stable"))
    wrong = wrong.take(np.roll(np.arange(24), 8))  # those of another class
    labels = np.sort(parts["validation"].labels)
    logits = trained.classifier.predict(
        parts["validation"].pixels, *Shown.of(DeviceBank(bank, CLASSES, CPU), wrong)
    )
    assert (logits.argmax(axis=1) == np.roll(labels, 8)).mean() > 0.95  # it says what they are


# What each computes, by hand.


def by_hand(labels: list[int], similarities: list[float]) -> NeighbourBatch:
    k = len(labels)
    present = torch.ones(1, dtype=torch.bool)
    vectors = torch.zeros(1, k, D)
    return NeighbourBatch(vectors, torch.tensor([labels]), present, torch.tensor([similarities]))


def test_knn_lm_mixes_the_vote_with_what_the_network_says() -> None:
    fusion = fusion_of(KnnLm)
    nn.init.zeros_(fusion.gate.weight)
    nn.init.zeros_(fusion.gate.bias)  # lambda is one half
    logits = torch.tensor([[0.0, 0.0, -torch.inf]])  # .5, .5, 0
    shown = by_hand([2, 2, 0, -1], [0.0, 0.0, float(np.log(2)), 9.0])  # .25, .25, .5
    fused = fusion(torch.zeros(1, FEATURES), logits, shown)
    torch.testing.assert_close(fused.exp(), torch.tensor([[0.5, 0.25, 0.25]]))
    weights = fusion.weights(torch.zeros(1, FEATURES), logits, shown)
    torch.testing.assert_close(weights[0, 0, 0], torch.tensor([0.125, 0.125, 0.25, 0.0]))


def test_tip_adapter_adds_the_cache_of_the_paper() -> None:
    fusion = fusion_of(TipAdapter)
    logits, similarities = torch.tensor([[0.1, 0.2, 0.3]]), [0.5, -1.0, 0.25]
    fused = fusion(torch.zeros(1, FEATURES), logits, by_hand([1, 1, 2], similarities))
    added = np.exp(LOG_ALPHA + np.array(similarities))
    expected = [[0.1, 0.2 + added[0] + added[1], 0.3 + added[2]]]
    torch.testing.assert_close(fused, torch.tensor(expected, dtype=torch.float32))
    beta, alpha = 1.0, np.exp(LOG_ALPHA) * np.exp(1.0)  # of similarities that are not standardised
    paper = alpha * np.exp(-beta * (1 - np.array(similarities)))
    np.testing.assert_allclose(added, paper)


def test_modern_nca_is_the_soft_vote_of_a_loop() -> None:
    fusion, shown = fusion_of(ModernNca), retrieved()
    features, logits = torch.randn(B, FEATURES), torch.randn(B, CLASSES)
    fused = fusion(features, logits, shown)
    for i in range(B):
        votes = torch.zeros(CLASSES)
        query = fusion.query(features[i])
        for vector, label in zip(shown.vectors[i], shown.labels[i], strict=True):
            if label >= 0:
                votes[label] += torch.exp(-(query - fusion.key(vector)).norm())
        torch.testing.assert_close(fused[i].softmax(0), votes / votes.sum(), atol=1e-4, rtol=1e-4)


def test_tabr_reads_the_values_of_a_loop() -> None:
    fusion, shown = fusion_of(TabR), retrieved()
    features, logits = torch.randn(B, FEATURES), torch.randn(B, CLASSES)
    fused = fusion(features, logits, shown)
    for i in range(B):
        query, scores, values = fusion.query(features[i]), [], []
        for vector, label in zip(shown.vectors[i], shown.labels[i], strict=True):
            difference = query - fusion.key(vector)
            scores.append(-difference.square().sum())
            correction = fusion.correction(fusion.hidden(difference).relu())
            values.append(fusion.label(label % (CLASSES + 1)) + correction)
        read = torch.stack(scores).softmax(0) @ torch.stack(values)
        torch.testing.assert_close(fused[i], logits[i] + fusion.out(read), atol=1e-4, rtol=1e-4)


def test_rac_reads_labels_and_similarities_beside_the_network() -> None:
    """What it adds does not depend on the image; a plain transformer layer gives the same."""
    fusion, shown = fusion_of(Rac), retrieved()
    one, other = (fusion(torch.randn(B, FEATURES), torch.zeros(B, CLASSES), shown) for _ in "ab")
    torch.testing.assert_close(one, other)
    tokens = fusion._tokens(shown)
    layer = fusion.layer
    normed = layer.norm1(tokens)
    tokens = tokens + layer.self_attn(normed, normed, normed)[0]
    tokens = tokens + layer.linear2(layer.linear1(layer.norm2(tokens)).relu())
    torch.testing.assert_close(one, fusion.out(fusion.norm(tokens[:, 0])), atol=1e-5, rtol=1e-4)


def test_distance_trusts_less_what_is_less_alike() -> None:
    """With keys that say nothing: the softmax of similarities and of the key of none of them."""
    made = network("distance", gate=False)
    fusion: Any = made.fusions[0]
    nn.init.zeros_(fusion.query.weight)
    tokens, shown = torch.randn(B, 7, fusion.query.in_features), retrieved()
    weights = fusion.weights(tokens, shown)
    similarities = shown.similarities
    assert similarities is not None
    scores = torch.cat([similarities, torch.zeros(B, 1)], dim=1).softmax(dim=1)[:, :K]
    torch.testing.assert_close(weights, scores[:, None, None].expand_as(weights))
    far = shown._replace(similarities=similarities - 20)
    assert fusion.weights(tokens, far).sum(dim=-1).max() < 1e-6
    fused = fusion(tokens, far) - fusion.out.bias
    torch.testing.assert_close(fused, tokens, atol=1e-5, rtol=1e-5)
    for training in (True, False):
        fusion.train(training)
        fusion._projecting_is_dearer = lambda *_, training=training: training
        if training:
            by_vectors = fusion(tokens, shown)
    torch.testing.assert_close(by_vectors, fusion(tokens, shown))


def test_every_late_fusion_is_one() -> None:
    assert all(issubclass(FUSIONS[name], LateFusion) for name in LATE)
    assert set(LATE) == set(FUSIONS) - set(ATTENDING)
    assert {name for name, kind in FUSIONS.items() if not kind.inputs} == set(ATTENDING)
    assert {name for name, kind in FUSIONS.items() if issubclass(kind, ApartFusion)} == set(APART)


def test_trust_is_a_product_of_experts() -> None:
    """With a constant trust of 1: probabilities, times votes and one more, times a reading."""
    fusion = fusion_of(Trust)
    nn.init.zeros_(fusion.weight[2].weight)
    nn.init.constant_(fusion.weight[2].bias, float(np.log(np.e - 1)))  # softplus of it is 1
    nn.init.zeros_(fusion.correction.affine.weight)  # it says what the network says
    nn.init.zeros_(fusion.correction.affine.bias)
    features, logits = torch.zeros(1, FEATURES), torch.tensor([[0.1, 0.2, 0.3]])
    shown = by_hand([2, 2, 0, -1], [0.0, 0.0, float(np.log(2)), 0.0])
    weights, vectors = np.array([1, 1, 2, 1]) / 5, torch.randn(1, 4, D)
    shown = shown._replace(vectors=vectors)
    votes = 4 * np.array([0.4, 0.0, 0.4])
    mean = torch.from_numpy(weights).float() @ vectors[0]
    expected = logits + torch.from_numpy(np.log(1 + votes)).float() + fusion.read(mean)
    for training in (True, False):
        torch.testing.assert_close(fusion.train(training)(features, logits, shown), expected)
    shares = fusion.weights(features, logits, shown)[0, 0, 0]
    torch.testing.assert_close(shares, torch.from_numpy(weights * 2 / 3).float())
    nn.init.constant_(fusion.weight[2].bias, -20.0)  # it trusts nobody
    torch.testing.assert_close(fusion(features, logits, shown), logits)


def test_trust_falls_where_neighbours_deserve_none() -> None:
    """Far and disagreeing neighbours are noise, near and agreeing ones are right: it learns so."""
    torch.manual_seed(0)
    fusion, rng = fusion_of(Trust), np.random.default_rng(0)
    optimiser = torch.optim.Adam(fusion.parameters(), 0.02)

    def batch() -> tuple[NeighbourBatch, Tensor, Tensor]:
        targets, good = rng.integers(0, 3, 64), rng.random(64) < 0.5
        labels = np.where(good[:, None], targets[:, None], rng.integers(0, 3, (64, K)))
        similarities = np.where(good[:, None], 1.0, -1.0) + 0.1 * rng.standard_normal((64, K))
        shown = NeighbourBatch(
            torch.zeros(64, K, D),
            torch.from_numpy(labels),
            torch.ones(64, dtype=torch.bool),
            torch.from_numpy(similarities).float(),
        )
        return shown, torch.from_numpy(targets), torch.from_numpy(good)

    features, logits = torch.zeros(64, FEATURES), torch.zeros(64, CLASSES)
    for _ in range(150):
        shown, targets, _ = batch()
        loss = nn.functional.cross_entropy(fusion(features, logits, shown), targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    shown, targets, good = batch()
    shares = fusion.weights(features, logits, shown).sum(dim=-1).flatten()
    assert shares[good].mean() > 2 * shares[~good].mean()
