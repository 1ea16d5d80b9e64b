"""Settings by name, written over params.yaml: one file and one line in `PRESETS` each.

The first line of a file says what it is and what it costs. `digits.yaml` is
then a whole params file with its comments; every other file holds only what
differs from it.
"""

from __future__ import annotations

from importlib.resources import files
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import MaxDepthExceededError

from rapipe.config.yaml_text import DEEPEST
from rapipe.errors import UserError, sentence
from rapipe.io import text
from rapipe.io.atomic import atomic_write

DEFAULT = "digits"
PRESETS = (
    *("digits", "tiny", "own-images"),
    *("cifar10-cpu", "cifar10", "cifar10-mixed", "stl10", "simclr", "study-cpu", "study"),
)


def describe(name: str) -> str:
    """What a preset is, and what it costs."""
    return _file(name)[0].removeprefix("# ")


def write(name: str, path: Path) -> None:
    """Give every parameter in the file `path` the preset's value, keeping its comments.

    The file is made if it is missing. Keys that the preset does not know stay
    as they are, for validation to refuse.

    Raises:
        UserError: no preset has this name, or the file is no YAML mapping.
    """
    if name not in PRESETS:
        raise UserError(f"there is no preset {text.quoted(name)}; choose from {', '.join(PRESETS)}")
    yaml = YAML()
    yaml.max_depth, yaml.width = DEEPEST, 1000
    yaml.indent(mapping=2, sequence=4, offset=2)
    values = yaml.load(_text(DEFAULT))
    written = StringIO()
    try:
        present = yaml.load(text.read_text(path)) if path.exists() else values
        if not isinstance(present, dict):
            raise UserError(f"{path} holds no parameters: delete it, then run this again")
        _assign(present, values)
        _assign(present, yaml.load(_text(name)))
        yaml.dump(present, written)
        raw = written.getvalue().encode()
    except UserError:
        raise
    except (MaxDepthExceededError, RecursionError):
        raise UserError(f"{path} is nested too deeply: delete it, then run this again") from None
    except Exception as error:  # of any kind: odd tags make ruamel raise whatever there is
        raise UserError(f"{path} is not valid YAML: {sentence(error)}") from None
    atomic_write(path, raw)


def _text(name: str) -> str:
    return _file(name)[1]


def _file(name: str) -> tuple[str, str]:
    """The first line of a preset's file, and the rest."""
    first, _, rest = files(__name__).joinpath(f"{name}.yaml").read_text().partition("\n")
    return first, rest


def _assign(into: Any, values: Any) -> None:
    """Copy values into the mapping, group by group, so that its comments stay."""
    for key, value in values.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _assign(into[key], value)
        elif into.get(key) != value or type(into.get(key)) is not type(value):
            into[key] = value
