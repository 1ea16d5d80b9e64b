"""Do two devices compute the same? `python -m tests.faults.device`, on a machine with a GPU.

Each default backbone, with and without neighbours, is given the same weights, images and
neighbours on both, and what comes of it is compared: embeddings, the neighbours that are
found by them, logits, and of one training step the loss and all gradients, in float32 and in
bfloat16. Each comparison has a tolerance, and the table says how much of it was used.

A `Place` is a device, a dtype and a number of threads, so that a CPU can stand in for the
other device: with another number of threads, or in float64.

Measured by `python -m tests.faults.device --stand-in` on an AMD EPYC with torch 2.15, the largest of all
backbones, one thread against two, and float32 (or bfloat16) against float64:

    embeddings 0 and 7e-8; neighbours 0 and 0; logits 0 and 2e-7
    loss       2e-7 and 1e-7; in bfloat16 5e-5 and 4e-4
    gradients  3e-6 and 3e-6; in bfloat16 3e-2 and 2e-1

The tolerances leave room for a GPU's other algorithms; no GPU has been measured yet.

Letters: N images, K neighbours, D embedding.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rapipe.classifier.classifier import Classifier, ClassifierSpec
from rapipe.classifier.neighbour_batch import NeighbourBatch
from rapipe.device import Precision, autocast
from rapipe.encoder.encoder import Encoder, EncoderSpec
from rapipe.errors import UserError
from rapipe.retrieval.search import KeyedVectors, search

BACKBONES = ("resnet18", "alexnet", "perceiver")
"""Those that `params.yaml` names."""
N, K, BANK, CLASSES, SIDE, WIDTH = 32, 16, 500, 10, 32, 16
"""Sizes of `params.yaml`, but for fewer images."""
MOMENTS = ((0.5,) * 3, (0.3,) * 3)
Kind = Literal["embeddings", "neighbours", "logits", "loss", "gradients"]

TOLERANCES: dict[tuple[Kind, Precision], float] = {
    ("embeddings", "fp32"): 1e-5,
    ("neighbours", "fp32"): 1e-3,
    ("logits", "fp32"): 1e-4,
    ("loss", "fp32"): 1e-5,
    ("gradients", "fp32"): 1e-3,
    ("loss", "bf16"): 1e-2,
    ("gradients", "bf16"): 3e-1,
}
"""What two devices may differ by.

Of embeddings: the largest difference of a coordinate, where a vector's length is 1. Of
neighbours: the share of the K that only one of them finds. Of logits and gradients: the
length of the difference over the length. Of the loss: the difference over it. Embedding,
searching and evaluation are always float32.
"""


@dataclass(frozen=True)
class Place:
    """Where, how wide, and with how many threads something is computed; 0 threads: as they are."""

    device: str
    dtype: torch.dtype = torch.float32
    threads: int = 0

    def __str__(self) -> str:
        kind = str(self.dtype).removeprefix("torch.")
        return f"{self.device} {kind}" + (f" {self.threads} threads" if self.threads else "")


@dataclass(frozen=True)
class Difference:
    """One comparison."""

    backbone: str
    retrieval: str
    precision: Precision
    kind: Kind
    difference: float
    tolerance: float

    @property
    def within(self) -> bool:
        """Whether the two agree; a NaN agrees with nothing."""
        return self.difference <= self.tolerance


@contextmanager
def _threads(place: Place) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(place.threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def compare(
    one: Place, other: Place, backbones: tuple[str, ...] = BACKBONES
) -> Iterator[Difference]:
    """Every comparison of two places.

    Raises:
        UserError: they are one and the same, or there is no such device.
    """
    if one == other:
        raise UserError(f"{one} cannot be compared with itself: give another device")
    for place in (one, other):
        if torch.device(place.device).type == "cuda" and not torch.cuda.is_available():
            raise UserError(
                f"there is no {place.device} here: run this on a machine with a GPU, or choose "
                "--stand-in"
            )
    for backbone in backbones:
        embedded = [_embedded(backbone, place) for place in (one, other)]
        yield _difference(backbone, "none", "fp32", "embeddings", _largest(*embedded))
        yield _difference(backbone, "none", "fp32", "neighbours", _unlike(*embedded))
        for retrieval in ("none", "knn"):
            logits = [_logits(backbone, retrieval, place) for place in (one, other)]
            yield _difference(backbone, retrieval, "fp32", "logits", _relative(*logits))
            for precision in ("fp32", "bf16"):
                ours, theirs = (
                    _step(backbone, retrieval, place, precision) for place in (one, other)
                )
                apart = abs(ours[0] - theirs[0]) / abs(ours[0])
                yield _difference(backbone, retrieval, precision, "loss", apart)
                slopes = _relative(ours[1], theirs[1])
                yield _difference(backbone, retrieval, precision, "gradients", slopes)


def _difference(
    backbone: str, retrieval: str, precision: Precision, kind: Kind, found: float
) -> Difference:
    return Difference(backbone, retrieval, precision, kind, found, TOLERANCES[kind, precision])


def _largest(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


def _relative(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / one.norm())


def _unlike(one: Tensor, other: Tensor) -> float:
    """The share of neighbours that only one of them finds; the bank is each one's own."""
    found = []
    for vectors in (one, other):
        every = F.normalize(vectors, dim=1).float().numpy()
        ids = np.arange(len(every))
        found.append(search(every, KeyedVectors(ids, every), K, ids).indices)
    kept = [np.isin(ours, theirs).mean() for ours, theirs in zip(*found, strict=True)]
    return float(1 - np.mean(kept))


