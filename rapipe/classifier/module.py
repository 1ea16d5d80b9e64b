"""Training a classifier, with or without neighbours, as a Lightning module.

Letters: B batch, N images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, islice
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from rapipe.batches.loader import (
    ArrayField,
    BatchLoader,
    Field,
    RepeatedField,
    RowField,
    SlicedField,
)
from rapipe.batches.transforms import VIEWS, noised, to_float
from rapipe.classifier.classifier import Classifier
from rapipe.classifier.neighbour_batch import DeviceBank, Shown, fields_of, join
from rapipe.device import device
from rapipe.records import Images, Neighbours
from rapipe.specs import TrainingRecipe
from rapipe.training import ranks
from rapipe.training.mixing import label_smoothing, mixup
from rapipe.training.module import Rows, TrainingModule
from rapipe.training.schedules import scheduler

COPIED = 0.5
"""Share of an epoch's images that have noise, where there is noise: Rusak et al., "A simple way to
make neural networks robust against diverse image corruptions", ECCV 2020."""


class Teacher(NamedTuple):
    """What a trained classifier says of the training images, to be learned in place of labels.

    Source: Chen et al., "Big Self-Supervised Models are Strong Semi-Supervised Learners",
    NeurIPS 2020, equation 2.
    """

    logits: npt.NDArray[np.float32]  # (N, classes)
    temperature: float = 1.0
    """What its logits, and the student's, are divided by."""


class Company(NamedTuple):
    """A classifier beside another: its fusion learns apart, and it shares the other's network."""

    classifier: Classifier
    bank: DeviceBank
    neighbours: Neighbours
    noisy_neighbours: Neighbours | None = None
    """Of noisy copies, which have a part where the copies do."""


