"""MNIST and Fashion-MNIST: four IDX files each.

Checksums as in torchvision. LeCun et al., 1998; Xiao et al., 2017
(arXiv:1708.07747).
"""

from __future__ import annotations

from rapipe.corpus.sources.base import Source, SourceRequest
from rapipe.corpus.sources.download import Archive, obtain
from rapipe.corpus.sources.idx import find_pairs, pairs_source

MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"
FASHION = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
FILES = (
    *("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    *("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
)
MNIST_MD5 = (
    *("f68b3c2dcbeaaa9fbdd348bbdeb94873", "d53e105ee54ea40749a09fcbcd1e9432"),
    *("9fb629c4189551a2d022fa330f9573f3", "ec29112dd5afa0611ce80d1b7f02629c"),
)
FASHION_MD5 = (
    *("8d4fb7e6c68d591d4c3dfef9ec88bf0d", "25c81989df183df01b3e8a0aad5dffbe"),
    *("bef4ecab320f06d8554ea6380940ec79", "bb300cfdad3c16e7a12a480ee83cd310"),
)
GARMENTS = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)


def mnist(request: SourceRequest) -> Source:
    """60,000 + 10,000 handwritten digits, greyscale, 28 by 28.

    Raises:
        ArgumentError: the files are missing and may not be fetched.
        UserError: a file is damaged.
    """
    return _four_files("mnist", request, MNIST, MNIST_MD5, tuple("0123456789"))


def fashion_mnist(request: SourceRequest) -> Source:
    """60,000 + 10,000 garments, greyscale, 28 by 28.

    Raises:
        ArgumentError: the files are missing and may not be fetched.
        UserError: a file is damaged.
    """
    return _four_files("fashion-mnist", request, FASHION, FASHION_MD5, GARMENTS)


def _four_files(
    kind: str, request: SourceRequest, url: str, md5: tuple[str, ...], classes: tuple[str, ...]
) -> Source:
    """Unpacked files are read as they are; packed ones must have the published checksums."""
    request.choose_label(kind)
    root = request.folder(kind)
    pairs = find_pairs(root, packed=False)
    if set(pairs) != {"train", "test"}:
        for name, checksum in zip(FILES, md5, strict=True):
            obtain(Archive(name, url + name, checksum), root, request.download)
        pairs = {
            "train": (root / FILES[0], root / FILES[1]),
            "test": (root / FILES[2], root / FILES[3]),
        }
    return pairs_source(pairs, classes)
