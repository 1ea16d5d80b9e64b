"""What test images are corrupted by; to add a corruption is to add a function and a line here.

A corruption is a function of pixels (N, H, W, 3), ids (N,), a severity and a seed. Severity 0
returns the pixels as they are, and an image's corruption depends on nothing but its id, the
severity and the seed, so that every classifier sees the same images.
"""

from __future__ import annotations

from collections.abc import Callable

from rapipe.batches.transforms import gaussian_noise
from rapipe.records import Ids, Pixels

Corruption = Callable[[Pixels, Ids, float, int], Pixels]
GAUSSIAN_NOISE = "gaussian_noise"

CORRUPTIONS: dict[str, Corruption] = {GAUSSIAN_NOISE: gaussian_noise}
