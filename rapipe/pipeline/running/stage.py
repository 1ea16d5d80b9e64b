"""How a stage starts; `stages/` and the command line both use it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType

from rapipe import paths
from rapipe.config.schema import Params
from rapipe.config.variants import Variant, together, variants
from rapipe.errors import UserError
from rapipe.io.checksums import check_unchanged, watch
from rapipe.pipeline.project.code import check_code
from rapipe.pipeline.running.argument_keys import argument_keys, keys_of
from rapipe.pipeline.running.check_names import load_checked
from rapipe.pipeline.running.costs import record_costs
from rapipe.pipeline.running.exit_codes import exit_on_user_error
from rapipe.pipeline.running.fresh import RETRIEVAL_INPUTS, Freshness
from rapipe.pipeline.running.locks import artefact_locks
from rapipe.pipeline.running.side_by_side import Workers
from rapipe.progress import say
from rapipe.specs import TrainingRecipe
from rapipe.training import ranks

PIPELINE = "rapipe.pipeline."
LATER = {"train": ("torchvision.models",), "evaluate": ("torchvision.models", "captum.attr")}
"""By stage, what nearly every variant imports when it gets there: seconds each time."""
Group = tuple[Variant, ...]
Select = Callable[[list[Variant]], list[Variant]]
VARIANT_FOLDERS = (paths.MODELS, paths.EVIDENCE)
"""Where each variant has its own subfolder; only that is locked."""


def run_stage(
    run: Callable[[Params], None], name: str = "", module: ModuleType | None = None
) -> None:
    """Run a stage that has no variants.

    Args:
        name: that of its module by default.
        module: where `READS` and `WRITES` stand; that of `run` by default.
    """
    with exit_on_user_error():
        check_code(stage_name(run))
        params, module = load_checked(paths.PARAMS), module or sys.modules[run.__module__]
        with _locked(module, variants(params)), record_costs(name or stage_name(run)):
            run(params)


def run_stale_variants(stage: str) -> None:
    """Run a stage for each variant of params.yaml that is out of date, as dvc.yaml does."""
    run_selected_variants(stage, None, None, None, stale=True)


def run_selected_variants(
    stage: str,
    backbone: str | None,
    retrieval: str | None,
    seed: int | None,
    stale: bool = False,
) -> None:
    """Run a stage for each variant of params.yaml that has these parts; None selects all.

    Args:
        stale: only for those that are out of date.
    """
    selection = {"backbone": backbone, "retrieval": retrieval, "seed": seed}

    def select(every: list[Variant]) -> list[Variant]:
        selected = every
        for part, value in selection.items():
            choices = list(dict.fromkeys(getattr(v, part) for v in every))
            if value is not None and value not in choices:
                names = ", ".join(map(str, choices))
                raise UserError(f"{part} is {value!r}; params.yaml has {names}")
            selected = [v for v in selected if value in (None, getattr(v, part))]
        return selected

    run_where(stage, select, stale)


def run_where(stage: str, select: Select, stale: bool = True) -> None:
    """Run a stage for some variants of params.yaml, or for those of them that are out of date."""
    with exit_on_user_error():
        check_code(stage)
        workers, params = _workers(stage), load_checked(paths.PARAMS)
        if stage == "train" and (ranks.is_launched() or params.train.devices > 1):
            workers.jobs = 1  # of several processes
        if stage == "train" and ranks.is_launched():
            argument_keys(**keys_of("train", TrainingRecipe))(ranks.join)(
                params.train.devices, params.train.nodes
            )
        selected, work = select(variants(params)), Work(stage, params)
        if stale:
            _run_stale(work, workers, Freshness(stage, params), selected)
        else:
            workers.run(work, work.groups(selected), name_of, lambda _: None)


@dataclass(frozen=True)
class Work:
    """A stage, and what it does for variants at once."""

    stage: str
    params: Params

    def __call__(self, group: Group) -> None:
        run_variants(self.stage, self.params, *group)

    def groups(self, selected: list[Variant]) -> list[Group]:
        """Those that it makes at once."""
        return together(self.params, selected)


def _run_stale(
    work: Work, workers: Workers[Group], freshness: Freshness, every: list[Variant]
) -> None:
    if ranks.follows():
        names = ranks.agreed([""])
        selected = [v for v in every if v.name in names]
        workers.run(work, work.groups(selected), name_of, lambda _: None)
        return
    stale = {v: freshness.made_from(v) for v in every if not freshness.is_fresh(v)}
    if len(stale) < len(every):
        say(f"{len(every) - len(stale)} of {len(every)} are up to date, and stay as they are")
    kept = [v for v, made_from in stale.items() if freshness.restore(v, made_from)]
    if kept:
        say(f"{len(kept)} of {len(every)} have been made before, and are taken from the cache")
        stale = {v: made_from for v, made_from in stale.items() if v not in kept}
    ranks.agreed([v.name for v in stale])

    def note(group: Group) -> None:
        for variant in group:
            freshness.note(variant, stale[variant])

    workers.run(work, work.groups(list(stale)), name_of, note)


def _workers(stage: str) -> Workers[Group]:
    return Workers(PIPELINE + stage, *LATER[stage])


def run_variants(stage: str, params: Params, *group: Variant) -> None:
    """Run a stage for one variant, or for several that it makes at once, in this process."""
    module = import_module(PIPELINE + stage)
    with _locked(module, list(group)), record_costs(f"{stage}-{name_of(group)}"):
        module.run(params, *group)


def name_of(group: Group) -> str:
    """Of the first, and how many more."""
    return group[0].name + (f"+{len(group) - 1}" if len(group) > 1 else "")


@contextmanager
def _locked(module: ModuleType, selected: list[Variant]) -> Iterator[None]:
    """Keep others from writing what a stage reads or writes; check that nobody did.

    `READS` and `WRITES` of its module say what that is. Of several ranks the first one does.
    """
    if ranks.follows():
        yield
        return
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


def refuse_link() -> None:
    """Raise `UserError` if the data folder is a link, behind which DVC keeps no outputs."""
    if paths.DATA.is_symlink():
        raise UserError(
            f"{paths.DATA} is a link, and DVC keeps nothing behind one: make it a folder; to use a "
            "larger disk, move the whole project there or mount the disk on it, or move only DVC's "
            "cache (dvc cache dir FOLDER) and the images (corpus.sources may name any path)"
        )
