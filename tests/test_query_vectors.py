"""An image's own vector as its neighbour: what is shown, what is not, and what depends on it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_embeddings, make_images, make_spec

import rapipe
from rapipe import metrics
from rapipe.batches import loader
from rapipe.batches.loader import CPU, BatchLoader
from rapipe.batches.transforms import gaussian_noise
from rapipe.classifier.classifier import Classifier
from rapipe.classifier.fusions.base import SEES_ALL
from rapipe.classifier.neighbour_batch import (
    DeviceBank,
    Shown,
    fields_of,
    join,
    standardise,
)
from rapipe.encoder.retriever import Retriever
from rapipe.errors import ArgumentError
from rapipe.evaluation.measures.analysis import RetrievalAnalysis, evaluate_levels
from rapipe.evaluation.measures.attribution import attribute
from rapipe.evaluation.measures.counterfactuals import Counterfactual, Counterfactuals
from rapipe.evaluation.measures.noise_levels import LevelPredictions, predict_levels
from rapipe.records import OTHER_IMAGE, Embeddings, Images, Neighbours
from rapipe.retrieval.search import VectorsWithIds
from rapipe.retrieval.strategies import STRATEGIES, RetrievalRequest
from rapipe.specs import VECTORS, FusionSpec, TrainingRecipe

CLASSES, K = 3, 4
BOTH = pytest.mark.parametrize("strategy", ["self", "self+knn"])


class FirstPixels:
    """An encoder: the first numbers of an image."""

    device = CPU

    def to(self, device: torch.device) -> FirstPixels:
        return self

    def embed(self, pixels: np.ndarray) -> np.ndarray:
        flat = pixels.reshape(len(pixels), -1)[:, :8].astype(np.float32) + 1
        return np.asarray(flat / np.linalg.norm(flat, axis=1, keepdims=True))


def retriever_of(strategy: str, bank: Embeddings | None = None) -> Retriever:
    rows = make_embeddings(30) if bank is None else bank
    return Retriever(FirstPixels(), rows, strategy, RetrievalRequest(K), CLASSES)  # type: ignore[arg-type]


def network(**options: Any) -> Classifier:
    torch.manual_seed(0)
    return Classifier(make_spec(width=8, **options)).eval()


def shown(table: Neighbours) -> tuple[np.ndarray | None, ...]:
    return Shown.of(None, table)[1:]


@pytest.mark.parametrize("budget", [0, 1 << 30])
@BOTH
def test_a_batch_holds_them_before_the_rows_of_the_bank(
    strategy: str, budget: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    bank, images = make_embeddings(30), make_images(50)
    retriever_of(strategy, bank).retrieve(images).write(tmp_path / "t.arrow")
    bank.write(tmp_path / "bank")
    table, mapped = Neighbours.read(tmp_path / "t.arrow"), Embeddings.read(tmp_path / "bank")
    monkeypatch.setattr(loader, "memory_budget", lambda device: budget)
    device_bank = DeviceBank(mapped, 2, CPU)
    fields = fields_of(Shown(device_bank, *shown(table)), CPU, {VECTORS})
    order = np.random.default_rng(0).integers(0, 50, 37)
    own = FirstPixels().embed(images.pixels)
    for start, parts in enumerate(BatchLoader(CPU, *fields).batches(order, 16)):
        batch = join(parts)
        assert batch is not None
        assert batch.present.all()
        for i, row in enumerate(order[16 * start : 16 * start + 16]):
            rows = table.indices[row]
            vectors = np.concatenate([own[[row]], bank.vectors[rows]])
            labels = [-1, *(label if label < 2 else -1 for label in bank.labels[rows])]
            assert torch.equal(batch.vectors[i], standardise(torch.from_numpy(vectors)))
            assert batch.labels[i].tolist() == labels
    assert ("vectors" in vars(device_bank)) == (strategy != "self")  # of which it needs none


@BOTH
def test_predictions_do_not_depend_on_order_or_number(
    strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rapipe.batches.preprocess.CHUNK", 64)
    images, classifier = make_images(70, seed=1), network()
    source = retriever_of(strategy)
    bank, table = DeviceBank(source.bank, CLASSES, CPU), source.retrieve(images)
    together = classifier.predict(images.pixels, bank, *shown(table))
    plain = classifier.predict(images.pixels)
    assert np.abs(together - plain).max() > 1e-3
    for rows in (np.random.default_rng(0).permutation(70), np.array([3]), np.arange(64)):
        part = classifier.predict(images.pixels[rows], bank, *shown(table.take(rows)))
        np.testing.assert_array_equal(part, together[rows])


@BOTH
def test_it_is_the_embedding_of_the_image_as_seen(strategy: str) -> None:
    images, source, classifier = make_images(9, seed=5), retriever_of(strategy), network()
    bank = DeviceBank(source.bank, CLASSES, CPU)
    levels = list(predict_levels(classifier, images, (0.0, 0.2), source, bank, seed=3))
    for level in levels:
        pixels = gaussian_noise(images.pixels, images.ids, level.noise_std, 3)
        assert level.retrieval is not None
        vectors = level.retrieval.neighbours.query_vectors
        assert vectors is not None
        np.testing.assert_array_equal(vectors, FirstPixels().embed(pixels))
        logits = classifier.predict(pixels, bank, *shown(level.retrieval.neighbours))
        np.testing.assert_array_equal(level.logits, logits)
    clean, noisy = (level.retrieval.neighbours.query_vectors for level in levels)  # type: ignore[union-attr]
    assert (clean != noisy).any(axis=1).all()  # type: ignore[union-attr,operator]
    (row, _) = rapipe.evaluate(classifier, images, source, noise_std=[0, 0.2], seed=3)
    assert row["top1"] == metrics.top_k(levels[0].logits, images.labels, 1)
    chances = rapipe.predict(classifier, images.pixels, source)
    np.testing.assert_allclose(chances, metrics.softmax(levels[0].logits), atol=1e-6)


@BOTH
def test_labels_of_the_images_are_never_shown(strategy: str) -> None:
    images, classifier = make_images(9, seed=5), network()
    turned = replace(images, labels=(images.labels + 1) % CLASSES)
    source = retriever_of(strategy)
    bank = DeviceBank(source.bank, CLASSES, CPU)
    one, other = (
        [level.logits for level in predict_levels(classifier, of, (0.0, 0.1), source, bank, 0)]
        for of in (images, turned)
    )
    np.testing.assert_array_equal(one, other)


def test_alone_it_knows_no_bank() -> None:
    images, classifier = make_images(9, seed=5), network()
    banks = [make_embeddings(30), make_embeddings(1, seed=7)]
    analyses = [analysed(retriever_of("self", bank), images, classifier) for bank in banks]
    (one, facts), (other, other_facts) = analyses
    assert facts == other_facts
    assert one.rows == other.rows
    assert one.by_class == other.by_class
    for name, column in vars(one.predictions).items():
        np.testing.assert_array_equal(column, getattr(other.predictions, name))


def analysed(source: Retriever, images: Images, classifier: Classifier) -> tuple[Any, Any]:
    """Everything that an evaluation measures."""
    analysis = RetrievalAnalysis(
        classifier=classifier,
        retriever=source,
        images=images,
        bank_classes=images.classes,
        seed=0,
        levels=(0.0, 0.1),
        poisoned=(0.5,),
        strategies=("knn", "self"),
        attributed=5,
        prune=0.5,
    )
    validation = make_images(8, seed=9)
    analysis.choose(validation, source.retrieve(validation))
    evaluation = evaluate_levels(classifier, images, (0.0, 0.1), source, analysis, 0)
    return evaluation, analysis.facts


def test_alone_there_is_nothing_to_say_of_neighbours() -> None:
    images = make_images(9, seed=5)
    evaluation, facts = analysed(retriever_of("self"), images, network())
    assert {name: facts[name] for name in ("votes", "drift")} == {"votes": [], "drift": []}
    assert "attribution" not in facts
    names = [(row["noise_std"], row["swap"]) for row in facts["swaps"]]
    assert names == [(std, name) for std in (0.0, 0.1) for name in ("self", "none", OTHER_IMAGE)]
    assert {row["neighbour_agreement"] for row in facts["swaps"]} == {None}
    assert facts["swaps"][2]["total_variation"] > 0
    assert [row["bank_size"] for row in evaluation.rows] == [0, 0]
    seen = evaluation.predictions
    assert seen.similarity is seen.vote_entropy is seen.vote_correct is None
    assert seen.correct_with_clean_neighbours.shape == (2, 9)
    assert seen.total_variation.shape == (6, 9)


@BOTH
def test_a_memory_without_labels_changes_nothing_but_votes(strategy: str) -> None:
    bank = make_embeddings(30)
    blank = replace(bank, labels=np.full(30, -1))
    _, facts = analysed(retriever_of(strategy, blank), make_images(9, seed=5), network())
    assert facts["votes"] == []
    assert len(facts["drift"]) == (0 if strategy == "self" else 2)


def counterfactuals_of(strategy: str, images: Images) -> dict[str, Counterfactual]:
    source = retriever_of(strategy)
    bank = DeviceBank(source.bank, CLASSES, CPU)
    (level,) = predict_levels(network(), images, (0.0,), source, bank, 0)
    return by_name(source, images, level)


def by_name(
    source: Retriever, images: Images, level: LevelPredictions
) -> dict[str, Counterfactual]:
    everything = Counterfactuals(
        images, source, CLASSES, SEES_ALL, (0.5,), np.arange(3), ("self", "self+knn")
    )
    assert level.retrieval is not None
    return {swap.name: swap for swap in everything.of(level.retrieval)}


def test_another_images_vector_comes_with_its_neighbours_and_all_else_keeps_the_own() -> None:
    images = make_images(9, seed=5)
    own, swaps = FirstPixels().embed(images.pixels), counterfactuals_of("self+knn", images)
    strangers = swaps[OTHER_IMAGE]
    at = [own.tolist().index(vector) for vector in strangers.query_vectors.tolist()]
    assert sorted(at) == list(range(9))
    assert all(i != j for i, j in enumerate(at))
    assert np.array_equal(strangers.indices, swaps["self+knn"].indices[at])
    assert np.array_equal(counterfactuals_of("self", images)[OTHER_IMAGE].query_vectors, own[at])
    assert swaps["self"].indices.shape == (9, 0)
    for name, swap in swaps.items():
        if name in ("none", "knn", "sampled"):
            assert swap.query_vectors is None, name
        elif name != OTHER_IMAGE:
            np.testing.assert_array_equal(swap.query_vectors, own, err_msg=name)
    assert {"same class", "own duplicate", "50% wrong vectors", "pruned"} <= set(swaps)
    of_knn = counterfactuals_of("knn", images)
    assert set(of_knn) == set(swaps)
    np.testing.assert_array_equal(of_knn["self"].query_vectors, own)
    assert {name for name, swap in of_knn.items() if swap.query_vectors is not None} == {
        "self",
        "self+knn",
    }


def test_effects_of_neighbours_beside_it_are_those_of_a_loop() -> None:
    images, classifier, source = make_images(6, seed=5), network(), retriever_of("self+knn")
    bank, table = DeviceBank(source.bank, CLASSES, CPU), source.retrieve(images)
    found = attribute(classifier, images.pixels, images.labels, bank, table)
    assert found.attention.shape == found.effect.shape == (6, K)
    np.testing.assert_allclose(found.attention.sum(axis=1), 1, rtol=1e-5)
    everything = classifier.attention(images.pixels, Shown.of(bank, table))
    assert everything.shape == (6, 1 + K)
    np.testing.assert_allclose(everything.sum(axis=1), 1, rtol=1e-5)
    share = everything[:, 1:] / everything[:, 1:].sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found.attention, share, rtol=1e-5)
    for i, label in enumerate(images.labels):
        one = slice(i, i + 1)

        def chance(rows: np.ndarray, one: slice = one, label: int = int(label)) -> float:
            vectors = table.query_vectors[one]  # type: ignore[index]
            logits = classifier.predict(images.pixels[one], bank, rows[None], vectors)
            return float(metrics.softmax(logits)[0, label])

        every = chance(table.indices[i])
        for j in range(K):
            left = chance(np.delete(table.indices[i], j))
            assert found.effect[i, j] == pytest.approx(every - left, abs=1e-6)


def splits_of(source: Retriever) -> tuple[dict[str, Images], dict[str, Neighbours]]:
    """Images of noise, whose vectors say their class."""
    images = {"train": make_images(96, seed=1), "validation": make_images(48, seed=2)}
    corners = np.eye(8, dtype=np.float32)
    tables = {
        name: STRATEGIES[source.strategy](
            VectorsWithIds(part.ids, corners[part.labels]), source.bank, source.request
        )
        for name, part in images.items()
    }
    return images, tables


def test_a_classifier_learns_what_only_the_vectors_say() -> None:
    source = retriever_of("self")
    images, tables = splits_of(source)
    recipe = TrainingRecipe(epochs=4, batch_size=16, learning_rate=0.01, augment="none")
    options: Any = {"network": make_spec(width=4).network, "recipe": recipe}
    fusion = FusionSpec(dropout=0.0)
    trained = rapipe.train_classifier(images, tables, source.bank, fusion=fusion, **options)
    assert trained.best["validation_top1"] > 0.95
    part, vectors = images["validation"], tables["validation"].query_vectors
    assert vectors is not None
    assert metrics.top_k(trained.classifier.predict(part.pixels), part.labels, 1) < 0.6
    wrong = trained.classifier.predict(part.pixels, query_vectors=np.roll(vectors, 1, axis=0))
    assert metrics.top_k(wrong, np.roll(part.labels, 1), 1) > 0.95


def test_hidden_neighbours_take_the_own_vector_with_them() -> None:
    images, source = make_images(9, seed=5), retriever_of("self+knn")
    classifier, table = network(), source.retrieve(images)
    fields = fields_of(Shown(DeviceBank(source.bank, CLASSES, CPU), *shown(table)), CPU, {VECTORS})
    (parts,) = BatchLoader(CPU, *fields).batches(np.arange(9), 9)
    batch = join(parts)
    assert batch is not None
    seen = torch.from_numpy(images.pixels).permute(0, 3, 1, 2) / 255
    hidden = classifier(seen, batch._replace(present=torch.zeros(9, dtype=torch.bool)))
    torch.testing.assert_close(hidden, classifier(seen))


def test_vectors_that_cannot_be_seen_or_do_not_fit_are_refused() -> None:
    source = retriever_of("self")
    images, tables = splits_of(source)
    labels = FusionSpec(fusion="cross-attention", attend="label")
    with pytest.raises(ArgumentError, match="`attend`: label no vector is seen"):
        rapipe.train_classifier(images, tables, source.bank, fusion=labels)
    other = make_embeddings(20, d=5)
    with pytest.raises(ArgumentError, match=r"train hold query vectors of 8 .* `bank` have 5"):
        rapipe.train_classifier(images, tables, other)


@pytest.mark.parametrize("strategy", ["knn", "self+knn"])
@pytest.mark.parametrize("attend", ["both", "embedding"])
def test_each_row_of_the_bank_is_projected_once(
    strategy: str, attend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where images share neighbours; the logits are those of projecting each neighbour."""
    images, classifier = make_images(200, seed=1), network(attend=attend, gate=True)
    source = retriever_of(strategy)
    bank, table = DeviceBank(source.bank, CLASSES, CPU), source.retrieve(images)
    first, projected = classifier.fusions[0], []
    project: Any = first.project

    def counted(vectors: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        projected.append(labels.numel())
        return project(vectors, labels)  # type: ignore[no-any-return]

    monkeypatch.setattr(first, "project", counted)
    once = classifier.predict(images.pixels, bank, *shown(table))
    own = 256 if strategy == "self+knn" else 0  # padded to a multiple of 64
    assert sum(projected) == 64 + own
    monkeypatch.setattr("rapipe.classifier.classifier.project_banks", lambda *_: {})
    np.testing.assert_array_equal(once, classifier.predict(images.pixels, bank, *shown(table)))
    assert sum(projected) == 64 + 2 * own + 256 * K
