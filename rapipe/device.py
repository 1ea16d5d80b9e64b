"""Which device to compute on, what fits there, and how precisely to train on it."""

from __future__ import annotations

import os
import platform
import re
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import torch

from rapipe.progress import say

Precision = Literal["bf16", "fp32"]
"""bfloat16 autocast, or plain float32. Embedding and evaluation are always float32."""

SHARE = 0.25
"""Share of the free memory of a device that one array may occupy."""
UNKNOWN_MEMORY = 4 << 30
NOT_DETERMINISTIC = r"(?s)(\S+) does not have a deterministic implementation|.*not deterministic"
"""How torch's warnings of an operation begin."""

torch.backends.cudnn.allow_tf32 = False
# torch lets GPUs round what convolutions multiply to 10 bits (TF32). Vectors are searched and
# compared to the last bit, so float32 means float32; training in bfloat16 is not touched.


def device() -> torch.device:
    """The first GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def fork_rng() -> AbstractContextManager[None]:
    """Within it torch may draw random numbers, and those after it are as if it had not."""
    return torch.random.fork_rng([torch.cuda.current_device()] if device().type == "cuda" else [])


@contextmanager
def deterministic(enabled: bool) -> Iterator[None]:
    """Takes algorithms that give the same bits each time, where torch has them; they are slower.

    On a GPU sums else come in any order. Of each operation that has no such algorithm a
    sentence is said once, and it runs as it is. Nothing changes unless `enabled`.

    Source: Zhuang et al., "Randomness In Neural Network Training: Characterizing The Impact of
    Tooling", MLSys 2022.
    """
    if not enabled:
        yield
        return
    names, cudnn = set[str](), torch.backends.cudnn
    mode, flags = torch.get_deterministic_debug_mode(), (cudnn.deterministic, cudnn.benchmark)

    def tell(message: Any, category: Any, *place: Any, **more: Any) -> None:
        match = re.match(NOT_DETERMINISTIC, str(message))
        if match is None:
            show(message, category, *place, **more)
        elif (name := match[1] or "an operation of cuBLAS") not in names:
            names.add(name)
            say(f"{name} has no deterministic algorithm here, so results may differ in last digits")

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
    with warnings.catch_warnings():
        warnings.filterwarnings("always", NOT_DETERMINISTIC, UserWarning)
        show, warnings.showwarning = warnings.showwarning, tell
        torch.use_deterministic_algorithms(True, warn_only=True)
        cudnn.deterministic, cudnn.benchmark = True, False
        try:
            yield
        finally:
            torch.set_deterministic_debug_mode(mode)
            cudnn.deterministic, cudnn.benchmark = flags


def memory_budget(device: torch.device) -> int:
    """Bytes that an array may occupy on a device: a quarter of what is free now.

    So several arrays that fit one after the other leave memory to compute. In a
    container what is free is what the control group leaves. Processes that train together on
    the CPUs of one machine share it.
    """
    cuda = device.type == "cuda"
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # torchrun's, of this machine
    return int(SHARE * (torch.cuda.mem_get_info(device)[0] if cuda else _free_memory() / processes))


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
