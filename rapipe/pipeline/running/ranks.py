"""Stages that train on several devices: how their processes begin, and end.

Where torchrun began this process, it is one of them. Where it did not, it begins as many on this
machine, by what torchrun itself uses, and waits for them: where one ends badly all are ended.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch

from rapipe.cores import cores
from rapipe.errors import ArgumentError, UserError
from rapipe.io.checksums import check_unchanged, watch, watched
from rapipe.pipeline.running.exit_codes import exit_on_user_error
from rapipe.pipeline.running.side_by_side import BY_SIGNAL, THREADS
from rapipe.training import ranks

Work = Callable[..., None]


class Shared(Protocol):
    """A recipe that says how many devices train."""

    @property
    def devices(self) -> int: ...

    @property
    def nodes(self) -> int: ...


def on_ranks(work: Work, recipe: Shared, *args: Any) -> bool:
    """Do the work in as many processes as the recipe says.

    Unless it is one, or this process is one of them.

    Args:
        work: a function of a module, which calls this first; each process calls it with `args`.

    Returns:
        Whether it is done; else it is to be done in this process.

    Raises:
        ArgumentError: there are fewer GPUs, or the processes are not as many as the recipe says.
        UserError: one of them was killed.
        SystemExit: one of them failed, and has said why.
    """
    if ranks.is_launched():
        ranks.join(recipe.devices, recipe.nodes)
        ranks.agreed(None)  # rank 0 has its locks by now
        return False
    if recipe.nodes > 1:
        raise ArgumentError(
            f"`nodes` is {recipe.nodes}: start this stage on each of them with torchrun "
            f"--nnodes {recipe.nodes} --nproc-per-node {recipe.devices} (docs/scale.md)"
        )
    if recipe.devices == 1:
        return False
    gpus = torch.cuda.device_count()
    if 0 < gpus < recipe.devices:
        raise ArgumentError(f"`devices` is {recipe.devices}, but this machine has {gpus} GPU(s)")
    launch(work, recipe.devices, *args)
    return True


def launch(work: Work, count: int, *args: Any) -> None:
    """Call `work(*args)` in as many processes of this machine, each a rank."""
    import logging

    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in ("torch.distributed.elastic", "torch.multiprocessing.spawn"):  # of each failure
        logging.getLogger(name).setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id="rapipe",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        local_addr="127.0.0.1",
    )
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    text, before = os.environ.get(THREADS, ""), dict(os.environ)
    threads = int(text) if text.isdecimal() and int(text) else cores()
    os.environ[THREADS] = str(max(1, threads // count))
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # it warns where DDP looks in vain
    try:
        elastic_launch(config, _begin)(work, args, watched())
    except SignalException as stop:
        sys.exit(BY_SIGNAL + stop.sigval)  # the ranks have said how it goes on
    except ChildFailedError as failed:
        rank, failure = failed.get_first_failure()
        if failure.exitcode < 0:
            raise UserError(
                f"the process of rank {rank} was ended by signal {-failure.exitcode}, as systems "
                "do where memory is short; the others were ended too, and the same command goes on "
                "from the last checkpoint"
            ) from None
        sys.exit(failure.exitcode)
    finally:
        os.environ.clear()
        os.environ.update(before)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _begin(work: Work, args: tuple[Any, ...], folders: list[Path]) -> None:
    """What a process does."""
    try:
        with exit_on_user_error():
            watch(folders)
            work(*args)
            check_unchanged()
    except Exception:  # torch would keep it in a file
        traceback.print_exc()
        sys.exit(1)
    finally:
        ranks.leave()
