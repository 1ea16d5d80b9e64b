"""Tensors by name, from a file, a folder or the hub.

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

from rapipe.errors import UserError, first_line
from rapipe.io import weights

HUB = "hub:"
PICKLED = (".pt", ".pth", ".ckpt", ".bin", ".tar")
SAFE = ".safetensors"
CHOICES = (
    f"name a file ({', '.join((*PICKLED, SAFE))}), a folder that rapipe wrote such as "
    f"data/encoder, or {HUB}NAME for a pretrained timm model"
)
EXPORT = "torch.save(model.state_dict(), 'weights.pt')"
DEEPEST = 9
"""How deep tables of tensors may be nested in a file."""
State = dict[str, Tensor]


def read(place: str) -> State:
    """The tensors of a checkpoint by name: of a file, of a folder that rapipe wrote, or of the hub.

    Args:
        place: the value of `train.init`: a file of torch (.pt, .pth, .ckpt, .bin, .tar) or
            .safetensors; a folder with `weights.safetensors` and `card.json`; or `hub:NAME`,
            a pretrained timm model, the only one that needs a network.

    Raises:
        UserError: it is missing or damaged, holds no tensors or more than tensors, or the
            hub does not give it.
    """
    check(place)
    path = Path(place)
    if place.startswith(HUB):
        return _hub(place)
    if path.is_dir():
        return _folder(path, place)
    state = dict(_tensors(_safe(path) if path.suffix == SAFE else _pickled(path)))
    if not state:
        raise UserError(f"train.init is {place!r}, which holds no tensors: {CHOICES}")
    for name, tensor in state.items():
        if not _plain(tensor):
            raise UserError(
                f"train.init is {place!r}, whose {name} is no plain array of numbers: write one "
                f"that is dense and real by {EXPORT}"
            )
    return state


def _plain(tensor: Tensor) -> bool:
    """Whether a tensor is an array of real numbers that are there."""
    odd = tensor.is_nested or tensor.is_quantized or tensor.is_meta or tensor.is_complex()
    return tensor.layout == torch.strided and not odd


def check(place: str) -> None:
    """Raise `UserError` if there is no such file or folder, or one of another kind."""
    path = Path(place)
    if place.startswith(HUB) or path.is_dir():
        return
    if not path.is_file():
        raise UserError(f"train.init is {place!r}, which does not exist: {CHOICES}")
    if path.suffix not in (*PICKLED, SAFE):
        raise UserError(f"train.init is {place!r}, a file of another kind: {CHOICES}")


def _hub(place: str) -> State:
    import timm

    try:
        state: State = timm.create_model(place.removeprefix(HUB), pretrained=True).state_dict()
    except Exception as error:  # of any kind: the name's, the hub's, the network's
        raise UserError(
            f"train.init is {place!r}, which timm does not give ({first_line(error)}): mend the "
            "name or the network, or name a file with its weights on this machine"
        ) from None
    return state


class _Held(nn.Module):
    """Any tensors, as a network, so that `weights` reads them and checks their hash."""

    def load_state_dict(self, state: State) -> None:  # type: ignore[override]
        self.state = state

    def state_dict(self) -> State:  # type: ignore[override]
        return self.state


def _folder(folder: Path, place: str) -> State:
    if not (folder / weights.CARD).exists():
        raise UserError(f"train.init is {place!r}, a folder without {weights.CARD}: {CHOICES}")
    held = _Held()
    try:
        weights.fill(held, folder, weights.read_card(folder, "pretrain"), "pretrain")
    except UserError as error:
        raise UserError(f"train.init is {place!r}, but {error}") from None
    return held.state


def _safe(path: Path) -> State:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:  # safetensors raises its own, and torch's of odd types
        raise _damaged(path, error) from None


def _pickled(path: Path) -> Any:
    try:
        with zipfile.ZipFile(path) as parts:
            size = sum(part.file_size for part in parts.infolist())
    except Exception:  # older files are no zip files, and of damaged ones torch tells
        size = 0
    if size > path.stat().st_size:
        raise UserError(
            f"train.init is {str(path)!r}, which unpacks to {size:,} bytes, more than it has: "
            f"torch does not pack; write {EXPORT}"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd pickles: what matters is whether it loads
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises anything, KeyError too
        told = str(error)
        if not re.search(r"unsupported|torchscript|legacy \.tar", told, re.IGNORECASE):
            raise _damaged(path, error) from None
        what = re.search(r"GLOBAL (\S+)", told)
        raise UserError(
            f"train.init is {str(path)!r}, which holds more than tensors"
            f"{f' ({what[1]})' if what else ''} and could run code, so it is not read: if you "
            f"trust it, load it yourself and write {EXPORT}"
        ) from None


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(
        f"train.init is {str(path)!r}, which does not load ({first_line(error)}): is it whole?"
    )


def _tensors(
    tree: Any, prefix: str = "", seen: frozenset[int] = frozenset()
) -> Iterator[tuple[str, Tensor]]:
    """Tensors of nested tables, their keys joined by dots; optimisers' states are in lists.

    Args:
        seen: the tables around this one: a file may nest them without end.
    """
    if not isinstance(tree, Mapping) or id(tree) in seen or len(seen) > DEEPEST:
        return
    for key in ("state_dict", "model") if not prefix else ():
        if isinstance(tree.get(key), Mapping):
            yield from _tensors(tree[key], "", seen | {id(tree)})
            return
    for name, value in tree.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{name}", value.detach()
        elif isinstance(name, str):
            yield from _tensors(value, f"{prefix}{name}.", seen | {id(tree)})
