"""Where images come from: one file for each format, one line for each kind in `SOURCES`.

A kind is a function of a `SourceRequest` that returns a `Source`. It opens what it must
to know classes and sizes; images are read when they are iterated over.

Raises, each kind: `ArgumentError` about `path` or `request`, its `label` included; `UserError`
about a file.
"""

from collections.abc import Callable
from pathlib import Path

from rapipe.corpus.sources.base import Item, Source, SourceRequest, Split
from rapipe.corpus.sources.celeba import celeba
from rapipe.corpus.sources.cifar import cifar10, cifar100
from rapipe.corpus.sources.cifar10_c import cifar10_c
from rapipe.corpus.sources.digits import digits
from rapipe.corpus.sources.folder import folder
from rapipe.corpus.sources.generated import generated
from rapipe.corpus.sources.idx import idx
from rapipe.corpus.sources.mnist import fashion_mnist, mnist
from rapipe.corpus.sources.parquet import SUFFIX, parquet
from rapipe.corpus.sources.stl10 import stl10
from rapipe.corpus.sources.svhn import svhn
from rapipe.corpus.sources.tiny_imagenet import tiny_imagenet

SOURCES: dict[str, Callable[[SourceRequest], Source]] = {
    "digits": digits,
    "folder": folder,
    "parquet": parquet,
    "idx": idx,
    "mnist": mnist,
    "fashion-mnist": fashion_mnist,
    "svhn": svhn,
    "cifar10": cifar10,
    "cifar10-c": cifar10_c,
    "cifar100": cifar100,
    "stl10": stl10,
    "tiny-imagenet": tiny_imagenet,
    "celeba": celeba,
    "generated": generated,
}


def kind_of(path: Path) -> str:
    """The kind that reads a file or folder: parquet where there is a Parquet file, else folder."""
    files = (file for pattern in ("*", "*/*") for file in path.glob(f"{pattern}{SUFFIX}"))
    return "parquet" if path.suffix == SUFFIX or any(files) else "folder"


__all__ = ["SOURCES", "Item", "Source", "SourceRequest", "Split", "kind_of"]
