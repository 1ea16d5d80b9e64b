"""How like the real images are generated ones, and are they copies of training images?

Features are an encoder's unit vectors. Those that distances between distributions are of are
scaled to a mean square of 1, so that neither distance depends on the dimension by itself.

Letters: N and M images, D embedding, B bins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rapipe.records import Vectors

Matrix = npt.NDArray[np.float64]
Distances = npt.NDArray[np.float64]  # (N,), 1 - cosine similarity
QUANTILE = 0.01
"""Of the distances of validation images: so many of them are nearer to training by chance."""
BINS = 40


def features(vectors: Vectors) -> Matrix:
    """Unit vectors (N, D) -> features (N, D) with a mean square of 1."""
    scaled: Matrix = vectors.astype(np.float64) * vectors.shape[1] ** 0.5
    return scaled


def frechet_distance(one: Matrix, other: Matrix) -> float:
    """Distance of the Gaussians with the means and covariances of two sets of features.

    |m - n|^2 + tr(S + T - 2 (S T)^(1/2)), where m, n are the means and S, T the covariances. It
    grows as sets become smaller: compare sets of one size only.

    Source: Heusel et al., "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash
    Equilibrium", NeurIPS 2017.

    Args:
        one: (N, D), N at least 2.
        other: (M, D), M at least 2.
    """
    means = one.mean(axis=0) - other.mean(axis=0)
    covariances = [np.atleast_2d(np.cov(part, rowvar=False)) for part in (one, other)]
    root = _root(covariances[0])
    # S T and S^(1/2) T S^(1/2) have the same eigenvalues, and the latter is symmetric.
    values = np.linalg.eigvalsh(root @ covariances[1] @ root)
    trace = sum(np.trace(covariance) for covariance in covariances)
    return float(means @ means + trace - 2 * np.sqrt(values.clip(0)).sum())


def kernel_distance(one: Matrix, other: Matrix) -> float:
    """Squared maximum mean discrepancy of two sets of features, without bias: it may be below 0.

    The kernel is (x y / D + 1)^3.

    Source: Binkowski et al., "Demystifying MMD GANs", ICLR 2018.

    Args:
        one: (N, D), N at least 2.
        other: (M, D), M at least 2.
    """
    within = [_kernel(part, part) for part in (one, other)]
    sums = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in within]
    return float(sum(sums) - 2 * _kernel(one, other).mean())


def _kernel(one: Matrix, other: Matrix) -> Matrix:
    product: Matrix = (one @ other.T / one.shape[1] + 1) ** 3
    return product


def _root(matrix: Matrix) -> Matrix:
    """The square root of a symmetric matrix without negative eigenvalues but for rounding."""
    values, vectors = np.linalg.eigh(matrix)
    root: Matrix = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    return root


@dataclass(frozen=True)
class Memorisation:
    """Are generated images nearer to training images than validation images are?"""

    generated: Distances
    """(N,), of each generated image to the nearest training image."""
    validation: Distances
    """(M,), of each validation image to the nearest training image."""

    @property
    def threshold(self) -> float:
        """Only a share of QUANTILE of the validation images is nearer."""
        return float(np.quantile(self.validation, QUANTILE))

    @property
    def near(self) -> npt.NDArray[np.bool_]:
        """Mask (N,) of the generated images that are nearer than that."""
        return np.asarray(self.generated < self.threshold)

    def summary(self) -> dict[str, Any]:
        """Medians, threshold, the images below it, and histograms over the same bins."""
        both = np.concatenate([self.generated, self.validation])
        edges = np.linspace(0, max(float(both.max()), 1e-6), BINS + 1)
        sides = {"generated": self.generated, "validation": self.validation}
        return {
            "quantile": QUANTILE,
            "threshold": self.threshold,
            "near": int(self.near.sum()),
            "near_share": float(self.near.mean()),
            "median": {name: float(np.median(values)) for name, values in sides.items()},
            "edges": edges.tolist(),
            **{
                f"{name}_histogram": np.histogram(values, edges)[0].tolist()
                for name, values in sides.items()
            },
        }
