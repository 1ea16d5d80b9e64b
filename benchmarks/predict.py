"""Predictions for image files beside the bare forward passes and the search, in memory.

    python -m benchmarks.predict [--json] [--quick] [--network resnet18] [--width 16] [--stem half]
                                 [--size 32] [--side 32] [--images 20000] [--rows 10000]

Images a second of JPEG files, by an encoder (ResNet-18) and a classifier with 32 neighbours, both
with random weights:

- predict: all that `rapipe predict FOLDER --out FILE.csv` does with them: lists files, decodes,
  embeds, searches, classifies, writes rows. What it does once, as reading weights, is not counted.
- bare: the same pixels in memory, and all of them at once: `Encoder.embed`, `search`,
  `Classifier.predict`.

Both are measured in turns. `--size` is the side of the squares that networks see, `--side` that of
the images in the files.
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

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

CLASSES, K = 10, 32
ROUNDS, QUICK_ROUNDS = 5, 1
QUICK_IMAGES = 2000
OF_BARE = 0.8
"""Share of the bare rate that predictions must reach."""


def main() -> None:
    """Print a table, or JSON."""
    options = parse_arguments(
        __doc__,
        network=("resnet18", "backbone of the classifier"),
        width=(16, "channels of the first stage of both networks"),
        stem=("half", "their first convolution"),
        size=(32, "side of what they see, in pixels"),
        side=(32, "side of the images in the files, in pixels"),
        images=(20_000, "files"),
        rows=(10_000, "of the bank"),
    )
    count = min(options.images, QUICK_IMAGES) if options.quick else options.images
    rounds = QUICK_ROUNDS if options.quick else ROUNDS
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder, "images"), count, options.side)
        setting = Setting(options, Path(folder))
        peers = {"predict": setting.predict, "bare": setting.bare}
        setting.bare()  # torch measures which products are fast
        seconds = in_turns(rounds, peers)
    rates = {name: [count / s for s in times] for name, times in seconds.items()}
    result: Result = {
        "machine": machine("torch", "pillow"),
        "setting": {**vars(options), "images": count, "k": K},
        "images a second": {name: [round(r) for r in values] for name, values in rates.items()},
        "targets": [
            target("predict / bare", ratio(seconds["bare"], seconds["predict"]), OF_BARE, True)
        ],
    }
    lines = [f"{count:,} files; a second:"]
    lines += [f"{name:12}{spread(values, digits=0):>24}" for name, values in rates.items()]
    print_result(result, lines, options.json)


def write_images(folder: Path, count: int, side: int) -> None:
    """JPEG files of coarse noise, which compresses like photographs, in folders of a thousand."""
    rng = np.random.default_rng(0)
    for number in range(count):
        file = folder / str(number // 1000) / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        file.write_bytes(buffer.getvalue())


class Setting:
    """A predictor, and images in files and in memory.

    Args:
        folder: has `images`, and gets the answers.
    """

    def __init__(self, options: Any, folder: Path) -> None:
        import torch

        from rapipe.classifier.classifier import Classifier, ClassifierSpec
        from rapipe.classifier.neighbour_batch import DeviceBank
        from rapipe.corpus.decode import Decoding, decode_many
        from rapipe.device import device
        from rapipe.encoder.encoder import Encoder, EncoderSpec
        from rapipe.encoder.retriever import Retriever
        from rapipe.prediction.predictor import Predictor
        from rapipe.records import Embeddings
        from rapipe.specs import FusionSpec

        torch.manual_seed(0)
        moments = (0.5,) * 3, (0.3,) * 3
        shape = options.width, options.stem, options.size
        encoder = Encoder(EncoderSpec("resnet18", *shape, *moments)).to(device())
        rng, rows = np.random.default_rng(1), options.rows
        vectors = rng.standard_normal((rows, encoder.features)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        names, labels = np.full(rows, "train"), rng.integers(0, CLASSES, rows)
        self.bank = Embeddings(np.arange(rows), vectors, labels, names, names)
        network = EncoderSpec(options.network, *shape, *moments)
        spec = ClassifierSpec(network, CLASSES, fusion=FusionSpec(), dimension=encoder.features)
        classes = tuple(map(str, range(CLASSES)))
        retriever = Retriever.knn(encoder, self.bank, K)
        decoding, self.folder = Decoding(options.size), folder
        self.predictor = Predictor(Classifier(spec), classes, decoding, retriever)
        self.encoder, self.classifier = encoder, self.predictor.classifier
        self.device_bank = DeviceBank(self.bank, CLASSES, device())
        files = sorted((folder / "images").rglob("*.jpg"))
        self.pixels, result = decode_many(files, decoding)
        self.ids = result.ids

    def predict(self) -> float:
        """Seconds from files to rows."""
        from rapipe.cores import cores
        from rapipe.pipeline.predict import write_answers
        from rapipe.prediction.output import answers_file

        def run() -> None:
            stream = self.predictor.stream([self.folder / "images"], processes=cores())
            write_answers(stream, answers_file(self.folder / "answers.csv"))

        return clocked(run)

    def bare(self) -> float:
        """Seconds of the same images in memory."""
        from rapipe.classifier.neighbour_batch import Shown
        from rapipe.retrieval.search import search

        def run() -> None:
            vectors = self.encoder.embed(self.pixels)
            neighbours = search(vectors, self.bank, K, self.ids)
            self.classifier.predict(self.pixels, *Shown.of(self.device_bank, neighbours))

        return clocked(run)


if __name__ == "__main__":
    main()
