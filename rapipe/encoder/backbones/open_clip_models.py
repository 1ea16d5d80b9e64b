"""Image towers of OpenCLIP as backbones: `open_clip:ViT-B-32/laion2b_s34b_b79k` and so on.

Notable: a tower is made of the JSON of its configuration, with a text tower of next to nothing
beside it. Letters: B batch, T tokens, C channels, F features.
"""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from rapipe.encoder.backbones.base import Backbone, FamilyFactory
from rapipe.encoder.backbones.extras import load_extra
from rapipe.encoder.backbones.hooks import DryRun, HookedBackbone, block_ends, empty_images
from rapipe.encoder.backbones.pooling import check_multiple, check_pool, pool_tokens
from rapipe.encoder.backbones.timm_plan import has_cls_token
from rapipe.errors import ArgumentError, UserError, first_line

Config = dict[str, Any]
TEXT = {"context_length": 1, "vocab_size": 1, "width": 8, "heads": 1, "layers": 1}
"""A text tower that is thrown away."""
HUB = "hf-hub:"
"""OpenCLIP's own prefix of a repository on the hub that has an open_clip_config.json."""


class OpenClipBackbone(HookedBackbone):
    """An image tower of OpenCLIP in `net`.

    Args:
        name: of the model, for messages.
        image_size: side of the images in pixels, a multiple of the patches'.
        pool: what becomes of the last tokens; `model` is the projection into the space that
            images and texts share.
        config: the model's configuration: embed_dim, vision_cfg, quick_gelu.

    Raises:
        ArgumentError: the model takes no such images, or cannot pool so.
    """

    def __init__(self, name: str, image_size: int, pool: str, config: Config) -> None:
        super().__init__()
        self.config, self.image_size = config, image_size
        self.own_size = int(config["vision_cfg"].get("image_size", 224))
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            self.net = make_tower(config, self.own_size)
        if image_size != self.own_size:
            self._check_size(name)
        stages = self._try_size(name)
        trunk = getattr(self.net, "trunk", None)
        has_cls = bool(self.prefix) if trunk is None else has_cls_token(trunk)
        check_pool(pool, name, self.prefix, has_cls)
        self.pool = "model" if self.prefix is None else pool
        self.features = self.extract(empty_images(image_size)).shape[1]
        self.net = make_tower(config, image_size)
        self.hook(stages)

    def extract(self, images: Tensor) -> Tensor:
        if self.pool == "model":
            return self._embed(images)
        norm = getattr(getattr(self.net, "trunk", None), "fc_norm", None)
        tokens, prefix = self._tokens(images)
        return pool_tokens(tokens, prefix, self.pool, norm)

    def adapt(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tower's tensors, their positions resampled from its own size to this one."""
        if hasattr(self.net, "trunk"):
            tower = make_tower(self.config, self.own_size)
            tower.load_state_dict(tensors)
            tower.set_input_size(self.image_size)
            return dict(tower.state_dict())
        open_clip = load_extra("open_clip.model", "open_clip")
        state = {f"visual.{name}": tensor for name, tensor in tensors.items()}
        open_clip.resize_pos_embed(state, SimpleNamespace(visual=self.net))
        return {name.removeprefix("visual."): tensor for name, tensor in state.items()}

    def _check_size(self, name: str) -> None:
        """Raise `ArgumentError` if the tower of its own size cannot be made one of this size."""
        if not hasattr(self.net, "trunk") and not hasattr(self.net, "grid_size"):
            raise ArgumentError(
                f"`image_size` is {self.image_size}, but {name} takes images of {self.own_size} "
                "pixels alone: OpenCLIP cannot resample the positions of its last pooling"
            )
        check_multiple(name, self.image_size, _patch_side(self.net))

    def _try_size(self, name: str) -> tuple[Any, ...]:
        """Let the network see images that do not exist; returns its stages."""
        images = empty_images(self.image_size)
        try:
            with torch.random.fork_rng(devices=[]), torch.device("meta"):
                self.net = make_tower(self.config, self.image_size).eval()
            run = DryRun(self.net, block_ends(self.net))
            self._embed(images)
        except Exception as error:  # timm's models refuse images in every way there is
            raise ArgumentError(
                f"`image_size` is {self.image_size}, which {name} does not take "
                f"({first_line(error)}): its own is {self.own_size}"
            ) from None
        stages = run.stages()
        try:
            self.prefix: int | None = self._tokens(images)[1]
        except (AssertionError, TypeError, AttributeError, RuntimeError):  # it has none
            self.prefix = None
        return stages

    def _embed(self, images: Tensor) -> Tensor:
        output = self.net(images)
        embedding: Tensor = output[0] if isinstance(output, tuple) else output  # CoCa's tokens
        return embedding

    def _tokens(self, images: Tensor) -> tuple[Tensor, int]:
        """The last tokens (B, T, C) after their norm, and how many of them are no patches."""
        output = self.net.forward_intermediates(
            images,
            indices=1,
            normalize_intermediates=getattr(self.net, "attn_pool", None) is None,
            intermediates_only=True,
            output_fmt="NLC",
            output_extra_tokens=True,
        )
        tokens = output["image_intermediates"][0]
        prefix = output.get("image_intermediates_prefix")
        if prefix is None:
            return tokens, 0
        return torch.cat((prefix[0], tokens), dim=1), prefix[0].shape[1]


def make_tower(config: Config, image_size: int) -> Any:
    """The image tower of this configuration for images of this size, its weights random."""
    open_clip = load_extra("open_clip", "open_clip")
    vision = {**config["vision_cfg"], "timm_model_pretrained": False}
    own_size = vision.get("image_size", 224)
    if not vision.get("timm_model_name"):
        vision["image_size"] = image_size
    quick = config.get("quick_gelu", False)
    tower = open_clip.CLIP(config["embed_dim"], vision, dict(TEXT), quick_gelu=quick).visual
    if vision.get("timm_model_name") and image_size != own_size:
        tower.set_input_size(image_size)
    return tower


def _patch_side(tower: Any) -> int:
    """Side of its patches; 1 if it has none."""
    side: Any = getattr(tower, "patch_size", None)
    if side is None:
        embedding = getattr(getattr(tower, "trunk", None), "patch_embed", None)
        side = getattr(embedding, "patch_size", 1)
    return int(side[0] if isinstance(side, list | tuple) else side)


def split_name(name: str) -> tuple[str, str]:
    """The model and the tag of NAME/TAG; a repository's name (`hf-hub:...`) has no tag."""
    if name.startswith(HUB):
        return name, ""
    model, _, tag = name.rpartition("/")
    return model, tag


def config_of(name: str) -> Config:
    """The configuration of a model that the installed package knows, and how its weights differ.

    OpenAI's and some others were trained with another GELU than their model's name says.

    Raises:
        UserError: the package knows no such model, or no such weights.
    """
    open_clip = load_extra("open_clip", f"open_clip:{name}")
    model, tag = split_name(name)
    if model not in open_clip.list_models():
        choices = "open_clip.list_pretrained() has the names"
        raise UserError(f"'open_clip:{name}' is no NAME/TAG of OpenCLIP; {choices}")
    weights = open_clip.get_pretrained_cfg(model, tag)
    if not weights:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "none"
        raise UserError(f"'open_clip:{name}' has no weights of the tag {tag!r}; {model} has {tags}")
    config = open_clip.get_model_config(model)
    quick_gelu = weights.get("quick_gelu", False)
    return reduce_config({**config, "quick_gelu": quick_gelu})


def reduce_config(config: Config) -> Config:
    """What the image tower needs of a model's configuration."""
    return {key: config[key] for key in ("embed_dim", "vision_cfg", "quick_gelu") if key in config}


def _parse(config: str, name: str) -> Config:
    try:
        table = dict(json.loads(config or "{}"))
    except (ValueError, TypeError) as error:
        raise ArgumentError(f"`config` of {name} is no JSON object ({error})") from None
    if "vision_cfg" not in table:
        raise ArgumentError(
            f"`config` lacks vision_cfg, and the name {name} does not say what network it is: "
            "give it the model_cfg of the model's open_clip_config.json"
        )
    return table


def open_clip_model(name: str, config: str = "") -> FamilyFactory:
    """The image tower of a model of OpenCLIP, NAME/TAG or hf-hub:REPOSITORY: CLIP, SigLIP, CoCa.

    It brings its own weights. `width` and `stem` change nothing: the name says them. `config` is
    needed for repositories, and for what another version of the package knew.

    Source: Cherti et al., "Reproducible scaling laws for contrastive language-image learning",
    CVPR 2023.

    Raises:
        UserError: open_clip is absent, or has no such model or weights.
        ArgumentError: `config` is no configuration of a model.
    """
    full_name = f"open_clip:{name}"
    load_extra("open_clip", full_name)
    known = {} if config or name.startswith(HUB) else config_of(name)

    def build(width: int, stem: str, image_size: int, pool: str) -> Backbone:
        table = known or _parse(config, full_name)
        return OpenClipBackbone(full_name, image_size, pool, table)

    return build
