"""Methods that make attribution maps, by Captum: one function a method, one line in `METHODS`.

Each makes of a `Subject` a map (S, S): above 0 where a pixel speaks for the class.

Letters: S side in pixels.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rapipe.batches.transforms import Normalise
from rapipe.errors import UserError
from rapipe.evaluation.measures.attribution_maps.subject import Subject

STEPS, MOST_STEPS = 32, 256
"""Of the path from the baseline to the image: doubled until the map is complete, or too many."""
TOLERANCE = 0.05
"""Largest completeness error of a map that passes as complete."""
EXACT = 0.001
"""The same of DeepLIFT, whose sum is exact but for rounding where every rule is."""
NOISE_STD, NOISY_IMAGES = 0.1, 16
"""Of the noise on [0, 1] of the noise tunnel, and the images that it averages over."""
SHAP_SAMPLES = 256
WINDOWS = 8
"""Windows of occlusion along a side, if they did not overlap; they overlap by half."""
WITH_RULE = (nn.ReLU, nn.ELU, nn.LeakyReLU, nn.Sigmoid, nn.Tanh, nn.Softplus)
"""Modules that are not linear and that Captum's DeepLIFT has a rule for. Its rule for max-pools
misses the sum by a tenth behind a ReLU (Captum 0.9), and so is none."""
LINEAR = (
    *(nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d),
    *(nn.Identity, nn.Dropout, nn.Flatten, Normalise),
)
"""Modules that need no rule, in evaluation mode."""


class DoesNotApplyError(UserError):
    """A method does not apply to a classifier; the sentence says why, and what does."""


def integrated_gradients(subject: Subject, most_steps: int = MOST_STEPS) -> Tensor:
    """Gradients along the straight line from one colour to the image, times the difference.

    The steps on the line are doubled until the map is complete within `TOLERANCE`.

    Source: Sundararajan, Taly, Yan, "Axiomatic Attribution for Deep Networks", ICML 2017.
    """
    steps = STEPS
    while True:
        with _captum(subject) as attr:
            attribution = attr.IntegratedGradients(subject.network).attribute(
                _leaf(subject.image),
                subject.baseline,
                target=subject.target,
                n_steps=steps,
                internal_batch_size=subject.batch_size,
            )
        map_ = _over_channels(attribution)
        steps *= 2
        if steps > most_steps or completeness_error(subject, map_) <= TOLERANCE:
            return map_


def noise_tunnel(subject: Subject) -> Tensor:
    """The mean map of integrated gradients over noisy copies of the image (SmoothGrad).

    Source: Smilkov et al., "SmoothGrad: removing noise by adding noise", ICML Workshop on
    Visualization for Deep Learning 2017.
    """
    with _captum(subject) as attr:
        attribution = attr.NoiseTunnel(attr.IntegratedGradients(subject.network)).attribute(
            _leaf(subject.image),
            nt_type="smoothgrad",
            nt_samples=NOISY_IMAGES,
            nt_samples_batch_size=1,
            stdevs=NOISE_STD,
            baselines=subject.baseline,
            target=subject.target,
            n_steps=STEPS,
            internal_batch_size=subject.batch_size,
        )
    return _over_channels(attribution)


def deep_lift(subject: Subject) -> Tensor:
    """Differences of activations from those of the baseline, handed back by the rescale rule.

    It needs a rule for each module that is not linear, each used once. A network with others is
    refused, and so is a map that misses what defines it: a sum of f(image) - f(baseline).

    Source: Shrikumar, Greenside, Kundaje, "Learning Important Features Through Propagating
    Activation Differences", ICML 2017.

    Raises:
        DoesNotApplyError: the network attends, normalises by layer, pools the largest, uses a
            module twice, or computes what is not linear outside of modules.
    """
    calls = _count_calls(subject)
    kinds = {type(m).__name__ for m in calls if not isinstance(m, (*WITH_RULE, *LINEAR))}
    if kinds:
        raise _does_not_apply(f"it has no rule for {', '.join(sorted(kinds))}")
    for module, count in calls.items():
        if count > 1 and isinstance(module, WITH_RULE):
            raise _does_not_apply(f"one {type(module).__name__} is used {count} times")
    with _captum(subject) as attr, _not_in_place(subject.network):
        attribution = attr.DeepLift(subject.network).attribute(
            _leaf(subject.image), subject.baseline, target=subject.target
        )
    map_ = _over_channels(attribution)
    error = completeness_error(subject, map_)
    if error > EXACT:
        raise _does_not_apply(
            f"it has no rule for what is computed outside of modules (the sum is {error:.1%} off)"
        )
    return map_


def gradient_shap(subject: Subject) -> Tensor:
    """Expected gradients at random points between the image and training images.

    Source: Lundberg, Lee, "A Unified Approach to Interpreting Model Predictions", NeurIPS 2017.
    """
    with _captum(subject) as attr:
        gradients = attr.GradientShap(subject.network)
        count = -(-SHAP_SAMPLES // subject.batch_size)
        parts = [
            gradients.attribute(
                _leaf(subject.image),
                subject.references,
                n_samples=min(SHAP_SAMPLES, subject.batch_size),
                target=subject.target,
            )
            for _ in range(count)
        ]
    return _over_channels(torch.stack(parts).mean(dim=0))


def occlusion(subject: Subject) -> Tensor:
    """What the logit loses where a square window of the image has one colour.

    Source: Zeiler, Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014.
    """
    side = max(1, subject.image.shape[-1] // WINDOWS)
    stride = max(1, side // 2)
    with _captum(subject) as attr, torch.no_grad():
        attribution = attr.Occlusion(subject.network).attribute(
            subject.image,
            sliding_window_shapes=(3, side, side),
            strides=(3, stride, stride),
            baselines=subject.baseline,
            target=subject.target,
            perturbations_per_eval=subject.batch_size,
        )
    map_: Tensor = attribution[0, 0].detach()  # alike in all channels, which go together
    return map_


METHODS: dict[str, Callable[[Subject], Tensor]] = {
    "integrated-gradients": integrated_gradients,
    "noise-tunnel": noise_tunnel,
    "deep-lift": deep_lift,
    "gradient-shap": gradient_shap,
    "occlusion": occlusion,
}
COMPLETE = ("integrated-gradients", "deep-lift")
"""Methods whose maps sum to f(image) - f(baseline)."""


def completeness_error(subject: Subject, map_: Tensor) -> float:
    """How far the sum of a map is from f(image) - f(baseline), as a share of that.

    Of a difference below 1 (of logits) the share is of 1: near 0 it would say nothing.
    """
    error = abs(float(map_.double().sum()) - subject.difference)
    return error / max(1.0, abs(subject.difference))


def _does_not_apply(reason: str) -> DoesNotApplyError:
    others = ", ".join(name for name in METHODS if name != "deep-lift")
    return DoesNotApplyError(
        f"deep-lift does not apply to this classifier: {reason}; choose from {others}"
    )


def _leaf(image: Tensor) -> Tensor:
    return image.clone().requires_grad_()


def _over_channels(attribution: Tensor) -> Tensor:
    """(1, 3, S, S) -> (S, S)."""
    return attribution.detach()[0].sum(dim=0)


@contextmanager
def _captum(subject: Subject) -> Iterator[Any]:
    """`captum.attr`, its random numbers those of the seed, and its hints kept quiet."""
    import captum.attr  # half a second: only for those who use it

    numpy_state = np.random.get_state()  # noqa: NPY002 - Captum draws from it
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="captum")
        torch.manual_seed(subject.seed)
        np.random.seed(subject.seed)  # noqa: NPY002
        try:
            yield captum.attr
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002


def _count_calls(subject: Subject) -> Counter[nn.Module]:
    """How often each module without children runs for an image."""
    counts: Counter[nn.Module] = Counter()

    def count(module: nn.Module, *_: Any) -> None:
        counts[module] += 1

    modules = [m for m in subject.network.modules() if not [*m.children()]]
    hooks = [module.register_forward_hook(count) for module in modules]
    try:
        subject.logits(subject.image)
    finally:
        for hook in hooks:
            hook.remove()
    return counts


@contextmanager
def _not_in_place(network: nn.Module) -> Iterator[None]:
    """Within it no ReLU overwrites its input, which the rule compares."""
    relus = [m for m in network.modules() if isinstance(m, nn.ReLU) and m.inplace]
    for relu in relus:
        relu.inplace = False
    try:
        yield
    finally:
        for relu in relus:
            relu.inplace = True
