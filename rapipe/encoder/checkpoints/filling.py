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

from rapipe.encoder.backbones import Backbone
from rapipe.encoder.backbones.resnet import ResNetBackbone
from rapipe.encoder.checkpoints.reading import State
from rapipe.errors import UserError

NET = "net."
"""Our prefix of a library's network inside a backbone."""
COUNTER = "num_batches_tracked"
"""BatchNorm's count of batches, which old files lack and nothing here reads."""
CLASSIFIERS = {"fc", "head", "heads", "head_dist", "classifier", "linear"}
"""Names of classification heads, which a backbone has no use for."""
SLOW = re.compile(r"momentum|slow|target|teacher|(^|[._])(ema|k|key)[._]")
"""In the prefix of a network's moving average, which is taken only where nothing else fits."""
FEW = 3
"""Names that are told of what may be many."""
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
"""What children are called that have numbers in the file, and what it calls `downsample`."""


def fill(backbone: Backbone, state: State, place: str) -> str:
    """Load a checkpoint into a backbone; returns a sentence of what was found and left out.

    It may have the names of rapipe, torchvision, timm, solo-learn or lightly (its own ResNet,
    or `nn.Sequential` of a ResNet's children), below any prefix. Where a timm model has a way
    to resample position and patch embeddings to its image and patch size, it is taken.

    A file holds no strides and no padding: with a 3x3 stem, `train.stem` must be what it was
    in that pretraining. solo-learn's for CIFAR pads by 2, where ours pads by 1.

    Raises:
        UserError: a tensor of the backbone is missing or has another shape, or the checkpoint
            is of a larger network, or its values are no numbers. Nothing is loaded then.
    """
    own = backbone.state_dict()
    inner = NET if all(name.startswith(NET) for name in own) else ""
    wanted = {name.removeprefix(inner): tensor for name, tensor in own.items()}
    form, prefix = _found(wanted, state, place)
    held = {
        _translated(name.removeprefix(prefix), form): tensor
        for name, tensor in state.items()
        if name.startswith(prefix)
    }
    fitted = _fitted(backbone, wanted, held, place)
    for name, tensor in wanted.items():
        if name in fitted and not fitted[name].to(tensor.dtype).isfinite().all():
            raise UserError(f"train.init: {name} in {place} holds values that are not finite")
    backbone.load_state_dict({inner + n: fitted.get(n, tensor) for n, tensor in wanted.items()})
    taken = [name for name in wanted if name in fitted]
    where = f" under {prefix!r}" if prefix else ""
    resampled = [n for n in taken if n in held and held[n].shape != fitted[n].shape]
    sizes = f"; resampled to this image and patch size: {_some(resampled)}" if resampled else ""
    left = _left_out(wanted, state, form, prefix)
    return f"{place}: {len(taken)} tensors, found {form}{where}{sizes}; left out: {left}"


def _translated(name: str, form: str) -> str:
    """What we call a tensor that a file of this form calls so."""
    children, shortcut = FORMS[form]
    first, dot, rest = name.partition(".")
    if first.isdecimal() and int(first) < len(children):
        first = children[int(first)]
    return f"{first}{dot}{rest}".replace(f".{shortcut}.", ".downsample.")


def _found(wanted: Iterable[str], state: State, place: str) -> tuple[str, str]:
    """The form and prefix under which a file has most of the names; `UserError` if under half."""
    names, votes = set(wanted), Counter[tuple[str, str]]()
    for name in state:
        starts = [0, *(dot.end() for dot in re.finditer(r"\.", name))]
        votes.update(
            (form, name[:start])
            for start in starts
            for form in FORMS
            if _translated(name[start:], form) in names
        )
    best = max(votes, key=lambda key: (votes[key], not SLOW.search(key[1])), default=None)
    if best is None or 2 * votes[best] < len(names):
        raise UserError(
            f"train.init is {place!r}, which is of another network: it has tensors such as "
            f"{next(iter(state))!r}, and the backbone such as {next(iter(wanted))!r}"
        )
    return best


def _fitted(backbone: Backbone, wanted: State, held: State, place: str) -> State:
    """The tensors in the backbone's shapes, converted by timm if need be; else `UserError`."""
    problem = _problem(backbone, wanted, held, place)
    if not problem:
        return held
    converted = _converted(backbone, held)
    if _problem(backbone, wanted, converted, place):
        raise UserError(problem)
    return converted


def _problem(backbone: Backbone, wanted: State, held: State, place: str) -> str:
    """Why these tensors are not those of the backbone, in a sentence; empty if they are."""
    tops = {name.split(".")[0] for name in wanted}
    for name, tensor in wanted.items():
        if name in held and held[name].shape != tensor.shape:
            return (
                f"train.init: {name} is {tuple(held[name].shape)} in {place} but "
                f"{tuple(tensor.shape)} in the backbone: {_mended(backbone, wanted, held)}"
            )
    for name in wanted:
        if name not in held and not name.endswith(COUNTER):
            return f"train.init is {place!r}, which lacks {name}: it is of another network"
    for name in held:
        parts = name.split(".")
        if name not in wanted and parts[0] in tops and not CLASSIFIERS & set(parts):
            return f"train.init is {place!r}, which has {name} too: it is of a larger network"
    return ""


def _mended(backbone: Backbone, wanted: State, held: State) -> str:
    """What to set so that the shapes of a checkpoint fit."""
    names = "layer1.0.conv1.weight", "conv1.weight"
    if isinstance(backbone, ResNetBackbone) and all(name in held for name in names):
        (width, own_width), (side, own_side) = (
            (held[name].shape[axis], wanted[name].shape[axis])
            for name, axis in zip(names, (0, -1), strict=True)
        )
        settings = [f"train.width to {width}"] if width != own_width else []
        if side != own_side and side in STEMS:
            settings.append(f"train.stem to {STEMS[side]}")
        if settings:
            return f"set {' and '.join(settings)}, as in that checkpoint"
    return "it is of another network, or of other settings"


def _converted(backbone: Backbone, held: State) -> State:
    """The tensors as timm converts them for this very model; as they are if it cannot."""
    net = getattr(backbone, "net", None)
    convert = getattr(inspect.getmodule(type(net)), "checkpoint_filter_fn", None)
    try:
        with warnings.catch_warnings():
            # timm's table of relative positions; its result is what it should be in this torch
            warnings.filterwarnings("ignore", "torch.searchsorted|Using a non-tuple", UserWarning)
            return dict(convert(dict(held), net)) if convert else held
    except Exception:  # of any kind: each is written for the files of one family
        return held


def _some(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return ", ".join(names[:FEW]) + more


def _left_out(wanted: Iterable[str], state: State, form: str, prefix: str) -> str:
    """Names with the number of tensors that were not taken, such as `fc (2), projector (6)`."""
    names, counts = set(wanted), Counter[str]()
    for name in state:
        inside = name.startswith(prefix)
        if not (inside and _translated(name.removeprefix(prefix), form) in names):
            shared = prefix if inside else _shared(name, prefix)
            counts[shared + name.removeprefix(shared).split(".")[0]] += 1
    return ", ".join(f"{name} ({n})" for name, n in counts.items()) or "nothing"


def _shared(name: str, prefix: str) -> str:
    """The steps that the two have in common, such as `module.`."""
    steps = [""]
    for ours, theirs in zip(prefix.split(".")[:-1], name.split("."), strict=False):
        if ours != theirs:
            break
        steps.append(f"{ours}.")
    return "".join(steps)
