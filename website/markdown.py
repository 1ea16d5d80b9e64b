"""Markdown as GitHub reads it: its links, headings and code blocks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)\n(?P<code>.*?)^ *```$", re.DOTALL | re.M)
HEADING = re.compile(r"^(?P<level>#{1,6}) +(?P<title>.+?)\s*$", re.MULTILINE)
COMMENT = re.compile(r"^<!--.*?-->\n", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\[\]]*)\]\((?P<target>[^()\s]+)\)")
CODE = re.compile(r"`([^`]+)`")


@dataclass(frozen=True)
class Link:
    """A link or a picture: its text, the path that it names, and the anchor behind `#`."""

    text: str
    path: str
    anchor: str
    picture: bool

    @property
    def external(self) -> bool:
        """Whether it leaves the repository."""
        return ":" in self.path


def slug(title: str) -> str:
    """The anchor that GitHub gives a heading.

    >>> slug("Is a `difference` more than chance?")
    'is-a-difference-more-than-chance'
    """
    return re.sub(r"[^\w\- ]", "", LINK.sub(r"\g<text>", title).lower()).replace(" ", "-")


def plain(text: str) -> str:
    """Text of the code as Markdown that shows it as it is, but for what stands in backticks."""
    pieces = re.split(r"(`[^`]*`)", text)
    return "".join(
        piece if piece.startswith("`") else re.sub(r"([\\*_\[\]<>|#])", r"\\\1", piece)
        for piece in pieces
    )


def without_code(text: str) -> str:
    """The text without its code blocks."""
    return FENCE.sub("", text)


def anchors(text: str) -> set[str]:
    """The anchors of all headings; of equal ones the second ends in -1."""
    names: list[str] = []
    for match in HEADING.finditer(without_code(text)):
        name = slug(match["title"])
        count = names.count(name)
        names.append(name)
        if count:
            names.append(f"{name}-{count}")
    return set(names)


def links(text: str) -> Iterator[Link]:
    """All links and pictures outside code blocks."""
    for match in LINK.finditer(without_code(text)):
        yield _link(match)


def replace_links(text: str, replacement: Callable[[Link], str]) -> str:
    """The text with each link outside code blocks as `replacement` writes it."""
    parts, start = [], 0
    for fence in FENCE.finditer(text):
        parts.append(LINK.sub(lambda m: replacement(_link(m)), text[start : fence.start()]))
        parts.append(fence[0])
        start = fence.end()
    parts.append(LINK.sub(lambda m: replacement(_link(m)), text[start:]))
    return "".join(parts)


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Language and code of each code block."""
    for match in FENCE.finditer(text):
        yield match["language"], match["code"]


def sections(text: str) -> dict[str, str]:
    """The text by its headings of level two, with them; what stands before the first under ""."""
    fences = [(match.start(), match.end()) for match in FENCE.finditer(text)]
    heads = [
        match
        for match in HEADING.finditer(text)
        if match["level"] == "##" and not any(a <= match.start() < b for a, b in fences)
    ]
    starts = [*(match.start() for match in heads), len(text)]
    parts = {"": text[: starts[0]]}
    for number, match in enumerate(heads):
        parts[match["title"]] = text[match.start() : starts[number + 1]]
    return parts


def _link(match: re.Match[str]) -> Link:
    path, _, anchor = match["target"].partition("#")
    return Link(match["text"], path, anchor, bool(match["image"]))
