"""`train_classifier`: images and their neighbours -> a trained classifier.

Letters: N images, K neighbours, D embedding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from pytorch_lightning.loggers import Logger
from torch import Tensor, nn

from rapipe import metrics
from rapipe.classifier.classifier import Classifier, ClassifierSpec
from rapipe.classifier.fusions import FUSIONS, ApartFusion
from rapipe.classifier.module import ClassifierModule, Company, Teacher
from rapipe.classifier.neighbour_batch import DeviceBank, Shown
from rapipe.classifier.stacking import View, stack
from rapipe.device import deterministic, device
from rapipe.encoder.backbones import Backbone
from rapipe.encoder.encoder import EncoderSpec
from rapipe.errors import ArgumentError
from rapipe.records import UNLABELLED, Embeddings, Images, Neighbours, Pixels, Similarities
from rapipe.specs import SIMILARITIES, VECTORS, FusionSpec, TrainingRecipe
from rapipe.training import ranks
from rapipe.training.callbacks import BestEpoch, History, Row
from rapipe.training.compilation import compile_network
from rapipe.training.loop import fit
from rapipe.training.module import TrainingModule
from rapipe.training.precision import precision_of
from rapipe.training.tuner import Tuned

NOT_FOR_SELECTION = "_not_for_selection"
"""Behind the names of what is measured on test images while a classifier learns."""


@dataclass(frozen=True)
class TrainedClassifier:
    """A classifier with the weights of its best epoch, and how it got them."""

    classifier: Classifier
    history: list[Row]
    """A row a measurement: epoch, step, images_seen, loss (what was minimised, a mean of the steps
    since the last row), train_top1, validation_top1 and validation_loss, and where a test split
    was given test_top1_not_for_selection and test_loss_not_for_selection. Accuracies are from 0 to
    1; losses of whole splits are cross-entropies in nats."""
    best: Row
    """The row of the epoch that was best on validation. A fusion that learns apart was fitted once
    more after that of its network, and validation_top1 and validation_loss are those of the end."""
    tuned: Tuned
    """What `recipe.tune` found."""
    beside: Mapping[str, TrainedClassifier] = field(default_factory=dict)
    """Those that were trained beside it; they have this very network, and share it."""

    @property
    def parameters(self) -> int:
        """How many numbers the network has."""
        return sum(p.numel() for p in self.classifier.parameters())

    @property
    def trained_parameters(self) -> int:
        """How many of them learned."""
        return sum(p.numel() for p in self.classifier.parameters() if p.requires_grad)


class Beside(NamedTuple):
    """A fusion, and what it is shown: arguments of `train_classifier`, which explains them."""

    neighbours: Mapping[str, Neighbours]
    bank: Embeddings
    fusion: FusionSpec
    noisy_neighbours: Neighbours | None = None

    @property
    def is_apart(self) -> bool:
        """Whether the fusion learns apart from the network."""
        return issubclass(FUSIONS[self.fusion.fusion], ApartFusion)

    def facts(self) -> dict[str, Any]:
        """Of a `ClassifierSpec`."""
        facts: dict[str, Any] = {"dimension": self.bank.vectors.shape[1]}
        if SIMILARITIES in FUSIONS[self.fusion.fusion].inputs_of(self.fusion):
            facts["similarity"] = _moments(self.neighbours["train"].similarities)
        return facts

    def take(self, rows: npt.NDArray[np.int64]) -> Beside:
        """The same of some training images."""
        train, noisy = self.neighbours["train"].take(rows), self.noisy_neighbours
        return self._replace(
            neighbours={**self.neighbours, "train": train},
            noisy_neighbours=noisy and noisy.take(rows),
        )

    def check(self, images: Mapping[str, Images]) -> None:
        """Raise `ArgumentError` unless these are neighbours of these images."""
        neighbours, bank, fusion, noisy = self
        d, train = bank.vectors.shape[1], neighbours.get("train")
        if noisy and train and (noisy.k, noisy.with_self) != (train.k, train.with_self):
            raise ArgumentError(
                f"`noisy_neighbours` show {noisy.k} rows of `bank`, but `neighbours` of train show "
                f"{train.k}: retrieve both with one strategy"
            )
        if noisy and not np.array_equal(noisy.query_ids, images["train"].ids):
            raise ArgumentError("`noisy_neighbours` are of other images than `images` of train")
        for split in images:
            if split not in neighbours:
                raise ArgumentError(f"`neighbours` has no {split} split, but `images` has")
            if not np.array_equal(neighbours[split].query_ids, images[split].ids):
                raise ArgumentError(f"`neighbours` of {split} are of other images than `images`")
            vectors = neighbours[split].query_vectors
            if vectors is not None and vectors.shape[1] != d:
                raise ArgumentError(
                    f"`neighbours` of {split} hold query vectors of {vectors.shape[1]} dimensions, "
                    f"but those of `bank` have {d}: embed both with one encoder"
                )
            if vectors is not None and VECTORS not in FUSIONS[fusion.fusion].inputs_of(fusion):
                raise ArgumentError(
                    f"`neighbours` of {split} hold the images' own vectors, but with `fusion`: "
                    f"{fusion.fusion} and `attend`: {fusion.attend} no vector is seen"
                )


FUSED = "fused"
"""The name of one that is alone beside its network."""
SHARED = ("epoch", "step", "images_seen")
"""Columns of a history that are the same for all that have one network."""


def train_classifier(
    images: Mapping[str, Images],
    neighbours: Mapping[str, Neighbours] | None = None,
    bank: Embeddings | None = None,
    *,
    network: EncoderSpec | None = None,
    head: str = "linear",
    frozen: bool = False,
    fusion: FusionSpec = FusionSpec(),  # noqa: B008 - frozen
    recipe: TrainingRecipe = TrainingRecipe(),  # noqa: B008
    initial: Backbone | None = None,
    projection: Mapping[str, Tensor] | None = None,
    noise_std: float = 0.0,
    noisy_neighbours: Neighbours | None = None,
    noisy_pixels: Pixels | None = None,
    teacher: Teacher | None = None,
    seed: int = 0,
    checkpoints: Path | None = None,
    loggers: Sequence[Logger] = (),
    beside: Mapping[str, Beside] = MappingProxyType({}),
) -> TrainedClassifier:
    """Train one classifier, with neighbours or without; the epoch best on validation is kept.

    With a fusion that learns apart it is the network's best epoch.

        >>> neighbours = {name: retriever.retrieve(images) for name, images in splits.items()}
        >>> classifier = train_classifier(splits, neighbours, retriever.bank).classifier

    Args:
        images: `train` and `validation`; accuracy and loss on `test`, if given, are recorded and
            used for nothing. Training images without a label are left out, unless there is a
            teacher.
        neighbours: by split, of the same images, as rows of `bank`, and with the images' own
            vectors where these are shown; none for a plain classifier.
        bank: the embeddings (N, D) that may be looked up.
        network: a ResNet-18 of width 16 unless given.
        head: its name in the table of heads.
        frozen: only head and fusion learn.
        initial: a backbone with the weights to start from; random ones unless given.
        projection: weights that the layer of the head `projection` starts from, as `pretrain`
            returns them; random ones unless given.
        noise_std: of Gaussian noise on half of the images of an epoch, where white is 1.
        noisy_neighbours: of noisy copies of the training images, in their rows; half of the images
            of an epoch are shown these, and with `noise_std` it is the noisy ones.
        noisy_pixels: those copies (N, H, W, 3), which a fusion that learns apart needs.
        seed: of initial weights, batches and all that is drawn.
        checkpoints: a folder of this training alone, from which it goes on if it was interrupted;
            it stays, for the caller to remove once the result is saved.
        loggers: get each row of the history; of fusions that learn apart behind their names.
        beside: by name, more fusions that learn apart, each with neighbours of its own. They have
            one network and its steps: so many cost hardly more than one, and all are as if each
            had been trained by itself. `beside` of the result has them, the rest is the network's.

    Raises:
        ArgumentError: neighbours and images do not fit each other, training diverges, or torch
            cannot compile the network.
    """
    ranks.join(recipe.devices, recipe.nodes)
    if (neighbours is None) != (bank is None):
        raise ArgumentError("`neighbours` and `bank` go together: give both, or neither")
    own, alone = None, False
    if neighbours is not None and bank is not None:
        if beside:
            raise ArgumentError("`beside` is of a network that has no `neighbours`")
        given = Beside(neighbours, bank, fusion, noisy_neighbours)
        own, alone = (None, True) if given.is_apart else (given, False)
        beside = {FUSED: given} if alone else beside
    _check(images, [own] if own else beside.values(), bool(beside), noisy_pixels)
    if teacher is None:
        known = np.flatnonzero(images["train"].labels != UNLABELLED)
        if len(known) < len(images["train"]):
            images = {**images, "train": images["train"].take(known)}
            noisy_pixels = None if noisy_pixels is None else noisy_pixels[known]
            own = own and own.take(known)
            beside = {name: other.take(known) for name, other in beside.items()}
    classes = len(images["train"].classes)
    spec = ClassifierSpec(network or EncoderSpec.of(images["train"]), classes, head, frozen)
    torch.manual_seed(seed)
    classifier = Classifier(replace(spec, fusion=own.fusion, **own.facts()) if own else spec)
    if initial is not None:
        classifier.backbone.load_state_dict(initial.state_dict())
    if projection is not None:
        layers: Any = classifier.head.layers
        layers.load_state_dict(projection)
    if not noise_std:  # which belongs on the image as it is stored
        preprocess = classifier.preprocess.to(device())
        images = {split: preprocess.shrink(part) for split, part in images.items()}
    banks: dict[tuple[int, torch.dtype], DeviceBank] = {}

    def memory(shown: Beside | None, dtype: torch.dtype = torch.float32) -> Any:
        """Those of one bank share one."""
        if shown is None:
            return None
        key = id(shown.bank), dtype
        if key not in banks:
            banks[key] = DeviceBank(shown.bank, classes, device(), dtype)
        return banks[key]

    learning = torch.bfloat16 if precision_of(recipe.precision) == "bf16" else torch.float32
    members = {"": _Member(classifier, own and own.neighbours, memory(own))}
    company = {}
    for name, shown in beside.items():
        torch.manual_seed(seed)
        other = classifier.beside(shown.fusion, **shown.facts())
        members[name] = _Member(other, shown.neighbours, memory(shown))
        noisy = shown.noisy_neighbours if noise_std else None
        company[name] = Company(other, memory(shown, learning), shown.neighbours["train"], noisy)
    module = ClassifierModule(
        classifier,
        images["train"],
        own and own.neighbours["train"],
        memory(own, learning),
        recipe,
        seed,
        noise_std,
        own and own.noisy_neighbours,
        teacher,
        company,
    )
    with deterministic(recipe.deterministic):
        history, best, tuned = _fit(module, images, members, checkpoints, loggers)
        classifier.to(device())
        if beside:
            with torch.compiler.set_stance("force_eager"):
                _stack(classifier, members, beside, images["train"], noisy_pixels)
                best.update(_scores(images, members, "validation"))
    trained = {}
    for name, (own_classifier, *_) in members.items():
        rows = [_own(name, row) for row in history]
        own_classifier.cpu().eval()
        trained[name] = TrainedClassifier(own_classifier, rows, _own(name, best), tuned)
    return trained[FUSED] if alone else replace(trained.pop(""), beside=trained)


class _Member(NamedTuple):
    """The network, under the name "", or a classifier beside it."""

    classifier: Classifier
    neighbours: Mapping[str, Neighbours] | None
    bank: DeviceBank | None

    def shown(self, split: str) -> Shown:
        return Shown.of(self.bank, self.neighbours[split] if self.neighbours else None)


Members = Mapping[str, _Member]


def _fit(
    module: ClassifierModule,
    images: Mapping[str, Images],
    members: Members,
    checkpoints: Path | None,
    loggers: Sequence[Logger],
) -> tuple[list[Row], Row, Tuned]:
    """Train to the end of the recipe, and put the weights of the network's best epoch back.

    Returns:
        Rows of all, as `_scores` names them, that of the best epoch, and what was tuned.
    """
    recipe = module.recipe
    precision = precision_of(recipe.precision)
    if recipe.compile:
        compile_network(module, precision)

    def scores(split: str, suffix: str = "") -> Row:
        with torch.compiler.set_stance("force_eager") if recipe.compile else nullcontext():
            return _scores(images, members, split, suffix)

    def measure(module: TrainingModule) -> Row:
        row = {}
        for name in members:
            prefix = name and f"{name}/"
            if name:
                row[f"{prefix}loss"] = module.pop_loss(f"{prefix}loss")
            # nan where no image has a label
            row[f"{prefix}train_top1"] = module.pop_mean(f"{prefix}correct")
        row |= scores("validation")
        return row | scores("test", NOT_FOR_SELECTION) if "test" in images else row

    history = History(measure, recipe.probe_every, recipe.measure_every)
    learners = nn.ModuleList(module.learners())
    best = BestEpoch(learners, history, "validation_top1")
    tuned = fit(module, [history, best], checkpoints, precision, loggers, keep=True)
    return history.rows, dict(best.restore()), tuned


def _scores(images: Mapping[str, Images], members: Members, split: str, suffix: str = "") -> Row:
    """Accuracy and loss of each, its name and / before it; what the network says is said once."""
    pixels, labels = images[split].pixels, images[split].labels
    row, said = {}, np.empty(0)
    for name, member in members.items():
        shown, prefix = member.shown(split), name and f"{name}/"
        if name:
            (logits,) = member.classifier.fuse_each(said, [shown])
        else:
            said = logits = member.classifier.predict(pixels, *shown)
        row[f"{prefix}{split}_top1{suffix}"] = metrics.top_k(logits, labels, 1)
        row[f"{prefix}{split}_loss{suffix}"] = metrics.nll(metrics.softmax(logits), labels)
    return row


def _own(name: str, row: Row) -> Row:
    """What a row of all says of one."""
    if not name:
        return {key: value for key, value in row.items() if "/" not in key}
    prefix = f"{name}/"
    own = {k.removeprefix(prefix): value for k, value in row.items() if k.startswith(prefix)}
    return {key: row[key] for key in SHARED} | own


def _stack(
    network: Classifier,
    members: Members,
    beside: Mapping[str, Beside],
    images: Images,
    noisy_pixels: Pixels | None,
) -> None:
    """Fit all fusions once more, to what the network says of images and of noisy copies."""
    said = [network.predict(images.pixels)]
    if noisy_pixels is not None:
        said.append(network.predict(noisy_pixels))
    for name, shown in beside.items():
        classifier, _, bank = members[name]
        assert bank is not None
        views = [View(said[0], shown.neighbours["train"])]
        if shown.noisy_neighbours is not None:
            views.append(View(said[1], shown.noisy_neighbours))
        stack(classifier, bank, views, images.labels)


def _moments(similarities: Similarities) -> tuple[float, float]:
    """Mean and standard deviation; 0 and 1 of none, or of equal ones."""
    if not similarities.size:
        return 0.0, 1.0
    return float(similarities.mean(dtype=float)), float(similarities.std(dtype=float)) or 1.0


def _check(
    images: Mapping[str, Images],
    sets: Iterable[Beside],
    apart: bool,
    noisy_pixels: Pixels | None,
) -> None:
    """Raise `ArgumentError` unless all splits are there, and neighbours are theirs.

    Args:
        apart: whether fusions learn apart.
    """
    for split in ("train", "validation"):
        if split not in images:
            raise ArgumentError(f"`images` has no {split} split, only {', '.join(images)}")
    for shown in sets:
        shown.check(images)
        name = shown.fusion.fusion
        if apart and not shown.is_apart:
            raise ArgumentError(f"`beside`: a network learns from {name} too: train it by itself")
        if apart and (shown.noisy_neighbours is None) != (noisy_pixels is None):
            raise ArgumentError(
                f"`fusion`: {name} learns what the network says of noisy images too: give "
                "`noisy_neighbours` and `noisy_pixels`, or neither"
            )
