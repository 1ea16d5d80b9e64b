"""`rapipe report --markdown`: what the last report wrote, for a pull request."""

from __future__ import annotations

from rapipe import paths
from rapipe.errors import UserError


def run() -> None:
    """Print `results/summary.md`, which is committed: a clone needs nothing else.

    Raises:
        UserError: there is none.
    """
    if not paths.SUMMARY.is_file():
        raise UserError(f"{paths.SUMMARY} is missing: run rapipe report, or dvc repro")
    print(paths.SUMMARY.read_text("utf-8"), end="")
