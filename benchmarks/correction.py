"""A control of fusions that are fitted to noisy copies: the network alone, fitted to the same.

What a fusion gains on this under noise is the neighbours'; what both gain is the fit's.

Letters: N images, L classes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from rapipe.classifier import stacking
from rapipe.classifier.fusions.trust import DECAY, Correction
from rapipe.records import Labels

Logits = npt.NDArray[np.float32]  # (N, L)


def fit(logits: Logits, labels: Labels, seed: int) -> Correction:
    """Fit to what a network predicts, as long as `stack` fits a fusion."""
    torch.manual_seed(seed)
    correction = Correction(logits.shape[1])
    said, targets = torch.from_numpy(logits), torch.from_numpy(labels).long()
    judges = [(DECAY, parameter) for parameter in correction.parameters()]
    stacking.fit(judges, lambda rows: [correction(said[rows])], targets)
    return correction


@torch.inference_mode()
def corrected(correction: Correction, logits: Logits) -> Logits:
    """What the control says of logits."""
    return np.asarray(correction(torch.from_numpy(logits)).numpy())
