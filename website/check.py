"""What is wrong with a built site: links that lead nowhere, and what a page would fetch."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

STYLE_URL = re.compile(r"(?:url\(|@import )\s*['\"]?((?:https?:)?//[^'\")\s]+)")


@dataclass
class Page(HTMLParser):
    """The anchors of a page, where its links lead, and what it loads by itself."""

    anchors: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value for name, value in attrs if value}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        followed = tag == "a" or values.get("rel") in ("canonical", "prev", "next")
        if followed:
            self.links += [values["href"]] if "href" in values else []
        else:
            self.loaded += [values[name] for name in ("src", "href", "data") if name in values]


def problems(site: Path) -> Iterator[str]:
    """A line for each link of the site that leads nowhere, and each address that a page loads."""
    pages = {}
    for file in sorted(site.rglob("*.html")):
        pages[file.resolve()] = page = Page()
        page.feed(file.read_text())
    for file, page in pages.items():
        name = file.relative_to(site.resolve())
        for target in page.loaded:
            if urlsplit(target).netloc:
                yield f"{name} loads {target}"
        for target in {*page.links, *page.loaded}:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            base = site if parts.path.startswith("/") else file.parent
            path = (base / unquote(parts.path).lstrip("/")).resolve() if parts.path else file
            path = path / "index.html" if path.is_dir() else path
            if not path.exists():
                yield f"{name} links to {target}, which is not there"
            elif parts.fragment and path in pages:
                known = pages[path].anchors
                if unquote(parts.fragment) not in known:
                    yield f"{name} links to {target}, but that page has no such anchor"
    for file in sorted(site.rglob("*.css")):
        for address in STYLE_URL.findall(file.read_text()):
            yield f"{file.relative_to(site)} loads {address}"


def left_out(config: Path, pages: Path) -> Iterator[str]:
    """A line for each page that the navigation lacks."""
    project = tomllib.loads(config.read_text())["project"]
    named = set(_pages(project["nav"]))
    for file in sorted(pages.rglob("*.md")):
        if (name := file.relative_to(pages).as_posix()) not in named:
            yield f"{name} is not in the navigation of {config.name}"


def _pages(entry: Any) -> Iterator[str]:
    """The pages of a part of the navigation: a list of parts, or a title and what it holds."""
    if isinstance(entry, str):
        yield entry
        return
    for part in entry.values() if isinstance(entry, dict) else entry:
        yield from _pages(part)
