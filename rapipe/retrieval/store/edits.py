"""Edits of a store: each is one atomic version.

An edit first writes what nothing refers to yet, then replaces the manifest.
Killed before that, it has not happened, and what it left behind is removed by
the next edit, or by `compact`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from rapipe.errors import UserError
from rapipe.io.atomic import atomic_write
from rapipe.io.locks import file_lock
from rapipe.progress import say
from rapipe.records import Embeddings, Vectors
from rapipe.retrieval.store import rows as rows_
from rapipe.retrieval.store.reading import Store
from rapipe.retrieval.store.rows import Mask, Rows
from rapipe.retrieval.store.versions import TAG, Embedded, History, Manifest

NEW = "new.part"
Choose = Callable[[Store, Rows], Mask]
"""Which of some rows an edit is about; asked when nobody else can edit the store."""
Pairs = Iterable[tuple[Rows, Vectors]]


def write(blocks: Iterable[Embeddings], like: Embedded, folder: Path, pointer: Path) -> Manifest:
    """Start a store anew from blocks of embeddings, in one commit; then drop the old one.

    If it is sound and holds these very rows already, it stays as it is, with its versions.

    Raises:
        UserError: it cannot be written.
    """
    with _locked(pointer):
        rows = _create(folder, ((rows_.of(block), block.vectors) for block in blocks), like)
        made = Manifest.of(rows, 1, "embed", _name(rows, like), like)
        if _holds(made, folder, pointer):
            shutil.rmtree(folder / NEW)
            return made
        _announce_replacement(folder, pointer)
        _sweep(folder, _table(folder, pointer), NEW)
        made = replace(made, table=_free(folder, made.table))
        _publish(folder, pointer, made, [(made, np.ones(len(rows), np.bool_))], {})
        return made


def add(
    blocks: Iterable[Embeddings],
    classes: tuple[str, ...],
    edit: str,
    store: Store,
) -> tuple[Manifest, int]:
    """Append embeddings to the memory; images that it has already are left out.

    Args:
        classes: those of the memory, then new ones; the labels count on them.
        edit: what the version says of itself.
        store: as it was when the embeddings were made.

    Returns:
        The new version, and how many rows are new in it.

    Raises:
        UserError: nothing is new, the vectors have another dimension, or the
            classes or the encoder of the store have changed meanwhile.
    """
    folder, seen = store.folder, store.manifest
    with _editing(folder, store.pointer) as store:
        if (store.manifest.classes, store.manifest.encoder) != (seen.classes, seen.encoder):
            raise UserError(f"{folder} was changed meanwhile: run the same again")
        d, before = store.manifest.dimension, store.all_rows
        known = set(_identities(store.rows))

        def pairs() -> Iterator[tuple[Rows, Vectors]]:
            for block in blocks:
                if block.vectors.shape[1] != d:
                    raise UserError(
                        f"{folder} holds vectors of {d} dimensions, not of {block.vectors.shape[1]}"
                    )
                facts = rows_.of(block)
                fresh = np.zeros(len(facts), np.bool_)
                for row, own in enumerate(_identities(facts)):
                    fresh[row] = own not in known
                    known.add(own)
                yield facts.take(fresh), block.vectors[fresh]

        after = rows_.joined([before, *rows_.insert(pairs(), d, store.table.add, folder)])
        if len(after) == len(before):
            raise UserError(f"{edit}: there is nothing that the memory does not have")
        members = np.concatenate([store.members(), np.ones(len(after) - len(before), np.bool_)])
        like = replace(store.manifest, classes=classes)
        made = _next(store, edit, after.take(members), like)
        _commit(store, made, members)
        return made, len(after) - len(before)


def remove(choose: Choose, edit: str, folder: Path, pointer: Path) -> tuple[Manifest, int]:
    """Take rows out of the memory; older versions still have them.

    Returns:
        The new version, and how many rows are gone.

    Raises:
        UserError: no row is chosen, or all are.
    """
    with _editing(folder, pointer) as store:
        chosen = _require_match(choose(store, store.rows), store)
        if chosen.all():
            raise UserError(f"all {len(chosen):,} rows of {folder} are meant; some must stay")
        left = store.members()
        left[left] = ~chosen
        made = _next(store, edit, store.all_rows.take(left), store.manifest)
        _commit(store, made, left)
        return made, int(chosen.sum())


def purge(
    choose: Choose, edit: str, folder: Path, pointer: Path, derived: Sequence[Path] = ()
) -> tuple[Manifest, int]:
    """Take rows out of the memory, out of every tagged version, and off the disk.

    Versions without a tag are dropped, as by `compact`.

    Args:
        derived: folders that were made of the vectors; they are removed first.

    Returns:
        The new version, and how many rows are gone, whatever version they were in.

    Raises:
        UserError: no row is chosen, or none would be left.
    """
    with _editing(folder, pointer) as store:
        gone = _require_match(choose(store, store.all_rows), store)
        members = store.members()
        left = members & ~gone
        if not left.any():
            raise UserError(f"all rows of {folder} are meant; some must stay")
        for path in derived:
            shutil.rmtree(path, ignore_errors=True)
        made = _next(store, edit, store.all_rows.take(left), store.manifest)
        return _rewrite(store, made, members, gone), int(gone.sum())


def compact(folder: Path, pointer: Path) -> Manifest:
    """Drop versions without a tag, rows that are in no version, and what was left behind."""
    with _editing(folder, pointer) as store:
        nothing = np.zeros(len(store.all_rows), np.bool_)
        return _rewrite(store, store.manifest, store.members(), nothing)


def tag(name: str, folder: Path, pointer: Path) -> Manifest:
    """Name the current version; a name that exists moves here.

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

    Where the manifest is missing or damaged, this puts it right.

    Raises:
        UserError: there is no such version.
    """
    with _locked(pointer):
        try:
            history = _repaired(Store.open(folder, pointer)).history
        except UserError:
            found = History.found(folder)
            if not found:
                raise
            history = found[-1]
        chosen = history.resolve(name)
        atomic_write(pointer, chosen.text().encode())
        return chosen


def _locked(pointer: Path) -> AbstractContextManager[bool]:
    """Keep other edits out; wait while there is one."""
    return file_lock(pointer.with_name(f"{pointer.name}.lock"), f"edits {pointer}")


@contextmanager
def _editing(folder: Path, pointer: Path) -> Iterator[Store]:
    """The store, for the only process that edits it, without what killed edits left."""
    with _locked(pointer):
        store = _repaired(Store.open(folder, pointer))
        _sweep(folder, store.manifest.table)
        yield store


def _repaired(store: Store) -> Store:
    """The store; its current version, if its edit was killed at the very end, is in the history."""
    if not (store.history.folder / f"{store.manifest.version}.json").exists():
        store.history.write_manifest(store.manifest)
    return store


def _require_match(chosen: Mask, store: Store) -> Mask:
    if not chosen.any():
        raise UserError(f"no row of {store.folder} is meant; rapipe store list shows what there is")
    return chosen


def _next(store: Store, edit: str, rows: Rows, like: Manifest) -> Manifest:
    number = max(store.history.manifests()) + 1
    return Manifest.of(rows, number, edit, store.manifest.table, like)


def _commit(store: Store, made: Manifest, members: Mask) -> None:
    """Make a version of the present table the current one."""
    store.history.write_members(made.version, members)
    atomic_write(store.pointer, made.text().encode())
    store.history.write_manifest(made)


def _rewrite(store: Store, current: Manifest, members: Mask, gone: Mask) -> Manifest:
    """Copy what `current` and the tagged versions hold, but for `gone`, and drop the rest.

    Nothing is copied that is not what its manifest says.
    """
    rows, tags = store.all_rows, store.history.tags()
    store.check(store.manifest)
    kept = {current.version: (current, members & ~gone)}
    manifests = store.history.manifests()
    for number in {*tags.values()} - {current.version}:
        store.check(manifests[number])
        kept[number] = (manifests[number], store.members(manifests[number]) & ~gone)
    kept = {number: own for number, own in kept.items() if own[1].any()}
    union = np.logical_or.reduce([mask for _, mask in kept.values()])
    copied = _create(store.folder, store.blocks(union), current)
    name = _free(store.folder, _name(copied, current))
    versions = [
        (Manifest.of(rows.take(mask), known.version, known.edit, name, known), mask[union])
        for known, mask in kept.values()
    ]
    made = versions[0][0]
    tags = {own: number for own, number in tags.items() if number in kept}
    _publish(store.folder, store.pointer, made, versions, tags)
    return made


def _create(folder: Path, pairs: Pairs, like: Embedded | Manifest) -> Rows:
    """Write a table into `new.part`; returns its rows."""
    import lancedb

    shutil.rmtree(folder / NEW, ignore_errors=True)
    (folder / NEW).mkdir(parents=True)
    database = lancedb.connect(str(folder / NEW))

    def create(reader: pa.RecordBatchReader) -> None:
        database.create_table("rows", reader, schema=reader.schema)

    try:
        return rows_.joined(rows_.insert(pairs, like.dimension, create, folder))
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
    atomic_write(pointer, current.text().encode())
    _sweep(folder, current.table)


def _table(folder: Path, pointer: Path) -> str:
    """The table that is in use; "" if there is none."""
    try:
        return Store.open(folder, pointer).manifest.table
    except UserError:
        return ""


def _sweep(folder: Path, table: str, *kept: str) -> None:
    """Remove all but one table and its versions, and what else is `kept`."""
    for path in folder.iterdir():
        if path.name not in (f"{table}.lance", f"{table}.versions", *kept):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _holds(made: Manifest, folder: Path, pointer: Path) -> bool:
    """Whether a sound store has this as its current version."""
    try:
        store = Store.open(folder, pointer)
        if replace(store.manifest, table=made.table) != made:
            return False
        store.verify(None)
    except UserError:
        return False
    return True


def _announce_replacement(folder: Path, pointer: Path) -> None:
    """Say what goes with a store that is about to be replaced."""
    try:
        history = Store.open(folder, pointer).history
        versions, tags = len(history.manifests()), history.tags()
    except UserError:
        return
    if versions > 1 or tags:
        named = f" and the tags {', '.join(tags)}" if tags else ""
        say(f"{folder} is replaced; its {versions} versions{named} are dropped")


def _name(rows: Rows, like: Embedded | Manifest) -> str:
    return f"rows-{rows.hash(like.classes)[:16]}"


def _identities(rows: Rows) -> Iterator[tuple[int, int, str, str]]:
    """What makes a row another row. Vectors do not: they differ in their last bits by batch."""
    return zip(
        rows.ids.tolist(),
        rows.labels.tolist(),
        rows.sources.tolist(),
        rows.splits.tolist(),
        strict=True,
    )


def _free(folder: Path, name: str) -> str:
    """The name, or one with a number if there is a table of that name."""
    names = (name, *(f"{name}-{number}" for number in range(2, 1000)))
    return next(own for own in names if not (folder / f"{own}.lance").exists())
