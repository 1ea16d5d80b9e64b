"""Training steps with neighbours that were prefetched, beside every other way to get them.

    python -m benchmarks.prefetch [--json] [--quick] [--width 16] [--stem half] [--batch 64]
                                  [--rows 50000]

Milliseconds of a whole training step (batch, augmentation, forward, backward,
AdamW) of a ResNet-18, an AlexNet and a Perceiver, on random images of 32 pixels:

- none: no retrieval;
- constant: fusion fed one tensor of neighbours, the same in every step;
- prefetched: ours, rows of the neighbour table gathered from the bank on the device;
- three beside one network: the same for three strategies, which are trained in one step;
- prefetched, bank on disk: the same with a bank that does not fit, read ahead (its file has just
  been written, so the system still has it in memory);
- FAISS a batch: the encoder embeds the batch, FAISS Flat searches the bank for it;
- LanceDB a batch: the same with one query of a LanceDB table (exact) for the batch;
- search in forward: the encoder embeds the batch, `torch.cdist` and `topk` over the whole
  bank inside the forward pass, as the first study did.

The last three embed each image as the classifier sees it, since they cannot
know it before. Methods are measured in turns, those that search in separate turns; a ratio
is the median of the ratios of each turn.
The defaults suit two cores; for one GPU: --width 64 --stem cifar --batch 512.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import (
    Result,
    clocked,
    in_turns,
    machine,
    parse_arguments,
    precision,
    print_result,
    ratio,
    spread,
    target,
)

NETWORKS = ("resnet18", "alexnet", "perceiver")
KS = (8, 32, 128)
QUICK_K = 32
IMAGES = 2048
CLASSES = 10
SIDE = 32
STEPS = 5
SLOW_STEPS = 1
WARM_UP = 2
ROUNDS = 15
QUICK_ROUNDS = 4
FREE = 1.03
WITHOUT = {32: 1.1, 128: 1.25}
"""By k, how many times as long as one without retrieval a step may take; at width 64 less."""
WIDE, WIDE_WITHOUT = 64, 1.05
SLOW = ("FAISS a batch", "LanceDB a batch", "search in forward")
PEER = "prefetched, in turn with"
"""Ours once more, as the searches' peer."""


def main() -> None:
    """Print a table, or JSON."""
    options = parse_arguments(
        __doc__,
        width=(16, "channels of the first stage"),
        stem=("half", "first convolution"),
        batch=(64, "images a step"),
        rows=(50_000, "of the bank"),
    )
    setting = Setting(options.width, options.stem, options.batch, options.rows)
    ks, rounds = ((QUICK_K,), QUICK_ROUNDS) if options.quick else (KS, ROUNDS)
    measured = {
        (network, k): setting.measure(network, k, rounds) for network in NETWORKS for k in ks
    }
    by_case = {f"{network}, k = {k}": timings for (network, k), timings in measured.items()}
    result: Result = {
        "machine": machine("torch", "faiss-cpu", "lancedb"),
        "setting": {"width": options.width, "stem": options.stem, "batch": options.batch,
                    "bank": [options.rows, setting.dimension]},
        "milliseconds a step": {
            case: {name: [round(1e3 * s, 2) for s in times] for name, times in timings.items()}
            for case, timings in by_case.items()
        },
        "of prefetched": {case: ratios(timings) for case, timings in by_case.items()},
        "targets": [
            goal
            for (network, k), timings in measured.items()
            for goal in targets(network, k, options.width, timings)
        ],
    }  # fmt: skip
    print_result(result, readable(by_case), options.json)


def targets(network: str, k: int, width: int, timings: dict[str, list[float]]) -> Iterator[Result]:
    """Prefetched neighbours beside constant ones, and beside none."""
    for peer, limit in (("constant", FREE), ("none", WITHOUT.get(k))):
        if limit is not None:
            limit = WIDE_WITHOUT if peer == "none" and width >= WIDE and k <= 32 else limit
            share = ratio(timings["prefetched"], timings[peer])
            yield target(f"prefetched / {peer}, {network}, k = {k}", share, limit)


def ratios(timings: dict[str, list[float]]) -> dict[str, float]:
    """Each method's step beside ours in the same turns."""
    return {
        name: round(ratio(times, timings[PEER if name in SLOW else "prefetched"]), 3)
        for name, times in timings.items()
        if name != PEER
    }


