"""YAML 1.2 of texts, numbers, true and false, lists and mappings; all else is refused.

>>> read_yaml("k: 1e-3")
{'k': 0.001}
"""

from __future__ import annotations

import re
from collections.abc import Callable
from io import StringIO
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode
from ruamel.yaml.resolver import VersionedResolver
from ruamel.yaml.tag import Tag

from rapipe.io.text import quoted

DEEPEST = 20
"""Levels of lists and mappings within each other."""
DIGITS = 1000
"""More of them make an integer that Python is slow to read; none that is valid has so many."""
STANDARD = "tag:yaml.org,2002:"
SCALARS: dict[str, tuple[re.Pattern[str], Callable[[str], Any]]] = {
    "null": (re.compile("~|null|Null|NULL|"), lambda _: None),
    "bool": (
        re.compile("true|True|TRUE|false|False|FALSE"),
        lambda text: text.lower() == "true",
    ),
    "int": (re.compile("[-+]?[0-9][0-9_]*"), lambda text: int(text.replace("_", "")[:DIGITS])),
    "float": (
        re.compile(
            r"[-+]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?"
            r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
        ),
        lambda text: float(re.sub(r"_|\.(?=[iInN])", "", text)),
    ),
}
"""Of each kind: how it is written, as DVC reads it too, and what it means; in this order."""


def read_yaml(text: str) -> Any:
    """The one document of a text.

    Raises:
        YAMLError: it is no YAML, is nested deeply, has a tag or a key twice.
    """
    return _reader().load(text)


def compose_yaml(text: str) -> tuple[Node, Any]:
    """The node of the one document of a text, which knows where it stands in it, and its content.

    Raises:
        YAMLError: as `read_yaml`.
    """
    yaml = _reader()
    node = yaml.compose(text)
    return node, yaml.constructor.construct_document(node) if node else None


def _reader() -> Any:
    yaml = YAML(typ="safe", pure=True)
    yaml.max_depth = DEEPEST
    yaml.Resolver, yaml.Constructor = _Resolver, _Constructor
    yaml.composer.warn_double_anchors = False
    return yaml


def write_yaml(content: object) -> str:
    """A document in the order of its keys, a line a value."""
    yaml: Any = YAML(typ="safe", pure=True)
    yaml.default_flow_style = yaml.sort_base_mapping_type_on_output = False
    text = StringIO()
    yaml.dump(content, text)
    return text.getvalue()


class _Resolver(VersionedResolver):
    """What a scalar without a tag is: 010 is ten, yes is a text, whatever version is declared."""

    processing_version = (1, 2)

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        if kind is ScalarNode and implicit[0]:
            kinds = (name for name, (pattern, _) in SCALARS.items() if pattern.fullmatch(value))
            return Tag(suffix=STANDARD + next(kinds, "str"))
        return super().resolve(kind, value, implicit)


class _Constructor(SafeConstructor):
    """Keys are names, and none stands twice; so `<<` merges nothing. Tags are refused."""

    yaml_multi_constructors: dict[Any, Any] = {}  # noqa: RUF012

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[str, Any]:
        if not isinstance(node, MappingNode):
            raise _error(node, "what is tagged map is no mapping")
        content: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise _error(key_node, f"the key {quoted(key)} is not a name")
            if key in content:
                raise _error(key_node, f"the key {quoted(key)} stands twice")
            content[key] = self.construct_object(value_node, deep=deep)
        return content

    def construct_known(self, node: Any) -> Any:
        """What a scalar means whose tag is one of `SCALARS`, written or not."""
        text, name = str(self.construct_scalar(node)), node.tag.removeprefix(STANDARD)
        pattern, meaning = SCALARS[name]
        if not pattern.fullmatch(text):
            raise _error(node, f"{quoted(text)} is tagged {name}, but is none")
        return meaning(text)

    def construct_unknown(self, node: Node) -> Any:
        raise _error(node, f"the tag {quoted(node.tag)} is not read")


_Constructor.yaml_constructors = {
    None: _Constructor.construct_unknown,
    **{STANDARD + name: _Constructor.construct_known for name in SCALARS},
    STANDARD + "str": SafeConstructor.construct_yaml_str,
    STANDARD + "seq": SafeConstructor.construct_yaml_seq,
    STANDARD + "map": SafeConstructor.construct_yaml_map,
}


def _error(node: Node, sentence: str) -> YAMLError:
    return YAMLError(f"{sentence} (line {node.start_mark.line + 1})")
