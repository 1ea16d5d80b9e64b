"""Votes, swaps, drift and attribution: hand-placed examples, and slow obvious references."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_embeddings, make_images
from sklearn.neighbors import KNeighborsClassifier

from rapipe import metrics
from rapipe.batches.loader import CPU
from rapipe.classifier import classifier as classifier_module
from rapipe.classifier.classifier import Classifier, ClassifierSpec
from rapipe.classifier.fusions.cross_attention import CrossAttention
from rapipe.classifier.neighbour_batch import DeviceBank, NeighbourBatch
from rapipe.encoder.retriever import Retriever, nearest_of_class
from rapipe.evaluation import attribution, drift
from rapipe.evaluation.counterfactuals import (
    Counterfactual,
    Counterfactuals,
    evaluate_counterfactuals,
)
from rapipe.evaluation.noise_levels import LevelPredictions, PredictionsBuilder
from rapipe.records import OTHER_IMAGE, Embeddings, Images, Predictions, RecordError
from rapipe.retrieval import votes
from rapipe.retrieval.search import KeyedVectors, SearchMethod, search
from rapipe.retrieval.strategies import STRATEGIES, RetrievalRequest

CLASSES, K = 3, 5


class Follower:
    """A classifier that says what most of its neighbours are, and class 0 without any."""

    spec = SimpleNamespace(classes=CLASSES, attend="both")
    device = CPU

    def predict(
        self, pixels: np.ndarray, bank: DeviceBank | None = None, indices: np.ndarray | None = None
    ) -> np.ndarray:
        if bank is None or indices is None:
            return np.eye(CLASSES)[np.zeros(len(pixels), int)]
        labels = bank.labels.numpy()[indices]
        counted = [np.bincount(row[row >= 0], minlength=CLASSES) for row in labels]
        return np.stack(counted) + np.eye(CLASSES)[0] * 1e-3

    def attention(self, pixels: np.ndarray, bank: DeviceBank, indices: np.ndarray) -> np.ndarray:
        return np.full(indices.shape, 1 / indices.shape[1], np.float32)


def examined(n: int = 40, rows: int = 120) -> tuple[Images, Retriever, LevelPredictions]:
    """Images whose neighbours were found by a `Follower`, and what it made of them."""
    images, bank = make_images(n, seed=1), make_embeddings(rows, seed=2)
    vectors = make_embeddings(n, seed=3).vectors
    lookup = Retriever(None, bank, "knn", RetrievalRequest(K, 0, SearchMethod()), CLASSES)  # type: ignore[arg-type]
    queries = KeyedVectors(images.ids, vectors)
    found = lookup.find(queries)
    logits = Follower().predict(images.pixels, DeviceBank(bank, CLASSES, CPU), found.indices)
    voters = lookup.voters(found, queries)
    return images, lookup, LevelPredictions(0.0, images.pixels, logits, queries, found, voters)


def swaps_of(
    images: Images, lookup: Retriever, attend: str = "both", pruned: int = 0
) -> Counterfactuals:
    return Counterfactuals(images, lookup, CLASSES, attend, (0.25,), np.arange(pruned))


def by_name(swaps: Counterfactuals, seen: LevelPredictions) -> dict[str, Counterfactual]:
    return {swap.name: swap for swap in swaps.of(seen)}


# Votes


@pytest.mark.parametrize("k", [1, 4, 7])
def test_distance_votes_are_those_of_scikit_learn(k: int) -> None:
    bank, queries = make_embeddings(200, seed=4), make_embeddings(50, seed=5)
    found = search(queries.vectors, bank, k, queries.ids)
    counted = votes.count_votes(
        bank.labels[found.indices], votes.distance(found.similarities), CLASSES
    )
    theirs = KNeighborsClassifier(k, weights="distance").fit(bank.vectors, bank.labels)
    expected = theirs.predict_proba(queries.vectors)
    shares = counted / counted.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(shares, expected, atol=1e-4)


def test_votes_are_sums_over_labelled_neighbours() -> None:
    similarities = np.array([[0.9, 0.5, 0.5, 0.1]], np.float32)
    labels = np.array([[1, 0, -1, 0]])
    expected = {
        "plurality": [2, 1],
        "softmax": [np.exp(-0.5 / 0.07) + np.exp(-0.9 / 0.07), np.exp(-0.1 / 0.07)],
        "rank": [1 / 3 + 1 / 5, 1 / 2],
    }
    for name, values in expected.items():
        found = votes.count_votes(labels, votes.VOTES[name](similarities), 2)
        np.testing.assert_allclose(found, [values], rtol=1e-5, err_msg=name)


def test_classes_the_task_does_not_know_have_no_vote() -> None:
    found = votes.count_votes(np.array([[5, 1]]), np.ones((1, 2)), 2)
    assert found.tolist() == [[0, 1]]


def test_neighbours_vote_nearest_first_in_whatever_order_they_come() -> None:
    similarities = np.array([[0.1, 0.9, 0.5]], np.float32)
    labels = np.array([[0, 1, 0]])
    assert votes.Vote("rank", 1, 0.0)(similarities, labels, 2).tolist() == [[0, 0.5]]
    found = votes.Vote("rank", 3, 0.0)(similarities, labels, 2)
    np.testing.assert_allclose(found, [[1 / 3 + 1 / 4, 1 / 2]])


def test_without_a_class_of_the_task_nobody_votes() -> None:
    labels = np.array([[-1, 5]])
    assert votes.choose_votes(np.ones((1, 2), np.float32), labels, np.array([0]), 2) == []
    assert votes.best_vote([]) is None


def test_equal_counts_go_to_the_nearest() -> None:
    similarities = np.array([[0.9, 0.8, 0.7, 0.6]], np.float32)
    for labels, winner in (([0, 1, 1, 0], 0), ([1, 0, 0, 1], 1), ([0, 1, 0, 1], 0)):
        weights = votes.plurality(similarities)
        counted = votes.count_votes(np.array([labels]), weights, 2)[0]
        assert counted[winner] > counted[1 - winner]


def test_k_is_chosen_by_validation_and_smaller_if_equal() -> None:
    """Only the nearest is ever right, but for one query where only five together are."""
    similarities = np.linspace(0.9, 0.1, 12, dtype=np.float32)[None].repeat(4, 0)
    labels = np.ones((4, 12), int)
    labels[:3, 0] = 0
    targets = np.zeros(4, int)
    for vote in votes.choose_votes(similarities, labels, targets, 2):
        assert vote.k == 1
        assert vote.validation_top1 == 0.75
        assert metrics.top_k(vote(similarities, labels, 2), targets, 1) == 0.75
    assert votes.best_vote(votes.choose_votes(similarities, labels, targets, 2)).name == "plurality"


@pytest.mark.parametrize("strategy", ["knn", "sampled"])
@pytest.mark.parametrize("strange", [-1, CLASSES])
def test_only_rows_whose_class_is_known_vote(strategy: str, strange: int) -> None:
    """As if the others were not there, however near they are; and everyone where all are known."""
    bank, vectors = make_embeddings(120, seed=2), make_embeddings(40, seed=3).vectors
    queries = KeyedVectors(np.arange(40) + 10**6, vectors)
    unknown = np.random.default_rng(0).random(120) < 0.8
    few = replace(bank, labels=np.where(unknown, strange, bank.labels))
    ask = RetrievalRequest(K, 0, SearchMethod())

    def lookup(memory: Embeddings) -> Retriever:
        return Retriever(None, memory, strategy, ask, CLASSES)  # type: ignore[arg-type]

    own = lookup(few)
    found = own.find(queries)
    assert not own.all_known
    alone = lookup(bank.take(np.flatnonzero(~unknown))).find(queries)
    similarities, labels = own.voters(found, queries)
    np.testing.assert_array_equal(similarities, alone.similarities)
    np.testing.assert_array_equal(labels, bank.labels[~unknown][alone.indices])
    everyone = lookup(bank)
    found = everyone.find(queries)
    assert everyone.all_known
    np.testing.assert_array_equal(everyone.voters(found, None).labels, bank.labels[found.indices])
    with pytest.raises(ValueError, match="rows without a class do not vote"):
        own.voters(found, None)


def test_fewer_known_rows_than_neighbours_all_vote() -> None:
    bank, vectors = make_embeddings(120, seed=2), make_embeddings(9, seed=3).vectors
    queries = KeyedVectors(np.arange(9) + 10**6, vectors)
    few = replace(bank, labels=np.where(np.arange(120) < 2, bank.labels, -1))
    for memory, voting in ((few, 2), (replace(bank, labels=np.full(120, -1)), K)):
        lookup = Retriever(None, memory, "knn", RetrievalRequest(K, 0, SearchMethod()), CLASSES)  # type: ignore[arg-type]
        voters = lookup.voters(lookup.find(queries), queries)
        assert voters.labels.shape == voters.similarities.shape == (9, voting)


# Swapped neighbours


def test_nearest_of_class_is_that_of_a_loop() -> None:
    bank, queries = make_embeddings(60, seed=6), make_embeddings(20, seed=7)
    targets = np.arange(20) % CLASSES
    keys = KeyedVectors(queries.ids, queries.vectors)
    found = nearest_of_class(keys, bank, targets, 4)
    for query, target in enumerate(targets):
        rows = np.flatnonzero(bank.labels == target)
        products = bank.vectors[rows] @ queries.vectors[query]
        assert found[query].tolist() == rows[np.argsort(-products)[:4]].tolist()


def test_a_class_with_few_rows_repeats_them_and_never_shows_the_query() -> None:
    bank = make_embeddings(6, seed=6)  # two rows a class
    keys = KeyedVectors(bank.ids[:1], bank.vectors[:1])
    assert nearest_of_class(keys, bank, bank.labels[:1], 4).tolist() == [[3, 3, 3, 3]]


def test_oracles_show_the_right_class_or_one_wrong_one() -> None:
    images, lookup, seen = examined()
    found = by_name(swaps_of(images, lookup), seen)
    right = lookup.bank.labels[found["same class"].indices]
    wrong = lookup.bank.labels[found["wrong class"].indices]
    assert (right == images.labels[:, None]).all()
    assert (wrong != images.labels[:, None]).all()
    assert (wrong == wrong[:, :1]).all()
    assert len(set(wrong[images.labels == 0, 0])) == 2  # each other class comes up


def test_where_the_memory_lacks_a_class_the_right_oracle_keeps_the_own_neighbours() -> None:
    images, lookup, _ = examined()
    left = lookup.bank.take(np.flatnonzero(lookup.bank.labels != 1))
    lookup = replace(lookup, bank=left)
    queries = KeyedVectors(images.ids, make_embeddings(len(images), seed=3).vectors)
    own = lookup.find(queries)
    seen = LevelPredictions(
        0.0, images.pixels, np.zeros((len(images), CLASSES), np.float32), queries, own, None
    )
    found = by_name(swaps_of(images, lookup), seen)
    lacking = images.labels == 1
    assert np.array_equal(found["same class"].indices[lacking], own.indices[lacking])
    assert (
        left.labels[found["same class"].indices[~lacking]] == images.labels[~lacking, None]
    ).all()
    assert (left.labels[found["wrong class"].indices] != images.labels[:, None]).all()


def test_other_swaps_change_what_they_say_and_nothing_else() -> None:
    images, lookup, seen = examined()
    own, bank = seen.found.indices, lookup.bank
    found = by_name(swaps_of(images, lookup, pruned=7), seen)
    another = found[OTHER_IMAGE].indices
    assert sorted(map(tuple, another)) == sorted(map(tuple, own))
    assert not (another == own).all(axis=1).any()
    duplicate = found["own duplicate"]
    assert np.array_equal(duplicate.indices[:, 1:], own[:, 1:])
    first = duplicate.indices[:, 0]
    np.testing.assert_array_equal(duplicate.bank.vectors[first], seen.queries.vectors)
    assert duplicate.bank.labels[first].tolist() == images.labels.tolist()
    assert sorted(found["shuffled labels"].bank.labels) == sorted(bank.labels)
    assert (found["25% wrong labels"].bank.labels != bank.labels).sum() == 30
    changed = (found["25% wrong vectors"].bank.vectors != bank.vectors).any(axis=1)
    assert 25 <= changed.sum() <= 30  # a random row may be itself
    assert np.array_equal(found["25% wrong vectors"].bank.labels, bank.labels)
    assert not set(found["pruned"].bank.ids) & set(bank.ids[:7])
    assert len(found["pruned at random"].bank) == len(bank) - 7
    again = by_name(swaps_of(images, lookup, pruned=7), seen)
    for name, swap in found.items():
        assert np.array_equal(swap.indices, again[name].indices) or swap.indices is None
        assert np.array_equal(swap.bank.vectors, again[name].bank.vectors)
        assert np.array_equal(swap.bank.labels, again[name].bank.labels)


def test_strategies_that_the_memory_cannot_serve_are_no_swaps() -> None:
    images, lookup, seen = examined()
    every = tuple(STRATEGIES)
    whole = by_name(replace(swaps_of(images, lookup, pruned=7), strategies=every), seen)
    assert set(STRATEGIES) <= set(whole)
    one = replace(lookup, bank=replace(lookup.bank, labels=np.zeros(len(lookup.bank), int)))
    served = by_name(replace(swaps_of(images, one, pruned=7), strategies=every), seen)
    assert set(STRATEGIES) - set(served) == {"hard"}
    assert {"pruned", "none"} <= set(served)


def test_poisoned_shares_have_names_of_their_own() -> None:
    images, lookup, seen = examined()
    swaps = Counterfactuals(images, lookup, CLASSES, "both", (0.001, 0.004), np.arange(2))
    names = [swap.name for swap in swaps.of(seen)]
    assert len(set(names)) == len(names)
    drawn = lookup.find(seen.queries, "sampled")
    unsearched = [swap.name for swap in swaps.of(replace(seen, found=drawn))]
    assert set(names) - set(unsearched) == {"pruned", "pruned at random"}


@pytest.mark.parametrize(
    ("attend", "absent"),
    [("embedding", ["shuffled labels", "25% wrong labels"]), ("label", ["25% wrong vectors"])],
)
def test_what_a_classifier_cannot_see_is_not_swapped(attend: str, absent: list[str]) -> None:
    images, lookup, seen = examined()
    both = set(by_name(swaps_of(images, lookup), seen))
    assert both - set(by_name(swaps_of(images, lookup, attend), seen)) == set(absent)


def test_who_only_follows_neighbours_is_moved_as_they_are() -> None:
    images, lookup, seen = examined()
    bank = DeviceBank(lookup.bank, CLASSES, CPU)
    made = evaluate_counterfactuals(Follower(), seen, swaps_of(images, lookup), bank)  # type: ignore[arg-type]
    found = {row["swap"]: row for row in made.rows}
    assert [found["knn"][key] for key in ("change", "flips", "kl", "moved")] == [0] * 4
    assert (found["same class"]["top1"], found["same class"]["follows"]) == (1.0, 1.0)
    assert (found["wrong class"]["top1"], found["wrong class"]["follows"]) == (0.0, 1.0)
    assert found["none"]["follows"] is None
    own = metrics.top_k(seen.logits, images.labels, 1)
    for row, change, moved in zip(*made, strict=True):
        assert row["change"] == pytest.approx(row["top1"] - own) == pytest.approx(change.mean())
        assert set(change.tolist()) <= {-1, 0, 1}
        assert row["moved"] == pytest.approx(moved.mean())
    before, after = metrics.softmax(seen.logits), np.eye(CLASSES)[np.zeros(40, int)]
    after = metrics.softmax(after)
    slow = np.mean([(p * np.log(p / q)).sum() for p, q in zip(before, after, strict=True)])
    assert found["none"]["kl"] == pytest.approx(slow)


# Drift


def test_drift_of_a_hand_placed_neighbourhood() -> None:
    angles = np.deg2rad([0, 10, 20, 80])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    bank = Embeddings(
        np.arange(4), vectors, np.array([0, 0, 1, -1]), np.full(4, "a"), np.full(4, "train")
    )
    asked = np.deg2rad([1, 60])
    clean, noisy = np.stack([np.cos(asked), np.sin(asked)], axis=1).astype(np.float32)[:, None]
    before, after = (search(own, bank, 3, np.array([9])) for own in (clean, noisy))
    assert before.indices.tolist() == [[0, 1, 2]]
    assert after.indices.tolist() == [[3, 2, 1]]
    targets = np.array([0])
    found = drift.drift(before, after, noisy, bank, targets)
    assert found["recall"] == pytest.approx(2 / 3)
    assert found["rank_correlation"] == pytest.approx(-1)  # nearest first has become last
    assert found["purity"] == pytest.approx(1 / 2)  # of those with a label
    same = drift.drift(before, before, clean, bank, targets)
    assert (same["recall"], same["rank_correlation"]) == (1, pytest.approx(1))
    assert drift.purity(np.array([[3]]), bank, targets) is None
    one = search(clean, bank, 1, np.array([9]))
    assert drift.drift(one, one, clean, bank, targets)["rank_correlation"] is None


def test_the_two_failures_sum_to_the_loss() -> None:
    found = drift.split(0.9, 0.5, 0.7)
    assert found == pytest.approx({"retrieval_failed": 0.2, "fusion_failed": 0.2})
    assert sum(drift.split(0.9, 0.4, 0.95).values()) == pytest.approx(0.5)


# Attribution


def test_a_planted_bad_row_is_blamed_and_pruned() -> None:
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
        shown[images.labels != 2].astype(np.int32),
    )
    blamed = attribution.influence(found)
    assert blamed.rows[0] == 0
    assert blamed.shown[0] == 20
    assert blamed.effect[0] == pytest.approx(found.effect[:, 0].sum())
    assert blamed.effect[0] < 0 < blamed.effect[-1]
    assert attribution.most_harmful(blamed, 0.02, len(bank), 5).tolist() == [0]
    assert len(attribution.most_harmful(blamed, 1.0, len(bank), 5)) == (blamed.effect < 0).sum()
    assert not len(attribution.most_harmful(blamed, 0.0, len(bank), 5))
    assert len(attribution.most_harmful(blamed, 1.0, len(bank), len(bank))) == 0  # k must be left


def real(attend: str = "both", backbone: str = "alexnet") -> Classifier:
    torch.manual_seed(0)
    spec = ClassifierSpec(
        backbone, 8, "half", 16, CLASSES, (0.5,) * 3, (0.2,) * 3, "knn", 8, attend
    )
    return Classifier(spec).eval()


@pytest.mark.parametrize("backbone", ["alexnet", "perceiver", "resnet18"])
def test_attention_and_effect_are_those_of_a_loop(
    backbone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier_module, "CHUNK", 4)  # several chunks
    network, images, bank = real(backbone=backbone), make_images(6), make_embeddings(20)
    there = DeviceBank(bank, CLASSES, CPU)
    indices = np.array([np.random.default_rng(i).permutation(20)[:K] for i in range(6)], np.int32)
    found = attribution.attribute(network, images.pixels, images.labels, there, indices)
    np.testing.assert_allclose(found.attention.sum(axis=1), 1, rtol=1e-5)
    assert found.attention.std() > 0
    for i in range(6):
        one = slice(i, i + 1)
        alone = network.attention(images.pixels[one], there, indices[one])
        np.testing.assert_allclose(found.attention[one], alone, atol=1e-6)
        label = images.labels[i]
        every = metrics.softmax(network.predict(images.pixels[one], there, indices[one]))[0, label]
        for j in range(K):
            without = np.delete(indices[i], j)[None]
            left = metrics.softmax(network.predict(images.pixels[one], there, without))[0, label]
            assert found.effect[i, j] == pytest.approx(every - left, abs=1e-6)


def test_a_lone_neighbour_is_compared_with_none() -> None:
    network, images, bank = real(), make_images(4), make_embeddings(20)
    there, indices = DeviceBank(bank, CLASSES, CPU), np.arange(4, dtype=np.int32)[:, None]
    found = attribution.attribute(network, images.pixels, images.labels, there, indices)
    own = np.arange(4), images.labels
    every = metrics.softmax(network.predict(images.pixels, there, indices))[own]
    none = metrics.softmax(network.predict(images.pixels))[own]
    np.testing.assert_allclose(found.effect[:, 0], every - none, atol=1e-6)
    facts = attribution.summary(found, 0)
    assert facts["attention_entropy"] == 0
    assert "agreement" not in facts  # of one there is no order


def test_fusion_weights_are_the_softmax_of_a_loop() -> None:
    torch.manual_seed(0)
    fusion, tokens = CrossAttention(16, 8, CLASSES, "both"), torch.randn(2, 7, 16)
    shown = NeighbourBatch(
        torch.randn(2, K, 8), torch.randint(0, CLASSES, (2, K)), torch.tensor([True, False])
    )
    found = fusion.weights(tokens, shown)
    q = fusion.query(fusion.norm(tokens))[0]
    memory = (fusion.embedding(shown.vectors) + fusion.label(shown.labels))[0]
    keys = fusion.key_value(memory)[:, :16]
    slow = torch.zeros(K)
    for head in range(4):
        part = slice(4 * head, 4 * head + 4)
        for token in range(7):
            slow += (keys[:, part] @ q[token, part] / 2).softmax(0) / 28
    torch.testing.assert_close(found[0], slow)
    assert found[1].tolist() == [0] * K


# Records


def test_predictions_are_noted_and_read_back(tmp_path: Path) -> None:
    images, lookup, seen = examined()
    vote = votes.Vote("plurality", 3, 0.5)
    noted = PredictionsBuilder(images, lookup.bank, vote)
    noted.add(seen)
    noted.add(replace(seen, noise_std=0.1, logits=-seen.logits))
    for swap in range(3):  # more swaps than levels
        noted.note("moved", np.full(len(images), swap, np.float32))
    written = noted.predictions()
    written.write(tmp_path / "p.arrow")
    read = Predictions.read(tmp_path / "p.arrow")
    assert read.levels == (0.0, 0.1)
    for name in ("ids", "correct", "confidence", "similarity", "vote_entropy", "voted", "moved"):
        np.testing.assert_array_equal(getattr(read, name), getattr(written, name), err_msg=name)
    assert read.correct[0].mean() == metrics.top_k(seen.logits, images.labels, 1)
    labels = lookup.bank.labels[seen.found.indices]
    counted = vote(seen.found.similarities, labels, CLASSES)
    assert read.voted is not None
    assert read.voted[1].mean() == metrics.top_k(counted, images.labels, 1)
    plain = PredictionsBuilder(images, None, None)
    plain.add(seen)
    plain.predictions().write(tmp_path / "q.arrow")
    assert Predictions.read(tmp_path / "q.arrow").similarity is None


def test_predictions_check_themselves() -> None:
    right = np.ones((2, 3), bool)
    with pytest.raises(RecordError, match="first level is not clean"):
        Predictions(np.arange(3), (0.1, 0.2), right, right.astype(np.float32))
    with pytest.raises(RecordError, match="confidence has a wrong shape"):
        Predictions(np.arange(3), (0.0, 0.2), right, right[:1].astype(np.float32))


class Counting:
    """An encoder that counts the images it embeds."""

    features = 4

    def __init__(self) -> None:
        self.seen = 0

    def parameters(self) -> Any:
        return iter([torch.zeros(1)])

    def embed(self, pixels: Any) -> Any:
        self.seen += len(pixels)
        return np.asarray(pixels, np.float32).reshape(len(pixels), -1)[:, :4] / 255


def test_embeddings_of_the_same_images_are_kept_and_damage_is_seen(tmp_path: Path) -> None:
    images, bank = make_images(6), make_embeddings(9)
    counted = Counting()

    def lookup(by: str) -> Retriever:
        ask = RetrievalRequest(K, 0, SearchMethod())
        return Retriever(counted, bank, "knn", ask, CLASSES, tmp_path / "kept", by)  # type: ignore[arg-type]

    plain = Retriever(counted, bank, "knn", RetrievalRequest(K, 0, SearchMethod()), CLASSES)  # type: ignore[arg-type]
    expected = plain.queries(images, images.pixels).vectors
    counted.seen = 0
    for _ in range(3):
        found = lookup("one").queries(images, images.pixels)
        np.testing.assert_array_equal(found.vectors, expected)
        np.testing.assert_array_equal(found.ids, images.ids)
    assert counted.seen == 6
    for by, pixels in (("another", images.pixels), ("one", images.pixels // 2)):
        lookup(by).queries(images, pixels)  # of another encoder, and of other images
    assert counted.seen == 18
    for file in (tmp_path / "kept").iterdir():
        if not file.suffix:
            raw = bytearray(file.read_bytes())
            raw[-1] ^= 1
            file.write_bytes(raw)
    np.testing.assert_array_equal(lookup("one").queries(images, images.pixels).vectors, expected)
    assert counted.seen == 24
