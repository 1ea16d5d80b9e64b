"""Tiny ImageNet: 100,000 + 10,000 photographs of 200 classes, 64 by 64.

Le and Yang, 2015; http://cs231n.stanford.edu/tiny-imagenet-200.zip. The labels
of its test images were never published, so its validation images are the test
split here, as is usual; validation is held out of train.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from rapipe.corpus.sources.archives import decode_text
from rapipe.corpus.sources.base import Source, SourceRequest
from rapipe.corpus.sources.download import Archive, obtain
from rapipe.corpus.sources.trees import file_tree
from rapipe.errors import UserError

TOP = "tiny-imagenet-200"
LISTS = ("wnids.txt", "val/val_annotations.txt")
ARCHIVE = Archive(
    f"{TOP}.zip",
    f"http://cs231n.stanford.edu/{TOP}.zip",
    "90528d7ca1a48142e341f4ef8d21d0de",
)


def tiny_imagenet(request: SourceRequest) -> Source:
    """Classes are WordNet ids, in their order; images are read from the zip file as it is.

    Raises:
        ArgumentError: the files are missing and may not be fetched.
        UserError: a file is damaged.
    """
    request.choose_label("tiny-imagenet")
    root = request.folder("tiny-imagenet")
    folders = [path for path in (root, root / TOP) if (path / "wnids.txt").is_file()]
    files = file_tree(folders[0] if folders else obtain(ARCHIVE, root, request.download))
    base = "" if folders else f"{TOP}/"
    present = set(files.names)
    for name in LISTS:
        if base + name not in present:
            raise UserError(f"{files.root} holds no {base}{name}: get the archive again")
    wnids, annotations = (
        decode_text(files.read(base + name), files.location(base + name)) for name in LISTS
    )
    classes = tuple(sorted(wnids.split()))
    label_of = {name: label for label, name in enumerate(classes)}
    train = [
        (name, label_of[PurePosixPath(name).parts[-3]])
        for name in files.names
        if PurePosixPath(name).match(f"{base}train/*/images/*.JPEG")
        and PurePosixPath(name).parts[-3] in label_of
    ]
    test = [
        (f"{base}val/images/{file}", label_of[wnid])
        for file, wnid, *_ in (
            line.split("\t") for line in annotations.splitlines() if "\t" in line
        )
        if wnid in label_of
    ]
    for name, _ in test:
        if name not in present:
            raise UserError(f"{files.root} lacks {name}, which val_annotations.txt lists")
    splits = {"train": files.split(train), "test": files.split(test)}
    return Source(classes, splits, files.files(files.names))
