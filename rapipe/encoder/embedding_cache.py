"""Embeddings of noisy test images, kept on disk: they are the same for whoever asks."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

import numpy as np

from rapipe.encoder.encoder import Encoder
from rapipe.encoder.imported import ImportedVectors
from rapipe.io.atomic import atomic_write
from rapipe.io.locks import file_lock
from rapipe.records import Pixels, Vectors

HASH = 32
"""Bytes of a SHA-256, before the numbers."""


def embed_cached(
    encoder: Encoder | ImportedVectors, pixels: Pixels, cache: Path | None, fingerprint: str
) -> Vectors:
    """Unit vectors (N, D) of pixels (N, H, W, 3).

    Args:
        cache: the folder that keeps them, by a hash of the pixels and the fingerprint; None for
            no folder.
        fingerprint: of the encoder.
    """
    if cache is None:
        return encoder.embed(pixels)
    key = hashlib.sha256(fingerprint.encode())
    key.update(f"{encoder.device.type}{pixels.shape}".encode())
    key.update(pixels.tobytes())
    path = cache / key.hexdigest()[:32]
    with file_lock(path.with_suffix(".lock"), "embeds the same images"):
        vectors = _read_cached(path)
        if vectors is None:
            vectors = encoder.embed(pixels)
            raw = vectors.tobytes()
            atomic_write(path, hashlib.sha256(raw).digest() + raw)
    return vectors.reshape(len(pixels), -1)


def _read_cached(path: Path) -> Vectors | None:
    """The numbers in a file; None if it is missing or damaged."""
    with suppress(OSError):
        raw = path.read_bytes()
        if hashlib.sha256(raw[HASH:]).digest() == raw[:HASH]:
            return np.frombuffer(raw, np.float32, offset=HASH).copy()
    return None
