"""What a checkpoint's authors say of it: how it wants its images, how it pools, whose it is.

It is read from timm's pretrained_cfg, from the JSON files of a model of transformers, and from
OpenCLIP's tables. No weights are loaded for it.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from rapipe.encoder.backbones.extras import load_extra
from rapipe.encoder.backbones.open_clip_models import HUB as OPEN_CLIPS_HUB
from rapipe.encoder.backbones.open_clip_models import config_of, reduce_config
from rapipe.encoder.backbones.transformers_models import CONFIG
from rapipe.encoder.checkpoints.hub import commit_of, fetch, fetch_if_any, licence_of, refusal
from rapipe.encoder.checkpoints.named import (
    HUB,
    OPEN_CLIP,
    PACKAGE,
    TRANSFORMERS,
    folder_of,
    package_of,
    repository_of,
)
from rapipe.errors import ArgumentError, UserError, first_line
from rapipe.io import weights
from rapipe.io.text import expand_home

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of each channel, where nothing else is stated."""
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
"""Of transformers, the first that there is."""
README = "README.md"
TIMMS_HUB = "hf-hub:"
"""timm's own prefix of any repository on the hub that has a model of timm."""
OPEN_CLIP_CONFIG = "open_clip_config.json"
BILINEAR = 2
"""Pillow's number."""
CLS_MODELS = re.compile(r"timm:vit_\w*dinov3")
"""Models that timm pools by their mean, and their authors by the CLS token (timm issue 2681)."""
LEFT_OUT = ("text_config", "text_config_dict", "id2label", "label2id")
"""What the image tower does not need of a config.json, and is long."""


@dataclass(frozen=True)
class Published:
    """How a checkpoint wants its images, and where it is from."""

    image_size: int = 0
    """Side of the square that the network sees; 0 if it is not stated."""
    mean: tuple[float, ...] = IMAGENET[0]
    std: tuple[float, ...] = IMAGENET[1]
    interpolation: str = "bicubic"
    """`bicubic` or `bilinear`."""
    crop: float = 1.0
    """Share of the resized image's side that is left when its centre is cut out."""
    pool: str = "model"
    """What its authors use, where the library has another default."""
    config: str = ""
    """The architecture as JSON, where the encoder's name does not say all of it."""
    revision: str = ""
    """The hub's commit, if it is known."""
    licence: str = ""
    """If it is known."""


def describe(encoder: str, init: str = "") -> Published:
    """How the checkpoint `init` of this encoder wants its images, and where it is from.

    Args:
        encoder: a backbone's name; `hf:NAME` and `open_clip:NAME/TAG` bring their own weights.
        init: what `read` takes; empty for the encoder's own.

    Raises:
        ArgumentError: there is no such checkpoint, or its hub does not answer.
        UserError: a package that it needs is absent.
    """
    path, is_named = expand_home(init), init.startswith((HUB, PACKAGE, TRANSFORMERS, OPEN_CLIP))
    if init and not is_named and path.is_dir():
        return _of_card(path, init)
    base = Published()
    if encoder.startswith((TRANSFORMERS, OPEN_CLIP)):
        base = _of_name(encoder)
    if init in ("", encoder):
        return base
    if is_named:
        published = _of_name(init)
    else:
        published = _beside(path) or base
        if published is base and encoder.startswith("timm:"):
            published = _of_timm(encoder.removeprefix("timm:"))
    pool = "cls" if CLS_MODELS.match(encoder) else published.pool
    return replace(published, config=base.config, pool=pool)


def encoder_of(init: str) -> str:
    """The name of the encoder that a checkpoint is of; empty if that is not known."""
    if init.startswith(PACKAGE):
        return str(package_of(init).ENCODER)
    if init.startswith((TRANSFORMERS, OPEN_CLIP)):
        return init
    if init.startswith(HUB):
        import timm

        name = init.removeprefix(HUB).partition(".")[0]
        return f"timm:{name}" if timm.is_model(name) else ""
    return ""


