"""The whole pipeline in one process; `dvc repro` runs the same, and only what is out of date."""

from __future__ import annotations

from importlib import import_module

from rapipe.config.schema import Params
from rapipe.config.variants import together, variants
from rapipe.pipeline.running.fresh import SELECTING

STAGES = (
    *("generate", "corpus", "pretrain", "embed", "prefetch", "audit", "baselines", "initialise"),
    *("train", "evaluate", "report"),
)
"""In the order of dvc.yaml."""


def run_all(params: Params) -> None:
    """Run every stage in the working directory."""
    for stage in STAGES:
        run = import_module(f"rapipe.pipeline.{stage}").run
        if stage in SELECTING:
            for group in together(params, variants(params)):
                run(params, *group)
        else:
            run(params)
