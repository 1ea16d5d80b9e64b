"""Which files are images, what is litter, and where links lead.

Whatever is passed over is counted.
"""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from rapipe.corpus.formats import SUFFIXES, UNREADABLE_SUFFIXES, image_error, suffix_of
from rapipe.errors import UserError

LITTER = frozenset(
    (
        *("@eadir/", "@tmp/", "@recycle/", "@recently-snapshot/", "#recycle/", "#snapshot/"),
        *("__macosx/", "network trash folder/", "temporary items/", "__pycache__/"),
        *("$recycle.bin/", "system volume information/", "found.000/", "lost+found/", "lost.dir/"),
        *("thumbnails/", "_thumbnails/", "_thumbs/", "thmbnl/"),
        *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "zbthumbnail.info"),
    )
)
"""Files and, with a slash, folders that systems, file managers and cameras leave; hidden ones too
are litter. In lower case."""
LITTER_ENDINGS = (
    *("~", ".bak", ".tmp", ".temp", ".swp", ".part", ".partial", ".crdownload", ".opdownload"),
    *(".aria2", ".thm", "_original", ".lrdata/", ".photoslibrary/"),
)
"""Of copies that editors keep, of downloads that broke off, of thumbnails; `_original` is
exiftool's."""

PLAIN_SUFFIX = re.compile(r"\.(?=.*[a-z])[a-z0-9_+-]{1,15}\Z")
NO_SUFFIX, OTHERS, HIDDEN = "without a suffix", "of other suffixes", "hidden"
UNREADABLE, CIRCLES = "that cannot be read", "links in a circle"


class Entry(NamedTuple):
    """A file or a folder below another folder."""

    name: str
    """Relative; with `/` between folders, and at the end of a folder's."""
    error: str = ""
    """Why it cannot be read: a clause that goes on after its path."""


def litter(name: str) -> str:
    """What litter is counted as, by the name of a file or, with a slash, of a folder; or ""."""
    if name.startswith("."):
        return name if name.endswith("/") else HIDDEN
    lower = name.lower()
    if lower in LITTER:
        return name
    return next((end for end in LITTER_ENDINGS if lower.endswith(end)), "")


class Listing:
    """The files of a folder or archive, sorted into images, others and litter, as they come."""

    def __init__(self) -> None:
        self.names: dict[str, None] = {}
        self.folders: dict[str, None] = {}
        self.images: dict[str, str] = {}
        """Why each cannot be used, or "" if it can."""
        self.passed_over: Counter[str] = Counter()
        self._litter_folders: set[str] = set()

    def add(self, entry: Entry, head: Callable[[], bytes]) -> None:
        """Add a folder, or a file whose first bytes `head` gives; an equal name is replaced."""
        name, error = entry
        if name.endswith("/"):
            self.folders[name[:-1]] = None
            return
        self.names.pop(name, None)
        self.images.pop(name, None)
        file = name.rpartition("/")[2]
        suffix = suffix_of(file)
        problem: str | None
        if error:  # what is behind it is not known: its name has to tell
            problem = error if not suffix or suffix in SUFFIXES | UNREADABLE_SUFFIXES else None
        else:
            self.names[name] = None
            problem = image_error(file, head)
        if problem is None:
            self.passed_over[UNREADABLE if error else _kind(suffix)] += 1
        else:
            self.images[name] = problem

    def add_member(self, entry: Entry, head: Callable[[], bytes]) -> None:
        """Add a file or folder of an archive, which may be litter, with the folders around it."""
        parts = entry.name.removesuffix("/").split("/")
        for depth, part in enumerate(parts, 1):
            path = "/".join(parts[:depth])
            is_folder = depth < len(parts) or entry.name.endswith("/")
            if kind := litter(f"{part}/" if is_folder else part):
                if not is_folder or path not in self._litter_folders:
                    self.count_litter(kind, part)
                    self._litter_folders.add(path)
                return
            if is_folder:
                self.folders[path] = None
        if not entry.name.endswith("/"):
            self.add(entry, head)

    def count_litter(self, kind: str, name: str) -> None:
        """Count litter; of hidden files only images, since browsing a folder leaves others."""
        if kind != HIDDEN or (suffix_of(name) in SUFFIXES and not name.startswith("._")):
            self.passed_over[kind] += 1


def walk_files(root: Path, listing: Listing) -> Iterator[Entry]:
    """Files and folders below a folder: sorted by name, the files of a folder first, no litter.

    Links are followed, but not into a folder that lies around them.

    Args:
        listing: what is passed over is counted in it.

    Raises:
        UserError: a folder cannot be read.
    """
    stack: list[tuple[str, tuple[tuple[int, int], ...]]] = [("", (_identity(root.stat()),))]
    while stack:
        folder, around = stack.pop()
        folders: list[tuple[str, tuple[tuple[int, int], ...]]] = []
        if folder:
            yield Entry(folder)
        for entry in _entries(root / folder):
            is_folder = _is_folder(entry)
            name = f"{folder}{entry.name}"
            if kind := litter(f"{entry.name}/" if is_folder else entry.name):
                listing.count_litter(kind, entry.name)
            elif not is_folder:
                yield Entry(name, _file_error(entry))
            elif (identity := _identity(entry.stat())) in around:
                listing.passed_over[CIRCLES] += 1
            else:
                folders.append((f"{name}/", (*around, identity)))
        stack += reversed(folders)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror}") from None


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # of a link that leads to itself, or to where nobody may look
        return False


def _file_error(entry: os.DirEntry[str]) -> str:
    """Why what is no folder cannot be read as a regular file, as a clause; "" if it can."""
    if entry.is_file(follow_symlinks=False):
        return ""
    link = (
        f"is a link to {str(Path(entry.path).readlink())!r}, which " if entry.is_symlink() else ""
    )
    try:
        mode = entry.stat().st_mode
    except FileNotFoundError:
        return f"{link or 'has gone, and '}does not exist"
    except OSError as error:
        return f"{link}cannot be read: {error.strerror}"
    return "" if stat.S_ISREG(mode) else f"{link}is no regular file"


def _kind(suffix: str) -> str:
    """What a file that is no image is counted as."""
    if not suffix:
        return NO_SUFFIX
    return suffix if PLAIN_SUFFIX.match(suffix) else OTHERS
