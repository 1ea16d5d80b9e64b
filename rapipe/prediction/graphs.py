"""The two networks of a predictor as functions of tensors alone, which ONNX can hold.

Letters: B batch, S side of an image as it is stored, H side as a network sees it, D embedding,
K neighbours, C classes.
"""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rapipe.batches.preprocess import Preprocess, side_before_crop
from rapipe.classifier.classifier import Classifier
from rapipe.classifier.neighbour_batch import (
    NeighbourBatch,
    SimilaritiesOfBatch,
    join,
    standardise,
)
from rapipe.encoder.encoder import SHORTEST, Encoder
from rapipe.records import UNLABELLED


class FixedPreprocess(nn.Module):
    """`Preprocess` of squares of one size: to resize is to multiply by two constant matrices.

    Runtimes resize each in their own way, and few are antialiased as torch is.
    """

    across: Tensor

    def __init__(self, preprocess: Preprocess, size: int) -> None:
        super().__init__()
        side = side_before_crop(preprocess.image_size, preprocess.crop)
        start = (side - preprocess.image_size) // 2
        self.window = slice(start, start + preprocess.image_size)
        self.resizes = side != size
        one_hot = torch.eye(size)[None, None]  # of a row of pixels, each by itself
        across = F.interpolate(one_hot, (size, side), mode=preprocess.interpolation, antialias=True)
        self.register_buffer("across", across[0, 0])  # (S, side)
        self.normalise = preprocess.normalise

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) in [0, 1] -> (B, 3, H, H)."""
        if self.resizes:
            images = (images @ self.across).clamp(0, 1)  # (B, 3, S, side)
            images = (self.across.mT @ images).clamp(0, 1)  # (B, 3, side, side)
        normalised: Tensor = self.normalise(images[..., self.window, self.window])
        return normalised


class EncoderGraph(nn.Module):
    """Images -> unit vectors."""

    def __init__(self, encoder: Encoder, size: int) -> None:
        super().__init__()
        copy = deepcopy(encoder).cpu().eval()
        self.preprocess = FixedPreprocess(copy.preprocess, size)
        self.backbone = copy.backbone

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) in [0, 1] -> (B, D)."""
        features = self.backbone(self.preprocess(images)).float()
        lengths = torch.linalg.vector_norm(features, dim=1, keepdim=True)
        return F.normalize(torch.where(lengths < SHORTEST, 1.0, features), dim=1)


class ClassifierGraph(nn.Module):
    """Images and their neighbours, as a fusion needs them -> logits."""

    def __init__(self, classifier: Classifier, size: int) -> None:
        super().__init__()
        copy = deepcopy(classifier).cpu().eval()
        copy.preprocess = FixedPreprocess(copy.preprocess, size)  # type: ignore[assignment]
        self.classifier = copy

    def forward(
        self,
        images: Tensor,
        vectors: Tensor | None = None,
        labels: Tensor | None = None,
        similarities: Tensor | None = None,
        query_vectors: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, C).

        Args:
            images: (B, 3, S, S) in [0, 1].
            vectors: (B, K, D) of the neighbours, of unit length.
            labels: (B, K) int64 of the neighbours, -1 = none.
            similarities: (B, K) of the neighbours to the image, cosine.
            query_vectors: (B, D) of the images themselves, of unit length.
        """
        parts: list[object] = []
        spec, b = self.classifier.spec, images.shape[0]
        if vectors is not None or labels is not None:
            if labels is None:
                assert vectors is not None
                labels = torch.full(vectors.shape[:2], UNLABELLED, dtype=torch.int64)
            seen = torch.empty(b, 0, spec.dimension) if vectors is None else standardise(vectors)
            known = torch.where(labels < spec.classes, labels, UNLABELLED)
            present = torch.ones(b, dtype=torch.bool)
            parts.append(NeighbourBatch(seen, known, present))
        if similarities is not None:
            parts.append(SimilaritiesOfBatch(similarities))
        if query_vectors is not None:
            parts.append(standardise(query_vectors))
        logits: Tensor = self.classifier(images, join(parts))
        return logits
