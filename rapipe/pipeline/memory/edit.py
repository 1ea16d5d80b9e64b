"""The verbs of `rapipe store`, which show and edit the store; `add` has its own file.

After an edit `rapipe prefetch` and `rapipe eval` use the new version; nothing
is trained again. `dvc repro` would restore the embedded corpus; see docs/memory.md.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from rapipe import paths
from rapipe.errors import UserError
from rapipe.io.atomic import part_path
from rapipe.io.text import expand_home
from rapipe.io.weights import CARD
from rapipe.pipeline.inputs import encoder_fingerprint, read_card
from rapipe.pipeline.running.locks import artefact_locks
from rapipe.records import UNLABELLED
from rapipe.retrieval import store as edits
from rapipe.retrieval.store import Manifest, Rows, Store
from rapipe.retrieval.store.selection import Selection
from rapipe.specs import NO_ENCODER


def open_store() -> Store:
    """The store of this project."""
    return Store.open(paths.STORE, paths.STORE_MANIFEST)


def info() -> dict[str, Any]:
    """What the current version holds, and which versions there are."""
    store = open_store()
    manifest, rows = store.manifest, store.rows
    train = rows.take(rows.splits == "train")
    return {
        "version": manifest.version,
        "tags": _tags_of(store, manifest),
        "rows": manifest.rows,
        "dimension": manifest.dimension,
        "splits": manifest.splits,
        "train by class": {
            **{
                name: int((train.labels == label).sum())
                for label, name in enumerate(manifest.classes)
            },
            "(unlabelled)": int((train.labels == UNLABELLED).sum()),
        },
        "train by source": _counts(train.sources),
        "megabytes on disk": round(_megabytes(), 1),
        "encoder": manifest.encoder[:12],
        "encoder is data/encoder": (is_present := _is_encoder(manifest.encoder)),
        **(_describe_encoder() if is_present else {}),
        "sha256": manifest.sha256,
        "versions": [
            {
                "version": version.version,
                "current": version.version == manifest.version,
                "tags": _tags_of(store, version),
                "rows": version.rows,
                "made": _date(store, version),
                "edit": version.edit,
            }
            for version in store.history.manifests().values()
        ],
    }


def _describe_encoder() -> dict[str, Any]:
    """What made the vectors: a network and how it sees images, or a file of vectors."""
    card = read_card(paths.ENCODER / CARD)
    facts = {}
    if card["spec"]["backbone"] != NO_ENCODER:
        facts = {**card["spec"], **card.get("published", {}), "hash": card["hash"][:12]}
    if "vectors" in card:
        imported = read_card(paths.VECTORS_CARD)
        facts["imported from"] = f"{imported['file']}, by {imported['key']}"
    return {f"encoder {name.replace('_', ' ')}": value for name, value in facts.items()}


def _is_encoder(fingerprint: str) -> bool:
    """Whether `data/encoder` has this fingerprint; a missing or damaged one has none."""
    try:
        return encoder_fingerprint() == fingerprint
    except UserError:
        return False


def list_rows(selection: Selection, limit: int) -> tuple[list[dict[str, Any]], int]:
    """The first selected rows, in id order, and how many there are in all."""
    store = open_store()
    rows = store.rows.take(selection(store, store.rows))
    return _describe(rows, store.manifest.classes, limit), len(rows)


def remove(selection: Selection, purge: bool) -> str:
    """Take rows out of the store; with `purge` off the disk too."""
    if not str(selection):
        raise UserError("no row is selected: use --id, --class, --source or --where")
    if not purge:
        manifest, count = edits.remove(
            selection, f"remove {selection}", paths.STORE, paths.STORE_MANIFEST
        )
        return f"{after_edit(manifest)}: {count:,} rows removed"
    edit = f"remove {selection} --purge"
    derived = (paths.NEIGHBOURS, part_path(paths.NEIGHBOURS), paths.INDEX)
    with artefact_locks((), (paths.NEIGHBOURS,)):
        manifest, count = edits.purge(selection, edit, paths.STORE, paths.STORE_MANIFEST, derived)
    return (
        f"{after_edit(manifest)}: {count:,} rows removed from every version and from the disk, "
        f"with {paths.NEIGHBOURS} and {paths.INDEX}, which were computed from them; the images, "
        "the trained classifiers and DVC's cache are as they were"
    )


def tag(name: str) -> str:
    """Name the current version."""
    manifest = edits.tag(name, paths.STORE, paths.STORE_MANIFEST)
    return f"version {manifest.version} is {name}{dvc_note()}"


def checkout(name: str) -> str:
    """Go back, or on, to a version."""
    return after_edit(edits.checkout(name, paths.STORE, paths.STORE_MANIFEST))


def compact() -> str:
    """Drop what neither a tag nor the current version needs."""
    before = _megabytes()
    manifest = edits.compact(paths.STORE, paths.STORE_MANIFEST)
    sizes = f"{before:.1f} MB before, {_megabytes():.1f} MB now"
    return f"version {manifest.version}: {sizes}{dvc_note()}"


def verify() -> str:
    """Compare every row with its digest, and all with the manifest and the encoder.

    The table for LanceDB is built anew unless it is what it should be.
    """
    store = open_store()
    fingerprint = encoder_fingerprint() if (paths.ENCODER / CARD).exists() else None
    store.verify(fingerprint)
    encoder = "and the encoder " if fingerprint else ""
    restored = edits.restore_memory(paths.STORE, paths.STORE_MANIFEST)
    return (
        f"version {store.manifest.version} is intact: {store.manifest.rows:,} rows, their "
        f"digests, lengths and counts, the manifest {encoder}agree"
        f"{'; the table for LanceDB was built anew' if restored else ''}"
    )


def diff(one: str, other: str, limit: int) -> dict[str, Any]:
    """What two versions have that the other lacks."""
    store = open_store()
    pair = [store.history.resolve(name) for name in (one, other)]
    difference = store.difference(*pair)
    return {
        f"only in {name}": {
            "rows": len(rows),
            "by class": _by_class(rows, manifest.classes),
            "by source": _counts(rows.sources),
            "first": _describe(rows, manifest.classes, limit),
        }
        for name, manifest, rows in zip((one, other), pair, difference, strict=True)
    }


def export(path: Path) -> str:
    """Write the current version as Parquet, or as .npy with its rows in Parquet beside it."""
    store = open_store()
    files = edits.export(store, expand_home(path))
    return f"{store.manifest.rows:,} rows in {' and '.join(map(str, files))}"


def after_edit(manifest: Manifest) -> str:
    """The new version, and what to run next."""
    return (
        f"version {manifest.version} holds {manifest.rows:,} rows; run rapipe prefetch{dvc_note()}"
    )


def dvc_note() -> str:
    """What an edit means to DVC, if the project uses it: the store is an output of a stage."""
    if not paths.DVC.exists():
        return ""
    return (
        f" (to dvc, {paths.STORE} is modified now: dvc commit -f embed keeps this version, and "
        "dvc repro without that embeds the corpus anew)"
    )


def _tags_of(store: Store, manifest: Manifest) -> list[str]:
    return [tag for tag, number in store.history.tags().items() if number == manifest.version]


def _date(store: Store, manifest: Manifest) -> str:
    path = store.history.folder / f"{manifest.version}.json"
    try:
        return datetime.fromtimestamp(path.stat().st_mtime).isoformat(" ", "seconds")
    except FileNotFoundError:  # another process has just dropped it
        return ""


def _counts(names: np.ndarray) -> dict[str, int]:
    unique, counts = np.unique(names, return_counts=True)
    return {str(name): int(count) for name, count in zip(unique, counts, strict=True)}


def _by_class(rows: Rows, classes: tuple[str, ...]) -> dict[str, int]:
    return _counts(np.array([_class(label, classes) for label in rows.labels.tolist()], np.str_))


def _describe(rows: Rows, classes: tuple[str, ...], limit: int) -> list[dict[str, Any]]:
    rows = rows.take(rows.in_id_order()[:limit])
    return [
        {"id": image_id, "class": _class(label, classes), "source": source, "split": split}
        for image_id, label, source, split in zip(
            rows.ids.tolist(),
            rows.labels.tolist(),
            rows.sources.tolist(),
            rows.splits.tolist(),
            strict=True,
        )
    ]


def _class(label: int, classes: tuple[str, ...]) -> str:
    return classes[label] if label >= 0 else "(unlabelled)"


def _megabytes() -> float:
    sizes = {}
    for path in paths.STORE.rglob("*"):
        with suppress(FileNotFoundError):  # another process may be tidying up
            status = path.stat()
            sizes[status.st_dev, status.st_ino] = status.st_size if path.is_file() else 0
    return sum(sizes.values()) / 1e6
