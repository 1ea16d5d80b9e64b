"""CelebA: 202,599 aligned faces with 40 attributes and 10,177 identities, 178 by 218.

Liu et al., 2015; https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html, checksums
as in torchvision. The files live on a drive with quotas, so they must often
be fetched by hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rapipe.corpus.sources.base import UNDIVIDED, Source, SourceRequest
from rapipe.corpus.sources.download import Archive, obtain
from rapipe.corpus.sources.trees import FileTree, file_tree
from rapipe.errors import UserError
from rapipe.records import UNLABELLED

PAGE = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
DRIVE = "https://drive.usercontent.google.com/download?export=download&confirm=t&id="


def _archive(name: str, drive: str, md5: str) -> Archive:
    return Archive(name, DRIVE + drive, md5, PAGE)


IMAGES = _archive(
    "img_align_celeba.zip", "0B7EVK8r0v71pZjFTYXZWM3FlRnM", "00d2c5bc6d35e252742224ab0c1e8fcb"
)
ATTRIBUTES = _archive(
    "list_attr_celeba.txt", "0B7EVK8r0v71pblRyaVFSWGxPY0U", "75e246fa4810816ffd6ee81facbd244c"
)
IDENTITIES = _archive(
    "identity_CelebA.txt", "1_ee_0u7vcNLOfNLegJRHmolfH5ICW-XS", "32bd1bd63d3c78cd57e08160ec5ed1e2"
)
PARTITION = _archive(
    "list_eval_partition.txt", "0B7EVK8r0v71pY0NSMzRuSXJEVkk", "d32c9cbf5e040fd4025c592c306e6668"
)
SPLIT_OF = {"0": "train", "1": "validation", "2": "test"}
IDENTITY = "identity"


def celeba(request: SourceRequest) -> Source:
    """Faces by an attribute (`label: Smiling`), by `label: identity`, or unlabelled.

    An attribute makes two classes, with the official splits. Identities do not
    cross those splits, so by identity the set comes undivided.

    Raises:
        ArgumentError: there is no such attribute, or a file is missing.
        UserError: a file is damaged.
    """
    request.refuse_columns("celeba")
    root = request.folder("celeba")
    if (root / "celeba").is_dir():  # as torchvision lays it out
        root = root / "celeba"
    images = _images(root, request.download)
    partition = _text(root, PARTITION, request.download)
    files = [root / PARTITION.name, *images.files(images.names)]
    split_of = {name: SPLIT_OF.get(rest, "") for name, rest in _rows(partition)}
    classes: tuple[str, ...] = ()
    label_of = dict.fromkeys(split_of, UNLABELLED)
    if request.label == IDENTITY:
        people = dict(_rows(_text(root, IDENTITIES, request.download)))
        classes = tuple(sorted(set(people.values()), key=lambda name: (len(name), name)))
        number = {name: label for label, name in enumerate(classes)}
        label_of |= {name: number[person] for name, person in people.items()}
        split_of = dict.fromkeys(split_of, UNDIVIDED)
        files.append(root / IDENTITIES.name)
    elif request.label:
        lines = _text(root, ATTRIBUTES, request.download)
        names = lines[1].split()
        column = names.index(request.choose_label("celeba", *names, IDENTITY))
        classes = (f"not {request.label}", request.label)
        for name, rest in _rows(lines[2:]):
            label_of[name] = int(rest.split()[column] == "1")
        files.append(root / ATTRIBUTES.name)
    path_of = {Path(name).name: name for name in images.names}
    labels: dict[str, list[tuple[str, int]]] = {}
    for name, split in split_of.items():
        if name not in path_of or not split:
            raise UserError(f"{root / PARTITION.name} lists {name}, which {root} lacks")
        labels.setdefault(split, []).append((path_of[name], label_of[name]))
    splits = {split: images.split(pairs) for split, pairs in labels.items()}
    return Source(classes, splits, tuple(files))


def _images(root: Path, download: bool) -> FileTree:
    folder = root / "img_align_celeba"
    return file_tree(folder if folder.is_dir() else obtain(IMAGES, root, download))


def _text(root: Path, archive: Archive, download: bool) -> list[str]:
    lines = obtain(archive, root, download).read_text().splitlines()
    if len(lines) < 2:
        raise UserError(f"{root / archive.name} is damaged: it has {len(lines)} lines")
    return lines


def _rows(lines: list[str]) -> Iterator[tuple[str, str]]:
    """File name and the rest of each line."""
    for line in lines:
        name, _, rest = line.strip().partition(" ")
        if rest:
            yield name, rest.strip()