def _of_name(init: str) -> Published:
    """Of a checkpoint that a library or a package has under a name."""
    if init.startswith(PACKAGE):
        package = package_of(init)
        return Published(
            image_size=package.IMAGE_SIZE,
            mean=(package.MEAN,) * 3,
            std=(package.STD,) * 3,
            crop=package.CROP,
            licence=package.LICENCE,
        )
    if init.startswith(TRANSFORMERS):
        return _of_transformers(init)
    if init.startswith(OPEN_CLIP):
        return _of_open_clip(init)
    published, repository = _of_timms_hub(init)
    config = fetch_if_any(repository, CONFIG) if repository else None
    return replace(published, revision=commit_of(config) if config else "")


def _of_timms_hub(init: str) -> tuple[Published, str]:
    """Of a pretrained model of timm, and the hub's repository that has it."""
    import timm

    name = init.removeprefix(HUB)
    if name.startswith(TIMMS_HUB):
        return _of_timms_repository(init)
    try:
        found = timm.get_pretrained_cfg(name, allow_unregistered=False)
    except Exception as error:  # of any kind: each part of a name has its own
        raise refusal(init, "timm", error) from None
    return parse_timm(found.to_dict()), str(found.hf_hub_id or "")


def _of_timms_repository(init: str) -> tuple[Published, str]:
    """Of a model that somebody has saved on the hub as timm does, and its repository."""
    repository = init.removeprefix(HUB).removeprefix(TIMMS_HUB)
    try:
        path = fetch(repository, CONFIG)
    except Exception as error:  # of any kind: the name's, the hub's, the network's
        raise refusal(init, "the hub", error, repository) from None
    return parse_timm(_read_json(path, init).get("pretrained_cfg", {})), repository


def _of_timm(name: str) -> Published:
    """Of the weights that timm has for this architecture; whose a file is, is not known."""
    import timm

    found = timm.get_pretrained_cfg(name)
    return replace(parse_timm(found.to_dict()), licence="") if found else Published()


def _of_transformers(init: str) -> Published:
    """Of a model of transformers, in a folder or on the hub."""
    name, folder = init.removeprefix(TRANSFORMERS), folder_of(init)
    if folder:
        files = {file: folder / file for file in (CONFIG, *PROCESSORS, README)}
        if not files[CONFIG].is_file():
            raise ArgumentError(f"`init` is {init!r}, a folder without {CONFIG}")
        revision = ""
    else:
        try:
            files = {CONFIG: fetch(name, CONFIG)}
        except Exception as error:  # of any kind: the name's, the hub's, the network's
            raise refusal(init, "the hub", error, name) from None
        revision = commit_of(files[CONFIG])
        for file in (*PROCESSORS, README):
            if path := fetch_if_any(name, file, revision):
                files[file] = path
    config = _read_json(files[CONFIG], init)
    processor = _processor(files, init)
    reduced = {key: value for key, value in config.items() if key not in LEFT_OUT}
    return replace(
        parse_processor(processor, native_size(config)),
        config=json.dumps(reduced),
        revision=revision,
        licence=licence_of(files.get(README)),
    )


def _processor(files: dict[str, Path], init: str) -> dict[str, Any]:
    """The JSON of the image processor; empty if there is none."""
    path = next((files[n] for n in PROCESSORS if n in files and files[n].is_file()), None)
    table = _read_json(path, init) if path else {}
    inner: dict[str, Any] = table.get("image_processor", table)
    return inner


def _of_open_clip(init: str) -> Published:
    """Of a model of OpenCLIP that the installed package knows, or that is on the hub."""
    name = init.removeprefix(OPEN_CLIP)
    repository = repository_of(name)
    if name.startswith(OPEN_CLIPS_HUB):
        try:
            path: Path | None = fetch(repository, OPEN_CLIP_CONFIG)
        except Exception as error:  # of any kind: the name's, the hub's, the network's
            raise refusal(init, "the hub", error, repository) from None
        table = _read_json(path, init) if path else {}
        config = reduce_config(table["model_cfg"])
        stated = table.get("preprocess_cfg", {})
    else:
        open_clip = load_extra("open_clip", init)
        config, stated = config_of(name), open_clip.get_pretrained_cfg(*name.rsplit("/", 1))
        path = fetch_if_any(repository, OPEN_CLIP_CONFIG) if repository else None
    readme = fetch_if_any(repository, README, commit_of(path)) if path else None
    default = load_extra("open_clip", init).transform.PreprocessCfg()
    return Published(
        image_size=int(config["vision_cfg"].get("image_size", 224)),
        mean=tuple(stated.get("mean") or default.mean),
        std=tuple(stated.get("std") or default.std),
        interpolation="bilinear" if stated.get("interpolation") == "bilinear" else "bicubic",
        config=json.dumps(config),
        revision=commit_of(path) if path else "",
        licence=licence_of(readme),
    )


