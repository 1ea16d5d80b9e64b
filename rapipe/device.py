"""Which device to compute on, what fits there, and how precisely to train on it."""

from __future__ import annotations

import os
import platform
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Literal

import torch

Precision = Literal["bf16", "fp32"]
"""bfloat16 autocast, or plain float32. Embedding and evaluation are always float32."""

SHARE_OF_GPU = 0.5
SHARE_OF_MEMORY = 0.25
"""How much of what a device has one array may take for good."""
UNKNOWN_MEMORY = 4 << 30

torch.backends.cudnn.allow_tf32 = False
# torch lets GPUs round what convolutions multiply to 10 bits (TF32). Vectors are searched and
# compared to the last bit, so float32 means float32; training in bfloat16 is not touched.


def device() -> torch.device:
    """The first GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def room(on: torch.device) -> int:
    """Bytes that an array may take on a device for good.

    Half of what a GPU has free, or a quarter of this machine's memory (of
    the control group's, in a container).
    """
    if on.type == "cuda":
        return int(SHARE_OF_GPU * torch.cuda.mem_get_info(on)[0])
    return int(SHARE_OF_MEMORY * _memory())


def autocast(on: torch.device, precision: Precision) -> AbstractContextManager[None]:
    """Compute in this precision on a device."""
    return torch.autocast(on.type, torch.bfloat16, enabled=precision == "bf16")


def native_bf16() -> bool | None:
    """Whether bfloat16 is surely faster (True) or surely slower (False) here; None: measure it.

    GPUs with tensor cores for it multiply it at twice the rate of TF32 or more.
    Where it is emulated it is slower than float32. Processors with AVX-512
    instructions for it differ: BYOL of ResNet-18 was twice as fast with it on
    one (AMD), and a quarter slower on another (Intel, without AMX).
    """
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return None if torch.cpu._is_avx512_bf16_supported() else False


def processor() -> str:
    """Name of the GPU, or of the processor and how many threads torch uses."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    name = platform.processor() or platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        found = (line.partition(":")[2].strip() for line in lines if "model name" in line)
        name = next(found, name)
    return f"{name}, {torch.get_num_threads()} threads"


def _memory() -> int:
    sizes = []
    with suppress(AttributeError, ValueError, OSError):
        sizes.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with suppress(OSError, ValueError):  # "max" is no limit
        sizes.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(sizes, default=UNKNOWN_MEMORY)