def _images() -> Tensor:
    """(N, 3, H, W) smooth random images on [0, 1]: noise alone would look alike to a network."""
    drawn = torch.rand(N, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    return F.interpolate(drawn, SIDE, mode="bilinear").contiguous(memory_format=torch.channels_last)


def _lived(module: nn.Module) -> nn.Module:
    """BatchNorm's statistics are no longer those it began with."""
    for own in module.modules():
        if isinstance(own, nn.BatchNorm2d):
            assert own.running_mean is not None
            assert own.running_var is not None
            own.running_mean.normal_(0, 0.1)
            own.running_var.uniform_(0.5, 2)
    return module


def _there(module: Any, place: Place) -> Any:
    return module.to(place.device, place.dtype)


def _embedded(backbone: str, place: Place) -> Tensor:
    """Unit vectors (N, D) float64, on the CPU."""
    torch.manual_seed(0)
    encoder = Encoder(EncoderSpec(backbone, WIDTH, "half", SIDE, *MOMENTS))
    encoder = _there(_lived(encoder), place)
    with _threads(place), torch.inference_mode():
        features = encoder.backbone(encoder.normalise(_there(_images(), place)))
        return F.normalize(features, dim=1).cpu().double()


def _classifier(backbone: str, retrieval: str, place: Place) -> Classifier:
    torch.manual_seed(0)
    d = 8 * WIDTH if retrieval != "none" else 0
    attend = "both" if d else ""
    shape = (backbone, WIDTH, "half", SIDE, CLASSES)
    spec = ClassifierSpec(*shape, *MOMENTS, retrieval, d, attend, gate=bool(d))
    made: Classifier = _there(_lived(Classifier(spec)), place)
    for own in made.modules():
        if isinstance(own, nn.Dropout):
            own.p = 0.0  # each device draws others
    return made


def _retrieved(place: Place) -> NeighbourBatch:
    rng = torch.Generator().manual_seed(2)
    bank = F.normalize(torch.randn(BANK, 8 * WIDTH, generator=rng), dim=1)
    rows = torch.randint(BANK, (N, K), generator=rng)
    present = torch.arange(N) % 2 == 0
    labels = torch.randint(CLASSES, (N, K), generator=rng)
    return NeighbourBatch(
        _there(bank[rows], place), labels.to(place.device), present.to(place.device)
    )


def _given(retrieval: str, place: Place) -> tuple[Any, ...]:
    images = _there(_images(), place)
    return (images, _retrieved(place)) if retrieval != "none" else (images,)


def _logits(backbone: str, retrieval: str, place: Place) -> Tensor:
    """Of all images in evaluation (N, CLASSES), in float64 on the CPU."""
    made = _classifier(backbone, retrieval, place).eval()
    with _threads(place), torch.inference_mode():
        logits: Tensor = made(*_given(retrieval, place))
        return logits.cpu().double()


def _step(
    backbone: str, retrieval: str, place: Place, precision: Precision
) -> tuple[float, Tensor]:
    """Loss, and gradient of all weights, of one training step; in float64 on the CPU."""
    made = _classifier(backbone, retrieval, place).train()
    labels = (torch.arange(N) % CLASSES).to(place.device)
    with _threads(place):
        with autocast(torch.device(place.device), precision):
            logits = made(*_given(retrieval, place))
        wide = logits if logits.dtype == torch.float64 else logits.float()
        loss = F.cross_entropy(wide, labels)
        loss.backward()  # type: ignore[no-untyped-call]
    slopes = [p.grad.flatten() for p in made.parameters() if p.grad is not None]
    return float(loss.detach()), torch.cat(slopes).cpu().double()


STAND_INS = {
    "another number of threads": (Place("cpu", threads=1), Place("cpu", threads=2)),
    "float64": (Place("cpu", threads=1), Place("cpu", torch.float64, 1)),
}
"""What two devices are played by where there is but one."""


def main(argv: list[str] | None = None) -> int:
    """Print the comparisons; 1 if one is beyond its tolerance, 2 if there is nothing to compare."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.device", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--stand-in", action="store_true", help="compare a CPU with itself, where there is no GPU"
    )
    given = parser.parse_args(argv)
    pairs = STAND_INS if given.stand_in else {"GPU": (Place("cpu"), Place("cuda"))}
    try:
        found = {name: list(compare(*pair)) for name, pair in pairs.items()}
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    every = [own for rows in found.values() for own in rows]
    if given.json:
        rows = {
            name: [{**asdict(own), "within": own.within} for own in rows]
            for name, rows in found.items()
        }
        pairs_ = {name: [str(place) for place in pair] for name, pair in pairs.items()}
        print(json.dumps({"places": pairs_, "differences": rows}, indent=2))
    else:
        for name, (one, other) in pairs.items():
            print(f"{name}: {one} and {other}")
            for own in found[name]:
                what = f"{own.backbone:10} {own.retrieval:5} {own.precision} {own.kind:11}"
                verdict = "" if own.within else "  BEYOND"
                print(f"  {what} {own.difference:9.2e} of {own.tolerance:.0e}{verdict}")
    return 0 if all(own.within for own in every) else 1


if __name__ == "__main__":
    sys.exit(main())
