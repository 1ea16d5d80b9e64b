"""A page a kind of method: what `rapipe methods` says, the rest of the docstrings, pictures."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path

from rapipe import methods
from website.pictures import PICTURES

TITLES = {
    "generator": "Generators of images",
    "objective": "Objectives of pretraining",
    "optimiser": "Optimisers of pretraining",
    "views": "Augmentations",
    "backbone": "Backbones",
    "head": "Heads",
    "start": "Words behind a backbone",
    "fusion": "Fusions",
    "strategy": "Retrieval strategies",
    "corruption": "Corruptions",
    "schedule": "Learning rate schedules",
    "average": "Averages of weights",
    "tuned": "What is tuned first",
    "trick": "Tricks of training",
    "setting": "Settings",
    "logger": "Loggers",
    "map": "Attribution maps",
}
"""The heading of each kind's page."""


def write(out: Path) -> None:
    """Write `methods/KIND.md` and `pictures/KIND.png` into a folder."""
    (out / "methods").mkdir(parents=True, exist_ok=True)
    (out / "pictures").mkdir(exist_ok=True)
    docstrings = {
        (kind, name): inspect.getdoc(method) or ""
        for kind, _, table in methods.TABLES
        for name, method in table.items()
        if not isinstance(method, tuple)
    }
    for kind in methods.KINDS:
        picture = PICTURES.get(kind)
        if picture:
            picture.draw(out / f"pictures/{kind}.png")
        rows = methods.rows(kind)
        parts = [f"# {TITLES[kind]}", f"`rapipe methods {kind}` prints what follows in short."]
        if picture:
            parts.append(f"![{picture.caption}](../pictures/{kind}.png)\n\n*{picture.caption}*")
        for row in rows:
            parts += [
                f"## {row['name']}",
                f"{_where(row['parameter'])}",
                "\n\n".join(_paragraphs(docstrings.get((kind, row["name"]), row["about"]))),
                f"Source: {row['source']}",
            ]
        (out / f"methods/{kind}.md").write_text("\n\n".join(parts) + "\n")


def _where(parameter: str) -> str:
    """What names the method, each key as code."""
    return "In " + ", ".join(f"`{key}`" for key in parameter.split(", ")) + "."


def _paragraphs(docstring: str) -> Iterator[str]:
    """The docstring as Markdown, without its source: lists of arguments become lists."""
    for paragraph in docstring.split("\n\n"):
        head, _, rest = paragraph.partition("\n")
        if head.startswith("Source:"):
            continue
        if head in ("Args:", "Raises:", "Returns:"):
            yield f"{head}\n\n" + "\n".join(_items(textwrap.dedent(rest)))
        else:
            yield paragraph


def _items(text: str) -> Iterator[str]:
    """A list item a line that is not indented, with the lines that go on from it."""
    for line in text.splitlines():
        if line.startswith(" "):
            yield f"  {line.strip()}"
        else:
            name, colon, words = line.partition(":")
            yield f"- `{name}`{colon}{words}" if colon else f"- {line}"
