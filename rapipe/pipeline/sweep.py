"""`rapipe sweep`: classifiers and seeds side by side on the machines of a Ray cluster.

A trial is what `rapipe train --stale` and `rapipe eval --stale` do for one variant, or for those
that are trained together, in a process that Ray begins; its results are the same files. So all
machines need one file system, on which the project has one path. What is up to date stays, so the
same command goes on after an interruption; a trial whose process or machine is lost is begun again,
from its last checkpoint.
"""

from __future__ import annotations

import socket
from contextlib import chdir
from pathlib import Path
from typing import Any

from rapipe import paths
from rapipe.config.schema import Params
from rapipe.config.variants import Variant, together, variants
from rapipe.cores import cores
from rapipe.errors import UserError
from rapipe.io.ray_cluster import LOCAL, connection
from rapipe.pipeline.running.argument_keys import argument_keys
from rapipe.pipeline.running.check_names import load_checked
from rapipe.pipeline.running.fresh import Freshness
from rapipe.pipeline.running.side_by_side import JOBS, THREADS
from rapipe.pipeline.running.stage import Group, name_of, run_where
from rapipe.progress import label_lines, say

STAGES = ("train", "evaluate")
MISSING = "rapipe sweep needs Ray: pip install 'rapipe[scale]'"


@argument_keys(address="--address")
def run(address: str, cpus: int, gpus: float) -> None:
    """Train and evaluate every variant of params.yaml that is out of date.

    Args:
        address: of a cluster, as `embed.address`; empty for one of this machine alone.
        cpus: of each trial, and its threads.
        gpus: of each device of a trial; 0.5 lets two share one. 0 where the cluster has none.

    Raises:
        UserError: Ray is missing or cannot be reached, or some trials failed; the others are done.
    """
    params = load_checked(paths.PARAMS)
    stale = [v for v in variants(params) if not _is_fresh(params, v)]
    if not stale:
        say("all variants are up to date")
        return
    try:
        import ray
    except ImportError:
        raise UserError(MISSING) from None
    threads = cpus * params.train.devices
    environment = {THREADS: str(threads), JOBS: "1"}
    options: dict[str, Any] = {"runtime_env": {"env_vars": environment}, "num_cpus": threads}
    with connection(address or LOCAL, max(threads, cores()), logs=True):
        resources: Any = ray.cluster_resources  # which has no types
        if resources().get("GPU"):
            options["num_gpus"] = gpus * params.train.devices
        remote = ray.remote(**options)(trial)
        trials = together(params, stale)
        pending = {remote.remote(Path.cwd(), group): name_of(group) for group in trials}
        _wait(ray, pending, len(trials))


def _wait(ray: Any, pending: dict[Any, str], total: int) -> None:
    """Until all have ended; then raise `UserError` if some failed."""
    failed: dict[str, str] = {}
    while pending:
        (done, *_), _ = ray.wait(list(pending))
        name = pending.pop(done)
        try:
            outcome = ray.get(done)
        except ray.exceptions.RayError as error:
            outcome = f"was lost ({type(error).__name__})"
        if outcome:
            failed[name] = outcome
        say(f"{total - len(pending)} of {total}: {name} {outcome}".rstrip())
    if failed:
        raise UserError(
            f"{len(failed)} of {total} failed: {', '.join(failed)}; {next(iter(failed))} "
            f"{next(iter(failed.values()))}: the same command tries them again"
        )


def _is_fresh(params: Params, variant: Variant) -> bool:
    return all(Freshness(stage, params).is_fresh(variant) for stage in STAGES)


def trial(folder: Path, group: Group) -> str:
    """Train and evaluate variants in this process; why it failed, or nothing."""
    label_lines(name_of(group))
    if not folder.is_dir():
        return f"found no {folder} on {socket.gethostname()}: machines share one file system"
    with chdir(folder):
        for stage in STAGES:
            try:
                run_where(stage, lambda every: [v for v in every if v in group])
            except SystemExit as end:  # it has said why
                return f"ended with exit code {end.code} in {stage}"
    return ""
