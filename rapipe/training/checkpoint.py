"""Checkpoints that are complete or not there, and carry a checksum.

Lightning writes its own through a temporary folder that may lie on another disk, where
moving is copying; and torch reads a file with flipped bits without a word. So ours are
what torch writes, then the SHA-256 of that.
"""

from __future__ import annotations

import hashlib
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins import CheckpointIO

from rapipe.io.atomic import atomic_write, name_file_in_errors

SIZE = hashlib.sha256().digest_size


class ChecksummedIO(CheckpointIO):
    """How a Trainer writes and reads its checkpoints."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        buffer = BytesIO()
        torch.save(checkpoint, buffer)
        data = buffer.getvalue()
        atomic_write(Path(path), data + hashlib.sha256(data).digest())

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: Any = None) -> Any:
        """Whatever is asked for, nothing but tensors and plain values: no code can run."""
        data, _ = _parts(Path(path))
        return torch.load(BytesIO(data), map_location=map_location or _stay, weights_only=True)

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


def is_intact(path: Path) -> bool:
    """Whether the checkpoint is what was written, and holds nothing that could run."""
    data, digest = _parts(path)
    try:
        torch.load(BytesIO(data), map_location="cpu", weights_only=True)
    except Exception:  # a damaged or hostile pickle raises anything
        return False
    return hashlib.sha256(data).digest() == digest


def _parts(path: Path) -> tuple[bytes, bytes]:
    with name_file_in_errors(path):
        content = path.read_bytes()
    return content[:-SIZE], content[-SIZE:]


def _stay(storage: Any, _: str) -> Any:
    """Leave tensors on the CPU: Lightning moves them."""
    return storage
