"""The encoder: unit vectors, always in evaluation mode, on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_images

from rapipe.encoder.encoder import Encoder, EncoderSpec
from rapipe.errors import UserError

PLAIN = ((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


def damage(path: Path) -> None:
    """Flip one byte near the end."""
    data = bytearray(path.read_bytes())
    data[-20] ^= 0xFF
    path.write_bytes(data)


def test_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, images = Encoder(EncoderSpec("resnet18", 8, "half", 16, *PLAIN)), make_images(11)
    encoder.train()
    vectors = encoder.embed(images.pixels)
    assert not encoder.training, "a frozen encoder never trains its BatchNorm"
    assert (vectors.shape, vectors.dtype) == ((11, 64), np.float32)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    monkeypatch.setattr("rapipe.batches.preprocess.CHUNK", 4)
    assert np.allclose(encoder.embed(images.pixels), vectors, atol=1e-5)
    encoder.write(tmp_path, {})
    assert np.allclose(Encoder.read(tmp_path).embed(images.pixels), vectors, atol=1e-5)
    damage(tmp_path / "weights.safetensors")
    with pytest.raises(UserError, match="run rapipe pretrain"):
        Encoder.read(tmp_path)
    torch.nn.init.zeros_(encoder.backbone.net.conv1.weight)
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.zeros_(module.bias)
    vectors = encoder.embed(images.pixels)
    assert np.allclose(vectors, 1 / 8), "images without features are one point, of unit length"
