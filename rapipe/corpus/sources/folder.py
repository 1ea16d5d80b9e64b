"""Any folder of images: `split/class/...`, or `class/...` to be divided by the corpus.

What lies deeper inside a class belongs to the class. A folder without class
folders is one of unlabelled images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rapipe.corpus.sources.archives import walk_files
from rapipe.corpus.sources.base import ALIASES, WHOLE, Item, Source, SourceRequest, Split
from rapipe.errors import UserError, unreadable
from rapipe.records import SPLITS, UNLABELLED

READ = frozenset(
    (
        *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".bmp", ".gif", ".webp"),
        *(".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".tga", ".ico"),
    )
)
"""Suffixes of images."""

NOT_READ = frozenset(
    (
        *(".heic", ".heif", ".jxl", ".svg", ".psd", ".xcf", ".eps", ".raw", ".dng", ".cr2"),
        *(".cr3", ".nef", ".arw", ".orf", ".rw2", ".exr", ".hdr", ".dcm"),
    )
)
"""Suffixes of images that must be converted first. Files with any other suffix are no images."""


@dataclass(frozen=True)
class _File:
    path: Path
    label: int
    error: str


def folder(ask: SourceRequest) -> Source:
    """Images by split and class; a class is the name of its folder.

    Hidden files and files that are no images by their suffix are passed over.
    Classes and files are sorted by name.

    Raises:
        UserError: the folder is missing, or holds no images in this layout.
    """
    ask.choose_label("folder")
    root = Path(ask.path)
    if not ask.path or not root.is_dir():
        raise UserError(f"corpus.sources: the folder {ask.path!r} does not exist")
    tops = _folders(root)
    named = {_split_name(top): top for top in tops}
    if any(name in SPLITS for name in named):
        stray = sorted(top.name for top in tops if _split_name(top) not in SPLITS)
        if stray:
            raise UserError(
                f"corpus.sources: {root} has the folder {stray[0]!r} beside its splits; "
                f"splits are {', '.join(SPLITS)}"
            )
        if len(named) < len(tops):
            raise UserError(f"corpus.sources: {root} has two folders for one split")
        roots = {name: named[name] for name in SPLITS if name in named}
    else:
        roots = {WHOLE: root}
    names = {top.name for base in roots.values() for top in _folders(base)}
    classes = tuple(sorted(names))
    for name in classes if ask.labelled else ():
        if why := unreadable(name):
            raise UserError(
                f"{root}: the class folder {name!r} has no readable name: rename it (it {why})"
            )
    found = {split: list(_files(base, classes, ask.labelled)) for split, base in roots.items()}
    strays = [] if WHOLE in roots else [path for path in root.iterdir() if path.is_file()]
    for path in sorted(strays):
        if path.suffix.lower() in READ | NOT_READ and not path.name.startswith("."):
            error = f"lies beside the splits of {root}: move it into one of them"
            next(iter(found.values())).append(_File(path, UNLABELLED, error))
    if not any(found.values()):
        raise UserError(f"corpus.sources: {root} holds no images as split/class/file or class/file")
    return Source(
        classes,
        {split: _split(listed) for split, listed in found.items()},
        tuple(file.path for listed in found.values() for file in listed),
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
        if suffix not in READ and suffix not in NOT_READ:
            continue
        error = ""
        if suffix in NOT_READ:
            error = f"is a {suffix} file, which cannot be read: convert it to PNG or JPEG"
        elif labelled and classes and not inside:
            error = f"lies beside the class folders of {base}: move it into one of them"
        yield _File(path, label_of[inside[0]] if inside else UNLABELLED, error)


def _split(listed: list[_File]) -> Split:
    def items() -> Iterator[Item]:
        for file in listed:
            yield Item(file.path, file.label, str(file.path), file.error)

    return Split(len(listed), items)
