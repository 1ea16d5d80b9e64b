"""Which of our modules a module imports, read from the source without running it."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent

EXEMPT = {
    "rapipe/config",  # DVC tracks the values
    "rapipe/specs.py",  # as these are of params.yaml too
    "rapipe/paths.py",  # constants that dvc.yaml spells out
    "rapipe/errors.py",  # words
    "rapipe/cores.py",  # how many processes share the work
    "rapipe/progress.py",  # what is shown, not what is computed
    "rapipe/pipeline/project",  # the files of a project, and which stages run
    "rapipe/pipeline/running",  # how a stage is started, and what is refused before
    "stages",  # which start a stage, and nothing else
    "rapipe/io/atomic.py",  # how files are written and checked, not what is in them
    "rapipe/io/checksums.py",
    "rapipe/io/folders.py",
    "rapipe/io/locks.py",
    "rapipe/io/text.py",
}
"""Files and folders that no stage declares, and why: none changes what a stage computes."""


@cache
def is_exempt(file: str) -> bool:
    """Whether no stage declares this file; an `__init__` without code is not worth a line."""
    if any(file == path or file.startswith(f"{path}/") for path in EXEMPT):
        return True
    body = ast.parse((ROOT / file).read_text()).body
    return file.endswith("__init__.py") and all(isinstance(node, ast.Expr) for node in body)


@cache
def imported(file: str, lazily: bool = True) -> frozenset[str]:
    """Our files that `file` imports; packages count with their `__init__`.

    Args:
        lazily: count what is imported inside functions too, and for type checkers.
    """
    tree = ast.parse((ROOT / file).read_text())
    found: set[str] = set()
    for node in ast.walk(tree) if lazily else tree.body:
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
    return frozenset(found - {file, "rapipe/__init__.py"})


def packages_of(file: str) -> set[str]:
    """Others' packages that `file`, and what it imports, import before any line of it runs."""
    done: set[str] = set()
    todo, packages = {file}, set[str]()
    while todo:
        current = todo.pop()
        done.add(current)
        todo |= imported(current, lazily=False) - done
        for node in ast.parse((ROOT / current).read_text()).body:
            if isinstance(node, ast.Import):
                packages |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                packages.add(node.module.partition(".")[0])
    return packages - {"rapipe"}


def closure(file: str) -> set[str]:
    """All our files that running `file` may read, itself included; exempt ones are left out."""
    done: set[str] = set()
    todo = {file}
    while todo:
        current = todo.pop()
        done.add(current)
        todo |= {path for path in imported(current) if not is_exempt(path)} - done
    return done
