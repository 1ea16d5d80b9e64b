"""Edits of a store: each is one atomic version.

An edit first writes what nothing refers to yet, then replaces the manifest.
Killed before that, it has not happened, and its leftovers are removed by the
next edit, or by `compact`. The table `memory` is of the version that the manifest
names, or it is missing.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import repeat
from pathlib import Path

import numpy as np
import pyarrow as pa

from rapipe.errors import UserError
from rapipe.io.atomic import atomic_write
from rapipe.io.locks import file_lock
from rapipe.progress import say
from rapipe.records import Embeddings
from rapipe.retrieval.store import fragments as fragments_table
from rapipe.retrieval.store import memory_table
from rapipe.retrieval.store.fragments import Fragment
from rapipe.retrieval.store.reading import Store
from rapipe.retrieval.store.rows import (
    Block,
    Mask,
    Rows,
    blocks_of,
    concatenate,
    connect,
    insert,
    read_origins,
)
from rapipe.retrieval.store.versions import (
    TAG,
    History,
    Manifest,
    StoreSpec,
    table_name,
    unused_name,
)

NEW = "new.part"
RowFilter = Callable[[Store, Rows], Mask]
"""Selects the rows of an edit; called while no other process can edit the store."""


def write(
    blocks: Iterable[Embeddings],
    spec: StoreSpec,
    folder: Path,
    pointer: Path,
    origins: Iterable[str] = repeat(""),
) -> Manifest:
    """Start a store anew from blocks of embeddings, in one commit; then drop the old one.

    If it is intact and holds exactly these rows, it stays as it is, with its versions.

    Args:
        origins: the file or row that each image came from, for all blocks in turn.

    Raises:
        UserError: it cannot be written.
    """
    return _replace(
        lambda: _create(folder, blocks_of(blocks, spec.classes, origins), spec),
        spec,
        folder,
        pointer,
    )


def write_fragments(
    fragments: Iterable[Fragment],
    read: Callable[[Fragment], bytes],
    expected: Mapping[str, np.ndarray],
    spec: StoreSpec,
    folder: Path,
    pointer: Path,
) -> Manifest:
    """As `write`, from rows that other processes embedded and wrote.

    All rows are read back, and compared with their digests and with `expected`, before anything
    of the store is replaced.

    Args:
        read: gives the content of a fragment's file.
        expected: `ids`, `labels`, `sources` and `splits` (N,) of the rows, in their order.

    Raises:
        UserError: a row is missing, double or not what was embedded.
    """

    def create() -> Rows:
        with _new_table(folder):
            fragments_table.commit(fragments, read, spec.dimension, folder / NEW)
            return fragments_table.read_checked(folder / NEW, expected)

    return _replace(create, spec, folder, pointer)


def _replace(create: Callable[[], Rows], spec: StoreSpec, folder: Path, pointer: Path) -> Manifest:
    """Start a store anew with the table that `create` writes into `new.part`."""
    with _locked(folder, pointer):
        rows = create()
        manifest = Manifest.of(rows, 1, "embed", table_name(rows, spec.classes), spec)
        if _is_current(manifest, rows, folder, pointer):
            shutil.rmtree(folder / NEW)
            return manifest
        _announce_replacement(folder, pointer)
        _sweep(folder, _current_table(folder, pointer), NEW)
        manifest = replace(manifest, table=unused_name(folder, manifest.table))
        _publish(folder, pointer, manifest, [(manifest, np.ones(len(rows), np.bool_))], {})
        return manifest


def add(
    blocks: Iterable[Embeddings],
    classes: tuple[str, ...],
    edit: str,
    store: Store,
    origins: Iterable[str] = repeat(""),
) -> tuple[Manifest, int]:
    """Append embeddings to the store; images that it already has are left out.

    Args:
        classes: those of the store, then new ones; the labels are their numbers.
        edit: the command, for the manifest.
        store: as it was when the images were embedded.
        origins: the file or row that each image came from, for all blocks in turn.

    Returns:
        The new version, and how many rows are new in it.

    Raises:
        UserError: nothing is new, the vectors have another dimension, or the
            classes or the encoder of the store have changed meanwhile.
    """
    folder, before = store.folder, store.manifest
    with _editing(folder, store.pointer) as store:
        if (store.manifest.classes, store.manifest.encoder) != (before.classes, before.encoder):
            raise UserError(f"{folder} was changed meanwhile: run the same again")
        store.require_texts()
        d, old_rows = store.manifest.dimension, store.all_rows
        identities = set(store.rows.identities())

        def new_rows() -> Iterator[Block]:
            for block in blocks_of(blocks, classes, origins):
                if block.vectors.shape[1] != d:
                    raise UserError(
                        f"{folder} holds vectors of {d} dimensions, not of {block.vectors.shape[1]}"
                    )
                is_new = np.zeros(len(block.rows), np.bool_)
                for row, identity in enumerate(block.rows.identities()):
                    is_new[row] = identity not in identities
                    identities.add(identity)
                yield block.take(is_new)

        all_rows = concatenate([old_rows, *insert(new_rows(), d, store.table.add, folder)])
        count = len(all_rows) - len(old_rows)
        if not count:
            raise UserError(f"{edit}: there is nothing that the store does not have")
        members = np.concatenate([store.members(), np.ones(count, np.bool_)])
        spec = replace(store.manifest, classes=classes)
        manifest = _next_manifest(store, edit, all_rows.take(members), spec)
        _commit(store, manifest, members)
        return manifest, count


def remove(row_filter: RowFilter, edit: str, folder: Path, pointer: Path) -> tuple[Manifest, int]:
    """Take rows out of the store; older versions still have them.

    Returns:
        The new version, and how many rows were removed.

    Raises:
        UserError: no row is selected, or all are.
    """
    with _editing(folder, pointer) as store:
        removed = _require_match(row_filter(store, store.rows), store)
        if removed.all():
            raise UserError(f"all {len(removed):,} rows of {folder} are selected; some must stay")
        members = store.members()
        members[members] = ~removed
        manifest = _next_manifest(store, edit, store.all_rows.take(members), store.manifest)
        _commit(store, manifest, members)
        return manifest, int(removed.sum())


def purge(
    row_filter: RowFilter, edit: str, folder: Path, pointer: Path, derived: Sequence[Path] = ()
) -> tuple[Manifest, int]:
    """Take rows out of the store, out of every tagged version, and off the disk.

    Versions without a tag are dropped, as by `compact`.

    Args:
        derived: folders computed from the vectors; they are removed first.

    Returns:
        The new version, and how many rows were removed, whatever version they were in.

    Raises:
        UserError: no row is selected, or none would be left.
    """
    with _editing(folder, pointer) as store:
        purged = _require_match(row_filter(store, store.all_rows), store)
        members = store.members()
        remaining = members & ~purged
        if not remaining.any():
            raise UserError(f"all rows of {folder} are selected; some must stay")
        for path in derived:
            shutil.rmtree(path, ignore_errors=True)
        manifest = _next_manifest(store, edit, store.all_rows.take(remaining), store.manifest)
        return _rewrite(store, manifest, members, purged), int(purged.sum())


def compact(folder: Path, pointer: Path) -> Manifest:
    """Drop versions without a tag, rows that are in no version, and leftovers of killed edits."""
    with _editing(folder, pointer) as store:
        purged = np.zeros(len(store.all_rows), np.bool_)
        return _rewrite(store, store.manifest, store.members(), purged)


def tag(name: str, folder: Path, pointer: Path) -> Manifest:
    """Name the current version; an existing name moves to it.

    Raises:
        UserError: it cannot be a name.
    """
    if not TAG.fullmatch(name):
        raise UserError(
            f"{name!r} cannot be a tag: begin with a letter; go on with letters, digits, . _ -"
        )
    with _editing(folder, pointer) as store:
        store.history.write_tags({**store.history.tags(), name: store.manifest.version})
        return store.manifest


def checkout(name: str, folder: Path, pointer: Path) -> Manifest:
    """Make the version with this tag or number the current one.

    A missing or damaged manifest is replaced.

    Raises:
        UserError: there is no such version.
    """
    with _locked(folder, pointer):
        try:
            history = _repaired(Store.open(folder, pointer)).history
        except UserError:
            histories = History.find_all(folder)
            if not histories:
                raise
            history = histories[-1]
        manifest = history.resolve(name)
        _point_to(manifest, folder, pointer)
        return manifest


def restore_memory(folder: Path, pointer: Path) -> bool:
    """Build the table `memory` anew unless it is what it should be; whether it was not.

    Raises:
        UserError: the store is missing or damaged.
    """
    if memory_table.is_intact(Store.open(folder, pointer)):
        return False
    with _locked(folder, pointer):
        is_intact = memory_table.is_intact(Store.open(folder, pointer))
        if not is_intact:
            memory_table.drop(folder)
    return not is_intact


@contextmanager
def _locked(folder: Path, pointer: Path) -> Iterator[None]:
    """Exclude other edits, wait while there is one; in the end, build the table `memory`."""
    with file_lock(pointer.with_name(f"{pointer.name}.lock"), f"edits {pointer}"):
        yield
        memory_table.refresh(Store.open(folder, pointer))


def _point_to(manifest: Manifest, folder: Path, pointer: Path) -> None:
    """Commit: from now on this is the current version."""
    memory_table.drop(folder)
    atomic_write(pointer, manifest.to_json().encode())


@contextmanager
def _editing(folder: Path, pointer: Path) -> Iterator[Store]:
    """The store, for the only process that edits it, without leftovers of killed edits."""
    with _locked(folder, pointer):
        store = _repaired(Store.open(folder, pointer))
        _sweep(folder, store.manifest.table)
        yield store


def _repaired(store: Store) -> Store:
    """The store; a version whose edit was killed at the very end enters the history."""
    if not (store.history.folder / f"{store.manifest.version}.json").exists():
        store.history.write_manifest(store.manifest)
    return store


def _require_match(mask: Mask, store: Store) -> Mask:
    if not mask.any():
        raise UserError(f"no row of {store.folder} is selected; rapipe store list shows them")
    return mask


def _next_manifest(store: Store, edit: str, rows: Rows, spec: Manifest) -> Manifest:
    number = max(store.history.manifests()) + 1
    return Manifest.of(rows, number, edit, store.manifest.table, spec)


def _commit(store: Store, manifest: Manifest, members: Mask) -> None:
    """Make a version of the present table the current one."""
    store.history.write_members(manifest.version, members)
    _point_to(manifest, store.folder, store.pointer)
    store.history.write_manifest(manifest)


def _rewrite(store: Store, current: Manifest, members: Mask, purged: Mask) -> Manifest:
    """Copy the rows of `current` and of the tagged versions, but for `purged`; drop the rest.

    Each version is compared with its manifest first.
    """
    rows, tags = store.all_rows, store.history.tags()
    store.check(store.manifest)
    masks = {current.version: members & ~purged}
    manifests = {**store.history.manifests(), current.version: current}
    for number in {*tags.values()} - {current.version}:
        store.check(manifests[number])
        masks[number] = store.members(manifests[number]) & ~purged
    masks = {number: mask for number, mask in masks.items() if mask.any()}
    union = np.logical_or.reduce(list(masks.values()))
    store.require_texts()
    copied_rows = _create(store.folder, store.checked_blocks(union), current)
    table = unused_name(store.folder, table_name(copied_rows, current.classes))
    versions = []
    for number, mask in masks.items():
        old = manifests[number]
        manifest = Manifest.of(rows.take(mask), old.version, old.edit, table, old)
        versions.append((manifest, mask[union]))
    manifest, _ = versions[0]
    tags = {name: number for name, number in tags.items() if number in masks}
    _publish(store.folder, store.pointer, manifest, versions, tags)
    return manifest


def _create(folder: Path, blocks: Iterable[Block], spec: StoreSpec | Manifest) -> Rows:
    """Write a table into `new.part`; returns its rows."""

    def create(reader: pa.RecordBatchReader) -> None:
        connect(folder / NEW).create_table("rows", reader, schema=reader.schema)

    with _new_table(folder):
        return concatenate(insert(blocks, spec.dimension, create, folder))


@contextmanager
def _new_table(folder: Path) -> Iterator[None]:
    """An empty `new.part`, which is removed if anything raises."""
    shutil.rmtree(folder / NEW, ignore_errors=True)
    (folder / NEW).mkdir(parents=True)
    try:
        yield
    except BaseException:
        shutil.rmtree(folder / NEW, ignore_errors=True)
        raise


def _publish(
    folder: Path,
    pointer: Path,
    current: Manifest,
    versions: list[tuple[Manifest, Mask]],
    tags: Mapping[str, int],
) -> None:
    """Give the table in `new.part` its name and its versions; commit; drop all other tables."""
    history = History(folder, current.table)
    (folder / NEW / "rows.lance").rename(folder / f"{current.table}.lance")
    for manifest, members in versions:
        history.write(manifest, members)
    history.write_tags(dict(tags))
    _point_to(current, folder, pointer)
    _sweep(folder, current.table)


def _current_table(folder: Path, pointer: Path) -> str:
    """The table in use; "" if there is none."""
    try:
        return Store.open(folder, pointer).manifest.table
    except UserError:
        return ""


def _sweep(folder: Path, table: str, *other: str) -> None:
    """Remove all but one table, its versions, the table `memory` and `other` names."""
    kept = (f"{table}.lance", f"{table}.versions", memory_table.TABLE, *other)
    for path in folder.iterdir():
        if path.name not in kept:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _is_current(manifest: Manifest, rows: Rows, folder: Path, pointer: Path) -> bool:
    """Whether an intact store has this, which is in `new.part`, as its current version.

    Origins may differ, as those of images that were moved, where history would be lost.
    """
    try:
        store = Store.open(folder, pointer)
        if replace(store.manifest, table=manifest.table) != manifest:
            return False
        store.require_texts()
        store.verify(None)
        stored = np.flatnonzero(store.members())[store.rows.in_id_order()]
        old = read_origins(store.table, stored, folder)
        new = read_origins(connect(folder / NEW).open_table("rows"), rows.in_id_order(), folder)
        return bool(_describe_history(store.history)) or bool(old.equals(new))
    except UserError:
        return False


def _announce_replacement(folder: Path, pointer: Path) -> None:
    """Print what is lost with a store that is about to be replaced."""
    with suppress(UserError):
        if words := _describe_history(Store.open(folder, pointer).history):
            say(f"{folder} is replaced; its {words} are dropped")


def _describe_history(history: History) -> str:
    """The versions and tags that a new store would not have; "" if there is but one version."""
    versions, tags = len(history.manifests()), history.tags()
    if versions == 1 and not tags:
        return ""
    tags_too = f" and the tags {', '.join(tags)}" if tags else ""
    return f"{versions} versions{tags_too}"
