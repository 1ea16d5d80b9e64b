"""Pages that the repository has as Markdown: copied, with their links turned to the site's pages.

A link to a file that is no page of the site, such as a module, keeps its text alone.
"""

from __future__ import annotations

import posixpath
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from website.markdown import (
    COMMENT,
    HEADING,
    Link,
    anchors,
    links,
    replace_links,
    sections,
    slug,
    without_code,
)

README = "README.md"
README_PAGES = {
    "index.md": ("", "The pipeline"),
    "start.md": ("In Python", "The default run", "When it does not run"),
    "own-images.md": ("Bring your own images",),
    "commands.md": ("Commands",),
    "add-a-method.md": ("Add a method",),
    "glossary.md": ("Glossary", "Sources and licences"),
}
"""The README by pages: the headings of its sections."""

TITLES = {"start.md": "Start in five minutes"}
"""Of pages of several sections; a page of one section has that section's heading."""

OTHERS = {
    "docs/index.md": "where.md",
    "benchmarks/RESULTS.md": "benchmarks.md",
    "data/README.md": "files.md",
    "results/fusions/README.md": "fusions.md",
    "results/study/README.md": "study.md",
    "results/study/study-cpu/tables.md": "study-tables.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
}
"""Files whose pages have other names, or that lie outside `docs/`."""


def sources(root: Path) -> dict[str, str]:
    """The page of each Markdown file but the README, by its path in the repository."""
    docs = {f"docs/{file.name}": file.name for file in sorted(root.glob("docs/*.md"))}
    return docs | OTHERS


def write(root: Path, out: Path) -> None:
    """Write these pages, and the pictures that they show, into a folder.

    Raises:
        ValueError: the README has a section that no page holds.
    """
    for source, page, text in _texts(root):
        turned = partial(_turned, root, source, page)
        (out / page).write_text(replace_links(COMMENT.sub("", text), turned))
        for picture in filter(_is_picture, links(text)):
            path = _path(source, picture)
            (out / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / path, out / path)


def _texts(root: Path) -> Iterator[tuple[str, str, str]]:
    """Path in the repository, page and text of each."""
    parts = sections((root / README).read_text())
    if left := set(parts) - {head for heads in README_PAGES.values() for head in heads}:
        raise ValueError(f"sections of the README on no page of the site: {', '.join(left)}")
    for page, heads in README_PAGES.items():
        text = "".join(parts[head] for head in heads)
        if page in TITLES:
            text = f"# {TITLES[page]}\n\n{text}"
        elif heads[0]:
            text = text.removeprefix("#")
        yield README, page, text
    for source, page in sources(root).items():
        yield source, page, (root / source).read_text()


def _is_picture(link: Link) -> bool:
    """Whether a link shows a picture of the repository, or leads to one."""
    return not link.external and link.path.endswith((".png", ".svg"))


def _path(source: str, link: Link) -> str:
    """The path of what a file links to, from the top of the repository."""
    folder = posixpath.dirname(source)
    return posixpath.normpath(posixpath.join(folder, link.path)) if link.path else source


def _turned(root: Path, source: str, page: str, link: Link) -> str:
    """A link as the page writes it."""
    anchor = f"#{link.anchor}" if link.anchor else ""
    path = _path(source, link)
    if _is_picture(link):
        return f"{'!' * link.picture}[{link.text}]({path})"
    if link.external:
        return f"[{link.text}]({link.path}{anchor})"
    target = sources(root).get(path, "")
    if path == README:
        target = _readme_page(root, link.anchor)
    text = link.text
    if target and text in (link.path, path):  # a path is a name on GitHub alone
        text = title((root / path).read_text(), link.anchor) or text
    if target == page:
        return f"[{text}]({anchor})" if anchor else text
    return f"[{text}]({target}{anchor})" if target else text


def title(text: str, anchor: str) -> str:
    """The heading of this anchor, or the first; nothing if there is none."""
    for match in HEADING.finditer(without_code(text)):
        if anchor in ("", slug(match["title"])):
            return match["title"]
    return ""


def _readme_page(root: Path, anchor: str) -> str:
    """The page that holds a heading of the README."""
    parts = sections((root / README).read_text())
    for page, heads in README_PAGES.items():
        if anchor and anchor in anchors("".join(parts[head] for head in heads)):
            return page
    return "index.md"
