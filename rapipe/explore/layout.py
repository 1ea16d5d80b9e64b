"""Where each image stands on a map: vectors in two dimensions.

Letters: N images, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from rapipe.errors import ArgumentError, UserError
from rapipe.records import BLOCK, Vectors

Points = npt.NDArray[np.float32]  # (N, 2)
SAMPLE = 20_000
"""Vectors that the principal components are of."""


def pca(vectors: Vectors, seed: int) -> Points:
    """The first two principal components (N, 2), of vectors (N, D) that are read in blocks.

    The component's largest weight is positive, so that a map is the same each time.
    """
    n, _ = vectors.shape
    rows = np.sort(np.random.default_rng(seed).permutation(n)[:SAMPLE])
    sample = np.asarray(vectors[rows], np.float64)
    mean = sample.mean(axis=0)
    _, axes = np.linalg.eigh((sample - mean).T @ (sample - mean))  # columns, by rising variance
    axes = axes[:, ::-1][:, :2]
    if axes.shape[1] < 2:
        axes = np.pad(axes, ((0, 0), (0, 1)))
    largest = axes[np.abs(axes).argmax(axis=0), np.arange(2)]
    axes = axes * np.where(largest < 0, -1, 1)
    points = np.empty((n, 2), np.float32)
    for start in range(0, n, BLOCK):
        points[start : start + BLOCK] = (vectors[start : start + BLOCK] - mean) @ axes
    return points


def umap(vectors: Vectors, seed: int) -> Points:
    """UMAP by cosine similarity (N, 2).

    Source: McInnes, Healy & Melville, "UMAP: Uniform Manifold Approximation and Projection for
    Dimension Reduction", 2018; umap-learn.

    Raises:
        UserError: umap-learn is not installed.
    """
    try:
        from umap import UMAP
    except ImportError:
        raise UserError(
            "the map by umap needs umap-learn: pip install 'rapipe[umap]', or use pca"
        ) from None
    neighbours = min(15, len(vectors) - 1)
    reducer = UMAP(n_neighbors=neighbours, metric="cosine", random_state=seed, n_jobs=1)
    return np.asarray(reducer.fit_transform(np.asarray(vectors)), np.float32)


LAYOUTS: dict[str, Callable[[Vectors, int], Points]] = {"pca": pca, "umap": umap}
"""By name; to add one is to add a line."""


def lay_out(method: str, vectors: Vectors, seed: int) -> Points:
    """Points (N, 2) in the square from -1 to 1, its aspect kept.

    Raises:
        ArgumentError: there is no such method.
    """
    if method not in LAYOUTS:
        raise ArgumentError(f"`method` is {method!r}; it must be one of {', '.join(LAYOUTS)}")
    points = LAYOUTS[method](vectors, seed)
    low, high = points.min(axis=0), points.max(axis=0)
    scale = max(float((high - low).max()), float(np.finfo(np.float32).tiny))
    return np.asarray((points - (low + high) / 2) * (2 / scale), np.float32)
