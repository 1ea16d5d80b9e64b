"""Tensors by name, from a file or a folder.

No code from a file ever runs: pickles are read by torch's loader that knows tensors only.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rapipe.errors import ArgumentError, UserError, first_line
from rapipe.io import weights
from rapipe.io.placeholders import placeholder
from rapipe.io.text import expand_home

PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".tar")
SAFETENSORS = ".safetensors"
CHOICES = (
    f"name a file ({', '.join((*PICKLES, SAFETENSORS))}), a folder that rapipe wrote such as "
    "data/encoder, hub:NAME for a pretrained model of timm, or package:efficientnet-lite0"
)
EXPORT = "torch.save(model.state_dict(), 'weights.pt')"
MAX_DEPTH = 9
"""Of tables of tensors in a file."""
State = dict[str, Tensor]


def read_path(init: str) -> State:
    """The tensors of a file, or of a folder that rapipe wrote.

    Raises:
        ArgumentError: it is missing or damaged, or holds no tensors or more than tensors.
    """
    path = expand_home(init)
    return _read_folder(path, init) if path.is_dir() else read_file(path, init)


def read_file(path: Path, init: str) -> State:
    """The tensors of a file, which messages call `init`."""
    tree = _read_safetensors(path) if path.suffix == SAFETENSORS else _read_pickle(path)
    state = dict(_flatten(tree))
    if not state:
        raise ArgumentError(f"`init` is {init!r}, which holds no tensors: {CHOICES}")
    for name, tensor in state.items():
        if not _is_plain(tensor):
            raise ArgumentError(
                f"`init` is {init!r}, whose {name} is no plain array of numbers: write one "
                f"that is dense and real by {EXPORT}"
            )
    return state


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is a dense array of real numbers."""
    special = tensor.is_nested or tensor.is_quantized or tensor.is_meta or tensor.is_complex()
    return tensor.layout == torch.strided and not special


def check_path(init: str) -> None:
    """Raise `ArgumentError` if there is no such file or folder, or one of another kind."""
    path = expand_home(init)
    if path.is_dir():
        return
    if not path.is_file():
        raise ArgumentError(f"`init` is {init!r}, which does not exist: {CHOICES}")
    if path.suffix not in (*PICKLES, SAFETENSORS):
        raise ArgumentError(f"`init` is {init!r}, a file of another kind: {CHOICES}")
    if clause := placeholder(path):
        raise ArgumentError(f"`init` is {init!r}, but the file {clause}")


class _AnyNetwork(nn.Module):
    """A network of any tensors, so that `weights` reads them and checks their hash."""

    def load_state_dict(self, state: State) -> None:  # type: ignore[override]
        self.state = state

    def state_dict(self) -> State:  # type: ignore[override]
        return self.state


def _read_folder(folder: Path, init: str) -> State:
    if not (folder / weights.CARD).exists():
        raise ArgumentError(f"`init` is {init!r}, a folder without {weights.CARD}: {CHOICES}")
    network = _AnyNetwork()
    try:
        weights.fill(network, folder, weights.read_card(folder, "pretrain"), "pretrain")
    except UserError as error:
        raise ArgumentError(f"`init` is {init!r}, but {error}") from None
    return network.state


def _read_safetensors(path: Path) -> State:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:  # safetensors raises its own, and torch's of odd types
        raise _damaged(path, error) from None


def _read_pickle(path: Path) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
    except Exception:  # older files are no zip files, and torch refuses damaged ones
        size = 0
    if size > path.stat().st_size:
        raise ArgumentError(
            f"`init` is {str(path)!r}, which unpacks to {size:,} bytes, more than it has: "
            f"torch does not pack; write {EXPORT}"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd pickles: what matters is whether it loads
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises anything, KeyError too
        message = str(error)
        if not re.search(r"unsupported|torchscript|legacy \.tar", message, re.IGNORECASE):
            raise _damaged(path, error) from None
        class_name = re.search(r"GLOBAL (\S+)", message)
        raise ArgumentError(
            f"`init` is {str(path)!r}, which holds more than tensors"
            f"{f' ({class_name[1]})' if class_name else ''} and could run code, so it is not "
            f"read: if you trust it, load it yourself and write {EXPORT}"
        ) from None


def _damaged(path: Path, error: Exception) -> ArgumentError:
    return ArgumentError(
        f"`init` is {str(path)!r}, which does not load ({first_line(error)}): is it whole?"
    )


def _flatten(
    tree: Any, prefix: str = "", ancestors: frozenset[int] = frozenset()
) -> Iterator[tuple[str, Tensor]]:
    """Tensors of nested tables, their keys joined by dots; optimisers' states are in lists.

    Args:
        ancestors: ids of the tables around this one: a file may nest them without end.
    """
    if not isinstance(tree, Mapping) or id(tree) in ancestors or len(ancestors) > MAX_DEPTH:
        return
    for key in ("state_dict", "model") if not prefix else ():
        if isinstance(tree.get(key), Mapping):
            yield from _flatten(tree[key], "", ancestors | {id(tree)})
            return
    for name, value in tree.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value.detach()
        elif isinstance(name, str):
            yield from _flatten(value, f"{prefix}{name}.", ancestors | {id(tree)})
