"""Encoders that are kept on the way, so that features can be judged by epochs of pretraining."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from rapipe.encoder.encoder import Encoder, EncoderSpec
from rapipe.io.weights import CARD
from rapipe.training.ranks import rank


class KeptEncoders(Callback):
    """Writes the encoder into a folder of its own: random, every few epochs, and in the end.

    Args:
        folder: of these folders; what an interrupted pretraining has written there counts.
        every: epochs between two of them.
    """

    def __init__(self, spec: EncoderSpec, folder: Path, every: int) -> None:
        self.spec = spec
        self.folder = folder
        self.every = every

    def on_train_start(self, trainer: pl.Trainer, module: Any) -> None:
        if trainer.current_epoch == 0:
            self._write(module, 0)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
        epoch = trainer.current_epoch + 1
        if epoch % self.every == 0 or epoch == module.recipe.epochs:
            self._write(module, epoch)

    def _write(self, module: Any, epoch: int) -> None:
        kept = Encoder(self.spec)  # which draws, so on every rank
        kept.backbone.load_state_dict(module.network.encoder.state_dict())
        if rank() == 0:
            kept.write(self.folder / f"{epoch:05d}", {"epoch": epoch})


def folders_by_epoch(folder: Path) -> dict[int, Path]:
    """The folders in the order of their epochs; none where none is kept."""
    return {int(card.parent.name): card.parent for card in sorted(folder.glob(f"*/{CARD}"))}
