"""Evaluation of a classifier with neighbours, with all its evidence, beside one without.

    python -m benchmarks.evaluate [--json] [--quick] [--width 16] [--stem half] [--images 1000]
                                  [--rows 4000]

Seconds for random test images of 32 pixels, clean and at six levels of noise, by networks with
random weights. Without neighbours that is a prediction a level. With neighbours each level is
searched and predicted with its own neighbours and with the clean ones; clean images are also shown
every counterfactual, and validation images lose each of their neighbours once. Embeddings of noisy
images are there already, as they are for every classifier but the first.
The two are measured in turns; a ratio is the median of the ratios of each turn.
"""

from __future__ import annotations

import tempfile
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
    print_result,
    ratio,
    spread,
    target,
)

NETWORKS = ("resnet18", "alexnet", "perceiver")
SIDE, CLASSES, K = 32, 10, 32
LEVELS = (0.0, 0.04, 0.06, 0.08, 0.09, 0.1, 0.2)
POISONED = (0.1, 0.5)
ATTRIBUTED, PRUNED = 250, 0.02
"""As in params.yaml."""
ROUNDS, QUICK_ROUNDS = 5, 1
WITHOUT = 3.0
"""How many times as long as without neighbours it may take."""


def main() -> None:
    """Print a table, or JSON."""
    options = parse_arguments(
        __doc__,
        width=(16, "channels of the first stage"),
        stem=("half", "first convolution"),
        images=(1000, "of the test split, and half as many of validation"),
        rows=(4000, "of the bank"),
    )
    rounds = QUICK_ROUNDS if options.quick else ROUNDS
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(options.width, options.stem, options.images, options.rows, Path(folder))
        measured = {network: setting.measure(network, rounds) for network in NETWORKS}
    result: Result = {
        "machine": machine("torch"),
        "setting": vars(options),
        "seconds": {
            network: {name: [round(s, 2) for s in times] for name, times in timings.items()}
            for network, timings in measured.items()
        },
        "targets": [
            target(f"with / without, {network}", ratio(timings["with"], timings["none"]), WITHOUT)
            for network, timings in measured.items()
        ],
    }
    lines = [
        f"{network:12}{name:8}{spread(times, digits=2):>24}"
        for network, timings in measured.items()
        for name, times in timings.items()
    ]
    print_result(result, lines, options.json)


class Setting:
    """Images, a bank, and an encoder.

    Args:
        cache: a folder for embeddings of the images.
    """

    def __init__(self, width: int, stem: str, images: int, rows: int, cache: Path) -> None:
        import torch

        from rapipe.device import device
        from rapipe.encoder.encoder import Encoder
        from rapipe.encoder.retriever import Retriever
        from rapipe.records import Embeddings
        from rapipe.retrieval.search import SearchMethod
        from rapipe.retrieval.strategies import RetrievalRequest

        torch.manual_seed(0)
        self.width, self.stem = width, stem
        encoder = Encoder(self.spec("resnet18")).to(device())
        self.test = random_images(images, rows)
        self.validation = random_images(images // 2, rows + images)
        stored = random_images(rows, 0)
        vectors = encoder.embed(stored.pixels)
        bank = Embeddings(stored.ids, vectors, stored.labels, stored.sources, stored.sources)
        request = RetrievalRequest(K, 0, SearchMethod())
        self.retriever = Retriever(encoder, bank, "knn", request, CLASSES, cache, "encoder")
        self.neighbours = self.retriever.retrieve(self.validation)

    def spec(self, network: str) -> Any:
        """A network of this setting."""
        from rapipe.encoder.encoder import EncoderSpec

        return EncoderSpec(network, self.width, self.stem, SIDE, (0.5,) * 3, (0.3,) * 3)

    def measure(self, network: str, rounds: int) -> dict[str, list[float]]:
        """Seconds of an evaluation without neighbours and with them, by round."""
        from rapipe.classifier.classifier import Classifier, ClassifierSpec
        from rapipe.device import device
        from rapipe.specs import FusionSpec

        spec = partial(ClassifierSpec, self.spec(network), CLASSES)
        dimension = self.retriever.bank.vectors.shape[1]
        plain = Classifier(spec()).to(device())
        fused = Classifier(spec(fusion=FusionSpec(), dimension=dimension)).to(device())
        peers = {"none": partial(self.evaluate, plain), "with": partial(self.evaluate, fused)}
        self.evaluate(fused)  # which embeds
        return in_turns(rounds, {name: partial(clocked, peer) for name, peer in peers.items()})

    def evaluate(self, classifier: Any) -> None:
        """All that the stage measures of a classifier but for its attribution maps."""
        from rapipe.evaluation.measures.analysis import RetrievalAnalysis, evaluate_levels

        retriever, analysis = None, None
        if classifier.spec.fusion:
            retriever = self.retriever
            analysis = RetrievalAnalysis(
                classifier=classifier,
                retriever=retriever,
                images=self.test,
                bank_classes=self.test.classes,
                seed=0,
                levels=(0.0,),
                poisoned=POISONED,
                strategies=("knn", "self"),
                attributed=ATTRIBUTED,
                prune=PRUNED,
            )
            analysis.choose(self.validation, self.neighbours)
        evaluate_levels(classifier, self.test, LEVELS, retriever, analysis, seed=0)


def random_images(count: int, first_id: int) -> Any:
    """Images of noise with random classes."""
    from rapipe.records import Images

    rng = np.random.default_rng(first_id)
    pixels = rng.integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)
    names = np.full(count, "made")
    ids, labels = np.arange(first_id, first_id + count), rng.integers(0, CLASSES, count)
    return Images(ids, pixels, labels, names, tuple(map(str, range(CLASSES))))


if __name__ == "__main__":
    main()
