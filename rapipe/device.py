"""Which device to compute on, what fits there, and how precisely to train on it."""

from __future__ import annotations

import platform
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Literal

import torch

Precision = Literal["bf16", "fp32"]
"""bfloat16 autocast, or plain float32. Embedding and evaluation are always float32."""

SHARE = 0.25
"""Share of the free memory of a device that one array may occupy."""
UNKNOWN_MEMORY = 4 << 30

torch.backends.cudnn.allow_tf32 = False
# torch lets GPUs round what convolutions multiply to 10 bits (TF32). Vectors are searched and
# compared to the last bit, so float32 means float32; training in bfloat16 is not touched.


def device() -> torch.device:
    """The first GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def memory_budget(device: torch.device) -> int:
    """Bytes that an array may occupy on a device: a quarter of what is free now.

    So several arrays that fit one after the other leave memory to compute. In a
    container what is free is what the control group leaves.
    """
    cuda = device.type == "cuda"
    return int(SHARE * (torch.cuda.mem_get_info(device)[0] if cuda else _free_memory()))


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[None]:
    """Compute in this precision on a device."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def native_bf16() -> bool | None:
    """Whether bfloat16 is surely faster (True) or surely slower (False); None: to be measured.

    GPUs with tensor cores for it multiply it at twice the rate of TF32 or more.
    Where it is emulated it is slower than float32. Processors with AVX-512
    instructions for it differ: BYOL of ResNet-18 was twice as fast with it on
    one (AMD), and a quarter slower on another (Intel, without AMX).
    """
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return None if torch.cpu._is_avx512_bf16_supported() else False


def processor() -> str:
    """Name of the processor."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _free_memory() -> int:
    """Free bytes of this machine and its control group; a fixed guess where it is not Linux."""
    sizes = []
    with suppress(OSError, ValueError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        sizes += [int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable")]
    with suppress(OSError, ValueError):  # "max" is no limit
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        sizes.append(max(0, limit - used))
    return min(sizes, default=UNKNOWN_MEMORY)
