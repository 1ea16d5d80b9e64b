"""Where images come from: one file a format, one line a kind in `SOURCES`.

A kind is a function of an `Ask` that returns a `Source`. It opens what it must
to know classes and sizes; images are read when walked through.
"""

from collections.abc import Callable

from rapipe.sources.base import Ask, Item, Source, Split
from rapipe.sources.celeba import celeba
from rapipe.sources.cifar import cifar10, cifar100
from rapipe.sources.digits import digits
from rapipe.sources.folder import folder
from rapipe.sources.idx import idx
from rapipe.sources.mnist import fashion_mnist, mnist
from rapipe.sources.parquet import parquet
from rapipe.sources.stl10 import stl10
from rapipe.sources.svhn import svhn
from rapipe.sources.tiny_imagenet import tiny_imagenet

SOURCES: dict[str, Callable[[Ask], Source]] = {
    "digits": digits,
    "folder": folder,
    "parquet": parquet,
    "idx": idx,
    "mnist": mnist,
    "fashion-mnist": fashion_mnist,
    "svhn": svhn,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "stl10": stl10,
    "tiny-imagenet": tiny_imagenet,
    "celeba": celeba,
}

__all__ = ["SOURCES", "Ask", "Item", "Source", "Split"]
