"""Noisy copies of training images, whose neighbours show when to trust neighbours."""

from __future__ import annotations

from rapipe.batches.transforms import gaussian_noise, noisy_copies
from rapipe.config.schema import Params
from rapipe.records import Images, Pixels


def copied_pixels(images: Images, params: Params, noisy: bool) -> Pixels:
    """A copy of each (N, H, W, 3), whose noise depends on its id and the seed alone.

    Args:
        noisy: those for a classifier whose images have noise too.
    """
    if noisy:
        std = params.classifiers.noise_std
        return gaussian_noise(images.pixels, images.ids, std, params.seed)
    return noisy_copies(images.pixels, images.ids, params.retrieval.query_noise, params.seed)
