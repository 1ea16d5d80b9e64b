"""Where images come from: one file a kind, one line a kind in `SOURCES`.

A kind is a function of a path (may be "") that returns a `Source`. It opens
what it must to know classes and sizes; images are read when walked through.
"""

from collections.abc import Callable

from rapipe.sources.base import Item, Source, Split
from rapipe.sources.digits import digits
from rapipe.sources.folder import folder
from rapipe.sources.parquet import parquet

SOURCES: dict[str, Callable[[str], Source]] = {
    "digits": digits,
    "folder": folder,
    "parquet": parquet,
}

__all__ = ["SOURCES", "Item", "Source", "Split"]
