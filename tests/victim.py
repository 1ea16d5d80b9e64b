"""A process that edits a store and may be killed at any moment: `python victim.py EDIT FOLDER`.

It says `ready` when everything is imported, waits for a line, edits, and says `done`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from conftest import make_embeddings

from rapipe.records import Embeddings
from rapipe.retrieval import store

D = 16
SPEC = store.StoreSpec(D, ("class 0", "class 1", "class 2"), "encoder")
N = 3000


def rows(seed: int, n: int = N) -> list[Embeddings]:
    """Blocks of random rows; each seed has other ids."""
    embeddings = make_embeddings(n, D, seed)
    embeddings = replace(embeddings, ids=embeddings.ids + 10**6 * seed)
    return [embeddings.take(np.arange(start, min(start + 1000, n))) for start in range(0, n, 1000)]


def first_half(memory: store.Store, candidates: store.Rows) -> np.ndarray:
    """Rows with the lower half of the ids."""
    return np.asarray(candidates.ids < np.median(candidates.ids))


EDITS: dict[str, Callable[[Path, Path], object]] = {
    "write": lambda folder, pointer: store.write(rows(2), SPEC, folder, pointer),
    "add": lambda folder, pointer: store.add(
        rows(3), SPEC.classes, "add", store.Store.open(folder, pointer)
    ),
    "remove": lambda folder, pointer: store.remove(first_half, "remove", folder, pointer),
    "purge": lambda folder, pointer: store.purge(first_half, "purge", folder, pointer),
    "compact": lambda folder, pointer: store.compact(folder, pointer),
}


def index(folder: Path) -> None:
    """Build an index that is kept beside the store."""
    from rapipe.retrieval.search import SearchMethod, search

    bank = rows(1)[0]
    search(bank.vectors[:9], bank, 3, bank.ids[:9], SearchMethod("lance", "IVF_FLAT", 0.1, folder))


if __name__ == "__main__":
    edit, home = sys.argv[1], Path(sys.argv[2])
    import lancedb  # noqa: F401

    if edit == "index":
        import rapipe.retrieval.search  # noqa: F401

    print("ready", flush=True)
    sys.stdin.readline()
    if edit == "index":
        index(home / "index")
    else:
        EDITS[edit](home / "store", home / "store.json")
    print("done", flush=True)
