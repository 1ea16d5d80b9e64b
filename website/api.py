"""The page of the Python API: what the docstrings say, filled in by mkdocstrings."""

from __future__ import annotations

from pathlib import Path

import rapipe

INTRODUCTION = """# Python API

Every public name, from its docstring: shapes, units and errors. `help(rapipe.NAME)` says the same.
[Start in five minutes](start.md) has them in use.
"""


def write(out: Path) -> None:
    """Write `api.md` into a folder."""
    functions = [name for name in rapipe.PUBLIC if name[0].islower()]
    classes = [name for name in rapipe.PUBLIC if name[0].isupper()]
    parts = [INTRODUCTION, "## Functions", *map(_entry, functions), "## Classes"]
    (out / "api.md").write_text("\n\n".join([*parts, *map(_entry, classes)]) + "\n")


def _entry(name: str) -> str:
    """The directive for one public name."""
    return (
        f"::: rapipe.{rapipe.PUBLIC[name]}.{name}\n"
        f"    options:\n"
        f"      heading: rapipe.{name}\n"
        f"      toc_label: {name}"
    )
