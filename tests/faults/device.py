"""Do two devices compute the same? `python -m tests.faults.device`, on a machine with a GPU.

Each default backbone, with and without neighbours, gets the same weights, images and
neighbours on both. Compared are its embeddings, their nearest neighbours, its logits, and the
loss and all gradients of one training step, in float32 and in bfloat16. Each comparison has a
tolerance, and the table says how much of it was used.

A `Platform` is a device, a dtype and a number of threads, so that a CPU can stand in for the
other device: with another number of threads, or in float64.

Measured by `python -m tests.faults.device --stand-in` on an AMD EPYC with torch 2.15, the
largest of all backbones, one thread against two, and float32 (or bfloat16) against float64:

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
from dataclasses import asdict, dataclass, replace
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
from rapipe.retrieval.search import VectorsWithIds, search
from rapipe.specs import FusionSpec

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
class Platform:
    """A device, a dtype, and a number of threads; 0 threads: as they are."""

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
def _threads(platform: Platform) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(platform.threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def compare(
    one: Platform, other: Platform, backbones: tuple[str, ...] = BACKBONES
) -> Iterator[Difference]:
    """Every comparison of two platforms.

    Raises:
        UserError: they are one and the same, or there is no such device.
    """
    if one == other:
        raise UserError(f"{one} cannot be compared with itself: give another device")
    for platform in (one, other):
        if torch.device(platform.device).type == "cuda" and not torch.cuda.is_available():
            raise UserError(
                f"there is no {platform.device} here: run this on a machine with a GPU, or choose "
                "--stand-in"
            )
    for backbone in backbones:
        embeddings = [_embed(backbone, platform) for platform in (one, other)]
        yield _difference(backbone, "none", "fp32", "embeddings", _largest(*embeddings))
        yield _difference(backbone, "none", "fp32", "neighbours", _not_shared(*embeddings))
        for retrieval in ("none", "knn"):
            logits = [_logits(backbone, retrieval, platform) for platform in (one, other)]
            yield _difference(backbone, retrieval, "fp32", "logits", _relative(*logits))
            for precision in ("fp32", "bf16"):
                first, second = (
                    _step(backbone, retrieval, platform, precision) for platform in (one, other)
                )
                loss = abs(first[0] - second[0]) / abs(first[0])
                yield _difference(backbone, retrieval, precision, "loss", loss)
                gradients = _relative(first[1], second[1])
                yield _difference(backbone, retrieval, precision, "gradients", gradients)


def _difference(
    backbone: str, retrieval: str, precision: Precision, kind: Kind, value: float
) -> Difference:
    return Difference(backbone, retrieval, precision, kind, value, TOLERANCES[kind, precision])


def _largest(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())


def _relative(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / one.norm())


def _not_shared(one: Tensor, other: Tensor) -> float:
    """The share of neighbours that only one of them has; each is searched in itself."""
    tables = []
    for vectors in (one, other):
        unit = F.normalize(vectors, dim=1).float().numpy()
        ids = np.arange(len(unit))
        tables.append(search(unit, VectorsWithIds(ids, unit), K, ids).indices)
    shared = [np.isin(row, other_row).mean() for row, other_row in zip(*tables, strict=True)]
    return float(1 - np.mean(shared))


def _images() -> Tensor:
    """(N, 3, H, W) smooth random images on [0, 1]: to a network all noise looks alike."""
    coarse = torch.rand(N, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    return F.interpolate(coarse, SIDE, mode="bilinear").contiguous(
        memory_format=torch.channels_last
    )


def _with_statistics(module: nn.Module) -> nn.Module:
    """With BatchNorm statistics that are not those of a new network."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 2)
    return module


def _on(module: Any, platform: Platform) -> Any:
    return module.to(platform.device, platform.dtype)


def _embed(backbone: str, platform: Platform) -> Tensor:
    """Unit vectors (N, D) float64, on the CPU."""
    torch.manual_seed(0)
    encoder = Encoder(EncoderSpec(backbone, WIDTH, "half", SIDE, *MOMENTS))
    encoder = _on(_with_statistics(encoder), platform)
    with _threads(platform), torch.inference_mode():
        features = encoder.backbone(encoder.preprocess(_on(_images(), platform)))
        return F.normalize(features, dim=1).cpu().double()


