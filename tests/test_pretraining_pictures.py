"""Attention maps and reconstructions: against slow references, and as they are stored."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_images
from safetensors.numpy import load, save
from test_objectives import SIZE, Transformer, encoder_for, make_objective, views_for
from torch import Tensor

from rapipe.batches.transforms import to_float
from rapipe.encoder.backbones import Backbone
from rapipe.encoder.encoder import Encoder, EncoderSpec
from rapipe.pretraining.pictures import attention_maps, pictures_of

HEADS, PATCHES = 2, (SIZE // 4) ** 2


def encoder_of(backbone: Backbone) -> Encoder:
    return Encoder(EncoderSpec("timm:x", 4, "half", SIZE, (0.5,) * 3, (0.3,) * 3), backbone)


@pytest.mark.parametrize("options", [{}, {"reg_tokens": 3}, {"class_token": False}])
def test_attention_is_the_softmax_of_queries_and_keys(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    pool = "" if options.get("class_token", True) else "avg"
    backbone = Transformer(**options, **({"global_pool": pool} if pool else {}))
    encoder, images = encoder_of(backbone), make_images(5, size=SIZE)
    attend, prefix = backbone.net.blocks[-1].attn, backbone.net.num_prefix_tokens
    inputs: list[Tensor] = []
    hook = attend.register_forward_hook(lambda _, args, __: inputs.append(args[0]))
    with torch.no_grad():
        encoder.backbone(encoder.preprocess(to_float(torch.from_numpy(images.pixels))))
    hook.remove()
    before = attend.fused_attn
    maps = attention_maps(encoder, images.pixels)
    assert maps is not None
    assert attend.fused_attn is before
    assert maps.shape == (5, HEADS, 4, 4)
    q, k, _ = attend.qkv(inputs[0]).chunk(3, dim=-1)  # each (5, T, 32)
    for head in range(HEADS):
        part = slice(head * 16, (head + 1) * 16)
        for image in range(5):
            weights = (q[image, :, part] @ k[image, :, part].T / 16**0.5).softmax(-1)
            row = weights[0] if prefix else weights.mean(0)
            expected = row[prefix:].detach().numpy().reshape(4, 4)
            np.testing.assert_allclose(maps[image, head], expected, rtol=1e-4, atol=1e-6)


def test_what_is_shown_of_an_autoencoder() -> None:
    """Visible patches as they are; with perfect answers the others too."""
    mae = make_objective("mae").eval()
    (images,) = views_for(mae)
    torch.manual_seed(3)
    visible, masked = mae.draw_mask(len(images), images.device)
    mae.draw_mask = lambda b, device: (visible, masked)
    from lightly.models.utils import normalize_mean_var, patchify

    patches = patchify(images, 4)
    mae.reconstruct = lambda images, visible: normalize_mean_var(patches)
    seen, reconstructed = mae.show(images)
    torch.testing.assert_close(reconstructed, images, atol=1e-4, rtol=1e-4)
    for b in range(len(images)):
        shown = {p for p in range(PATCHES) if patchify(seen, 4)[b, p].any()}
        assert shown == set(visible[b].tolist())
        for p in visible[b]:
            assert torch.equal(patchify(seen, 4)[b, p], patches[b, p])


def test_pictures_are_of_one_image_a_class_and_the_same_each_time() -> None:
    mae = make_objective("mae")
    encoder, images = encoder_of(mae.encoder), make_images(12, size=SIZE)
    state = torch.random.get_rng_state()
    pictures = pictures_of(encoder, mae, images)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert mae.training
    assert set(pictures) == {"attention", "masked", "reconstructed", "original"}
    np.testing.assert_array_equal(pictures["original"], images.pixels[:3])  # of three classes
    masked = (pictures["masked"] == pictures["original"]).all(-1)  # grey elsewhere
    assert 0.25 <= masked.mean() < 0.3
    again = load(save(pictures_of(encoder, mae, images)))  # as it is stored, and read
    for name, picture in pictures.items():
        np.testing.assert_array_equal(again[name], picture)


def test_a_convolutional_network_has_none() -> None:
    byol = make_objective("byol")
    assert pictures_of(encoder_of(encoder_for("byol")), byol, make_images(6, size=SIZE)) == {}
