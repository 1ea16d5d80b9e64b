"""How long the explorer takes to answer, and to start with a large memory.

    python -m benchmarks.explore [--json] [--quick] [--width 16] [--stem half] [--rows 50000]
                                 [--many 1000000]

Milliseconds from a question to its answer (image changed, embedded and searched, predictions with
all neighbours, with none and without each of them, attention, picture), by networks with random
weights over a bank of random vectors of the encoder's dimension and random images of 32 pixels:

- clean, noisy, and corrupted images;
- a class hidden: the first time, which copies the rest of the bank, and from then on.

Then seconds to read a bank of `--many` rows from disk and answer a first question, and to pack a
map of as many points.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import (
    Result,
    clocked,
    machine,
    parse_arguments,
    print_result,
    spread,
    target,
)

NETWORKS = ("resnet18", "alexnet", "perceiver")
SIDE, CLASSES, K = 32, 10, 32
QUESTIONS, QUICK_QUESTIONS = 30, 5
ANSWER, START = 0.3, 10.0
"""Seconds."""
FEW = 5_000
"""Rows, where it has to be quick."""


def main() -> None:
    """Print a table, or JSON."""
    options = parse_arguments(
        __doc__,
        width=(16, "channels of the first stage"),
        stem=("half", "first convolution"),
        rows=(50_000, "of the bank"),
        many=(1_000_000, "rows of the large bank"),
    )
    count = QUICK_QUESTIONS if options.quick else QUESTIONS
    rows, many = (FEW, FEW) if options.quick else (options.rows, options.many)
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(options.width, options.stem, Path(folder))
        seconds = setting.answers(rows, count)
        started, mapped = setting.start(many)
    result: Result = {
        "machine": machine("torch"),
        "setting": vars(options),
        "milliseconds an answer": {
            name: [round(1e3 * s, 1) for s in times] for name, times in seconds.items()
        },
        "seconds": {"start": round(started, 2), "map": round(mapped, 2)},
        "targets": [
            *(
                target(f"seconds an answer, {name}", statistics.median(times), ANSWER)
                for name, times in seconds.items()
            ),
            target(f"seconds to start with {many:,} rows", started, START),
        ],
    }
    lines = [f"{name:36}{spread(times, 1e3):>26} ms" for name, times in seconds.items()]
    print_result(result, lines, options.json)


class Setting:
    """Networks, and a folder for banks."""

    def __init__(self, width: int, stem: str, folder: Path) -> None:
        import torch

        from rapipe.classifier.classifier import Classifier, ClassifierSpec
        from rapipe.encoder.encoder import Encoder, EncoderSpec
        from rapipe.specs import FusionSpec

        def spec(network: str) -> EncoderSpec:
            return EncoderSpec(network, width, stem, SIDE, (0.5,) * 3, (0.3,) * 3)

        torch.manual_seed(0)
        self.folder, self.encoder = folder, Encoder(spec("resnet18"))
        self.classifiers = {
            network: Classifier(
                ClassifierSpec(
                    spec(network), CLASSES, fusion=FusionSpec(), dimension=self.encoder.features
                )
            )
            for network in NETWORKS
        }

    def bank(self, rows: int) -> Path:
        """A folder with a bank of random vectors."""
        from rapipe.records import Embeddings

        rng, folder = np.random.default_rng(0), self.folder / str(rows)
        vectors = rng.standard_normal((rows, self.encoder.features), dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        names = np.full(rows, "train")
        Embeddings(np.arange(rows), vectors, np.arange(rows) % CLASSES, names, names).write(folder)
        return folder

    def explorer(self, folder: Path) -> Any:
        """An explorer of that bank."""
        from rapipe.corpus.decode import Decoding
        from rapipe.explore.explorer import Explorer
        from rapipe.explore.project import Memory, Project, Trained
        from rapipe.records import Embeddings, Images
        from rapipe.retrieval.strategies import RetrievalRequest

        rng, classes = np.random.default_rng(1), tuple(f"class {c}" for c in range(CLASSES))
        pixels = rng.integers(0, 256, (64, SIDE, SIDE, 3), np.uint8)
        labels, sources = np.arange(64) % CLASSES, np.full(64, "made")
        test = Images(-1 - np.arange(64), pixels, labels, sources, classes)
        bank = Embeddings.read(folder)
        memory = Memory(bank, self.encoder, RetrievalRequest(K), classes)
        trained = {
            network: Trained(
                network, network, "knn", "cross-attention", 0, lambda n=network: self.classifiers[n]
            )
            for network in NETWORKS
        }
        return Explorer(Project(test, {"test": test}, trained, memory, Decoding(SIDE)))

    def answers(self, rows: int, count: int) -> dict[str, list[float]]:
        """Seconds of each of some answers."""
        from rapipe.explore.questions import Hidden, Question

        explorer = self.explorer(self.bank(rows))
        ids = explorer.project.test.ids.tolist()

        def ask(network: str, number: int, **changes: Any) -> float:
            image = ids[number % len(ids)]
            return clocked(lambda: explorer.ask(Question(image, network, **changes)))

        seconds: dict[str, list[float]] = {}
        for network in NETWORKS:
            ask(network, 0)
            seconds[network] = [ask(network, n) for n in range(count)]
            seconds[f"{network}, noisy"] = [ask(network, n, noise_std=0.1) for n in range(count)]
        fog = {"corruption": "fog"}
        seconds["resnet18, fog"] = [ask("resnet18", n, **fog) for n in range(count)]
        first, later = [], []
        for number in range(min(count, CLASSES)):
            hidden = Hidden(classes=frozenset([f"class {number}"]))
            first.append(ask("resnet18", 0, hidden=hidden))
            later.append(ask("resnet18", 1, hidden=hidden))
        return {**seconds, "resnet18, a class is hidden": first, "and from then on": later}

    def start(self, rows: int) -> tuple[float, float]:
        """Seconds from a bank on disk to the first answer, and to pack a map."""
        from rapipe.explore.layout import lay_out
        from rapipe.explore.map_data import MapData, packed
        from rapipe.explore.questions import Question

        folder = self.bank(rows)

        def first() -> None:
            explorer = self.explorer(folder)
            explorer.ask(Question(-1, NETWORKS[0]))

        def draw() -> None:
            bank = self.explorer(folder).memory.bank
            points = lay_out("pca", bank.vectors, 0)
            drawn = MapData("pca", bank.ids, points, bank.labels, bank.sources, bank.splits)
            packed(drawn, CLASSES)

        return clocked(first), clocked(draw)


if __name__ == "__main__":
    main()
