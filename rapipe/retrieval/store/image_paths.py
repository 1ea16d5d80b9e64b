"""Images by path: the whole location that the corpus has for them, or the end of it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from functools import cached_property

from rapipe.errors import printable

UNKNOWN, AMBIGUOUS = -1, -2
"""In place of an image."""


class ImagePaths:
    """Finds images by path.

    >>> paths = ImagePaths(["photos/cat/1.png", "photos/dog/1.png", "pets.zip: cat/2.png"])
    >>> [paths.find(path) for path in ("cat/1.png", "/home/u/photos/dog/1.png", "2.png", "3.png")]
    [0, 1, 2, -1]
    >>> paths.find("1.png"), paths.examples
    (-2, ('photos/dog/1.png', 'photos/cat/1.png'))

    Args:
        locations: the file or row (N,) that each image came from.
    """

    def __init__(self, locations: Iterable[str]) -> None:
        self.rows: dict[str, int] = {}
        for row, text in enumerate(locations):
            self.rows.setdefault(_parts(text), row)
        self.examples: tuple[str, ...] = ()
        """Two locations that the first ambiguous path fits."""

    def find(self, path: str) -> int:
        """The row of the image; `UNKNOWN`, or `AMBIGUOUS` if the path is the end of several.

        The path may also be longer than the location, such as an absolute one.
        """
        path = _parts(path)
        if path in self.rows:
            return self.rows[path]
        end = f"/{path}"[::-1]
        at = bisect_left(self._reversed, end)
        matches = [text[::-1] for text in self._reversed[at : at + 2] if text.startswith(end)]
        if len(matches) > 1:
            self.examples = self.examples or tuple(matches)
            return AMBIGUOUS
        if matches:
            return self.rows[matches[0]]
        while "/" in path:
            path = path.partition("/")[2]
            if path in self.rows:
                return self.rows[path]
        return UNKNOWN

    @cached_property
    def _reversed(self) -> list[str]:
        """All locations from their ends, so that equal ends stand together."""
        return sorted(text[::-1] for text in self.rows)


def _parts(path: str) -> str:
    """A path with slashes only: also in Windows, and between an archive and what is in it."""
    return printable(path).replace("\\", "/").replace(": ", "/").removeprefix("./")
