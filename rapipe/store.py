"""LanceDB: the durable memory, and the manifest that says what must be in it.

Lance names its files at random and does not notice flipped bytes, so the
folder never hashes the same twice and cannot vouch for itself. The manifest
does: row count, dimension, and a SHA-256 of the rows in id order.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from rapipe.errors import UserError
from rapipe.records import Embeddings

TABLE = "embeddings"
BATCH = 8192


@dataclass(frozen=True)
class Manifest:
    """What the store holds, and who embedded it."""

    rows: int
    dimension: int
    splits: dict[str, int]
    sha256: str
    """Of ids, vectors, labels, sources and splits in id order."""
    encoder: str
    """Hash of the encoder's weights."""


def write(embeddings: Embeddings, encoder: str, folder: Path, manifest: Path) -> Manifest:
    """Write the store beside its place, then rename it; the manifest comes last.

    A run that is killed leaves the old store with its manifest, or no manifest.
    """
    import lancedb

    partial = folder.with_name(folder.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    reader = _reader(embeddings)
    lancedb.connect(str(partial)).create_table(TABLE, reader, schema=reader.schema)
    splits, counts = np.unique(embeddings.splits, return_counts=True)
    made = Manifest(
        rows=len(embeddings),
        dimension=embeddings.vectors.shape[1],
        splits={str(s): int(c) for s, c in zip(splits, counts, strict=True)},
        sha256=content_hash(embeddings),
        encoder=encoder,
    )
    manifest.unlink(missing_ok=True)
    if folder.exists():
        shutil.rmtree(folder)
    partial.rename(folder)
    beside = manifest.with_name(manifest.name + ".part")
    beside.write_text(json.dumps(asdict(made), indent=2) + "\n")
    beside.replace(manifest)
    return made


def read(folder: Path, manifest: Path) -> tuple[Embeddings, Manifest]:
    """All rows, in the order they were written, checked against the manifest.

    Raises:
        UserError: store or manifest is missing or damaged, or they contradict each other.
    """
    import lancedb

    known = read_manifest(manifest)
    if not folder.is_dir():
        raise UserError(f"{folder} is missing: run rapipe embed, or dvc repro")
    try:
        table: Any = lancedb.connect(str(folder)).open_table(TABLE).to_arrow().combine_chunks()
        vectors = table["vector"].combine_chunks()
        found = Embeddings(
            ids=table["id"].to_numpy(),
            vectors=vectors.flatten().to_numpy().reshape(-1, known.dimension),
            labels=table["label"].to_numpy(),
            sources=np.array(table["source"].to_pylist(), np.str_),
            splits=np.array(table["split"].to_pylist(), np.str_),
        )
    except (ValueError, OSError, RuntimeError, KeyError, pa.ArrowInvalid) as error:
        raise UserError(f"{folder} is damaged ({error}): run rapipe embed") from None
    if len(found) != known.rows or content_hash(found) != known.sha256:
        raise UserError(f"{folder} does not match {manifest}: run rapipe embed")
    return found, known


def read_manifest(path: Path) -> Manifest:
    """The manifest alone, without opening the store."""
    try:
        return Manifest(**json.loads(path.read_text()))
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run rapipe embed, or dvc repro") from None
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}): run rapipe embed") from None


def content_hash(embeddings: Embeddings) -> str:
    """SHA-256 of the rows in id order (equal ids by split, then source)."""
    order = np.lexsort((embeddings.sources, embeddings.splits, embeddings.ids))
    digest = hashlib.sha256()
    for column in (embeddings.ids, embeddings.vectors, embeddings.labels):
        for start in range(0, len(order), BATCH):
            digest.update(np.ascontiguousarray(column[order[start : start + BATCH]]).tobytes())
    for names in (embeddings.sources, embeddings.splits):
        digest.update("\0".join(names[order].tolist()).encode())
    return digest.hexdigest()


def _reader(embeddings: Embeddings) -> pa.RecordBatchReader:
    """The rows as a stream, so that they are written in one commit without a second copy."""
    dimension = embeddings.vectors.shape[1]
    schema = pa.schema(
        {
            "id": pa.int64(),
            "vector": pa.list_(pa.float32(), dimension),
            "label": pa.int64(),
            "source": pa.string(),
            "split": pa.string(),
        }
    )

    def batches() -> Any:
        for start in range(0, len(embeddings), BATCH):
            part = slice(start, start + BATCH)
            flat = np.ascontiguousarray(embeddings.vectors[part]).reshape(-1)
            yield pa.record_batch(
                [
                    pa.array(embeddings.ids[part]),
                    pa.FixedSizeListArray.from_arrays(pa.array(flat), dimension),
                    pa.array(embeddings.labels[part]),
                    pa.array(embeddings.sources[part].tolist(), pa.string()),
                    pa.array(embeddings.splits[part].tolist(), pa.string()),
                ],
                schema=schema,
            )

    return pa.RecordBatchReader.from_batches(schema, batches())
