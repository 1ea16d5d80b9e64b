"""What the model says of itself: params.schema.json for editors, and the comments of params.yaml.

`python -m rapipe.config.json_schema` (`make schema`) writes both, and the preset that params.yaml
is; a test fails where they are not current.
"""

from __future__ import annotations

import json
import re
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from pydantic import TypeAdapter

from rapipe import paths
from rapipe.config.corpus_params import SourceParams
from rapipe.config.schema import Params
from rapipe.io.atomic import atomic_write

SCHEMA = Path("params.schema.json")
DEFAULT = Path(__file__).parent / "presets/digits.yaml"
LINE = re.compile(r"(?P<start>(?P<indent> *)(- )?(?P<key>[a-z_]+):( [^#]*[^# ])?) *(#.*)?")
"""A key of a params file, its value and its comment."""


def json_schema() -> str:
    """The JSON Schema of params.yaml: every key of a group is needed, and has its comment."""
    schema = TypeAdapter(Params).json_schema()
    for kind in _groups(Params):
        part = schema if kind is Params else schema["$defs"][kind.__name__]
        part["required"] = ["kind"] if kind is SourceParams else list(part["properties"])
        for name, value in part["properties"].items():
            if kind is not SourceParams:
                value.pop("default", None)
            value.pop("title", None)
            value.pop("changes_results", None)
            if comment := description(kind, name):
                value["description"] = comment
    return json.dumps(schema, indent=2) + "\n"


def commented(text: str) -> str:
    """A params file with the model's comment behind each key that has one."""
    lines, kind, groups = [], Params, get_type_hints(Params)
    for line in text.split("\n"):
        if match := LINE.fullmatch(line):
            depth, key = len(match["indent"]), match["key"]
            comment = description((Params, kind, SourceParams)[min(depth // 2, 2)], key)
            line = f"{match['start']} # {comment}" if comment else match["start"]
            kind = kind if depth else groups[key]
        lines.append(line)
    return "\n".join(lines)


def description(kind: type, name: str) -> str:
    """What the model says of a key, in one line: in the group, or in the spec that it inherits."""
    for base in kind.__mro__:
        field = base.__dict__.get("__pydantic_fields__", {}).get(name)
        if field is not None and field.description:
            return " ".join(field.description.split())
    return ""


def _groups(kind: Any) -> list[type]:
    """A dataclass, and those of its fields and of their items."""
    types = [part for hint in get_type_hints(kind).values() for part in (hint, *get_args(hint))]
    return [kind, *(group for part in types if is_dataclass(part) for group in _groups(part))]


def main() -> None:
    """Write the schema and the comments, at the top of the project."""
    atomic_write(SCHEMA, json_schema().encode())
    for path in (paths.PARAMS, DEFAULT):
        atomic_write(path, commented(path.read_text()).encode())


if __name__ == "__main__":
    main()
