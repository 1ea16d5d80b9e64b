"""From the corpus to the committed store, beside the bare forward pass of the encoder.

    python -m benchmarks.embed [--json] [--quick] [--width 16] [--stem half] [--images 50000]

Images a second of random images of 32 pixels:

- embed: all that `rapipe embed` does: encoder, corpus from disk, forward passes, checks, a hash a
  row, the LanceDB table, the manifest;
- without the store: the vectors alone;
- bare: the encoder's forward pass, again and again over one batch that is on the device.

All are measured in turns; imports are not counted. The defaults suit two cores; for one GPU:
--width 64 --stem cifar.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

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

SIDE = 32
ROUNDS = 5
QUICK_ROUNDS = 2
QUICK_IMAGES = 24_576
OF_BARE = 0.85


def main() -> None:
    """Print a table, or JSON."""
    options = parse_arguments(
        __doc__,
        width=(16, "channels of the encoder's first stage"),
        stem=("half", "its first convolution"),
        images=(50_000, "of the corpus"),
    )
    count = min(options.images, QUICK_IMAGES) if options.quick else options.images
    rounds = QUICK_ROUNDS if options.quick else ROUNDS
    with tempfile.TemporaryDirectory() as folder:
        before = Path.cwd()
        os.chdir(folder)
        try:
            make(count, options.width, options.stem)
            bare(count)
            embed()  # which imports LanceDB
            seconds = in_turns(
                rounds,
                {
                    "embed": embed,
                    "without the store": lambda: without_store(count),
                    "bare": lambda: bare(count),
                },
            )
        finally:
            os.chdir(before)
    rates = {name: [count / s for s in times] for name, times in seconds.items()}
    share = ratio(seconds["bare"], seconds["embed"])
    result: Result = {
        "machine": machine("torch", "lancedb", "pyarrow"),
        "setting": {"width": options.width, "stem": options.stem, "images": count},
        "images a second": {name: [round(r) for r in values] for name, values in rates.items()},
        "targets": [target("embed / bare", share, OF_BARE, at_least=True)],
    }
    lines = [f"{count:,} images, a second:"]
    lines += [f"{name:28}{spread(values, digits=0):>28}" for name, values in rates.items()]
    print_result(result, lines, options.json)


def make(count: int, width: int, stem: str) -> None:
    """Write a corpus and an encoder where the pipeline expects them."""
    import torch

    from rapipe import paths
    from rapipe.config import deciding, presets
    from rapipe.config.loading import load
    from rapipe.encoder.encoder import Encoder, EncoderSpec
    from rapipe.io.checksums import write_checksums
    from rapipe.pipeline.inputs import PARAMS
    from rapipe.records import SPLITS, Images

    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    presets.write(presets.DEFAULT, paths.PARAMS)
    parts = np.split(rng.permutation(count), [int(0.8 * count), int(0.9 * count)])
    for split, ids in zip(SPLITS, parts, strict=True):
        pixels = rng.integers(0, 256, (len(ids), SIDE, SIDE, 3), dtype=np.uint8)
        names = np.array(["made"] * len(ids))
        Images(ids, pixels, ids % 10, names, tuple("0123456789")).write(paths.split(split))
    params = load(paths.PARAMS)
    card = {"classes": list("0123456789"), "hash": "random", PARAMS: deciding.of_corpus(params)}
    paths.CORPUS_CARD.write_text(json.dumps(card))
    spec = EncoderSpec("resnet18", width, stem, SIDE, (0.5,) * 3, (0.3,) * 3)
    made_with = {"corpus": card["hash"], **deciding.of_encoder(params, "fp32")}
    Encoder(spec).write(paths.ENCODER, {PARAMS: made_with})
    for folder in (paths.CORPUS, paths.ENCODER):
        write_checksums(folder)


def embed() -> float:
    """Seconds of the whole stage."""
    from rapipe import paths
    from rapipe.config.loading import load
    from rapipe.pipeline import embed

    shutil.rmtree(paths.STORE, ignore_errors=True)
    paths.STORE_MANIFEST.unlink(missing_ok=True)
    params = load(paths.PARAMS)
    return clocked(lambda: embed.run(params))


def without_store(count: int) -> float:
    """Seconds until the vectors are there."""
    from rapipe import paths
    from rapipe.device import device
    from rapipe.encoder.encoder import Encoder
    from rapipe.pipeline.embed import blocks

    def run() -> None:
        images = 0
        for block in blocks(Encoder.read(paths.ENCODER).to(device())):
            images += len(block)
            if images >= count:
                return

    return clocked(run)


def bare(count: int) -> float:
    """Seconds of as many forward passes over one batch."""
    import torch

    from rapipe import paths
    from rapipe.device import device
    from rapipe.encoder.encoder import CHUNK, Encoder

    backbone = Encoder.read(paths.ENCODER).to(device()).backbone
    batch = torch.rand(CHUNK, 3, SIDE, SIDE, device=device())
    batch = batch.contiguous(memory_format=torch.channels_last)

    def run() -> None:
        with torch.inference_mode():
            for start in range(0, count, CHUNK):
                backbone(batch[: min(CHUNK, count - start)])

    return clocked(run)


if __name__ == "__main__":
    main()
