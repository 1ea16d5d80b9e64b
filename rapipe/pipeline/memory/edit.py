"""What `rapipe store ...` does: look at the memory, and edit it.

After an edit `rapipe prefetch` and `rapipe eval` use the new memory; nothing
is trained again. `dvc repro` would bring the embedded corpus back; see
docs/memory.md.
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
from rapipe.io.weights import CARD
from rapipe.pipeline.provenance import encoder_fingerprint
from rapipe.pipeline.running.locks import artefact_locks
from rapipe.records import UNLABELLED
from rapipe.retrieval import store
from rapipe.retrieval.store import Manifest, Rows, Store
from rapipe.retrieval.store.selection import Selection


def opened() -> Store:
    """The store of this project."""
    return Store.open(paths.STORE, paths.STORE_MANIFEST)


def info() -> dict[str, Any]:
    """What the current version holds, and which versions there are."""
    memory = opened()
    manifest, rows = memory.manifest, memory.rows
    train = rows.take(rows.splits == "train")
    has_encoder = (paths.ENCODER / CARD).exists()
    return {
        "version": manifest.version,
        "tags": _tags_of(memory, manifest),
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
        "encoder is data/encoder": has_encoder and _is_encoder(manifest.encoder),
        "sha256": manifest.sha256,
        "versions": [
            {
                "version": own.version,
                "current": own.version == manifest.version,
                "tags": _tags_of(memory, own),
                "rows": own.rows,
                "made": _date(memory, own),
                "edit": own.edit,
            }
            for own in memory.history.manifests().values()
        ],
    }


def _is_encoder(embedded_by: str) -> bool:
    """Whether `data/encoder` has this fingerprint; a damaged one has none."""
    try:
        return encoder_fingerprint() == embedded_by
    except UserError:
        return False


def listed(selection: Selection, limit: int) -> tuple[list[dict[str, Any]], int]:
    """The first rows that are meant, in id order, and how many there are."""
    memory = opened()
    rows = memory.rows.take(selection(memory, memory.rows))
    return _described(rows, memory.manifest.classes, limit), len(rows)


def remove(selection: Selection, purge: bool) -> str:
    """Take rows out of the memory; with `purge` off the disk too."""
    if not str(selection):
        raise UserError("nothing is meant: give --id, --class, --source or --where")
    if not purge:
        made, gone = store.remove(
            selection, f"remove {selection}", paths.STORE, paths.STORE_MANIFEST
        )
        return f"{changed(made)}: {gone:,} rows removed"
    edit = f"remove {selection} --purge"
    derived = (paths.NEIGHBOURS, part_path(paths.NEIGHBOURS), paths.INDEX)
    with artefact_locks((), (paths.NEIGHBOURS,)):
        made, gone = store.purge(selection, edit, paths.STORE, paths.STORE_MANIFEST, derived)
    return (
        f"{changed(made)}: {gone:,} rows removed from every version and from the disk, with "
        f"{paths.NEIGHBOURS} and {paths.INDEX}, which were made of them; the images themselves, "
        "the trained classifiers and DVC's cache are as they were"
    )


def tag(name: str) -> str:
    """Name the current version."""
    made = store.tag(name, paths.STORE, paths.STORE_MANIFEST)
    return f"version {made.version} is {name}"


def checkout(name: str) -> str:
    """Go back, or on, to a version."""
    made = store.checkout(name, paths.STORE, paths.STORE_MANIFEST)
    return changed(made)


def compact() -> str:
    """Drop what no tag and no current version needs."""
    before = _megabytes()
    made = store.compact(paths.STORE, paths.STORE_MANIFEST)
    return f"version {made.version}: {before:.1f} MB before, {_megabytes():.1f} MB now"


def verify() -> str:
    """Compare every row with its digest, and all with the manifest and the encoder."""
    memory = opened()
    own = encoder_fingerprint() if (paths.ENCODER / CARD).exists() else None
    memory.verify(own)
    compared = "and the encoder " if own else ""
    return (
        f"version {memory.manifest.version} is sound: {memory.manifest.rows:,} rows, their "
        f"digests, lengths and counts, the manifest {compared}agree"
    )


def diff(one: str, other: str, limit: int) -> dict[str, Any]:
    """What two versions have that the other lacks."""
    memory = opened()
    pair = [memory.history.resolve(name) for name in (one, other)]
    found = memory.difference(*pair)
    return {
        f"only in {name}": {
            "rows": len(rows),
            "by class": _by_class(rows, manifest.classes),
            "by source": _counts(rows.sources),
            "first": _described(rows, manifest.classes, limit),
        }
        for name, manifest, rows in zip((one, other), pair, found, strict=True)
    }


def export(path: Path) -> str:
    """Write the current version as Parquet, or as .npy with its rows in Parquet beside it."""
    memory = opened()
    files = store.export(memory, path)
    return f"{memory.manifest.rows:,} rows in {' and '.join(map(str, files))}"


def changed(made: Manifest) -> str:
    """What to do after an edit."""
    return f"version {made.version} holds {made.rows:,} rows; run rapipe prefetch"


def _tags_of(memory: Store, manifest: Manifest) -> list[str]:
    return [tag for tag, own in memory.history.tags().items() if own == manifest.version]


def _date(memory: Store, manifest: Manifest) -> str:
    path = memory.history.folder / f"{manifest.version}.json"
    try:
        return datetime.fromtimestamp(path.stat().st_mtime).isoformat(" ", "seconds")
    except FileNotFoundError:  # another process has just dropped it
        return ""


def _counts(names: np.ndarray) -> dict[str, int]:
    found, counts = np.unique(names, return_counts=True)
    return {str(name): int(count) for name, count in zip(found, counts, strict=True)}


def _by_class(rows: Rows, classes: tuple[str, ...]) -> dict[str, int]:
    return _counts(np.array([_class(label, classes) for label in rows.labels.tolist()], np.str_))


def _described(rows: Rows, classes: tuple[str, ...], limit: int) -> list[dict[str, Any]]:
    rows = rows.take(rows.in_id_order()[:limit])
    return [
        {"id": own, "class": _class(label, classes), "source": source, "split": split}
        for own, label, source, split in zip(
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
    total = 0
    for path in paths.STORE.rglob("*"):
        with suppress(FileNotFoundError):  # another process may be tidying up
            total += path.stat().st_size if path.is_file() else 0
    return total / 1e6
