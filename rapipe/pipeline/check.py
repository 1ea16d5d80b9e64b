"""Stage check: all of params.yaml, before DVC makes commands of it.

DVC writes names of classifiers and seeds into the commands of later stages, which a shell
reads. Those depend on what this stage writes, so that no value gets there unchecked. It is
always the same, so that it re-runs nothing.
"""

from __future__ import annotations

from rapipe import paths
from rapipe.config.schema import Params
from rapipe.io.atomic import atomic_write


def run(params: Params) -> None:
    """Write `data/checked`: whoever starts a stage has checked the parameters."""
    atomic_write(paths.CHECKED, b"params.yaml holds what it may hold\n")
