"""New values in a YAML file by splicing its text, so that nothing else of it changes.

A dumper has to find a line for each comment of the file, and puts some where they break it.

Terms: a block is a value on lines of its own, below its key; an inline value is any other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, NamedTuple

from ruamel.yaml.nodes import CollectionNode, MappingNode, Node

from rapipe.config.yaml_text import compose_yaml

Edit = tuple[int, int, str]
"""What stands between two characters of a text is replaced by this."""


class Value(NamedTuple):
    """A value of a document."""

    text: str
    """Of the whole document."""
    node: Node
    content: Any

    @property
    def is_block(self) -> bool:
        """Whether it is a block."""
        return isinstance(self.node, CollectionNode) and not self.node.flow_style

    @property
    def is_group(self) -> bool:
        """Whether it is a block of keys."""
        return self.is_block and isinstance(self.node, MappingNode)

    def items(self) -> dict[str, tuple[Node, Value]]:
        """The nodes of the keys of a group, and their values."""
        return {
            key.value: (key, Value(self.text, value, self.content[key.value]))
            for key, value in self.node.value
        }

    def span(self, key: Node) -> tuple[int, int]:
        """Where it stands; a block with the end of line before it, and comments in and under it.

        A comment is under a block if it is indented more than the block's key.
        """
        end = _end(self.text, key, self.node)
        if not self.is_block:
            return min(end, self.node.start_mark.index), end
        end = _line_end(self.text, end)
        comment = re.compile(rf"\n {{{key.start_mark.column + 1},}}#.*")
        while found := comment.match(self.text, end):
            end = found.end()
        return self.text.rindex("\n", 0, self.node.start_mark.index), end


@lru_cache(16)
def _document(text: str) -> Value:
    return Value(text, *compose_yaml(text))


def replace_values(text: str, source: str) -> str:
    """A document with the values of another, whose groups and keys it gets where it lacks them.

    Args:
        text: the document; its comments stay, but for those in a list that is replaced.
        source: a document of groups.

    Raises:
        YAMLError: a document is no YAML.
    """
    old, new = _document(text), _document(source)
    if old.content is None or not old.is_group:  # empty, or all in braces
        return f"{text.rstrip()}\n{source}".lstrip() if old.content is None else source
    edits = sorted(_edits(old, new), key=lambda edit: edit[0])
    for start, end, replacement in reversed(edits):  # from the end, so that no position moves
        text = text[:start] + replacement + text[end:]
    return text.rstrip("\n") + "\n"


def _edits(old: Value, new: Value) -> Iterator[Edit]:
    """What gives a group of the old document the keys and values of a new one."""
    present = old.items()
    for name, (new_key, value) in new.items().items():
        if name in present:
            key, present_value = present[name]
            if present_value.is_group and value.is_group:
                yield from _edits(present_value, value)
            elif repr(present_value.content) != repr(value.content):
                yield from _replacement(key, present_value, new_key, value)
    column = old.node.start_mark.column
    end = _line_end(old.text, _end(old.text, *old.node.value[-1]))
    for name, (new_key, value) in new.items().items():
        if name not in present:  # comes last, behind all else that is put there
            start = new_key.start_mark
            lines = new.text[start.index : _line_end(new.text, value.span(new_key)[1])]
            space = "\n" * (value.is_group and not column) + "\n" + " " * column
            yield end, end, space + _indented(lines, column - start.column)


def _replacement(key: Node, old: Value, new_key: Node, new: Value) -> Iterator[Edit]:
    (start, end), (new_start, new_end) = old.span(key), new.span(new_key)
    text = new.text[new_start:new_end]
    if new.is_block:
        at = _line_end(old.text, end)
        text = _indented(text, key.start_mark.column - new_key.start_mark.column)
    else:
        at = _colon(old.text, key) if old.is_block else start
        text = text if old.text[at - 1] == " " else f" {text}"
    yield at, at, text
    yield start, end, ""


def _end(text: str, key: Node, value: Node) -> int:
    """Where the last word of a value ends; behind the colon if there is none."""
    while isinstance(value, CollectionNode) and not value.flow_style:
        key, value = value.value[-1] if isinstance(value, MappingNode) else (key, value.value[-1])
    start, end = value.start_mark.index, value.end_mark.index
    words = text[start:end].rstrip()
    return start + len(words) if words else _colon(text, key)


def _colon(text: str, key: Node) -> int:
    """Where the colon behind a key ends."""
    return text.index(":", key.end_mark.index) + 1


def _line_end(text: str, position: int) -> int:
    end = text.find("\n", position)
    return end if end >= 0 else len(text)


def _indented(lines: str, columns: int) -> str:
    """Lines behind the first with so many more columns in front, or fewer."""
    first, *rest = lines.split("\n")
    moved = (" " * (len(line) - len(line.lstrip()) + columns) + line.lstrip() for line in rest)
    return "\n".join((first, *moved))
