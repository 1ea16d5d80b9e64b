"""Attention and effect of neighbours, against slow loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import make_embeddings, make_images, make_neighbours, make_spec
from follower import CLASSES, Follower, K

from rapipe import metrics
from rapipe.batches.loader import CPU
from rapipe.classifier.classifier import Classifier, head_entropy
from rapipe.classifier.neighbour_batch import DeviceBank, Shown
from rapipe.evaluation.measures import attribution


def test_a_planted_bad_row_is_most_harmful_and_pruned() -> None:
    """Row 0 lies about its class, and every image looks it up."""
    images, bank = make_images(30, seed=8), make_embeddings(90, seed=9)
    indices = np.stack([np.flatnonzero(bank.labels == own)[:3] for own in images.labels])
    bank.labels[0] = 2
    shown = np.concatenate([np.zeros((30, 1), int), np.maximum(indices, 1)], axis=1)
    there = DeviceBank(bank, CLASSES, CPU)
    found = attribution.attribute(
        Follower(),  # type: ignore[arg-type]
        images.pixels[images.labels != 2],
        images.labels[images.labels != 2],
        there,
        make_neighbours(shown[images.labels != 2]),
    )
    influence = attribution.influence(found)
    assert influence.rows[0] == 0
    assert influence.appearances[0] == 20
    assert influence.effect[0] == pytest.approx(found.effect[:, 0].sum())
    assert influence.effect[0] < 0 < influence.effect[-1]
    assert attribution.most_harmful(influence, 0.02, len(bank), 5).tolist() == [0]
    assert (
        len(attribution.most_harmful(influence, 1.0, len(bank), 5)) == (influence.effect < 0).sum()
    )
    assert not len(attribution.most_harmful(influence, 0.0, len(bank), 5))
    assert (
        len(attribution.most_harmful(influence, 1.0, len(bank), len(bank))) == 0
    )  # k must be left


def real(attend: str = "both", backbone: str = "alexnet") -> Classifier:
    torch.manual_seed(0)
    return Classifier(make_spec(backbone, 8, attend=attend, std=(0.2,) * 3)).eval()


@pytest.mark.parametrize(
    "backbone", ["alexnet", "perceiver", pytest.param("resnet18", marks=pytest.mark.slow)]
)
def test_attention_and_effect_are_those_of_a_loop(
    backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rapipe.batches.preprocess.CHUNK", 4)  # several chunks
    network, images, bank = real(backbone=backbone), make_images(6), make_embeddings(20)
    there = DeviceBank(bank, CLASSES, CPU)
    indices = np.array([np.random.default_rng(i).permutation(20)[:K] for i in range(6)], np.int32)
    found = attribution.attribute(
        network, images.pixels, images.labels, there, make_neighbours(indices)
    )
    np.testing.assert_allclose(found.attention.sum(axis=1), 1, rtol=1e-5)
    assert found.attention.std() > 0
    for i in range(6):
        one = slice(i, i + 1)
        alone = network.attention(images.pixels[one], Shown(there, indices[one]))
        np.testing.assert_allclose(found.attention[one], alone, atol=1e-6)
        label = images.labels[i]
        every = metrics.softmax(network.predict(images.pixels[one], there, indices[one]))[0, label]
        for j in range(K):
            without = np.delete(indices[i], j)[None]
            left = metrics.softmax(network.predict(images.pixels[one], there, without))[0, label]
            assert found.effect[i, j] == pytest.approx(every - left, abs=1e-6)


def test_entropy_is_of_each_head_and_not_of_their_mean() -> None:
    """Two heads that each attend to one neighbour, but to different ones, spread nothing."""
    sharp = torch.zeros(1, 3, 2, 4)  # (B, H, T, K)
    sharp[0, 0, :, 1] = sharp[0, 1, :, 2] = 1
    sharp[0, 2] = 0.1  # a gate has the rest
    assert head_entropy(sharp).tolist() == [[0, 0, pytest.approx(1)]]
    mixed = torch.tensor([[[[0.5, 0.5, 0, 0], [0, 1.0, 0, 0]]]])
    assert head_entropy(mixed).tolist() == [[pytest.approx(0.25)]]  # over tokens: 1/2 and 0


@pytest.mark.parametrize("own_vector", [False, True])
def test_entropy_of_each_head_is_that_of_a_loop(own_vector: bool) -> None:
    """By stage; of an image's own vector nothing counts."""
    from scipy.stats import entropy

    network, images, bank = real(backbone="perceiver"), make_images(5), make_embeddings(20)
    there = DeviceBank(bank, CLASSES, CPU)
    indices = np.array([np.random.default_rng(i).permutation(20)[:K] for i in range(5)], np.int32)
    vectors = make_embeddings(5, seed=7).vectors if own_vector else None
    weights: list[torch.Tensor] = []
    for fusion in network.fusions:
        fusion.register_forward_hook(lambda f, inputs, _: weights.append(f.weights(*inputs)))
    network.predict(images.pixels, there, indices, vectors)
    found = attribution.attribute(
        network, images.pixels, images.labels, there, make_neighbours(indices, vectors)
    ).head_entropy
    assert len(found) == len(network.fusions) == 2
    for stage, (entropies, attention) in enumerate(zip(found, weights, strict=False)):
        slow = [
            [np.mean([entropy(token[-K:]) for token in head]) for head in image]
            for image in attention.numpy()[:5]
        ]
        np.testing.assert_allclose(entropies, np.array(slow) / np.log(K), rtol=1e-4)
        assert np.ptp(entropies.mean(axis=0)) > 1e-4, stage  # heads differ


def test_a_lone_neighbour_is_compared_with_none() -> None:
    network, images, bank = real(), make_images(4), make_embeddings(20)
    there, indices = DeviceBank(bank, CLASSES, CPU), np.arange(4, dtype=np.int32)[:, None]
    found = attribution.attribute(
        network, images.pixels, images.labels, there, make_neighbours(indices)
    )
    own = np.arange(4), images.labels
    every = metrics.softmax(network.predict(images.pixels, there, indices))[own]
    none = metrics.softmax(network.predict(images.pixels))[own]
    np.testing.assert_allclose(found.effect[:, 0], every - none, atol=1e-6)
    facts = attribution.summary(found, 0)
    assert facts["attention_entropy_by_head"] == []  # of one there is no spread
    assert "agreement" not in facts  # of one there is no order


@pytest.mark.parametrize("backbone", ["resnet18", "perceiver"])
@pytest.mark.parametrize("fusion", ["distance", "trust"])
def test_attention_is_that_to_the_first_of_several(backbone: str, fusion: str) -> None:
    """And logits are the same, whether attention was asked for or not."""
    network, images = Classifier(make_spec(backbone, fusion=fusion)).eval(), make_images(6)
    there, rng = DeviceBank(make_embeddings(20), CLASSES, CPU), np.random.default_rng(0)
    sets = [
        Shown(there, rng.integers(0, 20, (6, K)).astype(np.int32), None, near)
        for near in rng.uniform(0, 1, (3, 6, K)).astype(np.float32)
    ]
    logits, attention = network.predict_with_attention(images.pixels, sets)
    for one, other in zip(logits, network.predict_with_each(images.pixels, sets), strict=True):
        assert np.array_equal(one, other)
    np.testing.assert_allclose(attention, network.attention(images.pixels, sets[0]), atol=1e-5)
    assert np.abs(attention - network.attention(images.pixels, sets[1])).max() > 1e-3
