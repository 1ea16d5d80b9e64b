"""Fusions that learn apart from the network, and once more when it has learned."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_embeddings, make_images, make_neighbours, make_spec
from test_every_fusion import CLASSES, B, fusion_of, retrieved

import rapipe
from rapipe.batches.loader import CPU
from rapipe.classifier import stacking
from rapipe.classifier.classifier import Classifier
from rapipe.classifier.fusions import FUSIONS, ApartFusion
from rapipe.classifier.fusions.trust import Correction
from rapipe.classifier.neighbour_batch import DeviceBank, Shown
from rapipe.classifier.stacking import View, fit, stack
from rapipe.classifier.train import Beside
from rapipe.errors import ArgumentError
from rapipe.records import Embeddings, Images, Neighbours
from rapipe.specs import FusionSpec, TrainingRecipe

APART = [name for name, fusion in FUSIONS.items() if issubclass(fusion, ApartFusion)]
N = 48


def material() -> tuple[dict[str, Images], dict[str, Neighbours], Embeddings]:
    images = {"train": make_images(N), "validation": make_images(24, seed=1)}
    bank, rng = make_embeddings(20), np.random.default_rng(0)
    tables = {
        name: replace(make_neighbours(rng.integers(0, 20, (len(i), 4))), query_ids=i.ids)
        for name, i in images.items()
    }
    return images, tables, bank


@pytest.mark.parametrize("backbone", ["alexnet", "perceiver"])
@pytest.mark.parametrize("name", APART)
def test_the_network_learns_what_it_would_without_neighbours(name: str, backbone: str) -> None:
    images, tables, bank = material()
    network = make_spec(backbone, 8).network
    recipe = TrainingRecipe(epochs=1, batch_size=16, augment="flip")
    options: dict[str, Any] = {"network": network, "recipe": recipe, "seed": 3}
    plain = rapipe.train_classifier(images, **options).classifier
    spec = FusionSpec(fusion=name)
    noisy: dict[str, Any] = {
        "noisy_neighbours": tables["train"],
        "noisy_pixels": images["train"].pixels,
    }
    fused = rapipe.train_classifier(images, tables, bank, fusion=spec, **noisy, **options)
    learned = fused.classifier.state_dict()
    for key, part in plain.state_dict().items():
        assert torch.equal(learned[key], part), key
    logits = fused.classifier.beside(None).predict(images["validation"].pixels)
    assert np.array_equal(logits, plain.predict(images["validation"].pixels))


@pytest.mark.parametrize("noise_std", [0.0, 0.2])
@pytest.mark.parametrize("name", APART)
def test_beside_one_network_each_is_what_it_is_alone(name: str, noise_std: float) -> None:
    """Whoever else is there, and whether some training images have no label."""
    images, tables, bank = material()
    labels = images["train"].labels.copy()
    labels[:7] = -1
    images |= {"train": replace(images["train"], labels=labels), "test": make_images(8, seed=2)}
    tables["test"] = replace(make_neighbours(np.zeros((8, 4))), query_ids=images["test"].ids)
    network, pixels = make_spec("alexnet", 8).network, images["train"].pixels
    recipe = TrainingRecipe(epochs=3, batch_size=16, augment="flip", measure_every=2, probe_every=1)
    options: dict[str, Any] = {"network": network, "recipe": recipe, "noise_std": noise_std}
    options["noisy_pixels"] = pixels[:, ::-1].copy()

    def shown(split: str, rows: np.ndarray) -> Neighbours:
        return replace(tables[split], indices=rows.astype(np.int32))

    other = {split: shown(split, (t.indices + 1) % 20) for split, t in tables.items()}
    noisy = shown("train", tables["train"].indices[:, ::-1] // 2)
    spec = FusionSpec(fusion=name)
    sets = {"one": Beside(tables, bank, spec, noisy), "other": Beside(other, bank, spec, noisy)}
    both = rapipe.train_classifier(images, beside=sets, **options)
    plain = rapipe.train_classifier(images, **options | {"noisy_pixels": None})
    alone = {
        strategy: rapipe.train_classifier(images, **own._asdict(), **options)
        for strategy, own in sets.items()
    }
    for expected, trained in ((plain, both), *((alone[s], both.beside[s]) for s in sets)):
        assert trained.history == expected.history
        assert trained.best == expected.best
        assert [*trained.history[0]] == [*plain.history[0]]
        weights = trained.classifier.state_dict()
        for key, part in expected.classifier.state_dict().items():
            assert torch.equal(weights[key], part), key
    assert both.beside["one"].best != both.beside["other"].best
    assert {"epoch", "step", "images_seen", "loss", "train_top1"} < {*both.history[0]}
    assert not both.classifier.fusions


def test_only_what_learns_apart_learns_beside_a_network() -> None:
    images, tables, bank = material()
    early = Beside(tables, bank, FusionSpec(fusion="knn-lm"))
    with pytest.raises(ArgumentError, match="a network learns from knn-lm too"):
        rapipe.train_classifier(images, beside={"knn": early})
    with pytest.raises(ArgumentError, match="a network that has no `neighbours`"):
        rapipe.train_classifier(images, tables, bank, beside={"knn": early})


@pytest.mark.parametrize("name", APART)
def test_what_it_makes_of_neighbours_does_not_depend_on_the_network(name: str) -> None:
    fusion, shown = fusion_of(FUSIONS[name]), retrieved()
    for training in (True, False):
        fusion.train(training)
        for seed in range(2):
            logits = torch.randn(B, CLASSES, generator=torch.Generator().manual_seed(seed))
            expected, _ = fusion.fuse(logits[:, :0], logits, shown)
            torch.testing.assert_close(fusion.judge(logits, *fusion.digest(shown)), expected)
    assert {id(part) for _, part in fusion.judges(9)} < {id(part) for part in fusion.parameters()}


def told(labels: np.ndarray, bank: Embeddings) -> Neighbours:
    """Four neighbours of the class of each image."""
    rows = np.array([np.flatnonzero(bank.labels == label)[:4] for label in labels])
    shown = replace(make_neighbours(rows), query_ids=make_images(len(labels)).ids)
    return replace(shown, similarities=np.full(rows.shape, 0.5, np.float32))


@pytest.mark.parametrize("name", APART)
def test_it_learns_whom_to_trust_where_the_network_breaks(name: str) -> None:
    """The network is right for the images as they are, and knows nothing of the copies; the
    neighbours are right for copies alone. Whoever is near says which is which."""
    torch.manual_seed(0)
    classifier = Classifier(make_spec("alexnet", 8, fusion=name)).eval()
    images, bank = make_images(N, classes=3), make_embeddings(60)
    copies = np.random.default_rng(1).permuted(images.pixels, axis=0)
    network = classifier.beside(None)
    said = torch.from_numpy(network.predict(images.pixels))
    weight, bias = classifier.head.parameters()
    with torch.no_grad():  # it says each class of some, and is sure
        weight /= said.std(dim=0).min() / 4
        bias -= torch.from_numpy(network.predict(images.pixels)).mean(dim=0)
    answers = network.predict(images.pixels).argmax(axis=1)
    labels = answers.astype(images.labels.dtype)
    assert len(set(labels.tolist())) > 1
    wrong = told((labels + 1) % 3, bank)
    far = replace(wrong, similarities=wrong.similarities - 1)
    clean = images.pixels, far
    noisy = copies, told(labels, bank)
    views = [View(network.predict(pixels), shown) for pixels, shown in (clean, noisy)]
    memory = DeviceBank(bank, 3, CPU)
    before = {key: part.clone() for key, part in classifier.state_dict().items()}

    def right(pixels: np.ndarray, neighbours: Neighbours) -> float:
        said = classifier.predict(pixels, *Shown.of(memory, neighbours))
        return float((said.argmax(axis=1) == labels).mean())

    known = labels.copy()
    known[:5] = -1  # of which nothing is learned
    stack(classifier, memory, views, known)
    assert right(*clean) > 0.9
    assert right(*noisy) > 0.9
    for key, part in classifier.state_dict().items():
        same = torch.equal(part, before[key])
        assert same is (not key.startswith("fusions") or key.endswith("log_scale")), key
    first = {key: part.clone() for key, part in classifier.state_dict().items()}
    classifier.load_state_dict(before)
    stack(classifier, memory, views, known)
    assert all(torch.equal(part, first[key]) for key, part in classifier.state_dict().items())


def test_what_noise_does_to_a_network_is_corrected_without_neighbours() -> None:
    """It takes all noisy images for class 0, less sure than it is of clean ones."""
    torch.manual_seed(0)
    targets = torch.arange(300) % 3
    clean = 6 * torch.eye(3)[targets] + torch.randn(300, 3)
    noisy = torch.eye(3)[targets] + torch.tensor([2.5, 0.0, 0.0]) + 0.2 * torch.randn(300, 3)
    said = torch.cat([clean, noisy])
    assert (noisy.argmax(dim=1) == targets).float().mean() < 0.5
    correction = Correction(3)
    judges = [(0.001, parameter) for parameter in correction.parameters()]
    fit(judges, lambda rows: [correction(said[rows])], targets.repeat(2))
    right = (correction(said).argmax(dim=1) == targets.repeat(2)).float()
    assert right[:300].mean() > 0.98
    assert right[300:].mean() > 0.95


def test_it_is_fitted_in_parts_as_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    said, targets = torch.randn(64, 3, dtype=torch.float64), torch.arange(64) % 3
    whole, parts = Correction(3).double(), Correction(3).double()
    parts.load_state_dict(whole.state_dict())
    for correction in (whole, parts):
        judges = [(0.001, parameter) for parameter in correction.parameters()]
        fit(judges, lambda rows: [correction(said[rows])], targets)  # noqa: B023
        monkeypatch.setattr(stacking, "PART", 7)
    torch.testing.assert_close(whole(said), parts(said), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", APART)
def test_copies_come_with_their_neighbours(name: str) -> None:
    images, tables, bank = material()
    options: dict[str, Any] = {"fusion": FusionSpec(fusion=name)}
    for alone in (
        {"noisy_neighbours": tables["train"]},
        {"noisy_pixels": images["train"].pixels},
    ):
        with pytest.raises(ArgumentError, match="`noisy_neighbours` and `noisy_pixels`"):
            rapipe.train_classifier(images, tables, bank, **alone, **options)


@pytest.mark.parametrize("name", APART)
def test_long_vectors_of_few_images_are_not_learned_by_heart(name: str) -> None:
    """They say nothing of the classes, which the network knows; without a prior a fit believes them
    for the images that it has seen."""
    torch.manual_seed(0)
    d, n = 512, 200
    options = {"fusion": FusionSpec(fusion=name), "dimension": d}
    classifier = Classifier(replace(make_spec("alexnet", 8, attend=""), **options)).eval()
    bank, rng = make_embeddings(600, d), np.random.default_rng(0)
    images = make_images(2 * n)
    labels = images.labels
    says = 2 * np.eye(3, dtype=np.float32)[labels] + rng.standard_normal((2 * n, 3), np.float32)
    rows = rng.integers(0, 600, (2 * n, 1))
    shown = replace(make_neighbours(rows), query_ids=images.ids)
    memory, seen = DeviceBank(bank, 3, CPU), np.arange(n)
    stack(classifier, memory, [View(says[:n], shown.take(seen))], labels[:n])
    (said,) = classifier.fuse_each(says, [Shown.of(memory, shown)])
    right, alone = said.argmax(axis=1) == labels, says.argmax(axis=1) == labels
    assert right[n:].mean() > alone[n:].mean() - 0.05
