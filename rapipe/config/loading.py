"""Reads params.yaml: one sentence names the key, the value and the choices."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from pydantic import TypeAdapter, ValidationError
from ruamel.yaml.composer import MaxDepthExceededError
from ruamel.yaml.error import YAMLError

from rapipe.config.corpus_params import SourceParams
from rapipe.config.schema import Params
from rapipe.config.variants import variants
from rapipe.config.yaml_text import read_yaml
from rapipe.errors import UserError, sentence
from rapipe.io import text
from rapipe.io.text import quoted
from rapipe.specs import LISTED

RENAMED = {
    **{
        f"train.{name}": f"classifiers.{name}"
        for name in ("backbones", "seeds", "init", "distill", "distill_temperature", "noise_std")
    },
    "retrieval.places": "retrieval.stages",
}
"""Keys that older versions read."""
LONGEST_NAME = 200
"""Bytes of a variant's name, of which files are called; they may have 255 with what is added."""
TYPES = {
    "integer": "a whole number",
    "number": "a number",
    "string": "a text",
    "boolean": "true or false",
    "array": "a list",
    "object": "a mapping of texts",
}
"""What a type of JSON Schema is called in a message."""


def load(path: Path) -> Params:
    """Read and check a params file.

    Raises:
        UserError: the file is missing or is no YAML, or a key is unknown,
            missing, of the wrong type or out of range. The message has the
            full key, the value and the valid choices.
    """
    try:
        raw = read_yaml(text.read_text(path))
    except FileNotFoundError:
        raise UserError(
            f"no {path} in {Path.cwd()}: run this at the top of a rapipe project, or make one with "
            "rapipe init"
        ) from None
    except (MaxDepthExceededError, RecursionError):
        raise UserError(f"{path} is nested too deeply: it has groups, keys and lists") from None
    except YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {sentence(error)}") from None
    return parse(raw)


def parse(raw: object) -> Params:
    """Turn the mapping that params.yaml holds into `Params`, or raise `UserError`."""
    for key, now in RENAMED.items():
        group, name = key.split(".")
        content = raw.get(group) if isinstance(raw, dict) else None
        if isinstance(content, dict) and name in content:
            raise UserError(f"{key} is called {now} now: write {quoted(content[name])} there")
    params: Params = _parse_group(Params, raw, "")
    for variant in variants(params):
        size = len(variant.name.encode())
        if size > LONGEST_NAME:
            raise UserError(
                f"results of {quoted(variant.name)} would have a name of {size} bytes, and files "
                f"can be called by {LONGEST_NAME}: give the sources of retrieval.bank shorter names"
            )
    return params


def _parse_group(kind: type, raw: object, key: str) -> Any:
    """A dataclass of the model from a mapping; `key` is its full name."""
    parsed = {}
    types = get_type_hints(kind)
    for name, value in _checked_keys(kind, raw, key).items():
        full = f"{key}.{name}" if key else name
        if is_dataclass(types[name]):
            parsed[name] = _parse_group(types[name], value, full)
        elif not isinstance(value, list | dict):
            parsed[name] = _checked_text(value, full)
        elif len(value) > LISTED:
            raise UserError(f"{full} has {len(value):,} entries; it may have {LISTED}")
        elif isinstance(value, dict):
            parsed[name] = {
                _checked_text(k, full): _checked_text(v, full) for k, v in value.items()
            }
        elif SourceParams in get_args(types[name]):
            sources = enumerate(value)
            parsed[name] = tuple(_parse_group(SourceParams, v, f"{full}[{i}]") for i, v in sources)
        else:
            parsed[name] = tuple(_checked_text(v, f"{full}[{i}]") for i, v in enumerate(value))
    try:
        return kind(**parsed)
    except ValidationError as error:
        raise UserError(_sentence(kind, raw, key, error)) from None


def _checked_keys(kind: type, raw: object, key: str) -> Mapping[str, Any]:
    """The mapping, if it has the keys of a dataclass and no others.

    Every key is needed in a group, whatever default a library function has; not in a source.
    """
    where, names = key or "params.yaml", [field.name for field in fields(kind)]
    if not isinstance(raw, dict):
        raise UserError(f"{where} is {quoted(raw)}; it must have the keys {', '.join(names)}")
    for name in raw:
        if name not in names:
            close = difflib.get_close_matches(name[: text.MAX_CHARACTERS], names, n=1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            plain = name.isidentifier() and name.isprintable() and len(name) <= text.WIDTH
            full = f"{key}{'.' if key else ''}{name if plain else quoted(name)}"
            raise UserError(f"{full} is no parameter{hint}; {where} has {', '.join(names)}")
    for name in names if kind is not SourceParams else ("kind",):
        if name not in raw:
            full = f"{key}.{name}" if key else name
            raise UserError(f"{full} is missing; {where} has {', '.join(names)}")
    return raw


def _checked_text(value: object, key: str) -> object:
    """A value; `UserError` for a text that has what no name and no path of a file has in it."""
    if not isinstance(value, str):
        return value
    if len(value) > text.MAX_CHARACTERS:
        raise UserError(
            f"{key} is {quoted(value)}, of {len(value):,} letters; it may have "
            f"{text.MAX_CHARACTERS:,}"
        )
    if unseen := text.UNPRINTABLE.search(value):
        raise UserError(f"{key} is {quoted(value)}; it may not contain {unseen[0]!r}")
    return value


def _sentence(kind: type, raw: Any, key: str, error: ValidationError) -> str:
    """The first mistake that pydantic found in a group: the key, its value and what it must be."""
    first = error.errors(include_url=False)[0]
    name, *inside = first["loc"]
    schema, value = TypeAdapter(kind).json_schema()["properties"][name], raw[name]
    full = f"{key}.{name}" if key else str(name)
    if inside and isinstance(inside[0], int):
        schema, value, full = schema["items"], value[inside[0]], f"{full}[{inside[0]}]"
    is_number = isinstance(value, int) and not isinstance(value, bool)  # maybe of too many digits
    of_type = first["type"].endswith("_type") or first["type"] == "finite_number"
    if "enum" in schema:
        choices = "one of " + ", ".join(schema["enum"])
    elif of_type and not (is_number and schema.get("type") == "number"):
        kinds = schema.get("anyOf", [schema]) if "type" not in schema else [schema]
        choices = " or ".join(TYPES[choice["type"]] for choice in kinds)
    else:
        choices = " ".join(_range(schema))
    return f"{full} is {quoted(value)}; it must be {choices}"


def _range(schema: Mapping[str, Any]) -> Iterator[str]:
    """What numbers a JSON Schema allows, in words."""
    low, high = schema.get("minimum"), schema["maximum"]
    if "multipleOf" in schema:
        yield f"a multiple of {schema['multipleOf']}"
    if "anyOf" in schema:
        yield "0, or"
        low = schema["anyOf"][1]["minimum"]
    if low is None:
        yield f"more than {schema['exclusiveMinimum']:g}, up to {high:g}"
    elif schema["type"] == "integer" and "multipleOf" not in schema:
        yield f"at least {low:,}, and at most {high:,}"
    else:
        yield f"from {low:g} to {high:g}"