def _classifier(backbone: str, retrieval: str, platform: Platform) -> Classifier:
    torch.manual_seed(0)
    network = EncoderSpec(backbone, WIDTH, "half", SIDE, *MOMENTS)
    spec = ClassifierSpec(network, CLASSES)
    if retrieval != "none":
        fusion = FusionSpec(fusion="cross-attention", attend="both", gate=True)
        spec = replace(spec, fusion=fusion, dimension=8 * WIDTH)
    classifier: Classifier = _on(_with_statistics(Classifier(spec)), platform)
    for layer in classifier.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0  # each device draws others
    return classifier


def _neighbours(platform: Platform) -> NeighbourBatch:
    rng = torch.Generator().manual_seed(2)
    bank = F.normalize(torch.randn(BANK, 8 * WIDTH, generator=rng), dim=1)
    rows = torch.randint(BANK, (N, K), generator=rng)
    present = torch.arange(N) % 2 == 0
    labels = torch.randint(CLASSES, (N, K), generator=rng)
    return NeighbourBatch(
        _on(bank[rows], platform), labels.to(platform.device), present.to(platform.device)
    )


def _inputs(retrieval: str, platform: Platform) -> tuple[Any, ...]:
    images = _on(_images(), platform)
    return (images, _neighbours(platform)) if retrieval != "none" else (images,)


def _logits(backbone: str, retrieval: str, platform: Platform) -> Tensor:
    """Of all images in evaluation (N, CLASSES), in float64 on the CPU."""
    classifier = _classifier(backbone, retrieval, platform).eval()
    with _threads(platform), torch.inference_mode():
        logits: Tensor = classifier(*_inputs(retrieval, platform))
        return logits.cpu().double()


def _step(
    backbone: str, retrieval: str, platform: Platform, precision: Precision
) -> tuple[float, Tensor]:
    """Loss, and gradient of all weights, of one training step; in float64 on the CPU."""
    classifier = _classifier(backbone, retrieval, platform).train()
    labels = (torch.arange(N) % CLASSES).to(platform.device)
    with _threads(platform):
        with autocast(torch.device(platform.device), precision):
            logits = classifier(*_inputs(retrieval, platform))
        wide = logits if logits.dtype == torch.float64 else logits.float()
        loss = F.cross_entropy(wide, labels)
        loss.backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad.flatten() for p in classifier.parameters() if p.grad is not None]
    return float(loss.detach()), torch.cat(gradients).cpu().double()


STAND_INS = {
    "another number of threads": (Platform("cpu", threads=1), Platform("cpu", threads=2)),
    "float64": (Platform("cpu", threads=1), Platform("cpu", torch.float64, 1)),
}
"""What two devices are played by where there is but one."""


def main(argv: list[str] | None = None) -> int:
    """Print the comparisons; 1 if one is beyond its tolerance, 2 if there is nothing to compare."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.device", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--stand-in", action="store_true", help="compare a CPU with itself, where there is no GPU"
    )
    args = parser.parse_args(argv)
    pairs = STAND_INS if args.stand_in else {"GPU": (Platform("cpu"), Platform("cuda"))}
    try:
        differences = {name: list(compare(*pair)) for name, pair in pairs.items()}
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.json:
        rows = {
            name: [{**asdict(one), "within": one.within} for one in differences[name]]
            for name in pairs
        }
        platforms = {name: [str(platform) for platform in pair] for name, pair in pairs.items()}
        print(json.dumps({"platforms": platforms, "differences": rows}, indent=2))
    else:
        for name, (one, other) in pairs.items():
            print(f"{name}: {one} and {other}")
            for row in differences[name]:
                comparison = f"{row.backbone:10} {row.retrieval:5} {row.precision} {row.kind:11}"
                verdict = "" if row.within else "  BEYOND"
                print(f"  {comparison} {row.difference:9.2e} of {row.tolerance:.0e}{verdict}")
    return 0 if all(row.within for rows in differences.values() for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
