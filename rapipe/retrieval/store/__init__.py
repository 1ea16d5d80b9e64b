"""The store, on disk: LanceDB holds the rows, a manifest says which of them count.

Every edit makes a version; the old ones stay until `compact`, those with a tag
for good. A version is a set of rows, so to remove is to write down a smaller
set; only `purge` and `compact` rewrite rows. Readers need no lock, and one
process edits at a time.
"""

from rapipe.retrieval.store.edits import (
    add,
    checkout,
    compact,
    purge,
    remove,
    restore_memory,
    tag,
    write,
    write_fragments,
)
from rapipe.retrieval.store.exporting import export
from rapipe.retrieval.store.fragments import Fragment
from rapipe.retrieval.store.importing import CorpusImages, Imported, import_vectors
from rapipe.retrieval.store.reading import Store
from rapipe.retrieval.store.rows import Mask, Rows
from rapipe.retrieval.store.versions import History, Manifest, StoreSpec

__all__ = [
    "CorpusImages",
    "Fragment",
    "History",
    "Imported",
    "Manifest",
    "Mask",
    "Rows",
    "Store",
    "StoreSpec",
    "add",
    "checkout",
    "compact",
    "export",
    "import_vectors",
    "purge",
    "remove",
    "restore_memory",
    "tag",
    "write",
    "write_fragments",
]
