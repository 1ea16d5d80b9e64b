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
VARIANT_FOLDERS = (paths.MODELS, paths.EVIDENCE)
"""Where each variant has its own subfolder; only that is locked."""
RETRIEVAL_INPUTS = (paths.ENCODER, paths.NEIGHBOURS)
"""What variants without retrieval do not need."""


def run_stage(
    run: Callable[[Params], None], name: str = "", module: ModuleType | None = None
) -> None:
    """Run a stage that has no variants.

    Args:
        name: that of its module by default.
        module: where `READS` and `WRITES` stand; that of `run` by default.
    """
    with exit_on_user_error():
        params, module = load_checked(paths.PARAMS), module or sys.modules[run.__module__]
        with _locked(module, variants(params)), record_costs(name or stage_name(run)):
            run(params)


def run_variant_stage(run: RunVariant) -> None:
    """Run a stage for the one variant that the command line names."""
    parser = argparse.ArgumentParser()
    parser.add_argument("backbone")
    parser.add_argument("retrieval")
    parser.add_argument("seed", type=int)
    arguments = parser.parse_args()
    run_selected_variants(run, arguments.backbone, arguments.retrieval, arguments.seed)


def run_selected_variants(
    run: RunVariant, backbone: str | None, retrieval: str | None, seed: int | None
) -> None:
    """Run a stage for each variant of params.yaml that has these parts; None selects all."""
    with exit_on_user_error():
        params = load_checked(paths.PARAMS)
        selected = variants(params)
        selection = {"backbone": backbone, "retrieval": retrieval, "seed": seed}
        for part, value in selection.items():
            choices = list(dict.fromkeys(getattr(v, part) for v in variants(params)))
            if value is not None and value not in choices:
                names = ", ".join(map(str, choices))
                raise UserError(f"{part} is {value!r}; params.yaml has {names}")
            selected = [v for v in selected if value in (None, getattr(v, part))]
        module = sys.modules[run.__module__]
        for v in selected:
            if len(selected) > 1:
                say(v.name)
            with _locked(module, [v]), record_costs(f"{stage_name(run)}-{v.name}"):
                run(params, v)


@contextmanager
def _locked(module: ModuleType, selected: list[Variant]) -> Iterator[None]:
    """Keep others from writing what a stage reads or writes; check that nobody did.

    `READS` and `WRITES` of its module say what that is.
    """
    reads, writes = (_folders(getattr(module, name, ()), selected) for name in ("READS", "WRITES"))
    watch(reads)
    try:
        with artefact_locks(reads, writes):
            yield
            check_unchanged()
    finally:
        watch()


def _folders(artefacts: tuple[Path, ...], selected: list[Variant]) -> list[Path]:
    """The folders to lock for these variants."""
    folders = []
    if all(v.retrieval == "none" for v in selected):
        artefacts = tuple(path for path in artefacts if path not in RETRIEVAL_INPUTS)
    for path in artefacts:
        folders += [path / v.name for v in selected] if path in VARIANT_FOLDERS else [path]
    return folders


def stage_name(run: Callable[..., None]) -> str:
    """What a stage is called: its module."""
    return run.__module__.rpartition(".")[2]
