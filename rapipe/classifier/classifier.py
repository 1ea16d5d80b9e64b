"""Backbone, fusion and head: images and their neighbours -> logits.

Letters: B batch, N images, D embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rapipe.batches.loader import ArrayField, BatchLoader, Field, pad_rows
from rapipe.batches.transforms import Normalise, to_float
from rapipe.classifier.fusions.cross_attention import CrossAttention
from rapipe.classifier.heads import HEADS
from rapipe.classifier.neighbour_batch import DeviceBank, NeighbourBatch, NeighbourField
from rapipe.encoder.backbones import Fuse, build, no_fusion
from rapipe.errors import UserError
from rapipe.io import weights
from rapipe.records import Indices, Pixels

CHUNK = 512
"""Images at once; a multiple of `feed.EVEN`."""


@dataclass(frozen=True)
class ClassifierSpec:
    """What is needed to build the network again, and to prepare its input."""

    backbone: str
    width: int
    stem: str
    image_size: int
    classes: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    retrieval: str
    """Name of the strategy; `none` for a plain classifier."""
    dimension: int
    """D of the neighbours' vectors; 0 without retrieval."""
    attend: str
    places: str = "all"
    """Where neighbours enter: at `all` places of the backbone, or the `last`."""
    gate: bool = False
    """Tokens may attend to no neighbour at all."""
    head: str = "linear"
    """Its name in the table of heads."""
    frozen: bool = False
    """The backbone stays as it is; what is put onto it learns: the head, and the fusion.

    Its features are standardised, without weights, as in the linear evaluation of MAE (He et
    al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022, appendix A.1): a head on
    features of any scale learns at the same rate.
    """


class Classifier(nn.Module):
    """A backbone and a head; with retrieval, a `Fusion` at each place of the backbone."""

    def __init__(self, spec: ClassifierSpec) -> None:
        super().__init__()
        self.spec = spec
        self.normalise = Normalise(spec.mean, spec.std)
        self.backbone = build(spec.backbone, spec.width, spec.stem, spec.image_size)
        self.head = HEADS[spec.head](self.backbone.widths[-1], self.backbone.features, spec.classes)
        widths = self.backbone.widths if spec.retrieval != "none" else ()
        self.first = len(widths) - 1 if spec.places == "last" and widths else 0
        self.fusions = nn.ModuleList(
            CrossAttention(width, spec.dimension, spec.classes, spec.attend, spec.gate)
            for width in widths[self.first :]
        )
        self.standardise: nn.Module = nn.Identity()
        if spec.frozen:
            self.backbone.requires_grad_(False).eval()
            self.standardise = nn.BatchNorm1d(self.backbone.features, affine=False)

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.normalise.scale.device

    def train(self, mode: bool = True) -> Classifier:
        """A frozen backbone stays in evaluation mode: no dropout, and its BatchNorm never moves."""
        super().train(mode)
        if self.spec.frozen:
            self.backbone.eval()
        return self

    def forward(self, images: Tensor, retrieved: NeighbourBatch | None = None) -> Tensor:
        """Images (B, 3, H, W) in [0, 1], and their neighbours -> logits (B, classes)."""
        fuse = no_fusion if retrieved is None else self._fused(retrieved)
        last: list[Tensor] = []

        def note(place: int, tokens: Tensor) -> Tensor:
            last[:] = [fuse(place, tokens)]
            return last[0]

        wanted = self.head.wants_tokens  # else no map need become tokens where nothing is fused
        features = self.backbone(self.normalise(images), note if wanted else fuse)
        logits: Tensor = self.head(self.standardise(features), *last)
        return logits

    def _fused(self, retrieved: NeighbourBatch) -> Fuse:
        def fuse(place: int, tokens: Tensor) -> Tensor:
            if place < self.first:
                return tokens
            fused: Tensor = self.fusions[place - self.first](tokens, retrieved)
            return fused

        return fuse

    @torch.inference_mode()
    def predict(
        self, pixels: Pixels, bank: DeviceBank | None = None, indices: Indices | None = None
    ) -> np.ndarray:
        """Logits (N, classes) float32 of images (N, H, W, 3), in evaluation mode.

        Those of an image do not depend on which others there are, nor on how many.

        Raises:
            UserError: a logit is not finite: it would be no answer, and no metric of it true.
        """
        was_training, device = self.training, self.device
        self.eval()
        parts: list[Field] = [ArrayField(pixels, device, stay=False)]
        if bank is not None and indices is not None:
            parts.append(NeighbourField(indices, bank))
        chunks = [
            self(to_float(images), *retrieved).float()
            for images, *retrieved in BatchLoader(device, *parts).batches(
                pad_rows(len(pixels)), CHUNK
            )
        ]
        self.train(was_training)
        logits = np.asarray(torch.cat(chunks)[: len(pixels)].cpu().numpy())
        wrong = int((~np.isfinite(logits)).any(axis=1).sum())
        if wrong:
            raise UserError(
                f"the classifier gave {wrong:,} of {len(logits):,} images logits that are not "
                "finite: lower train.learning_rate, and run rapipe train again"
            )
        return logits

    def attention(self, pixels: Pixels, bank: DeviceBank, indices: Indices) -> np.ndarray:
        """How much images (N, H, W, 3) attend to each neighbour: (N, K) float32, rows sum to 1.

        The mean over tokens and heads, then over the places of the backbone.
        """
        seen: list[Tensor] = []

        def note(fusion: Any, given: Any, _: Tensor) -> None:
            seen.append(fusion.weights(*given).float().cpu())

        hooks = [fusion.register_forward_hook(note) for fusion in self.fusions]
        try:
            self.predict(pixels, bank, indices)
        finally:
            for hook in hooks:
                hook.remove()
        n, step = len(pixels), len(hooks)
        places = [torch.cat(seen[place::step])[:n] for place in range(step)]
        return np.asarray(torch.stack(places).mean(dim=0).numpy())

    def write(self, folder: Path, facts: dict[str, Any]) -> None:
        """Write the weights, and a card with the spec and facts about the training."""
        weights.write(folder, self, self.spec, facts)

    @classmethod
    def read(cls, folder: Path) -> tuple[Classifier, dict[str, Any]]:
        """The classifier that `write` wrote, and its card; `UserError` if it does not load."""
        card = weights.read_card(folder, "train")
        classifier = cls(ClassifierSpec(**card["spec"]))
        weights.fill(classifier, folder, card, "train")
        return classifier.eval(), card