class ClassifierModule(TrainingModule):
    """A classifier on labelled images, or on its teacher's, and prefetched neighbours; AdamW.

    Each rank augments whole batches, so that all that is drawn and mixed is as on one device.
    Fusions that learn apart may learn beside it, each from what the network says: they give it no
    gradient, and no step of it is computed twice.

    Args:
        images: N of them.
        neighbours, bank: theirs, with the same rows; None without retrieval.
        noise_std: standard deviation of the noise on half of the images of an epoch; 0 = none.
        noisy_neighbours: those of noisy copies of the images, with the same rows, which half of
            them are shown: those with noise, where there is some.
        teacher: of the same images; labels may then be -1, and are only compared with.
        company: by name, classifiers beside this one, which then has no neighbours.
    """

    network: Classifier
    recipe: TrainingRecipe

    def __init__(
        self,
        classifier: Classifier,
        images: Images,
        neighbours: Neighbours | None,
        bank: DeviceBank | None,
        recipe: TrainingRecipe,
        seed: int,
        noise_std: float = 0.0,
        noisy_neighbours: Neighbours | None = None,
        teacher: Teacher | None = None,
        company: Mapping[str, Company] = MappingProxyType({}),
    ) -> None:
        on = device()
        count = len(images)
        fields: list[Field] = [ArrayField(images.pixels, on), ArrayField(images.labels, on)]
        if teacher is not None:
            fields.append(ArrayField(teacher.logits, on))
        self.copies = count if noise_std or noisy_neighbours is not None else 0
        """Rows from here on are copies of the images: with noise, or shown what noisy ones are."""
        if self.copies:
            fields = [RepeatedField(field, count) for field in fields]

        def shown(own: Classifier, bank: Any, rows: Any, noisy: Any) -> Sequence[Field]:
            """Its neighbours, and where there are copies theirs."""
            if noisy is not None and rows is not None and self.copies:
                rows = rows.followed_by(noisy)
            of_rows = fields_of(Shown.of(bank, rows), on, own.inputs)
            if self.copies and noisy is None:
                of_rows = [RepeatedField(field, count) for field in of_rows]
            if ranks.count() > 1:
                of_rows = [SlicedField(field, ranks.share) for field in of_rows]
            return of_rows

        sets = [shown(classifier, bank, neighbours, noisy_neighbours)]
        for own, *parts in company.values():
            sets += [shown(own, *parts)]
        loader = BatchLoader(on, RowField(), *fields, *chain.from_iterable(sets))
        super().__init__(classifier, loader, recipe, seed, np.ones(count))
        self._counts = [len(fields) for fields in sets]
        self.company = {name: own.classifier for name, own in company.items()}
        self.fusions = nn.ModuleList(own.fusions for own in self.company.values())
        self.temperature = teacher.temperature if teacher else None
        self.augment: nn.Module = VIEWS[recipe.augment](images.pixels.shape[1])
        self.noise_std = noise_std
        fusion = classifier.spec.fusion
        self.dropout = fusion.dropout if fusion else 0.0
        """Probability that an image sees none of its neighbours in a step."""

    def epoch_order(self, rng: np.random.Generator) -> Rows:
        """All images, a random half of them as copies."""
        order = super().epoch_order(rng)
        return order + self.copies * (rng.random(len(order)) < COPIED) if self.copies else order

    def training_step(self, batch: tuple[Any, ...], batch_idx: int) -> Tensor:
        rows, pixels, labels, *more = batch  # of neighbours what this rank computes
        teacher = more.pop(0) if self.temperature else None
        images = to_float(pixels)  # (B, 3, H, W)
        others, weight = None, 1.0
        with torch.autocast(images.device.type, enabled=False):
            images = self.augment(images)
            if self.noise_std:
                images = noised(images, self.noise_std, rows >= self.copies)
            if self.recipe.mixup:
                images, others, weight = mixup(images, self.recipe.mixup)
        numbers, share = iter(more), ranks.share(len(labels))
        neighbours, *sets = [join(list(islice(numbers, count))) for count in self._counts]
        if neighbours is not None:
            present = torch.rand(len(labels))[share] >= self.dropout  # drawn alike on every device
            neighbours = neighbours._replace(present=present.to(labels.device, non_blocking=True))
        targets = labels
        if teacher is not None and self.temperature is not None:
            targets = (teacher / self.temperature).softmax(1)  # (B, classes)

        def loss_of(logits: Tensor) -> Tensor:
            if self.temperature is not None:
                logits = logits.float() / self.temperature
            loss = label_smoothing(logits, targets[share], self.recipe.label_smoothing)
            if others is not None:
                mixed = targets[others][share]
                other_loss = label_smoothing(logits, mixed, self.recipe.label_smoothing)
                loss = weight * loss + (1 - weight) * other_loss
            return loss

        with ranks.apart():
            logits = self.network(images[share], neighbours)  # (B, classes)
        said = {"": logits}
        if not self.is_trial:
            for (name, own), shown in zip(self.company.items(), sets, strict=True):
                assert shown is not None
                said[f"{name}/"] = own.fused(logits, shown)
        losses = {name: loss_of(logits) for name, logits in said.items()}
        for name, logits in said.items():
            self._record_correct(f"{name}correct", logits, labels[share])
            self.step_metrics[f"{name}loss"].append(losses[name].detach())
        return torch.stack([*losses.values()]).sum()

    def learners(self) -> list[nn.Module]:
        return [*super().learners(), *self.fusions]

    def _record_correct(self, name: str, logits: Tensor, labels: Tensor) -> None:
        """Whether the label is predicted: of a mixed image the one that weighs more, its own."""
        correct = (logits.detach().argmax(1) == labels).float()  # (B,)
        if self.temperature is None:
            self.step_metrics[name].append(correct.mean())
        else:  # rows without a label are left out where the mean is taken
            self.step_metrics[name].append(correct.where(labels >= 0, torch.nan))

    def configure_optimizers(self) -> Any:
        optimiser = torch.optim.AdamW(
            [p for part in self.learners() for p in part.parameters() if p.requires_grad],
            self.recipe.learning_rate,
            weight_decay=self.recipe.weight_decay,
            fused=True,
        )
        rate = scheduler(optimiser, self.steps, self.recipe)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": rate, "interval": "step"}}
