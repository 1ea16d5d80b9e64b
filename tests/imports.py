"""Which of our modules a module imports, read from the source without running it."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent

EXEMPT = {
    "rapipe/params.py",  # DVC tracks the values
    "rapipe/paths.py",  # constants that dvc.yaml spells out
    "rapipe/errors.py",  # one empty class
    "rapipe/progress.py",  # what is shown, not what is computed
    "rapipe/pipeline/checks.py",  # only refuses
    "rapipe/pipeline/told.py",  # prints mistakes
    "rapipe/pipeline/entry.py",  # starts a stage
    "rapipe/pipeline/costs.py",  # says what a stage took
    "rapipe/pipeline/locks.py",  # who waits for whom
    "rapipe/files.py",  # how files are written and checked, not what is in them
    "rapipe/__init__.py",
    "rapipe/pipeline/__init__.py",
    "rapipe/evaluation/__init__.py",
    "rapipe/fitting/__init__.py",
    "stages/__init__.py",
}
"""Modules that no stage declares, and why: none of them changes what a stage computes."""


@cache
def imported(file: str) -> frozenset[str]:
    """Our files that `file` imports, anywhere in it; packages count with their `__init__`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            parts = name.split(".")
            for end in range(1, len(parts) + 1):
                base = "/".join(parts[:end])
                found |= {
                    path
                    for path in (f"{base}.py", f"{base}/__init__.py")
                    if parts[0] in ("rapipe", "stages") and (ROOT / path).is_file()
                }
    return frozenset(found - {file})


def closure(file: str) -> set[str]:
    """All our files that running `file` may read, itself included; exempt ones are left out."""
    done: set[str] = set()
    todo = {file}
    while todo:
        current = todo.pop()
        done.add(current)
        todo |= {path for path in imported(current) if path not in EXEMPT} - done
    return done
