"""A backbone's tensors, found by name among those of a checkpoint, and loaded.

They are looked for under the prefix and in the form that hold most of the backbone's
names. All of the backbone is loaded, or nothing.
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections import Counter
from collections.abc import Iterable

import torch

from rapipe.encoder.backbones import Backbone
from rapipe.encoder.backbones.open_clip_models import OpenClipBackbone
from rapipe.encoder.backbones.resnet import ResNetBackbone
from rapipe.encoder.backbones.timm_models import TimmBackbone
from rapipe.encoder.checkpoints.files import State
from rapipe.encoder.checkpoints.resampling import resample_mixer
from rapipe.errors import ArgumentError, UserError

NET = "net."
"""Prefix of a library's network inside a backbone."""
COUNTER = "num_batches_tracked"
"""BatchNorm's count of batches, which old files lack and nothing reads."""
CLASSIFIERS = {"fc", "head", "heads", "head_dist", "classifier", "linear"}
"""Names of classification heads, which a backbone has no use for."""
MOVING_AVERAGE = re.compile(r"momentum|slow|target|(^|[._])(ema|k|key)[._]")
"""In the prefix of a network's moving average, which is loaded only where nothing else fits."""
TEACHER = re.compile(r"teacher")
"""In the prefix of the average that DINO's authors publish, which comes before the student."""
MAX_LISTED = 3
"""Names in a message."""
STEMS = {7: "imagenet", 3: "cifar or half"}
"""By the side of the first kernel."""
STAGES = ("layer1", "layer2", "layer3", "layer4")
FORMS: dict[str, tuple[tuple[str, ...], str]] = {
    "by its own names": ((), "downsample"),
    "as nn.Sequential of a ResNet's children": (
        ("conv1", "bn1", "relu", "maxpool", *STAGES),
        "downsample",
    ),
    "by lightly's names": ((), "shortcut"),
    "as nn.Sequential of lightly's ResNet's children": (("conv1", "bn1", *STAGES), "shortcut"),
}
"""By form of a file: names of the children that it numbers, and its name of `downsample`."""


def fill(backbone: Backbone, state: State, init: str) -> str:
    """Load what `read(init)` returned; returns a sentence on what was loaded and left out.

    It may have the names of rapipe, torchvision, timm, solo-learn or lightly (its own ResNet,
    or `nn.Sequential` of a ResNet's children), below any prefix. What of a timm model depends on
    the size of images and patches is resampled: positions, patch embeddings, and layers that mix
    tokens.

    A file holds no strides and no padding: with a 3x3 stem, `stem` must be what it was
    in that pretraining. solo-learn's for CIFAR pads by 2, where ours pads by 1.

    Raises:
        ArgumentError: a tensor of the backbone is missing or has another shape, or the checkpoint
            is of a larger network, or its values are no numbers. Nothing is loaded then.
    """
    network = backbone.state_dict()
    inner = NET if all(name.startswith(NET) for name in network) else ""
    targets = {name.removeprefix(inner): tensor for name, tensor in network.items()}
    form, prefix = _find_form(targets, state, init)
    original = {
        _translate(name.removeprefix(prefix), form): tensor
        for name, tensor in state.items()
        if name.startswith(prefix)
    }
    fitted = _fit(backbone, targets, original, init)
    for name, tensor in targets.items():
        if name in fitted and not fitted[name].to(tensor.dtype).isfinite().all():
            raise ArgumentError(f"`init`: {name} in {init} holds values that are not finite")
    backbone.load_state_dict({inner + n: fitted.get(n, tensor) for n, tensor in targets.items()})
    loaded = [name for name in targets if name in fitted]
    under = f" under {prefix!r}" if prefix else ""
    resampled = [n for n in loaded if n in original and original[n].shape != fitted[n].shape]
    sizes = f"; resampled to this image and patch size: {_shorten(resampled)}" if resampled else ""
    unused = _list_unused(targets, state, form, prefix)
    return f"{init}: {len(loaded)} tensors, found {form}{under}{sizes}; left out: {unused}"


def _translate(name: str, form: str) -> str:
    """Our name of a tensor that has this name in a file of this form."""
    children, shortcut = FORMS[form]
    first, dot, rest = name.partition(".")
    if first.isdecimal() and int(first) < len(children):
        first = children[int(first)]
    return f"{first}{dot}{rest}".replace(f".{shortcut}.", ".downsample.")


def _find_form(targets: Iterable[str], state: State, init: str) -> tuple[str, str]:
    """Form and prefix under which a file has most of the names; refused if fewer than half."""
    names, votes = set(targets), Counter[tuple[str, str]]()
    for name in state:
        starts = [0, *(dot.end() for dot in re.finditer(r"\.", name))]
        votes.update(
            (form, name[:start])
            for start in starts
            for form in FORMS
            if _translate(name[start:], form) in names
        )
    best = max(votes, key=lambda key: (votes[key], _preference(key[1])), default=None)
    if best is None or 2 * votes[best] < len(names):
        raise ArgumentError(
            f"`init` is {init!r}, which is of another network: it has tensors such as "
            f"{next(iter(state))!r}, and the backbone such as {next(iter(targets))!r}"
        )
    return best


