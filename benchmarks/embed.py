"""From the corpus to the committed store, beside the bare forward pass of the encoder.

    python -m benchmarks.embed [--json] [--quick] [--width 16] [--stem half] [--images 50000]
    python -m benchmarks.embed --encoder timm:tf_efficientnet_lite0 --size 128 --images 4000

Images a second of random images of 32 pixels, which encoders that see others resize:

- embed: all that `rapipe embed` does: encoder, corpus from disk, forward passes, checks, a hash a
  row, the LanceDB table, the manifest;
- without the store: the vectors alone;
- bare: the forward pass alone, again and again over one batch that is on the device and has the
  encoder's size; of a model of timm as `timm.create_model` makes it, in batches of the encoder's
  size and of 256 images, of which the faster counts.

All are measured in turns; imports are not counted. The defaults suit two cores; for one GPU:
--width 64 --stem cifar. The peak of memory is of the whole benchmark.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

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
OF_BARE_LARGE = 0.9
"""Where a network takes so long that the store hardly matters."""
TIMM_BATCH = 256
"""Of timm's own scripts."""


def main() -> None:
    """Print a table, or JSON."""
    options = parse_arguments(
        __doc__,
        width=(16, "channels of the encoder's first stage"),
        stem=("half", "its first convolution"),
        images=(50_000, "of the corpus"),
        encoder=("resnet18", "its name"),
        size=(SIDE, "side of what it sees, in pixels"),
    )
    count = min(options.images, QUICK_IMAGES) if options.quick else options.images
    rounds = QUICK_ROUNDS if options.quick else ROUNDS
    with tempfile.TemporaryDirectory() as folder:
        before = Path.cwd()
        os.chdir(folder)
        try:
            make(count, options.encoder, options.width, options.stem, options.size)
            bares = bare_peers(count)
            for peer in bares.values():
                peer()
            embed()  # which imports LanceDB
            peers = {"embed": embed, "without the store": lambda: without_store(count), **bares}
            seconds = in_turns(rounds, peers)
        finally:
            os.chdir(before)
    rates = {name: [count / s for s in times] for name, times in seconds.items()}
    fastest = max(bares, key=lambda name: statistics.median(rates[name]))
    share = ratio(seconds[fastest], seconds["embed"])
    limit = OF_BARE if options.size == SIDE else OF_BARE_LARGE
    setting = {name: getattr(options, name) for name in ("encoder", "width", "stem", "size")}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    result: Result = {
        "machine": machine("torch", "timm", "lancedb", "pyarrow"),
        "setting": {**setting, "images": count},
        "images a second": {name: [round(r) for r in values] for name, values in rates.items()},
        "peak gigabytes": round(peak, 2),
        "targets": [target(f"embed / {fastest}", share, limit, at_least=True)],
    }
    lines = [f"{count:,} images, {peak:.2f} GB at most; a second:"]
    lines += [f"{name:28}{spread(values, digits=0):>28}" for name, values in rates.items()]
    print_result(result, lines, options.json)


def make(count: int, encoder: str, width: int, stem: str, size: int) -> None:
    """Write a corpus and an encoder where the pipeline expects them."""
    from rapipe import paths
    from rapipe.config import deciding, presets
    from rapipe.config.loading import load
    from rapipe.encoder.encoder import Encoder, EncoderSpec
    from rapipe.io.checksums import write_checksums
    from rapipe.io.locations import write_locations
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
    locations = {split: map(str, ids) for split, ids in zip(SPLITS, parts, strict=True)}
    write_locations(paths.LOCATIONS, locations)
    params = load(paths.PARAMS)
    card = {"classes": list("0123456789"), "hash": "random", PARAMS: deciding.of_corpus(params)}
    paths.CORPUS_CARD.write_text(json.dumps(card))
    spec = EncoderSpec(encoder, width, stem, size, (0.5,) * 3, (0.3,) * 3)
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


def bare_peers(count: int) -> dict[str, Callable[[], float]]:
    """Seconds of as many forward passes over one batch, by what makes them."""
    import timm

    from rapipe import paths
    from rapipe.device import device
    from rapipe.encoder.encoder import Encoder

    encoder = Encoder.read(paths.ENCODER).to(device())
    size = encoder.preprocess.batch_size
    family, _, name = encoder.spec.backbone.partition(":")
    if family != "timm":
        return {"bare": lambda: bare(encoder.backbone, size, encoder.spec.image_size, count)}
    model = timm.create_model(name, num_classes=0).eval().to(device())
    model = model.to(memory_format=torch.channels_last)
    return {
        f"bare timm, batches of {batch}": partial(
            bare, model, batch, encoder.spec.image_size, count
        )
        for batch in (size, TIMM_BATCH)
    }


def bare(network: nn.Module, size: int, side: int, count: int) -> float:
    """Seconds of the forward passes of one network."""
    from rapipe.device import device

    batch = torch.rand(size, 3, side, side, device=device())
    batch = batch.contiguous(memory_format=torch.channels_last)

    def run() -> None:
        with torch.inference_mode():
            for start in range(0, count, size):
                network(batch[: min(size, count - start)])

    return clocked(run)


if __name__ == "__main__":
    main()