def _of_card(folder: Path, init: str) -> Published:
    """Of an encoder or a classifier that rapipe wrote."""
    try:
        card = weights.read_card(folder, "pretrain")
    except UserError as error:
        raise ArgumentError(f"`init` is {init!r}, but {error}") from None
    stated = {**card["spec"].get("network", card["spec"]), **card.get("published", {})}
    known: dict[str, Any] = {
        field.name: tuple(value) if isinstance(value, list) else value
        for field in fields(Published)
        if (value := stated.get(field.name)) is not None
    }
    return Published(**known)


def _beside(file: Path) -> Published | None:
    """What the JSON files beside a file of weights say; None if they say nothing."""
    init = str(file)
    files = {name: file.parent / name for name in (CONFIG, *PROCESSORS)}
    config = _read_json(files[CONFIG], init) if files[CONFIG].is_file() else {}
    if processor := _processor(files, init):
        return parse_processor(processor, native_size(config))
    if "pretrained_cfg" in config:
        return parse_timm(config["pretrained_cfg"])
    return None


def _read_json(path: Path, init: str) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (ValueError, TypeError, OSError) as error:
        raise ArgumentError(
            f"`init` is {init!r}, whose {path.name} is no JSON object ({first_line(error)})"
        ) from None


def parse_timm(stated: dict[str, Any]) -> Published:
    """What a pretrained_cfg of timm says."""
    mean, std = stated.get("mean", IMAGENET[0]), stated.get("std", IMAGENET[1])
    return Published(
        image_size=int(stated["input_size"][-1]) if "input_size" in stated else 0,
        mean=tuple(mean),
        std=tuple(std),
        interpolation="bilinear" if stated.get("interpolation") == "bilinear" else "bicubic",
        crop=float(stated.get("crop_pct") or 1),
        licence=str(stated.get("license") or ""),
    )


def native_size(config: dict[str, Any]) -> int:
    """Side of the images that a config.json of transformers states; 0 if it states none."""
    tower = {**config, **(config.get("vision_config") or {})}
    size = _side(tower.get("image_size"))
    patches, patch = tower.get("num_patches"), _side(tower.get("patch_size"))
    return size or (math.isqrt(patches) * patch if patches else 0)


def parse_processor(stated: dict[str, Any], native: int) -> Published:
    """What the JSON of an image processor of transformers says.

    One that only resizes squeezes all of an image into the square: crop 1.

    Args:
        native: the model's own image size, where the processor states none; 0 if unknown.
    """
    resized = _side(stated.get("size")) if stated.get("do_resize", True) else 0
    cropped = _side(stated.get("crop_size")) if stated.get("do_center_crop") else 0
    crop = cropped / resized if cropped and resized > cropped else 1.0
    if stated.get("crop_pct") and resized < 384:  # as ConvNeXt's does
        crop = float(stated["crop_pct"])
    scale = 255 * stated.get("rescale_factor", 1 / 255) if stated.get("do_rescale", True) else 255
    mean, std = stated.get("image_mean") or IMAGENET[0], stated.get("image_std") or IMAGENET[1]
    if stated.get("do_normalize") is False:
        mean, std = (0.0,) * 3, (1.0,) * 3
    return Published(
        image_size=cropped or resized or native,
        mean=tuple(value / scale for value in mean),
        std=tuple(value / scale for value in std),
        interpolation="bilinear" if stated.get("resample") == BILINEAR else "bicubic",
        crop=crop,
    )


def _side(size: Any) -> int:
    """Side of a square: of a number, a pair, {height, width} or {shortest_edge}; else 0."""
    if isinstance(size, dict):
        size = size.get("shortest_edge") or size.get("height")
    if isinstance(size, list | tuple):
        size = size[0]
    return int(size or 0)
