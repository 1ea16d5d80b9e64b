"""`train_classifier`: images and their neighbours -> a trained classifier.

Letters: N images, K neighbours, D embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pytorch_lightning.loggers import Logger
from torch import Tensor

from rapipe import metrics
from rapipe.classifier.classifier import Classifier, ClassifierSpec
from rapipe.classifier.fusions import FUSIONS
from rapipe.classifier.module import ClassifierModule, Teacher
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
    """The row of the epoch that was best on validation; after it a fusion that learns apart was
    fitted once more, and validation_top1 and validation_loss are those of the end."""
    tuned: Tuned
    """What `recipe.tune` found."""

    @property
    def parameters(self) -> int:
        """How many numbers the network has."""
        return sum(p.numel() for p in self.classifier.parameters())

    @property
    def trained_parameters(self) -> int:
        """How many of them learned."""
        return sum(p.numel() for p in self.classifier.parameters() if p.requires_grad)


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
) -> TrainedClassifier:
    """Train one classifier, with neighbours or without; the epoch best on validation is kept.

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
        loggers: get each row of the history.

    Raises:
        ArgumentError: neighbours and images do not fit each other, training diverges, or torch
            cannot compile the network.
    """
    ranks.join(recipe.devices, recipe.nodes)
    if teacher is None:
        if noisy_pixels is not None:
            noisy_pixels = noisy_pixels[images["train"].labels != UNLABELLED]
        images, neighbours, noisy_neighbours = _labelled(images, neighbours, noisy_neighbours)
    _check(images, neighbours, bank, fusion, noisy_neighbours)
    classes = len(images["train"].classes)
    spec = ClassifierSpec(network or EncoderSpec.of(images["train"]), classes, head, frozen)
    if bank is not None:
        spec = replace(spec, fusion=fusion, dimension=bank.vectors.shape[1])
        if neighbours and SIMILARITIES in FUSIONS[fusion.fusion].inputs_of(fusion):
            spec = replace(spec, similarity=_moments(neighbours["train"].similarities))
    torch.manual_seed(seed)
    classifier = Classifier(spec)
    if initial is not None:
        classifier.backbone.load_state_dict(initial.state_dict())
    if projection is not None:
        layers: Any = classifier.head.layers
        layers.load_state_dict(projection)
    apart = classifier.apart
    if apart and (noisy_neighbours is None) != (noisy_pixels is None):
        raise ArgumentError(
            f"`fusion`: {fusion.fusion} learns what the network says of noisy images too: give "
            "`noisy_neighbours` and `noisy_pixels`, or neither"
        )
    if not noise_std:  # which belongs on the image as it is stored
        preprocess = classifier.preprocess.to(device())
        images = {split: preprocess.shrink(part) for split, part in images.items()}
    data = _Data(images, neighbours, DeviceBank(bank, classes, device()) if bank else None)
    train, its_neighbours, memory = data.of("train")
    if bank is not None and precision_of(recipe.precision) == "bf16":
        memory = DeviceBank(bank, classes, device(), torch.bfloat16)
    module = ClassifierModule(
        classifier,
        train,
        its_neighbours,
        memory,
        recipe,
        seed,
        noise_std,
        None if apart and not noise_std else noisy_neighbours,
        teacher,
    )
    views = [View(train.pixels, its_neighbours)] if apart and its_neighbours else []
    if views and noisy_neighbours is not None and noisy_pixels is not None:
        views.append(View(noisy_pixels, noisy_neighbours))
    with deterministic(recipe.deterministic):
        trained = _fit(module, data, checkpoints, loggers)
        if views and memory:
            with torch.compiler.set_stance("force_eager"):
                stack(classifier.to(device()), memory, views, train.labels)
                trained.best.update(_scores(classifier, data, "validation"))
            classifier.cpu().eval()
        return trained


class _Data(NamedTuple):
    images: Mapping[str, Images]
    neighbours: Mapping[str, Neighbours] | None
    bank: DeviceBank | None

    def of(self, split: str) -> tuple[Images, Neighbours | None, DeviceBank | None]:
        return self.images[split], self.neighbours[split] if self.neighbours else None, self.bank


def _fit(
    module: ClassifierModule, data: _Data, checkpoints: Path | None, loggers: Sequence[Logger]
) -> TrainedClassifier:
    """Train to the end of the recipe, and put the weights of the best epoch back."""
    classifier, recipe = module.network, module.recipe
    precision = precision_of(recipe.precision)
    if recipe.compile:
        compile_network(module, precision)

    def scores(split: str, suffix: str = "") -> Row:
        with torch.compiler.set_stance("force_eager") if recipe.compile else nullcontext():
            return _scores(classifier, data, split, suffix)

    def measure(module: TrainingModule) -> Row:
        row = {
            "train_top1": module.pop_mean("correct"),  # nan where no image has a label
            **scores("validation"),
        }
        return row | scores("test", NOT_FOR_SELECTION) if "test" in data.images else row

    history = History(measure, recipe.probe_every, recipe.measure_every)
    best = BestEpoch(classifier, history, "validation_top1")
    tuned = fit(module, [history, best], checkpoints, precision, loggers, keep=True)
    row = best.restore()
    return TrainedClassifier(classifier.cpu().eval(), history.rows, row, tuned)


def _scores(classifier: Classifier, data: _Data, split: str, suffix: str = "") -> Row:
    """Accuracy and loss."""
    images, neighbours, bank = data.of(split)
    logits = classifier.predict(images.pixels, *Shown.of(bank, neighbours))
    return {
        f"{split}_top1{suffix}": metrics.top_k(logits, images.labels, 1),
        f"{split}_loss{suffix}": metrics.nll(metrics.softmax(logits), images.labels),
    }


def _moments(similarities: Similarities) -> tuple[float, float]:
    """Mean and standard deviation; 0 and 1 of none, or of equal ones."""
    if not similarities.size:
        return 0.0, 1.0
    return float(similarities.mean(dtype=float)), float(similarities.std(dtype=float)) or 1.0


def _labelled(
    images: Mapping[str, Images],
    neighbours: Mapping[str, Neighbours] | None,
    noisy: Neighbours | None,
) -> tuple[Mapping[str, Images], Mapping[str, Neighbours] | None, Neighbours | None]:
    """The same without training images that have no label."""
    rows = np.flatnonzero(images["train"].labels != UNLABELLED)
    if len(rows) == len(images["train"]):
        return images, neighbours, noisy
    if neighbours:
        neighbours = {**neighbours, "train": neighbours["train"].take(rows)}
    if noisy:
        noisy = noisy.take(rows)
    return {**images, "train": images["train"].take(rows)}, neighbours, noisy


def _check(
    images: Mapping[str, Images],
    neighbours: Mapping[str, Neighbours] | None,
    bank: Embeddings | None,
    fusion: FusionSpec,
    noisy: Neighbours | None,
) -> None:
    """Raise `ArgumentError` unless all splits are there, and neighbours are theirs."""
    for split in ("train", "validation"):
        if split not in images:
            raise ArgumentError(f"`images` has no {split} split, only {', '.join(images)}")
    if (neighbours is None) != (bank is None):
        raise ArgumentError("`neighbours` and `bank` go together: give both, or neither")
    if neighbours is None or bank is None:
        return
    d = bank.vectors.shape[1]
    train = neighbours.get("train")
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
                f"`neighbours` of {split} hold query vectors of {vectors.shape[1]} dimensions, but "
                f"those of `bank` have {d}: embed both with one encoder"
            )
        if vectors is not None and VECTORS not in FUSIONS[fusion.fusion].inputs_of(fusion):
            raise ArgumentError(
                f"`neighbours` of {split} hold the images' own vectors, but with `fusion`: "
                f"{fusion.fusion} and `attend`: {fusion.attend} no vector is seen"
            )
