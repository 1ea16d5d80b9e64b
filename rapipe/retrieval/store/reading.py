"""A store as it is read: one version, checked row by row.

Readers take no lock: nothing that a version needs is changed in place. What
they may meet is that an edit has dropped their version, which is told.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rapipe.errors import UserError, first_line
from rapipe.io import memory_map
from rapipe.progress import track
from rapipe.records import Vectors
from rapipe.retrieval.store import rows as rows_
from rapipe.retrieval.store.rows import BATCH, Mask, Rows
from rapipe.retrieval.store.versions import History, Manifest, read_manifest

LOOSE = 1e-3
"""How far the squared length of a vector may be from 1."""


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
        """The Lance table as it is when it is first asked for."""
        import lancedb

        with rows_.translate_lance_errors(self.folder, rows_.AGAIN):
            return lancedb.connect(str(self.folder)).open_table(self.manifest.table)

    @cached_property
    def all_rows(self) -> Rows:
        """The rows of every version, without vectors."""
        with self._watched():
            return rows_.facts_of(self.table, self.folder)

    def __len__(self) -> int:
        return self.manifest.rows

    def members(self, manifest: Manifest | None = None) -> Mask:
        """Which of `all_rows` belong to a version, this one unless given."""
        version = (manifest or self.manifest).version
        with self._watched():
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
        found = Manifest.of(rows, manifest.version, manifest.edit, manifest.table, manifest)
        if found != manifest:
            raise UserError(
                f"version {manifest.version} of {self.folder} should have {manifest.rows:,} rows "
                f"with hash {manifest.sha256[:12]}, and has {found.rows:,} with "
                f"{found.sha256[:12]}: go to another version by rapipe store checkout, or run "
                "rapipe embed"
            )
        return rows

    def blocks(self, chosen: Mask | None = None) -> Iterator[tuple[Rows, Vectors]]:
        """Rows in the order they are stored, each checked against its digest.

        Args:
            chosen: which of `all_rows`; those of this version unless given.
        """
        chosen = self.members() if chosen is None else chosen
        start = 0
        for block in track(self._blocks(), "reading the store", -(-len(chosen) // BATCH)):
            own = chosen[start : start + len(block.facts)]
            wrong = np.intersect1d(block.wrong(), np.flatnonzero(own))
            if len(wrong):
                raise UserError(
                    f"{self._name(start, block, wrong[0])} is not what was stored: "
                    f"{repair(block.facts.ids[wrong[0]])}"
                )
            crooked = np.flatnonzero(own & ~unit(block.vectors))
            if len(crooked):
                raise UserError(
                    f"{self._name(start, block, crooked[0])} is not of unit length: it was "
                    "embedded with another normalisation; run rapipe embed"
                )
            start += len(own)
            if own.any():
                yield block.facts.take(own), block.vectors[own]

    def vectors(self, path: Path) -> Vectors:
        """The vectors of `rows`, written to an .npy file and mapped from there."""
        shape = (len(self.rows), self.manifest.dimension)
        memory_map.write_array(path, shape, (vectors for _, vectors in self.blocks()))
        return memory_map.map_array(path)

    def verify(self, encoder: str | None) -> None:
        """Compare everything with everything.

        Args:
            encoder: fingerprint of the encoder at hand, if there is one.

        Raises:
            UserError: names the first row that differs, or what else does.
        """
        known, start = self.manifest, 0
        members = self.members()
        for block in track(self._blocks(), "verifying", -(-len(members) // BATCH)):
            faults: dict[str, np.ndarray] = {
                "is not what was stored (its digest differs)": block.wrong(),
                "has a value that is not finite": np.flatnonzero(
                    ~np.isfinite(block.vectors).all(axis=1)
                ),
                "is not of unit length": np.flatnonzero(~unit(block.vectors)),
            }
            for fault, at in faults.items():
                if len(at):
                    raise UserError(
                        f"{self._name(start, block, int(at[0]))} {fault}: "
                        f"{repair(block.facts.ids[at[0]])}"
                    )
            start += len(block.facts)
        for manifest in [*self.history.manifests().values(), known]:
            self.check(manifest)
        self.history.tags()
        if encoder is not None and encoder != known.encoder:
            raise UserError(
                f"{self.folder} was embedded by encoder {known.encoder[:12]}, but the encoder at "
                f"hand is {encoder[:12]}: run rapipe embed"
            )

    def difference(self, one: Manifest, other: Manifest) -> tuple[Rows, Rows]:
        """Rows of each of two versions that are not in the other."""
        first, second = (self.all_rows.take(self.members(own)) for own in (one, other))
        in_first, in_second = first.keys(), second.keys()
        return (
            first.take(~np.isin(in_first, in_second)),
            second.take(~np.isin(in_second, in_first)),
        )

    def where(self, condition: str, rows: Rows) -> Mask:
        """Which of some rows meet an SQL condition on id, label, source and split.

        Raises:
            UserError: the condition is no such SQL.
        """
        found: set[bytes] = set()
        keys = rows.keys()
        try:
            query = self.table.search().where(condition).select(["digest"])
            for part in query.to_batches(batch_size=BATCH):
                found.update(part["digest"].to_pylist())
        except (RuntimeError, ValueError, OSError) as error:
            raise UserError(
                f"--where {condition!r} is not understood ({first_line(error)}); it is "
                "SQL on id, label, source and split, such as \"source = 'svhn' AND label < 3\""
            ) from None
        return np.isin(keys, np.array(list(found), keys.dtype))

    def _blocks(self) -> Iterator[rows_.Block]:
        with self._watched():
            yield from rows_.blocks_of(self.table, self.folder)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """If reading fails since another process dropped this version, say so."""
        try:
            yield
        except UserError:
            if read_manifest(self.pointer) != self.manifest:
                raise UserError(
                    f"{self.folder} was rewritten while it was read: run the same again"
                ) from None
            raise

    def _name(self, start: int, block: rows_.Block, at: int) -> str:
        facts = block.facts
        return (
            f"row {start + at} of {self.folder} (id {facts.ids[at]}, source "
            f"{str(facts.sources[at])!r}, split {facts.splits[at]})"
        )


def repair(own: int) -> str:
    """What to do about a damaged row."""
    return f"run rapipe store remove --id {own}, or rapipe embed"


def unit(vectors: Vectors) -> Mask:
    """Which vectors (N, D) are of unit length."""
    return np.asarray(np.abs(np.einsum("nd,nd->n", vectors, vectors) - 1) < LOOSE)
