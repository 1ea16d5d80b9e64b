"""What can be asked: an image, changed or not, with some of the memory hidden.

A question comes as JSON from a browser, so every part of it is checked.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from rapipe.errors import ArgumentError
from rapipe.evaluation.corruptions import CORRUPTIONS
from rapipe.evaluation.corruptions.base import check_severity

MOST_NOISE = 1.0
HIDDEN = ("ids", "classes", "sources")


@dataclass(frozen=True)
class Hidden:
    """Rows of the bank that are not retrieved: by id, class or source, or outside a version.

    Args:
        ids: of images.
        classes: names.
        version: a tag of the store; rows that it lacks are hidden. "" hides none.
    """

    ids: frozenset[int] = frozenset()
    classes: frozenset[str] = frozenset()
    sources: frozenset[str] = frozenset()
    version: str = ""

    def __bool__(self) -> bool:
        return bool(self.ids or self.classes or self.sources or self.version)


@dataclass(frozen=True)
class Question:
    """What a classifier is asked.

    Args:
        image: id of an image of the corpus, or of one that a user brought.
        classifier: its name.
        k: neighbours to retrieve; 0 = as many as the classifier was trained with.
        noise_std: of Gaussian noise on the image, on [0, 1].
        corruption: its name; "" = none.
    """

    image: int
    classifier: str
    k: int = 0
    noise_std: float = 0.0
    corruption: str = ""
    severity: int = 3
    hidden: Hidden = field(default_factory=Hidden)

    @classmethod
    def of_json(cls, facts: Any) -> Question:
        """The question in a parsed JSON object; ids are texts, since JavaScript rounds them.

        Raises:
            ArgumentError: a part is missing, of another kind, or out of range.
        """
        if not isinstance(facts, dict):
            raise ArgumentError("a question must be a JSON object")
        hidden = facts.get("hidden", {})
        if not isinstance(hidden, dict):
            raise ArgumentError("`hidden` must be a JSON object")
        groups = {name: _texts(hidden, name) for name in HIDDEN}
        question = cls(
            image=id_of(facts.get("image"), "image"),
            classifier=_text(facts, "classifier"),
            k=_whole(facts, "k", 0),
            noise_std=_number(facts, "noise_std"),
            corruption=_text(facts, "corruption"),
            severity=_whole(facts, "severity", 3),
            hidden=Hidden(
                frozenset(id_of(text, "hidden.ids") for text in groups["ids"]),
                groups["classes"],
                groups["sources"],
                _text(hidden, "version"),
            ),
        )
        question.check()
        return question

    def check(self) -> None:
        """Raise `ArgumentError` if a value is out of range."""
        if self.k < 0:
            raise ArgumentError(f"`k` is {self.k}; it must be 1 or more")
        if not 0 <= self.noise_std <= MOST_NOISE:
            raise ArgumentError(f"`noise_std` is {self.noise_std}; it must be 0 to {MOST_NOISE:g}")
        if self.corruption:
            choose(self.corruption, CORRUPTIONS, "corruption")
            check_severity(self.severity)


def choose(name: str, choices: Collection[str], argument: str) -> None:
    """Raise `ArgumentError` if a name is none of the choices, which it lists."""
    if name not in choices:
        listed = ", ".join(choices) or "none"
        raise ArgumentError(f"`{argument}` is {name!r}; it must be one of {listed}")


def id_of(value: Any, name: str) -> int:
    """The id in a text of digits; `ArgumentError` if it is none."""
    digits = value.removeprefix("-") if isinstance(value, str) else ""
    if not (digits.isascii() and digits.isdecimal() and len(digits) < 20):
        raise ArgumentError(f"`{name}` must be the id of an image, as a text of digits")
    return int(value)


def _text(facts: Mapping[str, Any], name: str) -> str:
    value = facts.get(name, "")
    if not isinstance(value, str):
        raise ArgumentError(f"`{name}` must be a text")
    return value


def _texts(facts: Mapping[str, Any], name: str) -> frozenset[str]:
    values = facts.get(name, [])
    if not (isinstance(values, list) and all(isinstance(value, str) for value in values)):
        raise ArgumentError(f"`hidden.{name}` must be a list of texts")
    return frozenset(values)


def _number(facts: Mapping[str, Any], name: str) -> float:
    value = facts.get(name, 0.0)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ArgumentError(f"`{name}` must be a number")
    return float(value)


def _whole(facts: Mapping[str, Any], name: str, default: int) -> int:
    value = facts.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ArgumentError(f"`{name}` must be a whole number")
    return value
