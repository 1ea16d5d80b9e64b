"""Have the features of all images become (nearly) the same?

It is judged on training images, since a small corpus has few others, and on what their features
are used for: cosine similarities. A small spread alone is no collapse: similarities are ranked,
so their scale is of no matter until it comes down to rounding.

Letters: N images, D embedding.
"""

from __future__ import annotations

import numpy as np

from rapipe import metrics
from rapipe.encoder.encoder import Encoder
from rapipe.encoder.scores import knn_accuracy, raw_pixels
from rapipe.errors import ArgumentError
from rapipe.pretraining.module import PretrainingModule
from rapipe.records import UNLABELLED, Images, Vectors

ROWS = 512
"""Training images that are looked at, labelled ones first."""
RESOLUTION = float(np.finfo(np.float32).eps ** 0.5)
"""Spread of unit vectors below which their cosine similarities differ by rounding alone."""
LINE = 2.0
"""Effective rank of features that lie, nearly, on a line."""
LINE_IMAGES = 16
"""Fewer images may well lie on one: the rank of N is N - 1 at most."""
IMAGE_RANK = 3.0
"""Effective rank of the pixels below which the images themselves lie, nearly, on a line."""
LEARNED = 0.99
"""Accuracy with which features have learned their labels, on a line or not."""
PIXELS = 32
"""Side to which images are thinned out for it."""
WARM_UP = 50
"""Steps in which BatchNorm's statistics settle."""
PATIENCE = 3
"""Epochs in a row before a training ends for it: features may recover."""


class CollapseCheck:
    """Refuses a training whose features are a point, or on a line, and stay there.

    On a line they count as collapsed only if votes of neighbours are no better than those of
    random weights, or than naming the commonest label, and not all right: two labels that the
    features have learned are a line too.

    Args:
        images: of the training.
        random: the encoder before it has learned.
    """

    def __init__(self, images: Images, random: Encoder) -> None:
        self.images = _sample(images)
        step = max(1, images.pixels.shape[1] // PIXELS)
        pixels = raw_pixels(self.images.pixels[:, ::step, ::step])
        self.pixel_std, self.pixel_rank = _spread(pixels)
        labels = self.images.labels[self.images.labels != UNLABELLED]
        commonest = np.bincount(labels).max() / len(labels) if len(labels) else 0.0
        self.random_top1 = max(commonest, self._top1(random.embed(self.images.pixels)))
        self.epochs = 0
        """For which features have been collapsed."""

    def refuse(self, encoder: Encoder, module: PretrainingModule) -> None:
        """Raise `ArgumentError` if this was the last epoch that they had.

        That is the third in a row after the warm-up, or the end of the training.
        """
        if len(self.images) < 2 or not module.network.may_collapse:
            return
        vectors = encoder.embed(self.images.pixels)
        std, rank = _spread(vectors)
        is_settled = module.global_step >= WARM_UP
        is_point = std < RESOLUTION
        is_line = (
            is_settled
            and len(self.images) >= LINE_IMAGES
            and rank < LINE
            and self.pixel_rank >= IMAGE_RANK
            and self._top1(vectors) <= min(self.random_top1, LEARNED)
        )
        self.epochs = self.epochs + 1 if is_settled and (is_point or is_line) else 0
        is_last = module.current_epoch + 1 == module.recipe.epochs
        if self.epochs == PATIENCE or (is_last and (is_point or is_line)):
            symptom = (
                f"are the same to within rounding (feature_std {std:.1e})"
                if is_point
                else f"lie nearly on a line (effective rank {rank:.2f}), and neighbours among them "
                "say no more of their labels than those of random weights do"
            )
            raise ArgumentError(
                f"pretraining collapsed: after epoch {module.current_epoch + 1} (step "
                f"{module.global_step}) the features of {len(self.images)} training images "
                f"{symptom}: {self._advice(module)}"
            )

    def _advice(self, module: PretrainingModule) -> str:
        recipe, size = module.recipe, module.batch_size
        if self.pixel_std < 10 * RESOLUTION:
            return "the images themselves hardly differ, so add others"
        if module.global_step < WARM_UP:
            smaller = f", lower `batch_size`, now {size}," if size > 2 else ""
            return (
                f"these are too few steps, so raise `epochs`, now {recipe.epochs}{smaller} or add "
                "images"
            )
        larger = f", raise `batch_size`, now {size}," if size < module.epoch_size else ""
        return (
            f"lower `learning_rate`, now {recipe.learning_rate:g}{larger} or choose other `views` "
            f"than {recipe.views}"
        )

    def _top1(self, vectors: Vectors) -> float:
        """Accuracy of a vote of each labelled image's nearest others."""
        rows = np.flatnonzero(self.images.labels != UNLABELLED)
        images, vectors = self.images.take(rows), vectors[rows]
        return knn_accuracy(images, vectors, images, vectors) if len(rows) else 0.0


def _spread(vectors: Vectors) -> tuple[float, float]:
    return metrics.feature_std(vectors), metrics.effective_rank(vectors)


def _sample(images: Images) -> Images:
    """Up to ROWS images that differ, labelled ones first, otherwise drawn."""
    rng = np.random.default_rng(0)
    distinct = rng.permutation(np.unique(images.ids, return_index=True)[1])
    is_unlabelled = images.labels[distinct] == UNLABELLED
    return images.take(np.sort(distinct[np.argsort(is_unlabelled, kind="stable")][:ROWS]))
