"""Embeds on a Ray cluster: the same rows as on one machine, whatever the number of nodes.

The unit of work is a block of images. All that the nodes share lies in a `Storage`:

    KEY/images/BLOCK.arrow    the images of a block; its name holds their SHA-256
    KEY/encoder/              the encoder
    KEY/rows/FILE.lance       the rows of a block
    KEY/done/BLOCK.json       which file that is: the block is finished as soon as this is there

Ray Data hands blocks to a pool of actors: one a GPU, or without GPUs one a CPU, of one thread. An
actor reads the next block and writes the one before while it embeds. (In tasks of their own these
would need processes that import as much again, and CPUs that actors leave free:
ray-project/ray#63478.) Ray repeats what a dead worker or node was at. A block that was written
twice counts once, since its last description names one file. Whoever starts the same again after
the driver died embeds only blocks that are not finished.

Letters: N images, D embedding.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rapipe.errors import UserError
from rapipe.io import ray_cluster
from rapipe.io.storage import Storage
from rapipe.progress import track
from rapipe.records import Embeddings, Images
from rapipe.retrieval.store import Fragment, StoreSpec
from rapipe.retrieval.store.fragments import write_fragment
from rapipe.retrieval.store.rows import blocks_of, record_batch

ACTOR_CPUS = 0.5
"""Share of a CPU that an actor reserves, so that one can move to a node that has its own already
when another is lost."""
TASKS = 8
"""For each actor, at least, if there are so many blocks."""
MOST_BLOCKS = 4
"""Of a task."""
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
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        return bytes(sink.getvalue())

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
    address: str = ray_cluster.LOCAL,
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
    # They are not imported: Ray forks when it starts, which Lance does not bear.
    for package, module in (("ray[data]", "ray"), ("pylance", "lance")):
        ray_cluster.require(package, module)
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


def _embed(names: list[str], spec: StoreSpec, storage: Storage, address: str) -> None:
    """Embed and write these blocks."""
    import ray
    import ray.data

    with ray_cluster.connection(address):
        resources = ray.cluster_resources()
        gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
        share = {"num_gpus": 1.0} if gpus else {"num_cpus": ACTOR_CPUS}
        actors = max(1, min(len(names), gpus or cpus))
        size = max(1, min(MOST_BLOCKS, len(names) // (TASKS * actors)))
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.raise_original_map_exception = True
        context.execution_no_progress_timeout_s = STALLED_SECONDS
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # one sentence tells it
        tasks = [{"names": names[i : i + size]} for i in range(0, len(names), size)]
        dataset = ray.data.from_items(tasks, override_num_blocks=len(tasks)).map(
            _Embedder,
            fn_constructor_args=(storage.address, spec.classes, _versions()),
            concurrency=(1, actors, actors),  # at least, at most, at first
            **share,
        )
        try:
            for _ in track(dataset.iter_rows(), "embedding", len(tasks)):
                pass
        except (ray.exceptions.RayError, UserError) as error:
            done, why = len(storage.sizes("done")), ray_cluster.reason(error)
            raise UserError(
                f"embedding on Ray failed ({why}); {done:,} blocks are finished, and are kept: run "
                "the same again"
            ) from None


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
        self.storage, self.classes = storage, classes

    def __call__(self, task: dict[str, Any]) -> dict[str, Any]:
        """Embed and write the blocks of these names; returns how many rows they have."""
        names: list[str] = list(task["names"])
        written: list[Future[int]] = []
        with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
            read = reader.submit(self._read, names[0])
            for number, name in enumerate(names, 1):
                block = read.result()
                if number < len(names):
                    read = reader.submit(self._read, names[number])
                written.append(writer.submit(self._write, name, self._rows(block)))
            return {"rows": sum(rows.result() for rows in written)}

    def _read(self, name: str) -> ImageBlock:
        content = self.storage.read(f"images/{name}.arrow")
        if hashlib.sha256(content).hexdigest()[:32] != name.partition("-")[2]:
            raise UserError(
                f"{self.storage.address}/images/{name}.arrow is not what was written there: "
                "delete it"
            )
        return ImageBlock.parse(content, self.classes)

    def _rows(self, block: ImageBlock) -> pa.RecordBatch:
        images = block.images
        vectors = self.encoder.embed(images.pixels)
        splits = np.full(len(images), block.split)
        embeddings = Embeddings(images.ids, vectors, images.labels, images.sources, splits)
        (rows,) = blocks_of([embeddings], self.classes, block.origins)
        return record_batch(rows)

    def _write(self, name: str, rows: pa.RecordBatch) -> int:
        """Write the rows of a block, then that it is finished; returns their number."""
        with tempfile.TemporaryDirectory() as folder:
            fragment, content = write_fragment(rows, Path(folder))
        self.storage.write(f"rows/{fragment.file}", content)
        self.storage.write(f"done/{name}.json", fragment.to_json())
        return fragment.rows


def _versions() -> list[str]:
    """What the bits of vectors depend on, besides the kind of processor."""
    import torch

    from rapipe import __version__

    return [f"rapipe {__version__}", f"torch {torch.__version__}"]
