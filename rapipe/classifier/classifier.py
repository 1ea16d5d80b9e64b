"""Backbone, fusion and head: images and their neighbours -> logits.

Letters: B batch, N images, D embedding, K neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import chain, islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from rapipe.batches.loader import ROW_MULTIPLE, ArrayField, BatchLoader, pad_rows
from rapipe.batches.transforms import to_float
from rapipe.classifier.fusions import FUSIONS, ApartFusion
from rapipe.classifier.heads import HEADS
from rapipe.classifier.neighbour_batch import (
    DeviceBank,
    NeighbourBatch,
    Shown,
    fields_of,
    join,
    project_banks,
)
from rapipe.encoder.backbones import Fuse, no_fusion
from rapipe.encoder.encoder import EncoderSpec
from rapipe.errors import UserError
from rapipe.io import weights
from rapipe.metrics import MIN_PROBABILITY
from rapipe.progress import track
from rapipe.records import Indices, Pixels, Similarities, Vectors
from rapipe.specs import VECTORS, FusionSpec

Record = Callable[[Tensor], object]

Said = dict[bytes, np.ndarray]
"""What a network says of images: logits (N, classes), by a digest of their pixels."""
KEPT = 1 << 30
"""Bytes of them, after which no more are kept."""
BRANCHES = 8
"""Sets of neighbours that are predicted with at once, at most: what they share costs an eighth."""


@dataclass(frozen=True)
class ClassifierSpec:
    """What is needed to build the network again, and to prepare its input."""

    network: EncoderSpec
    """Its backbone, and how images are normalised."""
    classes: int
    head: str = "linear"
    """Its name in the table of heads."""
    frozen: bool = False
    """The backbone stays as it is; what is put onto it learns: the head, and the fusion.

    Its features are standardised, without weights, as in the linear evaluation of MAE (He et
    al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022, appendix A.1): a head on
    features of any scale learns at the same rate.
    """
    fusion: FusionSpec | None = None
    """How neighbours enter; None for a classifier without retrieval."""
    dimension: int = 0
    """D of the neighbours' vectors; 0 without retrieval."""
    similarity: tuple[float, float] = (0.0, 1.0)
    """Mean and standard deviation of the neighbours' similarities in training.

    By which a fusion sees them standardised: encoders differ in what is similar.
    """

    @classmethod
    def of_card(cls, spec: dict[str, Any]) -> ClassifierSpec:
        """The spec that a card holds."""
        lists = {name: tuple(spec["network"][name]) for name in ("mean", "std")}
        network = EncoderSpec(**{**spec["network"], **lists})
        fusion = FusionSpec(**spec["fusion"]) if spec["fusion"] else None
        similarity = tuple(spec.get("similarity", cls.similarity))  # not in cards of older versions
        return cls(**{**spec, "network": network, "fusion": fusion, "similarity": similarity})


