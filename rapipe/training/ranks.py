"""The processes that train one network together: ranks, as torch.distributed has them.

Each computes a slice of every batch, and all step by the mean of their gradients. All of them
draw random numbers alike, for whole batches, so that a batch is what one device would see. A
process that is alone is rank 0 of one: then nothing here does anything.

Letters: B images of a batch, R ranks.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from rapipe import progress
from rapipe.device import device, fork_rng
from rapipe.errors import ArgumentError

T = TypeVar("T")
LEAST = 2
"""Images of a batch that a rank has, so that BatchNorm has a variance."""


def is_launched() -> bool:
    """Whether torchrun, or what does the same, began this process."""
    return dist.is_torchelastic_launched()


def follows() -> bool:
    """Whether it is another rank than the first, which has joined or will."""
    return is_launched() and os.environ["RANK"] != "0"


def join(devices: int, nodes: int) -> None:
    """Become a rank of as many; an error unless torchrun began that many processes.

    Raises:
        ArgumentError: it did not.
    """
    count = devices * nodes
    started = int(os.environ["WORLD_SIZE"]) if is_launched() else 1
    if started != count:
        raise ArgumentError(
            f"`devices` is {devices} and `nodes` {nodes}, which is {count} "
            f"process{'' if count == 1 else 'es'}, but torchrun started {started}: let both agree"
            if is_launched()
            else f"`devices` is {devices} and `nodes` {nodes}, but this process is alone: start it "
            f"with torchrun --nnodes {nodes} --nproc-per-node {devices}"
        )
    if count == 1 or dist.is_initialized():
        return
    local_rank, on = int(os.environ["LOCAL_RANK"]), device()
    if on.type == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise ArgumentError(
                f"`devices` is {devices}, but this machine has {torch.cuda.device_count()} GPUs"
            )
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if on.type == "cuda" else "gloo")
    atexit.register(leave)
    if rank():
        progress.mute(f"rank {rank()}")


def leave() -> None:
    """Be alone again."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """From 0; rank 0 writes files, and says what there is to say."""
    return dist.get_rank() if dist.is_initialized() else 0


def count() -> int:
    """R, how many train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def share(b: int) -> slice:
    """The rows of a batch that this rank computes, in the order of ranks."""
    return slice(rank() * b // count(), (rank() + 1) * b // count())


def gathered(part: Tensor) -> Tensor:
    """A tensor (B / R, ...) of each rank -> (B, ...), in the order of ranks.

    Gradients flow back to all of them. Each rank computes the whole loss from it, so they are R
    times too large before their mean over ranks is taken: DDP's, which makes them right.
    """
    if count() == 1:
        return part
    from lightly.utils.dist import gather  # seconds: only for those who use it

    return torch.cat(gather(part.contiguous()))


def collected(part: Tensor) -> Tensor:
    """The same without gradients."""
    if count() == 1:
        return part
    parts = [torch.empty_like(part) for _ in range(count())]
    dist.all_gather(parts, part.contiguous())
    return torch.cat(parts)


def mean(value: Tensor) -> Tensor:
    """Over ranks, without gradients."""
    if count() == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / count()


def agreed(value: T) -> T:
    """What rank 0 has."""
    if count() == 1:
        return value
    values: list[Any] = [value]
    dist.broadcast_object_list(values, 0)
    return values[0]  # type: ignore[no-any-return]


def refuse_different(what: str) -> None:
    """Raise `ArgumentError` unless all ranks have the same text."""
    if count() == 1:
        return
    texts: list[Any] = [None] * count()
    dist.all_gather_object(texts, what)
    for other, text in enumerate(texts):
        if text != texts[0]:
            raise ArgumentError(
                f"rank {other} has another training than rank 0 ({text}, not {texts[0]}): give "
                "every machine the same parameters and data"
            )


@contextmanager
def apart() -> Iterator[None]:
    """Within it each rank draws random numbers of its own; after it all draw alike."""
    if count() == 1:
        yield
        return
    with fork_rng():
        torch.manual_seed(int(torch.randint(2**62, ())) + rank())
        yield
