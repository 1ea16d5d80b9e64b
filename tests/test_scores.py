"""Scores of an encoder's features: a vote of neighbours, and a linear classifier."""

from __future__ import annotations

import dataclasses

import numpy as np
from conftest import make_images

from rapipe.encoder.scores import knn_accuracy, linear_accuracy


def unit(vectors: np.ndarray) -> np.ndarray:
    scaled = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(scaled.astype(np.float32))


def test_a_linear_classifier_finds_what_is_hidden_from_neighbours() -> None:
    """The class is a small step along one axis, beside large noise along forty others."""
    rng = np.random.default_rng(0)
    train, queries = make_images(600, classes=2), make_images(200, seed=1, classes=2)

    def features(labels: np.ndarray) -> np.ndarray:
        noise = rng.standard_normal((len(labels), 40))
        return unit(np.column_stack([labels - 0.5, noise]))

    vectors, query_vectors = features(train.labels), features(queries.labels)
    assert linear_accuracy(train, vectors, queries, query_vectors) > 0.95
    assert knn_accuracy(train, vectors, queries, query_vectors) < 0.75


def test_queries_are_left_out_of_training() -> None:
    """Random labels can be learned by heart, so it would show."""
    train = make_images(60, classes=2)
    rng = np.random.default_rng(0)
    train = dataclasses.replace(train, labels=rng.integers(0, 2, 60))
    vectors = unit(rng.standard_normal((60, 200)))
    queries = train.take(np.arange(30))
    held_out = linear_accuracy(train.take(np.arange(30, 60)), vectors[30:], queries, vectors[:30])
    assert linear_accuracy(train, vectors, queries, vectors[:30]) == held_out < 0.8


def test_one_class_is_always_right() -> None:
    train, queries = make_images(20, classes=1), make_images(8, seed=1, classes=1)
    vectors = unit(np.random.default_rng(0).standard_normal((20, 5)))
    assert linear_accuracy(train, vectors, queries, vectors[:8]) == 1