def readable(measured: dict[str, dict[str, list[float]]]) -> list[str]:
    """A table a case."""
    lines = []
    for case, timings in measured.items():
        lines.append(f"\n{case:28}{'ms a step':>26}{'of prefetched':>16}")
        shares = ratios(timings)
        pairs = zip(timings["prefetched"], timings["constant"], strict=True)
        lines.append(f"prefetched / constant: {spread([a / b for a, b in pairs], digits=2)}")
        for name, times in timings.items():
            share = f"{shares[name]:16.2f}" if name in shares else ""
            lines.append(f"{name:28}{spread(times, 1e3):>26}{share}")
    return lines


class Setting:
    """The images, the bank and the encoder that all methods share."""

    def __init__(self, width: int, stem: str, batch: int, rows: int) -> None:
        import torch

        from rapipe.device import device
        from rapipe.encoder.encoder import Encoder, EncoderSpec
        from rapipe.records import Embeddings, Images

        rng = np.random.default_rng(0)
        torch.manual_seed(0)
        self.width, self.stem, self.batch = width, stem, batch
        self.precision = precision()
        self.dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        self.statistics = ((0.5,) * 3, (0.3,) * 3)
        spec = EncoderSpec("resnet18", width, stem, SIDE, *self.statistics)
        self.encoder = Encoder(spec).to(device())
        self.dimension = self.encoder.features
        pixels = rng.integers(0, 256, (IMAGES, SIDE, SIDE, 3), dtype=np.uint8)
        labels = rng.integers(0, CLASSES, IMAGES)
        names = np.array(["made"] * max(IMAGES, rows))
        self.images = Images(
            np.arange(IMAGES), pixels, labels, names[:IMAGES], tuple(map(str, range(CLASSES)))
        )
        vectors = rng.standard_normal((rows, self.dimension), np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        self.bank = Embeddings(
            np.arange(rows), vectors, rng.integers(0, CLASSES, rows), names[:rows], names[:rows]
        )

    def measure(self, network: str, k: int, rounds: int) -> dict[str, list[float]]:
        """Seconds a step of each method, by round."""
        with tempfile.TemporaryDirectory() as folder:
            steps = self.steps(network, k, Path(folder))

            def seconds(name: str) -> float:
                count = SLOW_STEPS if name in SLOW else STEPS
                return clocked(lambda: [steps[name]() for _ in range(count)]) / count

            def turns(names: Iterable[str]) -> dict[str, list[float]]:
                names = list(names)
                for name in names * WARM_UP:
                    steps[name]()
                return in_turns(rounds, {name: partial(seconds, name) for name in names})

            # The threads of FAISS and Lance go on spinning after a search, which slows all others.
            without_search = turns(name for name in steps if name not in SLOW)
            with_search = turns(["prefetched", *SLOW])
            return {**without_search, PEER: with_search.pop("prefetched"), **with_search}

    def steps(self, network: str, k: int, folder: Path) -> dict[str, Callable[[], object]]:
        """One training step of each method."""
        import torch

        from rapipe.classifier.neighbour_batch import DeviceBank, NeighbourBatch
        from rapipe.device import device

        torch_device, (b, d) = device(), (self.batch, self.dimension)
        bank = DeviceBank(self.bank, CLASSES, torch_device, self.dtype)
        constant = NeighbourBatch(
            torch.randn(b, k, d, device=torch_device, dtype=self.dtype),
            torch.randint(0, CLASSES, (b, k), device=torch_device),
            torch.ones(b, dtype=torch.bool, device=torch_device),
        )

        def retrieve_by(search: Callable[[Any], Any]) -> Callable[[Any], NeighbourBatch]:
            def find(images: Any) -> NeighbourBatch:
                with torch.no_grad():
                    features = self.encoder.backbone(self.encoder.preprocess(images))
                    indices = search(torch.nn.functional.normalize(features))
                return bank.assemble(bank.fetch(indices.to(torch_device)))

            return find

        faiss, lance = self.faiss(k), self.lance(k, folder)
        tensor = torch.from_numpy(self.bank.vectors).to(torch_device)
        return {
            "none": self.step(network, k, None, None),
            "constant": self.step(network, k, None, lambda images: constant),
            "prefetched": self.step(network, k, bank, None),
            "three beside one network": self.step(network, k, bank, None, beside=3),
            "prefetched, bank on disk": self.step(network, k, self.on_disk(folder), None),
            "FAISS a batch": self.step(network, k, None, retrieve_by(faiss)),
            "LanceDB a batch": self.step(network, k, None, retrieve_by(lance)),
            "search in forward": self.step(
                network,
                k,
                None,
                retrieve_by(
                    lambda queries: torch.cdist(queries, tensor).topk(k, largest=False).indices
                ),
            ),
        }

    def step(
        self, network: str, k: int, bank: Any, find: Callable[[Any], Any] | None, beside: int = 1
    ) -> Callable[[], object]:
        """A training step as `fit` takes it, without Lightning, which is the same for all.

        Args:
            bank: neighbours are prefetched from it.
            find: finds the neighbours of images otherwise.
            beside: strategies that have one network.
        """
        import torch

        from rapipe.classifier.classifier import Classifier, ClassifierSpec
        from rapipe.classifier.module import ClassifierModule, Company
        from rapipe.device import autocast, device
        from rapipe.encoder.encoder import EncoderSpec
        from rapipe.records import Neighbours
        from rapipe.specs import FusionSpec, TrainingRecipe

        torch.manual_seed(0)
        network_spec = EncoderSpec(network, self.width, self.stem, SIDE, *self.statistics)
        spec = ClassifierSpec(network_spec, CLASSES)
        fusion: dict[str, Any] = {"fusion": FusionSpec(), "dimension": self.dimension}
        classifier = Classifier(replace(spec, **fusion) if find else spec)
        indices = np.random.default_rng(1).integers(0, len(self.bank), (IMAGES, k), dtype=np.int32)
        table = Neighbours(self.images.ids, indices, np.zeros((IMAGES, k), np.float32))
        recipe = TrainingRecipe(epochs=100_000, batch_size=self.batch, augment="flip")
        company = {
            str(number): Company(
                classifier.beside(fusion["fusion"], dimension=self.dimension), bank, table
            )
            for number in range(beside if bank else 0)
        }
        module = ClassifierModule(
            classifier, self.images, None, None, recipe, seed=0, company=company
        ).to(device())
        optimiser = module.configure_optimizers()["optimizer"]
        batches = self.endless(module)
        if find is not None:  # after the augmentation: it is what the classifier sees
            module.network = _finding(module.network, find)

        def step() -> None:
            optimiser.zero_grad()
            with autocast(device(), self.precision):
                loss = module.training_step(next(batches), 0)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            module.step_metrics.clear()

        return step

    @staticmethod
    def endless(module: Any) -> Iterator[Any]:
        """Epoch after epoch."""
        return itertools.chain.from_iterable(iter(module.train_dataloader, None))

    def on_disk(self, folder: Path) -> Any:
        """The bank as if it did not fit."""
        from rapipe.batches.loader import ArrayField
        from rapipe.classifier.neighbour_batch import DeviceBank
        from rapipe.device import device
        from rapipe.records import Embeddings

        self.bank.write(folder / "bank")
        vectors = Embeddings.read(folder / "bank").vectors
        bank = DeviceBank(self.bank, CLASSES, device(), self.dtype)
        bank.vectors = ArrayField(vectors, device(), False, bank.prepare)
        return bank

    def faiss(self, k: int) -> Callable[[Any], Any]:
        """FAISS Flat."""
        import faiss
        import torch

        index = faiss.IndexFlatIP(self.dimension)
        index.add(self.bank.vectors)
        return lambda queries: torch.from_numpy(index.search(queries.float().cpu().numpy(), k)[1])

    def lance(self, k: int, folder: Path) -> Callable[[Any], Any]:
        """A LanceDB table, searched for all of a batch in one query."""
        import lancedb
        import pyarrow as pa
        import torch

        flat = pa.array(self.bank.vectors.reshape(-1))
        vectors = pa.FixedSizeListArray.from_arrays(flat, self.dimension)
        table = lancedb.connect(folder / "lance").create_table(
            "bank", pa.table({"row": np.arange(len(self.bank)), "vector": vectors})
        )

        def search(queries: Any) -> Any:
            vectors = list(queries.float().cpu().numpy())
            query = table.search(vectors).distance_type("dot").select(["row", "_distance"]).limit(k)
            hits = query.to_arrow()
            order = np.argsort(hits["query_index"].to_numpy(), kind="stable")
            return torch.from_numpy(hits["row"].to_numpy()[order].reshape(len(vectors), k))

        return search


def _finding(network: Any, find: Callable[[Any], Any]) -> Any:
    """A classifier that looks its images up in its forward pass."""
    from torch import nn

    class Finding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: Any, retrieved: Any) -> Any:
            return self.network(images, find(images))

    return Finding()


if __name__ == "__main__":
    main()
