"""Vision models of Hugging Face's transformers as backbones: `hf:facebook/dinov2-small` and so on.

Notable: a network is made of the JSON of its configuration, without the hub. Its weights have
transformers' names. Letters: B batch, T tokens, C channels, F features, P side of a patch.
"""

from __future__ import annotations

import inspect
import json
from typing import Any

import torch
from torch import Tensor

from rapipe.encoder.backbones.base import Backbone, FamilyFactory
from rapipe.encoder.backbones.extras import load_extra
from rapipe.encoder.backbones.hooks import DryRun, HookedBackbone, block_ends, empty_images
from rapipe.encoder.backbones.pooling import check_multiple, check_pool, pool_tokens
from rapipe.errors import ArgumentError, first_line
from rapipe.io.text import expand_home

TWO_TOWERS = ("clip", "siglip", "siglip2")
"""Kinds of models whose image tower is taken and whose text tower is left out."""
PLAIN_CLIP = "CLIPVisionModel"
"""The class of CLIP's image tower without a projection."""
CONFIG = "config.json"
MAX_PREFIX = 64
"""CLS token and registers; a network with more tokens that are no patches has none at all."""


class TransformersBackbone(HookedBackbone):
    """A vision model of transformers in `net`.

    Args:
        name: of the model, for messages.
        image_size: side of the images in pixels, a multiple of the patches'.
        pool: what becomes of the last tokens. `model` is the projection of CLIP, the attention
            pooling of SigLIP, and the CLS token after the last norm of others that have one: a
            ViT's pooler, a layer which most checkpoints lack, is left out.
        config: the text of its config.json.

    Raises:
        ArgumentError: the model takes no such images, or cannot pool so.
        UserError: it is none of vision.
    """

    def __init__(self, name: str, image_size: int, pool: str, config: str) -> None:
        super().__init__()
        kind, settings = architecture(config, name)
        patch = _side(getattr(settings, "patch_size", None))
        if patch and image_size != _side(getattr(settings, "image_size", None)):
            check_multiple(name, image_size, patch)
        options = options_of(kind)
        self.prefix: int | None = None
        try:
            with torch.random.fork_rng(devices=[]), torch.device("meta"):
                self.net = kind(settings, **options).eval()
            run = DryRun(self.net, block_ends(self.net))
            output, tokens = self._run(empty_images(image_size))
        except Exception as error:  # each model refuses images in its own way
            raise ArgumentError(
                f"`image_size` is {image_size}, which {name} does not take ({first_line(error)})"
            ) from None
        if tokens.ndim == 3 and patch:
            prefix = tokens.shape[1] - (image_size // patch) ** 2
            self.prefix = prefix if 0 <= prefix <= MAX_PREFIX else None
        check_pool(pool, name, self.prefix, bool(self.prefix))
        self.pool = "model" if self.prefix is None else pool
        self.features = self._pool(output, tokens).shape[1]
        self.net = kind(settings, **options)
        self.hook(run.stages())

    def extract(self, images: Tensor) -> Tensor:
        return self._pool(*self._run(images))

    def _run(self, images: Tensor) -> tuple[Any, Tensor]:
        """What transformers returns, and the last tokens (B, T, C) after their norm, or a map."""
        net, options = self.net, dict[str, Any]()
        if hasattr(getattr(net, "embeddings", None), "resize_positional_embeddings"):
            # SigLIP 2 of any aspect ratio takes patches, and the grid of each image: here the same.
            grid = images.shape[-1] // net.config.patch_size
            device = "cpu" if images.is_meta else images.device  # its values are looked at
            options = {
                "pixel_attention_mask": None,
                "spatial_shapes": torch.full((1, 2), grid, device=device),
            }
            images = _patches(images, net.config.patch_size)
        elif "interpolate_pos_encoding" in inspect.signature(net.forward).parameters:
            options = {"interpolate_pos_encoding": True}
        output = net(pixel_values=images, **options)
        tokens = output.last_hidden_state
        if hasattr(output, "image_embeds"):  # CLIP norms its CLS token alone
            tokens = net.vision_model.post_layernorm(tokens)
        return output, tokens

    def _pool(self, output: Any, tokens: Tensor) -> Tensor:
        if self.pool != "model":
            return pool_tokens(tokens, self.prefix or 0, self.pool)
        pooled: Tensor | None = output.get("image_embeds", output.get("pooler_output"))
        if pooled is not None:
            return pooled.flatten(1)
        if self.prefix:
            return tokens[:, 0]
        return tokens.flatten(2).mean(dim=2) if tokens.ndim == 4 else tokens.mean(dim=1)


def architecture(config: str, name: str) -> tuple[Any, Any]:
    """transformers' class of the vision model that a config.json describes, and its settings.

    Raises:
        ArgumentError: the text is no such JSON, or the model sees no images.
        UserError: transformers is absent.
    """
    transformers = load_extra("transformers", name)
    try:
        table = dict(json.loads(config))
    except (ValueError, TypeError) as error:
        raise ArgumentError(
            f"`config` of {name!r} is no JSON object ({first_line(error)})"
        ) from None
    kind = table.get("model_type")
    if kind not in transformers.CONFIG_MAPPING:
        is_timms = "it is a model of timm: " if "pretrained_cfg" in table else ""
        raise ArgumentError(
            f"{name!r} is of the kind {kind!r}, which transformers {transformers.__version__} "
            f"does not have: {is_timms}name it timm:NAME with hub:NAME, or another model"
        )
    settings = transformers.CONFIG_MAPPING[kind].from_dict(table)
    if kind in TWO_TOWERS:
        settings, width = settings.vision_config, getattr(settings, "projection_dim", None)
        settings.projection_dim = width
    if settings.model_type == "clip_vision_model" and table.get("architectures") != [PLAIN_CLIP]:
        return transformers.CLIPVisionModelWithProjection, settings
    network = transformers.MODEL_MAPPING.get(type(settings), None)
    network = network[0] if isinstance(network, tuple) else network
    if network is None or network.main_input_name != "pixel_values":
        raise ArgumentError(
            f"{name!r} is of the kind {kind!r}, which is no plain vision model: choose one such as "
            "DINOv2, DINOv3, SigLIP, SigLIP 2, CLIP or ViT"
        )
    return network, settings


def options_of(kind: Any) -> dict[str, bool]:
    """How a model of this class is made: without a pooler, which most checkpoints lack."""
    poolable = "add_pooling_layer" in inspect.signature(kind.__init__).parameters
    return {"add_pooling_layer": False} if poolable else {}


def transformers_model(name: str, config: str = "") -> FamilyFactory:
    """Any vision model of Hugging Face's transformers: DINOv2, DINOv3, SigLIP 2, CLIP and so on.

    NAME is that of a repository on the hub, or a folder that `save_pretrained` wrote. The model
    brings its own weights. `width` and `stem` change nothing: the name says them.

    Source: Wolf et al., "Transformers: State-of-the-Art Natural Language Processing", EMNLP 2020.

    Raises:
        UserError: transformers is absent.
    """
    full_name = f"hf:{name}"
    load_extra("transformers", full_name)

    def build(width: int, stem: str, image_size: int, pool: str) -> Backbone:
        return TransformersBackbone(full_name, image_size, pool, config or _read_config(name))

    return build


def _read_config(name: str) -> str:
    """The config.json of a model in a folder.

    Raises:
        ArgumentError: there is none.
    """
    path = expand_home(name) / CONFIG
    if not path.is_file():
        raise ArgumentError(
            f"`config` is empty, and the name hf:{name} does not say what network it is: give it "
            f"the text of the model's {CONFIG}"
        )
    return path.read_text()


def _side(size: Any) -> int:
    """Side of a square that is stated as a number, as a pair, or not at all (0)."""
    return int(size[0] if isinstance(size, list | tuple) else size or 0)


def _patches(images: Tensor, side: int) -> Tensor:
    """Images (B, 3, H, W) -> patches (B, T, 3PP), the channels of a pixel side by side."""
    b, c, h, w = images.shape
    grid = images.reshape(b, c, h // side, side, w // side, side)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(b, -1, c * side**2)