def _preference(prefix: str) -> int:
    """The higher, the rather a network under this prefix is the one to load."""
    return 2 if TEACHER.search(prefix) else 0 if MOVING_AVERAGE.search(prefix) else 1


def _fit(backbone: Backbone, targets: State, tensors: State, init: str) -> State:
    """The tensors in the backbone's shapes, converted by its library if need be; else refused."""
    problem = _problem(backbone, targets, tensors, init)
    if not problem:
        return tensors
    converted = resample_mixer(_convert(backbone, tensors), targets)
    if _problem(backbone, targets, converted, init):
        raise ArgumentError(problem)
    return converted


def _problem(backbone: Backbone, targets: State, tensors: State, init: str) -> str:
    """Why these tensors are not those of the backbone, in a sentence; empty if they are."""
    children = {name.split(".")[0] for name in targets}
    for name, target in targets.items():
        if name in tensors and tensors[name].shape != target.shape:
            return (
                f"`init`: {name} is {tuple(tensors[name].shape)} in {init} but "
                f"{tuple(target.shape)} in the backbone: {_remedy(backbone, targets, tensors)}"
            )
    for name in targets:
        if name not in tensors and not name.endswith(COUNTER):
            return f"`init` is {init!r}, which lacks {name}: it is of another network"
    for name in tensors:
        parts = name.split(".")
        if name not in targets and parts[0] in children and not CLASSIFIERS & set(parts):
            return f"`init` is {init!r}, which has {name} too: it is of a larger network"
    return ""


def _remedy(backbone: Backbone, targets: State, tensors: State) -> str:
    """What to set so that the shapes of a checkpoint fit."""
    names = "layer1.0.conv1.weight", "conv1.weight"
    if isinstance(backbone, ResNetBackbone) and all(name in tensors for name in names):
        (width, target_width), (side, target_side) = (
            (tensors[name].shape[axis], targets[name].shape[axis])
            for name, axis in zip(names, (0, -1), strict=True)
        )
        settings = [f"`width` to {width}"] if width != target_width else []
        if side != target_side and side in STEMS:
            settings.append(f"`stem` to {STEMS[side]}")
        if settings:
            return f"set {' and '.join(settings)}, as in that checkpoint"
    if isinstance(backbone, TimmBackbone):
        own_size = backbone.net.pretrained_cfg["input_size"][-1]
        for size in dict.fromkeys((backbone.image_size, own_size)):
            if _fits(backbone.name, size, tensors):
                return (
                    "not all that depends on the size of patches can be resampled: set `stem` "
                    f"to imagenet and `image_size` to {size}, or a larger one for more patches"
                )
    return "it is of another network, or of other settings"


def _fits(name: str, image_size: int, tensors: State) -> bool:
    """Whether a model of timm with its own patches takes them, at this size of images."""
    try:
        with torch.device("meta"):  # its shapes are enough
            backbone = TimmBackbone(name, "imagenet", image_size)
    except UserError:
        return False
    targets = {name.removeprefix(NET): tensor for name, tensor in backbone.state_dict().items()}
    converted = resample_mixer(_convert(backbone, tensors), targets)
    absent = torch.empty(0)
    return all(converted.get(n, absent).shape == tensor.shape for n, tensor in targets.items())


def _convert(backbone: Backbone, tensors: State) -> State:
    """The tensors as their library converts them for this very model; as they are if it cannot."""
    net = getattr(backbone, "net", None)
    convert = getattr(inspect.getmodule(type(net)), "checkpoint_filter_fn", None)
    try:
        with warnings.catch_warnings():
            # timm's table of relative positions; its result is what it should be in this torch
            warnings.filterwarnings("ignore", "torch.searchsorted|Using a non-tuple", UserWarning)
            if isinstance(backbone, OpenClipBackbone):
                return backbone.adapt(tensors)
            return dict(convert(dict(tensors), net)) if convert else tensors
    except Exception:  # of any kind: each is written for the files of one family
        return tensors


def _shorten(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(names[:MAX_LISTED]) + more


def _list_unused(targets: Iterable[str], state: State, form: str, prefix: str) -> str:
    """Names with the number of tensors that were not loaded, such as `fc (2), projector (6)`."""
    names, counts = set(targets), Counter[str]()
    for name in state:
        inside = name.startswith(prefix)
        if not (inside and _translate(name.removeprefix(prefix), form) in names):
            common = prefix if inside else _common_steps(name, prefix)
            counts[common + name.removeprefix(common).split(".")[0]] += 1
    return ", ".join(f"{name} ({n})" for name, n in counts.items()) or "nothing"


def _common_steps(name: str, prefix: str) -> str:
    """The first steps that the two have in common, such as `module.`."""
    steps = [""]
    for step, other in zip(prefix.split(".")[:-1], name.split("."), strict=False):
        if step != other:
            break
        steps.append(f"{step}.")
    return "".join(steps)
