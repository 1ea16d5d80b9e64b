"""The page of parameters, from params.schema.json and the values in params.yaml."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rapipe.config.yaml_text import read_yaml
from website.markdown import plain

INTRODUCTION = """# Parameters

Every key of `params.yaml`, and its value in the default run. A wrong name or value gets one
sentence, before any work. `dvc exp run -S KEY=VALUE` changes one, and `rapipe preset` lists ready
settings.
"""


def write(root: Path, out: Path) -> None:
    """Write `parameters.md` into a folder."""
    schema = json.loads((root / "params.schema.json").read_text())
    values = read_yaml((root / "params.yaml").read_text())
    (out / "parameters.md").write_text("\n".join([INTRODUCTION, *_lines(schema, values)]))


def keys(root: Path) -> set[str]:
    """Every key with the groups before it, such as `retrieval.k`; and the groups."""
    schema = json.loads((root / "params.schema.json").read_text())
    names = set(schema["properties"])
    for group, value in schema["properties"].items():
        if "$ref" in value:
            names |= {f"{group}.{key}" for key in _definition(schema, value)["properties"]}
    return names


def _lines(schema: dict[str, Any], values: dict[str, Any]) -> Iterator[str]:
    for group, value in schema["properties"].items():
        if "$ref" not in value:
            yield f"## {group}\n"
            yield from _entry(value, values[group])
            continue
        definition = _definition(schema, value)
        yield f"## {group}\n\n{definition.get('description', '')}\n"
        for key, described in definition["properties"].items():
            yield f"### {group}.{key}\n"
            yield from _entry(described, values[group][key])
    yield "## A source of corpus.sources\n"
    for key, described in schema["$defs"]["SourceParams"]["properties"].items():
        yield f"### {key} of a source\n"
        yield from _entry(described, described.get("default"))


def _definition(schema: dict[str, Any], value: dict[str, Any]) -> dict[str, Any]:
    """The group that a value refers to."""
    group: dict[str, Any] = schema["$defs"][value["$ref"].rpartition("/")[2]]
    return group


def _entry(described: dict[str, Any], value: object) -> Iterator[str]:
    """What a key means, what it takes, and its value in params.yaml."""
    text = plain(described.get("description", ""))
    if text:
        yield f"{text[0].upper()}{text[1:]}.\n"
    usual = "" if value is None else f" Default: `{_shown(value)}`."
    yield f"{_type(described)}.{usual}\n"


def _shown(value: object) -> str:
    """A value as params.yaml has it on one line; text without quotes unless it is empty."""
    return value if isinstance(value, str) and value else json.dumps(value)


def _type(described: dict[str, Any]) -> str:
    """The type and the range, in words."""
    if "enum" in described:
        return "One of " + ", ".join(f"`{choice}`" for choice in described["enum"])
    kinds = [part["type"] for part in described.get("anyOf", ()) if "type" in part]
    name = " or ".join(kinds) or described.get("type", "object")
    if name == "array":
        item = described["items"]
        inner = "source" if "$ref" in item else _type(item).lower()
        return "List, each: " + inner
    bounds = [
        f"{word} {described[key]:,}"
        for key, word in (
            ("minimum", "from"),
            ("exclusiveMinimum", "above"),
            ("maximum", "to"),
            ("multipleOf", "a multiple of"),
        )
        if key in described
    ]
    return ", ".join([name.capitalize(), *([" ".join(bounds[:2])] if bounds else []), *bounds[2:]])
