"""How a stage starts; `stages/` and the command line both use it."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from rapipe import paths
from rapipe.errors import UserError
from rapipe.params import Params, Variant, variants
from rapipe.pipeline.checks import load_checked
from rapipe.pipeline.costs import counted
from rapipe.pipeline.told import told
from rapipe.progress import say

RunVariant = Callable[[Params, Variant], None]


def stage(run: Callable[[Params], None], name: str = "") -> None:
    """Run a stage that has no variants; its name is that of its module unless given."""
    with told(), counted(name or name_of(run)):
        run(load_checked(paths.PARAMS))


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
    with told():
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
            with counted(f"{name_of(run)}-{v.name}"):
                run(params, v)


def name_of(run: Callable[..., None]) -> str:
    """What a stage is called: its module."""
    return run.__module__.rpartition(".")[2]
