"""Embeds on a Ray cluster: the same rows as on one machine, whatever the number of nodes.

The unit of work is a block of images. All that the nodes share lies in a `Storage`:

    KEY/images/BLOCK.arrow    the images of a block; its name holds their SHA-256
    KEY/encoder/              the encoder
    KEY/rows/FILE.lance       the rows of a block
    KEY/done/BLOCK.json       which file that is: the block is finished as soon as this is there

Ray Data reads blocks in tasks, embeds them in a pool of actors (one a GPU; without GPUs one a CPU,
of one thread), and writes rows in tasks. Ray repeats what a dead worker or node was at. A block
that was written twice counts once, since its last description names one file. Whoever starts the
same again after the driver died embeds only blocks that are not finished.

Letters: N images, D embedding.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rapipe.errors import ArgumentError, UserError, first_line
from rapipe.io.storage import Storage
from rapipe.progress import track
from rapipe.records import Embeddings, Images
from rapipe.retrieval.store import Fragment, StoreSpec
from rapipe.retrieval.store.fragments import EXTRA, write_fragment
from rapipe.retrieval.store.rows import blocks_of, record_batch

LOCAL = "local"
"""Address of a cluster that is started on this machine, and ends with this process."""
TASK_CPUS, ACTOR_CPUS = 0.1, 0.4
"""Shares of a CPU that a task, which mostly waits for storage, and an actor reserve. Two actors
and two tasks fit on one CPU: readers always find room (ray-project/ray#63478), and the work of a
node that is lost goes on on another that is busy."""
STALLED_SECONDS = 1800
"""Without any block read, embedded or written, after which it fails."""


@dataclass(frozen=True)
class ImageBlock:
    """Images to embed, and where they came from."""

    images: Images
    split: str
    origins: list[str]

    def to_bytes(self) -> bytes:
        """One Arrow IPC file."""
        images = self.images
        pixels = pa.array(np.ascontiguousarray(images.pixels).reshape(-1))
        size = int(np.prod(images.pixels.shape[1:]))
        table = pa.table(
            {
                "id": pa.array(images.ids),
                "pixels": pa.FixedSizeListArray.from_arrays(pixels, size),
                "label": pa.array(images.labels),
                "source": pa.array(images.sources.tolist(), pa.string()),
                "origin": pa.array(self.origins, pa.string()),
            },
            metadata={"split": self.split, "side": str(images.pixels.shape[1])},
        )
        return _ipc(table)

    @classmethod
    def parse(cls, content: bytes, classes: tuple[str, ...]) -> ImageBlock:
        """The block that `to_bytes` wrote; its pixels are not copied."""
        table = pa.ipc.open_file(pa.py_buffer(content)).read_all().combine_chunks()
        side, split = (table.schema.metadata[key].decode() for key in (b"side", b"split"))
        pixels = table["pixels"].chunk(0).flatten().to_numpy()
        images = Images(
            table["id"].to_numpy(),
            pixels.reshape(-1, int(side), int(side), 3),
            table["label"].to_numpy(),
            np.array(table["source"].to_pylist(), np.str_),
            classes,
        )
        return cls(images, split, table["origin"].to_pylist())


def embed(
    blocks: Iterable[ImageBlock],
    count: int,
    encoder: Path,
    spec: StoreSpec,
    storage: Storage,
    address: str = LOCAL,
) -> list[Fragment]:
    """Embed and write all blocks that are not finished; returns the fragments of all, in order.

    Args:
        count: of the blocks.
        encoder: the folder that `Encoder.write` wrote.
        storage: a folder of it for what this encoder makes of images of these classes: `key`.
        address: of the cluster; `auto` for the one that this machine belongs to.

    Raises:
        ArgumentError: Ray or Lance is not installed, or there is no cluster at `address`.
        UserError: the cluster or the storage fails for good; finished blocks stay finished.
    """
    require_packages()
    names, unfinished = [], []
    finished = {name.removesuffix(".json") for name in storage.sizes("done")}
    staged = storage.sizes("images")
    for number, block in enumerate(track(blocks, "sharing images", count)):
        content = block.to_bytes()
        name = f"{number:07}-{hashlib.sha256(content).hexdigest()[:32]}"
        names.append(name)
        if name not in finished:
            unfinished.append(name)
            if staged.get(f"{name}.arrow") != len(content):
                storage.write(f"images/{name}.arrow", content)
    if unfinished:
        for path in sorted(path for path in encoder.iterdir() if path.is_file()):
            storage.write(f"encoder/{path.name}", path.read_bytes())
        _embed(unfinished, spec, storage, address)
    return [Fragment.parse(storage.read(f"done/{name}.json")) for name in names]


def key(spec: StoreSpec) -> str:
    """Of what an encoder makes of images of these classes."""
    text = "\0".join([spec.encoder, str(spec.dimension), *spec.classes, *map(str, _versions())])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def require_packages() -> None:
    """Raise `ArgumentError` unless Ray Data and Lance are installed."""
    try:
        import lance  # noqa: F401
        import ray.data  # noqa: F401
    except ImportError as error:
        raise ArgumentError(
            f"`engine` is 'ray', which needs {EXTRA} ({first_line(error)}); or choose local"
        ) from None


def _embed(names: list[str], spec: StoreSpec, storage: Storage, address: str) -> None:
    """Embed and write these blocks."""
    import ray
    import ray.data

    with _cluster(address):
        resources = ray.cluster_resources()
        gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
        share = {"num_gpus": 1.0} if gpus else {"num_cpus": ACTOR_CPUS}
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.raise_original_map_exception = True
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # one sentence tells it
        context.execution_no_progress_timeout_s = STALLED_SECONDS
        dataset = (
            ray.data.from_items([{"name": name} for name in names], override_num_blocks=len(names))
            .map(partial(_read, storage.address), num_cpus=TASK_CPUS)
            .map(
                _Embedder,
                fn_constructor_args=(storage.address, spec.classes, _versions()),
                concurrency=(1, max(1, min(len(names), gpus or cpus))),
                **share,
            )
            .map(partial(_write, storage.address), num_cpus=TASK_CPUS)
        )
        try:
            for _ in track(dataset.iter_rows(), "embedding", len(names)):
                pass
        except (ray.exceptions.RayError, UserError) as error:
            done = len(storage.sizes("done"))
            raise UserError(
                f"embedding on Ray failed ({_reason(error)}); {done:,} blocks are finished, and "
                "are kept: run the same again"
            ) from None


@contextmanager
def _cluster(address: str) -> Iterator[None]:
    """A connection to a cluster; the one that there is, if this process has one."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told what is run
    import ray

    if ray.is_initialized():
        yield
        return
    options = {"include_dashboard": False} if address == LOCAL else {}
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        raise ArgumentError(
            f"`address` is {address!r}, where no Ray cluster answers ({first_line(error)}): start "
            f"one by ray start --head, or choose {LOCAL}"
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def _reason(error: BaseException) -> str:
    """What went wrong on a worker, in one line."""
    cause = getattr(error, "cause", None) or error.__cause__ or error
    return first_line(cause)


def _read(address: str, row: dict[str, Any]) -> dict[str, Any]:
    """The images of a block, as they are stored."""
    name = row["name"]
    content = Storage(address).read(f"images/{name}.arrow")
    if hashlib.sha256(content).hexdigest()[:32] != name.partition("-")[2]:
        raise UserError(f"{address}/images/{name}.arrow is not what was written there: delete it")
    return {"name": name, "content": content}


class _Embedder:
    """An actor with an encoder."""

    def __init__(self, address: str, classes: tuple[str, ...], versions: list[str]) -> None:
        import torch

        from rapipe.device import device
        from rapipe.encoder.encoder import Encoder

        if _versions() != versions:
            raise UserError(
                f"a node has {', '.join(_versions())}, and the driver {', '.join(versions)}: "
                "install the same, since vectors may differ"
            )
        torch.set_num_threads(1)
        storage = Storage(address)
        with tempfile.TemporaryDirectory() as folder:
            for name in storage.sizes("encoder"):
                (Path(folder) / name).write_bytes(storage.read(f"encoder/{name}"))
            self.encoder = Encoder.read(Path(folder)).to(device())
        self.classes = classes

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """The images of a block -> its rows."""
        block = ImageBlock.parse(row["content"], self.classes)
        images = block.images
        vectors = self.encoder.embed(images.pixels)
        splits = np.full(len(images), block.split)
        embeddings = Embeddings(images.ids, vectors, images.labels, images.sources, splits)
        (rows,) = blocks_of([embeddings], self.classes, block.origins)
        return {"name": row["name"], "content": _ipc(pa.Table.from_batches([record_batch(rows)]))}


def _write(address: str, row: dict[str, Any]) -> dict[str, Any]:
    """Write the rows of a block, then that it is finished."""
    storage = Storage(address)
    (rows,) = pa.ipc.open_file(pa.py_buffer(row["content"])).read_all().to_batches()
    with tempfile.TemporaryDirectory() as folder:
        fragment, content = write_fragment(rows, Path(folder))
    storage.write(f"rows/{fragment.file}", content)
    storage.write(f"done/{row['name']}.json", fragment.to_json())
    return {"rows": fragment.rows}


def _versions() -> list[str]:
    """What the bits of vectors depend on, besides the kind of processor."""
    import torch

    from rapipe import __version__

    return [f"rapipe {__version__}", f"torch {torch.__version__}"]


def _ipc(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())
