"""Large corpora in little memory: time and peak of each stage, within an enforced limit.

    python -m tests.faults.load --rows 10000 100000 1000000 --gigabytes 4  corpus to prefetch
    python -m tests.faults.load --repro --gigabytes 2                      `dvc repro` as it is

The system kills a process that needs more than the limit: one that finishes stayed
within. Needs Linux and root; elsewhere peaks are measured, and no limit is enforced.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from rapipe.config import deciding, presets
from rapipe.config.loading import parse
from rapipe.config.yaml_text import read_yaml, write_yaml
from rapipe.encoder.encoder import Encoder, EncoderSpec
from rapipe.io.atomic import atomic_write
from rapipe.io.folders import atomic_folder
from rapipe.pipeline.inputs import PARAMS
from tests.faults.clone import ROOT, Clone

STAGES = ("corpus", "embed", "prefetch")
SIDE = 8
PROTOTYPES, CLASSES = 5000, 10
"""Images differ from one of so many by noise: a memory without any structure has no neighbours."""
BATCH = 20_000
GROUPS = (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup"))
"""Where memory is limited, in the older and in the newer layout of Linux."""
NAMES = {
    GROUPS[0]: ("memory.limit_in_bytes", "memory.max_usage_in_bytes"),
    GROUPS[1]: ("memory.max", "memory.peak"),
}


def images(rows: int, path: Path) -> None:
    """Write a Parquet file of so many small PNG images, all different."""
    rng = np.random.default_rng(0)
    prototypes = rng.integers(0, 200, (PROTOTYPES, SIDE, SIDE, 3), dtype=np.uint8)
    schema = pa.schema({"image": pa.struct({"bytes": pa.binary()}), "label": pa.int64()})
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, BATCH):
            count = min(BATCH, rows - start)
            prototype_rows = rng.integers(0, PROTOTYPES, count)
            noise = rng.integers(0, 56, (count, SIDE, SIDE, 3), dtype=np.uint8)
            encoded = [_png(image) for image in prototypes[prototype_rows] + noise]
            cells = pa.StructArray.from_arrays([pa.array(encoded, pa.binary())], ["bytes"])
            labels = pa.array((prototype_rows % CLASSES).astype(np.int64))
            writer.write_table(pa.table([cells, labels], schema=schema))


def _png(image: np.ndarray) -> bytes:
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, "png", compress_level=0)
    return buffer.getvalue()


@contextmanager
def limited(gigabytes: float) -> Iterator[Path | None]:
    """A control group with so much memory; None where none can be created."""
    for top in GROUPS:
        group, (limit, _) = top / f"rapipe-{os.getpid()}", NAMES[top]
        try:
            group.mkdir()
            (group / limit).write_text(str(int(gigabytes * 1e9)))
        except OSError:
            continue
        try:
            yield group
        finally:
            _remove(group)
        return
    yield None


def _remove(group: Path) -> None:
    """The system takes a moment to see that its processes have ended."""
    for _ in range(100):
        with suppress(OSError):
            group.rmdir()
            return
        time.sleep(0.1)


def run(command: list[str], folder: Path, gigabytes: float) -> dict[str, Any]:
    """Run a command within a limit; seconds, peak of the group in gigabytes, exit code."""
    env = Clone(ROOT).env
    with limited(gigabytes) as group:

        def enter() -> None:
            if group:
                (group / "cgroup.procs").write_text(str(os.getpid()))

        start = time.monotonic()
        done = subprocess.run(command, cwd=folder, env=env, preexec_fn=enter, check=False)
        usage: dict[str, Any] = {"seconds": round(time.monotonic() - start, 1)}
        usage["exit"] = done.returncode
        if group:
            peak = int((group / NAMES[group.parent][1]).read_text())
            usage["peak_gb"] = round(peak / 1e9, 2)
    return usage


def corpus_of(rows: int, folder: Path, gigabytes: float) -> dict[str, Any]:
    """What the stages take that read every image, in a new folder with so many."""
    presets.write("tiny", folder / "params.yaml")
    images(rows, folder / "images.parquet")
    params = read_yaml((folder / "params.yaml").read_text())
    params["corpus"].update(
        sources=[{"kind": "parquet", "path": "images.parquet"}], image_size=SIDE
    )
    params["retrieval"].update(strategies=["knn"], backend="auto", k=8)
    atomic_write(folder / "params.yaml", write_yaml(params).encode())
    costs: dict[str, Any] = {"rows": rows}
    for stage in STAGES:
        if stage == "embed":
            _encoder(folder, params)
        costs[stage] = run([sys.executable, "-m", f"stages.{stage}"], folder, gigabytes)
        if costs[stage]["exit"]:
            raise RuntimeError(f"{stage} of {rows:,} images ended with {costs[stage]['exit']}")
        cost = json.loads((folder / f"data/costs/{stage}.json").read_text())
        costs[stage]["own_peak_gb"] = cost["peak_gb"]
        costs[stage]["microseconds_an_image"] = round(1e6 * cost["seconds"] / rows, 1)
    return costs


def _encoder(folder: Path, params: dict[str, Any]) -> None:
    """An encoder that has learned nothing: what it costs to embed does not depend on that."""
    card = json.loads((folder / "data/corpus/card.json").read_text())
    pretraining = params["pretrain"]
    spec = EncoderSpec(
        "resnet18", 16, pretraining["stem"], SIDE, tuple(card["mean"]), tuple(card["std"])
    )
    torch.manual_seed(0)
    with atomic_folder(folder / "data/encoder") as part:
        made_with = {"corpus": card["hash"], **deciding.of_encoder(parse(params), "fp32")}
        Encoder(spec).write(part, {PARAMS: made_with})


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.load", description=__doc__)
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--gigabytes", type=float, default=4)
    parser.add_argument("--repro", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with limited(arguments.gigabytes) as group:
        is_limited = group is not None
    report: dict[str, Any] = {"gigabytes": arguments.gigabytes, "limit_held": is_limited}
    if arguments.repro:
        report["repro"] = run(["dvc", "repro"], Path.cwd(), arguments.gigabytes)
    else:
        report["corpora"] = []
        for rows in arguments.rows:
            with tempfile.TemporaryDirectory() as folder:
                report["corpora"].append(corpus_of(rows, Path(folder), arguments.gigabytes))
    text = json.dumps(report, indent=2) + "\n"
    print(text)
    if arguments.json:
        atomic_write(arguments.json, text.encode())


if __name__ == "__main__":
    main()
