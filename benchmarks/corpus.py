"""The corpus stage against plain Pillow, on the same images and cores.

    python -m benchmarks.corpus [--json] [--quick]

The images are JPEGs of 32 pixels in Parquet, made from noise that
compresses like photographs. The peer decodes and resizes them with nothing
around it: no reading from disk, no hashing, no checks, no writing; its
processes have the images in memory before its clock starts. Ours is all that
`rapipe corpus` does, from opening the Parquet file to the card, and then again
with everything cached. Peak memory is that of a new process, and of its
largest worker.
"""

from __future__ import annotations

import io
import multiprocessing
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.common import machine, parse_arguments, print_result, target

SIDE = 32
CLASSES = 10
RATIO_TARGET = 1.5
MEMORY_TARGET = 1.0


def main() -> None:
    """Print the ratio of times and the peak memory, with their targets."""
    arguments = parse_arguments(__doc__)
    count, repeats = (20_000, 1) if arguments.quick else (100_000, 5)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        encoded = make_images(count)
        peer, ours, cached = [], [], []
        for _ in range(repeats):
            peer.append(pillow_alone(encoded))
            shutil.rmtree("data", ignore_errors=True)
            ours.append(in_a_process(build))
            cached.append(in_a_process(build))
        os.chdir("/")
    result = summary(count, peer, ours, cached)
    print_result(result, readable(result), arguments.json)


def make_images(count: int) -> list[bytes]:
    """Write `images/{train,test}.parquet` and `params.yaml`; returns the encoded images."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from rapipe.config import presets

    rng = np.random.default_rng(0)
    encoded = []
    for _ in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        encoded.append(buffer.getvalue())
    cut = count - count // 10
    Path("images").mkdir()
    for split, images in (("train", encoded[:cut]), ("test", encoded[cut:])):
        labels = [row % CLASSES for row in range(len(images))]
        pq.write_table(pa.table({"image": images, "label": labels}), f"images/{split}.parquet")
    presets.write(presets.DEFAULT, Path("params.yaml"))
    text = Path("params.yaml").read_text()
    source = "- {kind: parquet, path: images}"
    Path("params.yaml").write_text(text.replace("- kind: digits", source))
    return encoded


def pillow_alone(encoded: list[bytes]) -> float:
    """Seconds that Pillow needs for all images, shared among the cores."""
    workers = os.cpu_count() or 1
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        shares = [encoded[start::workers] for start in range(workers)]
        return max(pool.map(_decode_share, shares))


def _decode_share(encoded: list[bytes]) -> float:
    start = time.perf_counter()
    for data in encoded:
        Image.open(io.BytesIO(data)).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return time.perf_counter() - start


def build() -> None:
    """All of the corpus stage; what is in `data/cache` is not decoded again."""
    from rapipe.config.loading import load
    from rapipe.pipeline import corpus

    corpus.run(load(Path("params.yaml")))


def in_a_process(task: Callable[[], None]) -> dict[str, float]:
    """Seconds and gigabytes of a task in a new process; imports are not timed."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measured, task).result()


def _measured(task: Callable[[], None]) -> dict[str, float]:
    import rapipe.pipeline.corpus  # noqa: F401

    start = time.perf_counter()
    task()
    seconds = time.perf_counter() - start
    peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, -1)]
    unit = 1 if sys.platform == "darwin" else 1024
    return {"seconds": seconds, "gigabytes": max(peaks) * unit / 1e9}


def summary(
    count: int,
    peer: list[float],
    ours: list[dict[str, float]],
    cached: list[dict[str, float]],
) -> dict[str, Any]:
    """Times, ratios with their spread, and targets."""
    ratios = [run["seconds"] / other for run, other in zip(ours, peer, strict=True)]
    again = [run["seconds"] / other for run, other in zip(cached, peer, strict=True)]
    ratio, memory = statistics.median(ratios), max(run["gigabytes"] for run in ours)
    return {
        "machine": machine("pillow", "pyarrow"),
        "images": count,
        "seconds": {
            "pillow alone": [round(seconds, 2) for seconds in peer],
            "corpus stage": [round(run["seconds"], 2) for run in ours],
            "corpus stage, cached": [round(run["seconds"], 2) for run in cached],
        },
        "ratios": {
            "corpus stage / pillow": [round(value, 3) for value in ratios],
            "cached / pillow": [round(value, 3) for value in again],
        },
        "targets": [
            target("corpus stage / pillow", ratio, RATIO_TARGET),
            target("peak gigabytes", memory, MEMORY_TARGET),
        ],
    }


def readable(result: dict[str, Any]) -> list[str]:
    """The same as text."""
    lines = [f"{result['images']:,} images"]
    for group in ("seconds", "ratios"):
        lines += [f"{name}: {values} {group}" for name, values in result[group].items()]
    return lines


if __name__ == "__main__":
    main()
