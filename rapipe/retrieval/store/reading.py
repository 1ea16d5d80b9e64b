"""A store as it is read: one version, checked row by row.

Readers need no lock: nothing that a version needs is changed in place. If an edit drops
the version that they read, they raise `UserError`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rapipe.errors import UserError, first_line
from rapipe.io import memory_map
from rapipe.progress import track
from rapipe.records import Vectors
from rapipe.retrieval.store.rows import (
    BATCH,
    REBUILD_HINT,
    TEXTS,
    Block,
    Mask,
    Rows,
    class_names,
    connect,
    read_blocks,
    read_rows,
    translate_lance_errors,
)
from rapipe.retrieval.store.versions import History, Manifest, read_manifest

NORM_TOLERANCE = 1e-3
"""Of the squared length of a vector, from 1."""


@dataclass(frozen=True)
class Store:
    """A store at one version."""

    folder: Path
    pointer: Path
    """The file with the current manifest."""
    manifest: Manifest

    @classmethod
    def open(cls, folder: Path, pointer: Path) -> Store:
        """The current version.

        Raises:
            UserError: the store or its manifest is missing or damaged.
        """
        manifest = read_manifest(pointer)
        while not (folder / f"{manifest.table}.lance").is_dir():
            before, manifest = manifest, read_manifest(pointer)
            if manifest == before:  # else another process has just rewritten the store
                raise UserError(
                    f"{folder} lacks {manifest.table}.lance, which {pointer} names: "
                    "run rapipe embed"
                )
        if manifest.normalisation != "l2":
            raise UserError(
                f"{pointer} says that vectors are normalised by {manifest.normalisation!r}; "
                "only l2 can be searched: run rapipe embed"
            )
        return cls(folder, pointer, manifest)

    @property
    def history(self) -> History:
        """The versions that share this one's table."""
        return History(self.folder, self.manifest.table)

    @cached_property
    def table(self) -> Any:
        """The Lance table, as it is at the first access."""
        with translate_lance_errors(self.folder, REBUILD_HINT):
            return connect(self.folder).open_table(self.manifest.table)

    @cached_property
    def all_rows(self) -> Rows:
        """The rows of every version, without vectors."""
        with self._explain_rewrite():
            return read_rows(self.table, self.folder)

    def __len__(self) -> int:
        return self.manifest.rows

    def members(self, manifest: Manifest | None = None) -> Mask:
        """Which of `all_rows` belong to a version, this one by default."""
        version = (manifest or self.manifest).version
        with self._explain_rewrite():
            return self.history.members(version, len(self.all_rows))

    @cached_property
    def rows(self) -> Rows:
        """The rows of this version, without vectors; `UserError` if the manifest has others."""
        return self.check(self.manifest)

    def check(self, manifest: Manifest) -> Rows:
        """The rows of a version; `UserError` unless they are what its manifest says."""
        d = self.table.schema.field("vector").type.list_size
        if d != manifest.dimension:
            raise UserError(
                f"{self.folder} holds vectors of {d} dimensions, but the manifest of version "
                f"{manifest.version} says {manifest.dimension}: run rapipe embed"
            )
        rows = self.all_rows.take(self.members(manifest))
        actual = Manifest.of(rows, manifest.version, manifest.edit, manifest.table, manifest)
        if actual != manifest:
            raise UserError(
                f"version {manifest.version} of {self.folder} should have {manifest.rows:,} rows "
                f"with hash {manifest.sha256[:12]}, and has {actual.rows:,} with "
                f"{actual.sha256[:12]}: go to another version by rapipe store checkout, or run "
                "rapipe embed"
            )
        return rows

    def blocks(self, mask: Mask | None = None) -> Iterator[tuple[Rows, Vectors]]:
        """`checked_blocks` without the columns for people."""
        for block in self.checked_blocks(mask):
            yield block.rows, block.vectors

    def checked_blocks(self, mask: Mask | None = None) -> Iterator[Block]:
        """Rows in the order they are stored, each checked against its digest.

        Args:
            mask: which of `all_rows`; those of this version by default.
        """
        mask = self.members() if mask is None else mask
        start = 0
        for block in track(self._blocks(), "reading the store", -(-len(mask) // BATCH)):
            part = mask[start : start + len(block.rows)]
            damaged = np.intersect1d(block.damaged(), np.flatnonzero(part))
            if len(damaged):
                raise UserError(
                    f"{self._name(start, block, damaged[0])} is not what was stored: "
                    f"{repair(block.rows.ids[damaged[0]])}"
                )
            scaled = np.flatnonzero(part & ~has_unit_length(block.vectors))
            if len(scaled):
                raise UserError(
                    f"{self._name(start, block, scaled[0])} is not of unit length: it was "
                    "embedded with another normalisation; run rapipe embed"
                )
            start += len(part)
            if part.any():
                yield block.take(part)

    def vectors(self, path: Path) -> Vectors:
        """The vectors of `rows`, written to an .npy file and mapped from there."""
        shape = (len(self.rows), self.manifest.dimension)
        memory_map.write_array(path, shape, (vectors for _, vectors in self.blocks()))
        return memory_map.map_array(path)

    def verify(self, encoder: str | None) -> None:
        """Compare rows, digests, counts, the manifests of all versions and the encoder.

        Args:
            encoder: fingerprint of the encoder at hand, if there is one.

        Raises:
            UserError: names the first row that differs, or what else does.
        """
        start, members, misnamed = 0, self.members(), ""
        for block in track(self._blocks(), "verifying", -(-len(members) // BATCH)):
            faults: dict[str, np.ndarray] = {
                "is not what was stored (its digest differs)": block.damaged(),
                "has a value that is not finite": np.flatnonzero(
                    ~np.isfinite(block.vectors).all(axis=1)
                ),
                "is not of unit length": np.flatnonzero(~has_unit_length(block.vectors)),
            }
            for fault, rows in faults.items():
                if len(rows):
                    raise UserError(
                        f"{self._name(start, block, int(rows[0]))} {fault}: "
                        f"{repair(block.rows.ids[rows[0]])}"
                    )
            wrong = self._misnamed(block, members[start:])
            if len(wrong) and not misnamed:
                misnamed = self._name(start, block, int(wrong[0]))
            start += len(block.rows)
        for manifest in [*self.history.manifests().values(), self.manifest]:
            self.check(manifest)
        self.history.tags()
        if misnamed:
            raise UserError(f"{misnamed} has another class than its label: run rapipe embed")
        stored = self.manifest.encoder
        if encoder is not None and encoder != stored:
            raise UserError(
                f"{self.folder} was embedded by encoder {stored[:12]}, but the encoder at "
                f"hand is {encoder[:12]}: run rapipe embed"
            )

    def require_texts(self) -> None:
        """Raise `UserError` if the table lacks the columns for people; older ones do."""
        if missing := [name for name in TEXTS if name not in self.table.schema.names]:
            raise UserError(
                f"{self.folder} was written by an older rapipe, without the columns "
                f"{' and '.join(missing)}: run rapipe embed"
            )

    def difference(self, one: Manifest, other: Manifest) -> tuple[Rows, Rows]:
        """Rows of each of two versions that are not in the other."""
        first, second = (self.all_rows.take(self.members(manifest)) for manifest in (one, other))
        in_first, in_second = first.keys(), second.keys()
        return (
            first.take(~np.isin(in_first, in_second)),
            second.take(~np.isin(in_second, in_first)),
        )

    def where(self, condition: str, rows: Rows) -> Mask:
        """Which of these rows meet an SQL condition on the columns but the vector.

        Raises:
            UserError: the condition is no such SQL.
        """
        matches: set[bytes] = set()
        keys = rows.keys()
        try:
            query = self.table.search().where(condition).select(["digest"])
            for part in query.to_batches(batch_size=BATCH):
                matches.update(part["digest"].to_pylist())
        except (RuntimeError, ValueError, OSError) as error:
            raise UserError(
                f"--where {condition!r} is not understood ({first_line(error)}); it is "
                "SQL on id, label, class, source, split and origin, such as "
                "\"source = 'svhn' AND label < 3\""
            ) from None
        return np.isin(keys, np.array(list(matches), keys.dtype))

    def _misnamed(self, block: Block, members: Mask) -> npt.NDArray[np.int64]:
        """Rows of this version (M,) whose column `class` is not what the manifest calls it."""
        if "class" not in block.texts:
            return np.empty(0, np.int64)
        classes, labels = self.manifest.classes, block.rows.labels
        rows = np.flatnonzero(members[: len(labels)] & (labels < len(classes)))
        expected = class_names(labels[rows], classes).fill_null("")
        actual = block.texts["class"].take(pa.array(rows)).fill_null("")
        return np.asarray(rows[~np.asarray(pc.equal(actual, expected))])

    def _blocks(self) -> Iterator[Block]:
        with self._explain_rewrite():
            yield from read_blocks(self.table, self.folder)

    @contextmanager
    def _explain_rewrite(self) -> Iterator[None]:
        """If reading fails because another process dropped this version, raise that instead."""
        try:
            yield
        except UserError:
            if read_manifest(self.pointer) != self.manifest:
                raise UserError(
                    f"{self.folder} was rewritten while it was read: run the same again"
                ) from None
            raise

    def _name(self, start: int, block: Block, at: int) -> str:
        rows = block.rows
        return (
            f"row {start + at} of {self.folder} (id {rows.ids[at]}, source "
            f"{str(rows.sources[at])!r}, split {rows.splits[at]})"
        )


def repair(image_id: int) -> str:
    """What to do about a damaged row."""
    return f"run rapipe store remove --id {image_id}, or rapipe embed"


def has_unit_length(vectors: Vectors) -> Mask:
    """Which vectors (N, D) are of unit length."""
    return np.asarray(np.abs(np.einsum("nd,nd->n", vectors, vectors) - 1) < NORM_TOLERANCE)