class Classifier(nn.Module):
    """A backbone and a head; with retrieval, a `Fusion` of tokens or of what the head says.

    One of tokens is at each stage of the backbone, or at the last.

    >>> spec = ClassifierSpec(EncoderSpec.of(train), len(train.classes))
    >>> Classifier(spec).predict(test.pixels).argmax(axis=1)
    """

    def __init__(self, spec: ClassifierSpec) -> None:
        super().__init__()
        self.spec = spec
        network, fusion = spec.network, spec.fusion
        self.preprocess = network.preprocess()
        self.backbone = network.build()
        self.head = HEADS[spec.head](self.backbone.widths[-1], self.backbone.features, spec.classes)
        kind = FUSIONS[fusion.fusion] if fusion else None
        self.inputs = kind.inputs_of(fusion) if kind and fusion else frozenset()
        """What the fusion sees of neighbours."""
        self.late = kind is not None and kind.late
        self.apart = kind is not None and issubclass(kind, ApartFusion)
        """Whether network and fusion learn apart."""
        self.abstains = kind is not None and fusion is not None and kind.abstains(fusion)
        """Whether the fusion may pass neighbours by."""
        widths = self.backbone.widths if fusion else ()
        self.first_stage = len(widths) - 1 if fusion and fusion.stages == "last" else 0
        places = (self.backbone.features,) if self.late else widths[self.first_stage :]
        self.fusions = nn.ModuleList(
            kind(width, spec.dimension, spec.classes, fusion) for width in places if kind and fusion
        )
        self.said: Said | None = None
        """Where what the network says is kept, for whoever predicts for the same images again, or
        has the same network; as long as no weight changes. Of a fusion that learns apart, or none.
        """
        self.standardise: nn.Module = nn.Identity()
        if spec.frozen:
            self.backbone.requires_grad_(False).eval()
            if not self.head.normalises:
                self.standardise = nn.BatchNorm1d(self.backbone.features, affine=False)

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.preprocess.device

    def train(self, mode: bool = True) -> Classifier:
        """A frozen backbone stays in evaluation mode: no dropout, and its BatchNorm never moves."""
        super().train(mode)
        if self.spec.frozen:
            self.backbone.eval()
        return self

    def forward(self, images: Tensor, neighbours: NeighbourBatch | None = None) -> Tensor:
        """Images (B, 3, S, S) in [0, 1], and their neighbours -> logits (B, classes)."""
        return self._forward(images, [neighbours])

    def _forward(
        self,
        images: Tensor,
        neighbours: Sequence[NeighbourBatch | None],
        record: Record | None = None,
    ) -> Tensor:
        """Logits with each of R sets of neighbours, one after the other: (R * B, classes).

        Args:
            record: called with the attention to the first set, which is not None, at each stage.
        """
        plain = self.late or neighbours == [None]
        features, logits = self._say(images, no_fusion if plain else self._fuse(neighbours, record))
        if self.late:
            late: Any = self.fusions[0]
            shown = [own if own is None else self.standardised(own) for own in neighbours]
            if record:
                record(late.weights(features, logits, shown[0]))
            branches = [
                late.alone(logits) if own is None else late(features, logits, own) for own in shown
            ]
            logits = torch.cat(branches) if len(branches) > 1 else branches[0]
        return logits

    def _say(self, images: Tensor, fuse: Fuse = no_fusion) -> tuple[Tensor, Tensor]:
        """Features (B, F), and logits (B, classes) before any late fusion."""
        last_tokens: list[Tensor] = []

        def fuse_and_record(stage: int, tokens: Tensor) -> Tensor:
            last_tokens[:] = [fuse(stage, tokens)]
            return last_tokens[0]

        # Only for a head that wants tokens: else no map need become tokens without a fusion.
        callback = fuse_and_record if self.head.wants_tokens else fuse
        features = self.standardise(self.backbone(self.preprocess(images), callback))
        logits: Tensor = self.head(features, *last_tokens)
        return features, logits

    def beside(self, spec: FusionSpec | None, **facts: Any) -> Classifier:
        """One with another fusion, which learns apart, or none; they share the very same network.

        Args:
            facts: `dimension` and `similarity` of its spec.
        """
        other = Classifier(replace(self.spec, fusion=spec, **facts))
        other.preprocess, other.backbone = self.preprocess, self.backbone
        other.head, other.standardise = self.head, self.standardise
        return other.train(self.training)

    def fused(self, logits: Tensor, neighbours: NeighbourBatch) -> Tensor:
        """What a fusion that learns apart makes of what the network says: (B, classes)."""
        (fusion,) = self.fusions
        fused: Tensor = fusion(logits[:, :0], logits.detach(), self.standardised(neighbours))
        return fused

    @torch.inference_mode()
    def fuse_each(
        self, logits: np.ndarray, shown: Sequence[Shown], record: Record | None = None
    ) -> list[np.ndarray]:
        """What `predict_with_each` returns, of what the network says of the images (N, classes).

        Of a fusion that learns apart, and needs nothing else; without one it is what was said.
        """
        if not self.fusions:
            return [logits] * len(shown)
        was_training, (fusion,) = self.fusions.training, cast("Any", self.fusions)
        self.fusions.eval()
        projections = project_banks(shown, [fusion.project]) if VECTORS in self.inputs else {}
        answers: list[np.ndarray] = []
        for own in track(shown, "showing neighbours", len(shown)):
            projected = projections.get(own.bank) if own.bank else None
            fields = fields_of(own, self.device, self.inputs, False, projected)
            loader = BatchLoader(self.device, ArrayField(logits, self.device, False), *fields)
            chunks: list[Tensor] = []
            for said, *parts in loader.batches(pad_rows(len(logits)), ROW_MULTIPLE):
                neighbours = join(parts)
                if neighbours is None:
                    chunks.append(fusion.alone(said))
                    continue
                if record and not answers:
                    standardised = self.standardised(neighbours)
                    record(fusion.weights(said[:, :0], said, standardised))
                chunks.append(self.fused(said, neighbours))
            answers.append(torch.cat(chunks)[: len(logits)].cpu().numpy())
        self.fusions.train(was_training)
        return answers

    def standardised(self, neighbours: NeighbourBatch) -> NeighbourBatch:
        """The same with the similarities that a fusion sees."""
        if neighbours.similarities is None:
            return neighbours
        mean, std = self.spec.similarity
        return neighbours._replace(similarities=(neighbours.similarities - mean) / std)

    def _fuse(
        self, neighbours: Sequence[NeighbourBatch | None], record: Record | None = None
    ) -> Fuse:
        """One set of neighbours, or several for the same images, which then branch."""
        shown = [own if own is None else self.standardised(own) for own in neighbours]

        def fuse(stage: int, tokens: Tensor) -> Tensor:
            if stage < self.first_stage:
                return tokens
            count, fusion = len(neighbours), cast("Any", self.fusions[stage - self.first_stage])
            branches = [tokens] * count if stage == self.first_stage else tokens.chunk(count)
            if record:
                record(fusion.weights(branches[0], shown[0]))
            pairs = zip(branches, shown, strict=True)
            fused = [part if own is None else fusion(part, own) for part, own in pairs]
            return torch.cat(fused) if count > 1 else fused[0]

        return fuse

    def predict(
        self,
        pixels: Pixels,
        bank: DeviceBank | None = None,
        indices: Indices | None = None,
        query_vectors: Vectors | None = None,
        similarities: Similarities | None = None,
    ) -> np.ndarray:
        """Logits (N, classes) float32 of images (N, H, W, 3), in evaluation mode.

        Those of an image do not depend on which others there are, nor on how many.

        Args:
            bank, indices: the memory, and rows (N, K) of it; without both, no image has
                neighbours.
            query_vectors: (N, D) of the images themselves, if they are to be seen too.
            similarities: (N, K) of the rows to the images, for a fusion that sees them.

        Raises:
            ArgumentError: the fusion sees similarities, and there are none.
            UserError: a logit is not finite: it would be no answer, and no metric of it true.
        """
        shown = Shown(bank, indices, query_vectors, similarities)
        return self.predict_with_each(pixels, [shown])[0]

    @torch.inference_mode()
    def predict_with_each(
        self, pixels: Pixels, shown: Sequence[Shown], record: Record | None = None
    ) -> list[np.ndarray]:
        """What `predict` returns, if the same images are shown each of these.

        As often as the backbone can, what comes before the first fusion is computed once.

        Args:
            record: called for each batch, the last of which is filled up, and each stage with the
                attention (B, heads, T, K) to the first of these, which are neighbours.
        """
        was_training, device = self.training, self.device
        self.eval()
        if self.apart or not self.fusions:
            answers = self.fuse_each(self._said_of(pixels), shown, record)
            self.train(was_training)
            return _finite(answers)
        projects: list[Any] = [fusion.project for fusion in self.fusions]
        projections = project_banks(shown, projects) if VECTORS in self.inputs else {}
        together = 1
        if (self.backbone.branches or self.late) and self.fusions:
            together = min(len(shown), BRANCHES)
        size = self.preprocess.batch_size if together == 1 else ROW_MULTIPLE
        logits: list[np.ndarray] = []
        images = ArrayField(pixels, device, resident=len(shown) > together)
        starts = range(0, len(shown), together)
        for start in track(starts, "showing other neighbours", len(starts)):
            sets = shown[start : start + together]
            fields = [
                fields_of(
                    own, device, self.inputs, False, projections.get(own.bank) if own.bank else None
                )
                for own in sets
            ]
            loader = BatchLoader(device, images, *chain(*fields))
            counts = [len(own) for own in fields]
            chunks: list[list[Tensor]] = [[] for _ in sets]
            for batch, *parts in loader.batches(pad_rows(len(pixels)), size):
                numbers = iter(parts)
                neighbours = [join(list(islice(numbers, count))) for count in counts]
                recorded = None if start else record
                both = self._forward(to_float(batch), neighbours, recorded).float()
                branches = both.chunk(len(sets))
                for own, branch in zip(chunks, branches, strict=True):
                    own.append(branch)
            logits += [torch.cat(own)[: len(pixels)].cpu().numpy() for own in chunks]
        self.train(was_training)
        return _finite(logits)

    def _said_of(self, pixels: Pixels) -> np.ndarray:
        """What the network says of images: (N, classes) float32, in evaluation mode."""
        key = b""
        if self.said is not None:
            key = sha256(f"{pixels.shape}".encode() + pixels.tobytes()).digest()
            if key in self.said:
                return self.said[key]
        loader = BatchLoader(self.device, ArrayField(pixels, self.device, resident=False))
        batches = loader.batches(pad_rows(len(pixels)), self.preprocess.batch_size)
        chunks = [self._say(to_float(batch))[1].float() for (batch,) in batches]
        said = torch.cat(chunks)[: len(pixels)].cpu().numpy()
        if self.said is not None and sum(kept.nbytes for kept in self.said.values()) < KEPT:
            self.said[key] = said
        return said

    def attention(self, pixels: Pixels, shown: Shown) -> np.ndarray:
        """How much images (N, H, W, 3) attend to each neighbour: (N, K) float32.

        As `predict_with_attention` has it.
        """
        return self.predict_with_attention(pixels, [shown])[1]

    def predict_with_attention(
        self, pixels: Pixels, shown: Sequence[Shown]
    ) -> tuple[list[np.ndarray], np.ndarray]:
        """What `predict_with_each` returns, and the attention to each neighbour of the first.

        It is (N, K) float32; rows sum to 1, or to less where something else has a share. The mean
        over tokens and heads, then over the stages where neighbours enter. With query vectors
        (N, 1 + K): an image's own vector comes first.
        """
        logits, by_stage = self._with_attention(lambda w: w.mean(dim=(1, 2)), pixels, shown)
        return logits, np.asarray(torch.stack(by_stage).mean(dim=0).numpy())

    def attention_entropy(self, pixels: Pixels, shown: Shown) -> list[np.ndarray]:
        """Entropy of each head's attention to K neighbours: (N, heads) float32, one a stage.

        As `head_entropy`; of an image's own vector nothing counts. K is at least 2.
        """
        k = 0 if shown.indices is None else shown.indices.shape[1]
        _, by_stage = self._with_attention(lambda w: head_entropy(w[..., -k:]), pixels, [shown])
        return [entropy.numpy() for entropy in by_stage]

    def _with_attention(
        self, reduce: Callable[[Tensor], Tensor], pixels: Pixels, shown: Sequence[Shown]
    ) -> tuple[list[np.ndarray], list[Tensor]]:
        """Logits, and what `reduce` makes of the attention: (N, ...), one a stage."""
        batches: list[Tensor] = []
        logits = self.predict_with_each(
            pixels, shown, lambda weights: batches.append(reduce(weights.float()).cpu())
        )
        n, stages = len(pixels), len(self.fusions)
        return logits, [torch.cat(batches[stage::stages])[:n] for stage in range(stages)]

    def network_digest(self) -> str:
        """Of what the network says: classifiers that share one have the same."""
        spec = self.spec
        digest = sha256(repr((spec.network, spec.classes, spec.head, spec.frozen)).encode())
        for name, part in self.state_dict().items():
            if not name.startswith("fusions."):
                digest.update(name.encode() + part.cpu().numpy().tobytes())
        return digest.hexdigest()

    def write(self, folder: Path, facts: dict[str, Any]) -> None:
        """Write the weights, and a card with the spec and facts about the training."""
        weights.write(folder, self, self.spec, facts)

    @classmethod
    def read(cls, folder: Path) -> tuple[Classifier, dict[str, Any]]:
        """The classifier that `write` wrote, and its card; `UserError` if it does not load."""
        card = weights.read_card(folder, "train")
        classifier = cls(ClassifierSpec.of_card(card["spec"]))
        weights.fill(classifier, folder, card, "train")
        return classifier.eval(), card


def _finite(answers: list[np.ndarray]) -> list[np.ndarray]:
    """The same logits, each (N, classes); `UserError` if one is not finite."""
    failures = int(sum((~np.isfinite(own)).any(axis=1).sum() for own in answers))
    if failures:
        raise UserError(
            f"the classifier gave {failures:,} of {sum(map(len, answers)):,} images logits "
            "that are not finite: train it again (rapipe train), with a lower learning rate"
        )
    return answers


def head_entropy(weights: Tensor) -> Tensor:
    """Entropy (B, H) of the attention (B, H, T, K) of each of H heads; mean over the T tokens.

    As a share of log K: 1 where a head attends to all K alike, 0 where it attends to one. Where
    something else takes a part of the attention, the rest is made to sum to 1 first.

    Source: Clark et al., "What Does BERT Look At?", BlackboxNLP 2019.
    """
    shares = weights / weights.sum(dim=-1, keepdim=True).clamp_min(MIN_PROBABILITY)
    entropy: Tensor = torch.special.entr(shares).sum(dim=-1).mean(dim=-1)
    return entropy / math.log(weights.shape[-1])
