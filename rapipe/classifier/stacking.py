"""A fusion that learns apart, once more when its network has learned all.

Letters: N images, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from rapipe.batches.loader import BatchLoader, pad_rows
from rapipe.classifier.classifier import Classifier
from rapipe.classifier.fusions import ApartFusion
from rapipe.classifier.neighbour_batch import DeviceBank, Shown, fields_of, join
from rapipe.device import fork_rng
from rapipe.progress import track
from rapipe.records import Labels, Neighbours

STEPS, ITERATIONS = 10, 10
"""Of L-BFGS; a step is as many iterations. Twice as many steps gave no better fusion."""
PART = 8192
"""Rows whose gradient is computed at once."""
SEED = 0
"""Of what a fusion begins with."""
BATCH = 128
"""Images whose neighbours are digested at once."""


class View(NamedTuple):
    """The training images as they are, or noisy copies of them."""

    said: np.ndarray  # (N, C) logits of the network
    neighbours: Neighbours
    """Their own, of the same rows."""


def stack(classifier: Classifier, bank: DeviceBank, views: Sequence[View], labels: Labels) -> None:
    """Fit the fusion, once more, to what the classifier's network says of each view.

    Its network stays as it is, and has said all already; what the neighbours have to say is
    computed once. The fusion begins anew: of what it learned beside the network only the
    temperature stays, which is no part of the fit.

    Args:
        labels: (N,) of the images; those without one are left out.

    Source: Wolpert, "Stacked Generalization", Neural Networks 1992.
    """
    (fusion,) = classifier.fusions
    assert isinstance(fusion, ApartFusion)
    classifier.eval()
    known = np.flatnonzero(labels >= 0)
    parts: list[list[torch.Tensor]] = []
    for logits, neighbours in views:
        digest = _digest(classifier, fusion, bank, neighbours.take(known))
        parts.append([torch.from_numpy(logits[known]).to(classifier.device), *digest])
    said, *digest = (torch.cat(part) for part in zip(*parts, strict=True))
    targets = torch.from_numpy(labels[known]).to(classifier.device).long().repeat(len(views))

    def answers(rows: slice) -> list[torch.Tensor]:
        alone = fusion.alone(said[rows])
        return [alone, fusion.judge(alone, *(part[rows] for part in digest))]

    with fork_rng():
        torch.manual_seed(SEED)
        fusion.begin_anew()
    fit(fusion.judges(len(targets)), answers, targets)


def fit(
    judges: Sequence[tuple[float, torch.nn.Parameter]],
    answers: Callable[[slice], Sequence[torch.Tensor]],
    targets: torch.Tensor,
) -> None:
    """Minimise the sum of mean cross-entropies over all rows, and of penalties, by L-BFGS.

    There are few parameters, and what they see is computed already: so whole gradients are cheap,
    and nothing is drawn.

    Args:
        judges: each parameter, behind the weight of half of the sum of its squares.
        answers: logits, each (B, C), of a slice of B rows.
        targets: (M,) a class for each row.

    Source: Liu and Nocedal, "On the Limited Memory BFGS Method for Large Scale Optimization",
    Mathematical Programming 1989.
    """
    count = len(targets)
    parts = [slice(start, start + PART) for start in range(0, count, PART)]
    parameters = [parameter for _, parameter in judges]
    optimiser = torch.optim.LBFGS(parameters, max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimiser.zero_grad()
        squares = torch.stack([weight * p.square().sum() for weight, p in judges])
        decay = squares.sum() / 2
        decay.backward()  # type: ignore[no-untyped-call]
        total = decay.item()
        for part in parts:
            losses = [F.cross_entropy(a, targets[part], reduction="sum") for a in answers(part)]
            loss = torch.stack(losses).sum() / count
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        return total

    for _ in track(range(STEPS), "stacking", STEPS):
        optimiser.step(closure)  # type: ignore[no-untyped-call]


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
