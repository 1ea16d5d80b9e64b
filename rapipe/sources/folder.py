"""Any folder of images: `split/class/file`, or `class/file` to be divided by the corpus."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rapipe.errors import UserError
from rapipe.records import SPLITS
from rapipe.sources.base import ALIASES, WHOLE, Item, Source, Split

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm"))


def folder(path: str) -> Source:
    """Images by split and class; a class is the name of its folder.

    Hidden files and files with other suffixes than those of images are passed
    over. Classes and files are sorted by name.

    Raises:
        UserError: the folder is missing, or holds no images in this layout.
    """
    root = Path(path)
    if not path or not root.is_dir():
        raise UserError(f"corpus.sources: the folder {path!r} does not exist")
    tops = _folders(root)
    named = {ALIASES.get(top.name, top.name): top for top in tops}
    if any(name in SPLITS for name in named):
        stray = sorted(name for name in named if name not in SPLITS)
        if stray:
            raise UserError(
                f"corpus.sources: {path} has the folder {stray[0]!r} beside its splits; "
                f"splits are {', '.join(SPLITS)}"
            )
        roots = {name: named[name] for name in SPLITS if name in named}
    else:
        roots = {WHOLE: root}
    classes = tuple(sorted({top.name for base in roots.values() for top in _folders(base)}))
    files = {split: _files(base, classes) for split, base in roots.items()}
    if not classes or not any(files.values()):
        raise UserError(f"corpus.sources: {path} holds no images as split/class/file or class/file")
    return Source(classes, {split: _split(listed) for split, listed in files.items()})


def _folders(base: Path) -> list[Path]:
    return sorted(p for p in base.iterdir() if p.is_dir() and not p.name.startswith("."))


def _files(base: Path, classes: tuple[str, ...]) -> list[tuple[Path, int]]:
    return [
        (file, label)
        for label, name in enumerate(classes)
        if (base / name).is_dir()
        for file in sorted((base / name).iterdir())
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
    ]


def _split(listed: list[tuple[Path, int]]) -> Split:
    def items() -> Iterator[Item]:
        for file, label in listed:
            try:
                data = file.read_bytes()
            except OSError as error:
                raise UserError(f"{file} cannot be read: {error.strerror}") from None
            yield Item(data, label, str(file))

    return Split(len(listed), items)
