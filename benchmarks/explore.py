"""How long the explorer takes to answer, and to start with a large memory.

    python -m benchmarks.explore [--json] [--quick] [--width 16] [--stem half] [--rows 50000]
                                 [--many 1000000]

Milliseconds from a question to its answer (image changed, embedded and searched, predictions with
all neighbours, with none and without each of them, attention, picture), by networks with random
weights over a bank of random vectors of the encoder's dimension and random images of 32 pixels:

- clean, noisy, and corrupted images;
- a class hidden: the first time, which copies the rest of the bank, and from then on.

Then seconds to read a bank of `--many` rows from disk and answer a first question, and to pack a
map of as many points. Where Playwright and Chromium are installed, also what the page itself takes
with so many points, without a GPU (SwiftShader): to index and to colour them, to draw all of them,
or as many as a frame has time for while the map moves; the point under the pointer; a lasso.
"""

from __future__ import annotations

import statistics
import tempfile
from functools import partial
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
ANSWER, START, FRAME = 0.3, 10.0, 0.1
"""Seconds."""
IN_PAGE = """count => {
    const points = Float32Array.from({length: 2 * count}, () => 2 * Math.random() - 1);
    const taken = (times, work) => {
        const start = performance.now();
        for (let i = 0; i < times; i++) work(i);
        return (performance.now() - start) / times;
    };
    let scatter;
    const canvas = document.querySelector("canvas");
    const index = taken(1, () => { scatter = new R.Scatter(canvas, points); });
    const circle = Array.from({length: 100}, (_, i) =>
        [600 + 200 * Math.cos(i / 16), 380 + 200 * Math.sin(i / 16)]);
    return {
        "to index": index,
        "to colour": taken(3, () => scatter.paint((i) => [i % 255, 90, 90, 215])),
        "all points": taken(5, () => scatter.draw()),
        "a frame while it moves": taken(10, () => scatter.draw(scatter.affordable)),
        "the point under the pointer": taken(1000, (i) => scatter.nearest(100 + i, 400)),
        "a lasso": taken(3, () => scatter.inside(circle)),
    };
}"""
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
    drawn = in_browser(many)
    result: Result = {
        "machine": machine("torch"),
        "setting": vars(options),
        "milliseconds an answer": {
            name: [round(1e3 * s, 1) for s in times] for name, times in seconds.items()
        },
        "seconds": {"start": round(started, 2), "map": round(mapped, 2)},
        "milliseconds in the browser": drawn,
        "targets": [
            *(
                target(f"seconds an answer, {name}", statistics.median(times), ANSWER)
                for name, times in seconds.items()
            ),
            target(f"seconds to start with {many:,} rows", started, START),
            *(
                target(f"seconds {name}, {many:,} points", drawn[name] / 1e3, FRAME)
                for name in ("a frame while it moves", "the point under the pointer")
                if name in drawn
            ),
        ],
    }
    lines = [f"{name:36}{spread(times, 1e3):>26} ms" for name, times in seconds.items()]
    lines += [f"{name:36}{value:>26} ms" for name, value in drawn.items()]
    print_result(result, lines, options.json)


def in_browser(count: int) -> dict[str, float]:
    """Milliseconds of what the map does in the page, by name; nothing without a browser."""
    from shutil import which

    from rapipe.explore.server import page_files

    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return {}
    if not (path := which("chromium") or which("google-chrome")):
        return {}
    with sync_playwright() as driver:
        arguments = ["--no-sandbox", "--enable-unsafe-swiftshader"]
        browser = driver.chromium.launch(executable_path=path, args=arguments)
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        page.set_content('<canvas id="points" style="width:1200px;height:760px"></canvas>')
        page.add_script_tag(content="const R = {};" + page_files()["scatter.js"].decode())
        milliseconds: dict[str, float] = page.evaluate(IN_PAGE, count)
        browser.close()
    return {name: round(value, 2) for name, value in milliseconds.items()}


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
                network,
                network,
                "knn",
                "cross-attention",
                0,
                partial(self.classifiers.__getitem__, network),
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
