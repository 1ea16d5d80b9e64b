"""A fusion that learns apart, once more when its network has learned all.

Letters: V views, N images, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from rapipe.batches.loader import BatchLoader, pad_rows
from rapipe.classifier.classifier import Classifier
from rapipe.classifier.fusions import ApartFusion
from rapipe.classifier.neighbour_batch import DeviceBank, Shown, fields_of, join
from rapipe.progress import track
from rapipe.records import Labels, Neighbours, Pixels

EPOCHS, STEPS = 12, 2_000
"""At least so many of each."""
BATCH, RATE = 128, 0.003


class View(NamedTuple):
    """The training images as they are, or noisy copies of them."""

    pixels: Pixels  # (N, H, W, 3)
    neighbours: Neighbours
    """Their own, of the same rows."""


def stack(
    classifier: Classifier, bank: DeviceBank, views: Sequence[View], labels: Labels, seed: int
) -> None:
    """Fit the fusion, once more, to what the classifier's network predicts for each view.

    Its network stays as it is. What the network and the neighbours have to say is computed once,
    so that this costs a prediction of each view, and little more.

    Args:
        labels: (N,) of the images; those without one are left out.
        seed: of the order of images.

    Source: Wolpert, "Stacked Generalization", Neural Networks 1992.
    """
    (fusion,) = classifier.fusions
    assert isinstance(fusion, ApartFusion)
    network = classifier.network().to(classifier.device)
    known = np.flatnonzero(labels >= 0)
    parts: list[list[torch.Tensor]] = []
    for pixels, neighbours in views:
        said = torch.from_numpy(network.predict(pixels)[known]).to(classifier.device)
        digest = _digest(classifier, fusion, bank, neighbours.take(known))
        parts.append([said, *digest])
    said, *digest = (torch.cat(part) for part in zip(*parts, strict=True))
    targets = torch.from_numpy(labels[known]).to(classifier.device).long().repeat(len(views))

    def answers(rows: torch.Tensor) -> list[torch.Tensor]:
        alone = fusion.alone(said[rows])
        return [alone, fusion.judge(alone, *(part[rows] for part in digest))]

    fit(fusion.judges(), answers, targets, torch.Generator().manual_seed(seed))


def fit(
    parameters: Iterable[torch.nn.Parameter],
    answers: Callable[[torch.Tensor], Sequence[torch.Tensor]],
    targets: torch.Tensor,
    order: torch.Generator | None = None,
) -> None:
    """Fit parameters by the sum of cross-entropies, in at least `EPOCHS` epochs and `STEPS` steps.

    Args:
        answers: logits, each (B, C), of rows (B,).
        targets: (M,) a class for each row.
        order: of the rows; torch's own unless given.
    """
    batch = min(BATCH, len(targets))
    steps = len(targets) // batch
    epochs = max(EPOCHS, -(-STEPS // steps))
    optimiser = torch.optim.AdamW(parameters, RATE)
    rate = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, epochs * steps)
    for _ in track(range(epochs), "stacking", epochs):
        rows = torch.randperm(len(targets), generator=order).to(targets.device)
        for part in rows[: steps * batch].view(steps, batch):
            optimiser.zero_grad()
            losses = [F.cross_entropy(logits, targets[part]) for logits in answers(part)]
            torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            rate.step()


@torch.no_grad()
def _digest(
    classifier: Classifier, fusion: ApartFusion, bank: DeviceBank, neighbours: Neighbours
) -> list[torch.Tensor]:
    """What the fusion makes of neighbours, each with a row an image."""
    shown = Shown.of(bank, neighbours)
    loader = BatchLoader(
        classifier.device, *fields_of(shown, classifier.device, classifier.inputs, False)
    )
    count = len(neighbours.query_ids)
    chunks: list[Any] = []
    for parts in loader.batches(pad_rows(count), BATCH):
        found = join(parts)
        assert found is not None
        chunks.append(fusion.digest(classifier.standardised(found)))
    return [torch.cat(part)[:count].float() for part in zip(*chunks, strict=True)]
