"""Any folder of images: `split/class/...`, or `class/...` to be divided by the corpus.

Files in deeper folders of a class belong to the class. The images of a folder without
class folders are unlabelled.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rapipe.corpus.sources.archives import walk_files
from rapipe.corpus.sources.base import ALIASES, UNDIVIDED, Item, Source, SourceRequest, Split
from rapipe.errors import ArgumentError, UserError, unreadable
from rapipe.records import SPLITS, UNLABELLED

SUFFIXES = frozenset(
    (
        *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".bmp", ".gif", ".webp"),
        *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".tga", ".ico"),
    )
)
"""Suffixes of images."""

UNREADABLE_SUFFIXES = frozenset(
    (
        *(".heic", ".heif", ".jxl", ".svg", ".psd", ".xcf", ".eps", ".raw", ".dng", ".cr2"),
        *(".cr3", ".nef", ".arw", ".orf", ".rw2", ".exr", ".hdr", ".dcm"),
    )
)
"""Suffixes of images that must be converted first. Other files are no images."""


@dataclass(frozen=True)
class _File:
    path: Path
    label: int
    error: str


def folder(request: SourceRequest) -> Source:
    """Images by split and class; a class is the name of its folder.

    Hidden files, and files whose suffix is not that of an image, are skipped.
    Classes and files are sorted by name.

    Raises:
        ArgumentError: the folder is missing, or holds no images in this layout.
        UserError: the name of a class cannot be read.
    """
    request.choose_label("folder")
    root = Path(request.path)
    if not request.path or not root.is_dir():
        raise ArgumentError(f"`path`: the folder {request.path!r} does not exist")
    tops = _folders(root)
    splits = {_split_name(top): top for top in tops}
    if any(name in SPLITS for name in splits):
        strays = sorted(top.name for top in tops if _split_name(top) not in SPLITS)
        if strays:
            raise ArgumentError(
                f"`path`: {root} has the folder {strays[0]!r} beside its splits; "
                f"splits are {', '.join(SPLITS)}"
            )
        if len(splits) < len(tops):
            raise ArgumentError(f"`path`: {root} has two folders for one split")
        roots = {name: splits[name] for name in SPLITS if name in splits}
    else:
        roots = {UNDIVIDED: root}
    names = {top.name for base in roots.values() for top in _folders(base)}
    classes = tuple(sorted(names))
    for name in classes if request.labelled else ():
        if why := unreadable(name):
            raise UserError(
                f"{root}: the class folder {name!r} has no readable name: rename it (it {why})"
            )
    files = {split: list(_files(base, classes, request.labelled)) for split, base in roots.items()}
    beside = [] if UNDIVIDED in roots else [path for path in root.iterdir() if path.is_file()]
    for path in sorted(beside):
        if path.suffix.lower() in SUFFIXES | UNREADABLE_SUFFIXES and not path.name.startswith("."):
            error = f"lies beside the splits of {root}: move it into one of them"
            next(iter(files.values())).append(_File(path, UNLABELLED, error))
    if not any(files.values()):
        raise ArgumentError(f"`path`: {root} holds no images as split/class/file or class/file")
    return Source(
        classes,
        {split: _split(paths) for split, paths in files.items()},
        tuple(file.path for paths in files.values() for file in paths),
    )


def _split_name(top: Path) -> str:
    name = top.name.lower()
    return ALIASES.get(name, name)


def _folders(base: Path) -> list[Path]:
    return sorted(p for p in base.iterdir() if p.is_dir() and not p.name.startswith("."))


def _files(base: Path, classes: tuple[str, ...], labelled: bool) -> Iterator[_File]:
    """The images below one split, in the order of the classes; those outside a class come first."""
    label_of = {name: label for label, name in enumerate(classes)}
    for path in walk_files(base):
        suffix = path.suffix.lower()
        inside = path.relative_to(base).parts[:-1]
        if suffix not in SUFFIXES | UNREADABLE_SUFFIXES:
            continue
        error = ""
        if suffix in UNREADABLE_SUFFIXES:
            error = f"is a {suffix} file, which cannot be read: convert it to PNG or JPEG"
        elif labelled and classes and not inside:
            error = f"lies beside the class folders of {base}: move it into one of them"
        yield _File(path, label_of[inside[0]] if inside else UNLABELLED, error)


def _split(files: list[_File]) -> Split:
    def items() -> Iterator[Item]:
        for file in files:
            yield Item(file.path, file.label, str(file.path), file.error)

    return Split(len(files), items)
