"""How a stage starts; `stages/` and the command line both use it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from rapipe import paths
from rapipe.config.schema import Params
from rapipe.config.variants import Variant, variants
from rapipe.errors import UserError
from rapipe.io.checksums import check_unchanged, watch
from rapipe.pipeline.running.check_names import load_checked
from rapipe.pipeline.running.costs import record_costs
from rapipe.pipeline.running.exit_codes import exit_on_user_error
from rapipe.pipeline.running.locks import artefact_locks
from rapipe.progress import say

RunVariant = Callable[[Params, Variant], None]
BY_VARIANT = (paths.MODELS, paths.EVIDENCE)
"""Where each variant has a folder of its own, which alone is locked."""
LOOKED_UP = (paths.ENCODER, paths.NEIGHBOURS)
"""What variants without retrieval do not need."""


def stage(run: Callable[[Params], None], name: str = "", module: ModuleType | None = None) -> None:
    """Run a stage that has no variants.

    Args:
        name: that of its module unless given.
        module: where `READS` and `WRITES` stand; its own unless given.
    """
    with exit_on_user_error():
        params, own = load_checked(paths.PARAMS), module or sys.modules[run.__module__]
        with _apart(own, variants(params)), record_costs(name or name_of(run)):
            run(params)


def stage_of_variant(run: RunVariant) -> None:
    """Run a stage for the one variant that the command line names."""
    parser = argparse.ArgumentParser()
    parser.add_argument("backbone")
    parser.add_argument("retrieval")
    parser.add_argument("seed", type=int)
    given = parser.parse_args()
    stage_of_chosen(run, given.backbone, given.retrieval, given.seed)


def stage_of_chosen(
    run: RunVariant, backbone: str | None, retrieval: str | None, seed: int | None
) -> None:
    """Run a stage for every variant of the parameters that has the given parts."""
    with exit_on_user_error():
        params = load_checked(paths.PARAMS)
        every = variants(params)
        for part, value in (("backbone", backbone), ("retrieval", retrieval), ("seed", seed)):
            known = list(dict.fromkeys(getattr(v, part) for v in every))
            if value is not None and value not in known:
                choices = ", ".join(map(str, known))
                raise UserError(f"{part} is {value!r}; params.yaml has {choices}")
        chosen = [
            v
            for v in every
            if backbone in (None, v.backbone)
            and retrieval in (None, v.retrieval)
            and seed in (None, v.seed)
        ]
        for v in chosen:
            if len(chosen) > 1:
                say(v.name)
            with _apart(sys.modules[run.__module__], [v]), record_costs(f"{name_of(run)}-{v.name}"):
                run(params, v)


@contextmanager
def _apart(module: ModuleType, own: list[Variant]) -> Iterator[None]:
    """Let nobody write what a stage reads or writes; see that nobody did.

    `READS` and `WRITES` of its module say what that is.
    """
    reads, writes = (_folders(getattr(module, name, ()), own) for name in ("READS", "WRITES"))
    watch(reads)
    try:
        with artefact_locks(reads, writes):
            yield
            check_unchanged()
    finally:
        watch()


def _folders(places: tuple[Path, ...], own: list[Variant]) -> list[Path]:
    found = []
    plain = all(v.retrieval == "none" for v in own)
    for place in places:
        if not (plain and place in LOOKED_UP):
            found += [place / v.name for v in own] if place in BY_VARIANT else [place]
    return found


def name_of(run: Callable[..., None]) -> str:
    """What a stage is called: its module."""
    return run.__module__.rpartition(".")[2]
