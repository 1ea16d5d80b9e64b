"""Stage check: all of params.yaml, before DVC makes commands of it.

DVC writes names of classifiers and seeds into the commands of later stages, which a shell
reads. Those depend on what this stage writes, so that no value gets there unchecked. It is
always the same, so that it re-runs nothing.
"""

from __future__ import annotations

from rapipe import paths
from rapipe.config.schema import Params
from rapipe.errors import UserError
from rapipe.io.atomic import atomic_write


def run(params: Params) -> None:
    """Write `data/checked`: whoever starts a stage has checked the parameters."""
    refuse_link()
    atomic_write(paths.CHECKED, b"params.yaml holds what it may hold\n")


def refuse_link() -> None:
    """Raise `UserError` if the data folder is a link, behind which DVC keeps no outputs."""
    if paths.DATA.is_symlink():
        raise UserError(
            f"{paths.DATA} is a link, and DVC keeps nothing behind one: make it a folder; to use a "
            "larger disk, move the whole project there or mount the disk on it, or move only DVC's "
            "cache (dvc cache dir FOLDER) and the images (corpus.sources may name any path)"
        )
