"""Reads params.yaml."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import sys
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import yaml

from rapipe.config.schema import LISTED, Params
from rapipe.errors import UserError, sentence
from rapipe.io import text
from rapipe.io.text import quoted


def load(path: Path) -> Params:
    """Read and check a params file.

    Raises:
        UserError: the file is missing or is no YAML, or a key is unknown,
            missing, of the wrong type or out of range. The message has the
            full key, the value and the valid choices.
    """
    try:
        raw = yaml.load(text.read_text(path), Loader=_Loader)
    except FileNotFoundError:
        raise UserError(
            f"no {path} in {Path.cwd()}: run this at the top of a rapipe project"
        ) from None
    except RecursionError:
        raise UserError(f"{path} is nested too deeply: it has groups, keys and lists") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {sentence(error)}") from None
    return parse(raw)


def parse(raw: object) -> Params:
    """Turn the mapping that params.yaml holds into `Params`, or raise `UserError`."""
    parsed: Params = _parse(Params, raw, "")
    return parsed


class _Loader(text.DepthLimited, yaml.SafeLoader):
    """YAML of texts, numbers, true and false, lists and mappings; it refuses all else.

    Numbers and booleans are those of YAML 1.2, as DVC reads them: 1e-3 is a number, 010 is ten,
    yes is a text. Keys are names, and none stands twice; so `<<` merges nothing.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        found: dict[Any, Any] = {}
        if not isinstance(node, yaml.MappingNode):
            line = node.start_mark.line + 1
            raise yaml.YAMLError(f"what is tagged map is no mapping (line {line})")
        for own, value in node.value:
            key = self.construct_object(own, deep=True)
            line = own.start_mark.line + 1
            if not isinstance(key, str):
                raise yaml.YAMLError(f"the key {quoted(key)} is not a name (line {line})")
            if key in found:
                raise yaml.YAMLError(f"the key {quoted(key)} stands twice (line {line})")
            found[key] = self.construct_object(value, deep=deep)
        return found

    def construct_known(self, node: yaml.ScalarNode) -> Any:
        """What a scalar means whose tag is one of `_SCALARS`, written or not."""
        written = str(self.construct_scalar(node))
        name = node.tag.rpartition(":")[2]
        pattern, meaning, _ = _SCALARS[name]
        if not pattern.fullmatch(written):
            line = node.start_mark.line + 1
            raise yaml.YAMLError(f"{quoted(written)} is tagged {name}, but is none (line {line})")
        return meaning(written)

    def construct_unknown(self, node: yaml.Node) -> Any:
        line = node.start_mark.line + 1
        raise yaml.YAMLError(f"the tag {quoted(node.tag)} is not read (line {line})")


DIGITS = 1000
"""More of them make an integer that Python is slow to read; none that is valid has so many."""
_SCALARS: dict[str, tuple[re.Pattern[str], Callable[[str], Any], str]] = {
    "null": (re.compile("~|null|Null|NULL|"), lambda _: None, "~nN"),
    "bool": (
        re.compile("true|True|TRUE|false|False|FALSE"),
        lambda written: written.lower() == "true",
        "tTfF",
    ),
    "int": (
        re.compile("[-+]?[0-9][0-9_]*"),
        lambda written: int(written.replace("_", "")[:DIGITS]),
        "-+0123456789",
    ),
    "float": (
        re.compile(
            r"[-+]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?"
            r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
        ),
        lambda written: float(re.sub(r"_|\.(?=[iInN])", "", written)),
        "-+0123456789.",
    ),
}
"""How each is written, what it means, and the letters that it begins with; in this order."""


_Loader.yaml_implicit_resolvers, _Loader.yaml_constructors = {}, {}
for _name, (_pattern, _, _first) in _SCALARS.items():
    _tag, _whole = f"tag:yaml.org,2002:{_name}", re.compile(f"({_pattern.pattern})$")
    _Loader.add_implicit_resolver(_tag, _whole, [*_first, *([""] if _name == "null" else [])])
    _Loader.add_constructor(_tag, _Loader.construct_known)
for _name in ("str", "seq", "map"):
    _own = getattr(_Loader, f"construct_yaml_{_name}")
    _Loader.add_constructor(f"tag:yaml.org,2002:{_name}", _own)
_Loader.add_constructor(None, _Loader.construct_unknown)


def _parse(kind: Any, value: object, key: str) -> Any:
    """Check `value` against the type `kind`; `key` is its full name, for messages."""
    origin = typing.get_origin(kind)
    if origin is Annotated:
        base, limit = typing.get_args(kind)
        parsed = _parse(base, value, key)
        if parsed not in limit:
            raise UserError(f"{key} is {quoted(value)}; it must be {limit}")
        return parsed
    if origin is tuple:
        if not isinstance(value, list):
            raise UserError(f"{key} is {quoted(value)}; it must be a list")
        if len(value) > LISTED:
            raise UserError(f"{key} has {len(value):,} entries; it may have {LISTED}")
        item = typing.get_args(kind)[0]
        return tuple(_parse(item, v, f"{key}[{i}]") for i, v in enumerate(value))
    if origin is types.UnionType:
        for choice in typing.get_args(kind):
            if type(value) is choice:
                return _parse(str, value, key) if choice is str else value
        names = " or ".join(_TYPE_NAMES[choice] for choice in typing.get_args(kind))
        raise UserError(f"{key} is {quoted(value)}; it must be {names}")
    if dataclasses.is_dataclass(kind):
        return _parse_group(typing.cast(type, kind), value, key)
    if kind is float and type(value) is int:
        most = sys.float_info.max
        value = float(max(-most, min(value, most)))  # of more digits than a float may have
    if type(value) is not kind or (kind is float and not math.isfinite(typing.cast(float, value))):
        raise UserError(f"{key} is {quoted(value)}; it must be {_TYPE_NAMES[kind]}")
    if isinstance(value, str):
        _check_text(value, key)
    return value


def _check_text(value: str, key: str) -> None:
    """Raise `UserError` for what no name and no path of a file has in it."""
    if len(value) > text.MOST_LETTERS:
        raise UserError(
            f"{key} is {quoted(value)}, of {len(value):,} letters; it may have {text.MOST_LETTERS:,}"
        )
    if found := text.UNSEEN.search(value):
        raise UserError(f"{key} is {quoted(value)}; it may not contain {found[0]!r}")


_TYPE_NAMES: dict[type, str] = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
}


def _parse_group(kind: type, value: object, key: str) -> Any:
    where = key or "params.yaml"
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if not isinstance(value, dict):
        raise UserError(f"{where} is {quoted(value)}; it must have the keys {', '.join(fields)}")
    for name in value:
        if name not in fields:
            close = difflib.get_close_matches(name[: text.MOST_LETTERS], fields, n=1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            plain = name.isidentifier() and name.isprintable() and len(name) <= text.WIDTH
            full = f"{key}{'.' if key else ''}{name if plain else quoted(name)}"
            raise UserError(f"{full} is no parameter{hint}; {where} has {', '.join(fields)}")
    types_ = typing.get_type_hints(kind, include_extras=True)
    parsed = {}
    for name, field in fields.items():
        full = f"{key}.{name}" if key else name
        if name in value:
            parsed[name] = _parse(types_[name], value[name], full)
        elif field.default is dataclasses.MISSING:
            raise UserError(f"{full} is missing; {where} has {', '.join(fields)}")
    return kind(**parsed)
