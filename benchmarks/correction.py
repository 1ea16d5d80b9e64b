"""A control of fusions that are fitted to noisy copies: the network alone, fitted to the same.

    logits + w affine(log probabilities)

w, above zero, is what a small network makes of how sure the classifier is (its largest
probability, its entropy). What a fusion gains on this under noise is the neighbours'; what both
gain is the fit's.

Letters: N images, L classes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rapipe.classifier import stacking
from rapipe.metrics import MIN_PROBABILITY
from rapipe.records import Labels

Logits = npt.NDArray[np.float32]  # (N, L)
HIDDEN = 16


class Correction(nn.Module):
    """Logits (N, L) -> (N, L)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.affine = nn.Linear(classes, classes)
        self.weight = nn.Sequential(nn.Linear(2, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, 1))

    def forward(self, logits: Tensor) -> Tensor:
        shares = logits.softmax(dim=1)
        entropy = torch.special.entr(shares.clamp_min(MIN_PROBABILITY)).sum(dim=1)
        facts = torch.stack([shares.amax(dim=1), entropy], dim=1)
        weight = F.softplus(self.weight(facts))
        corrected: Tensor = logits + weight * self.affine(F.log_softmax(logits, dim=1))
        return corrected

    @torch.inference_mode()
    def correct(self, logits: Logits) -> Logits:
        """The same for arrays."""
        return np.asarray(self(torch.from_numpy(logits)).numpy())


def fit(logits: Logits, labels: Labels, seed: int) -> Correction:
    """Fit to what a network predicts, as long as `stack` fits a fusion."""
    torch.manual_seed(seed)
    correction = Correction(logits.shape[1])
    said, targets = torch.from_numpy(logits), torch.from_numpy(labels).long()
    stacking.fit(correction.parameters(), lambda rows: correction(said[rows]), targets)
    return correction
