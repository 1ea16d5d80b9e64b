"""What an artefact was made with, as its card records it, against what holds now.

Facts are flat: values by key of params.yaml, such as `train.epochs`, and hashes by the name of
an artefact, such as `corpus`.

    >>> print(*differences({"train.epochs": 1, "seed": 0}, {"train.epochs": 6, "seed": 0}))
    train.epochs 1, not 6

Import rule: nothing of ours but `errors`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rapipe.errors import UserError

Facts = dict[str, Any]
HASH = re.compile(r"[0-9a-f]{16,64}")
LISTED = 3
"""Differences that a sentence names."""


class Difference(NamedTuple):
    """A fact whose value is another now."""

    key: str
    recorded: Any
    present: Any

    def __str__(self) -> str:
        for value in (self.recorded, self.present):
            if isinstance(value, str) and HASH.fullmatch(value):
                return f"another {self.key}"
        return f"{self.key} {_words(self.recorded)}, not {_words(self.present)}"


def _words(value: Any) -> str:
    return "unknown" if value is None else json.dumps(value, ensure_ascii=False)


def differences(
    recorded: Mapping[str, Any], present: Mapping[str, Any], ignored: Collection[str] = ()
) -> list[Difference]:
    """Every present fact that the record does not share; a fact that it lacks is unknown."""
    return [
        Difference(key, recorded.get(key), value)
        for key, value in present.items()
        if key not in ignored and json.dumps(recorded.get(key)) != json.dumps(value)
    ]


def listed(found: Collection[Difference]) -> str:
    """The first differences, in words."""
    words = [str(difference) for difference in found]
    more = f", and {len(words) - LISTED} more" if len(words) > LISTED else ""
    return "; ".join(words[:LISTED]) + more


def check(
    artefact: Path | str,
    recorded: Mapping[str, Any] | None,
    present: Mapping[str, Any],
    stage: str,
    ignored: Collection[str] = (),
) -> None:
    """Raise `UserError` unless an artefact was made with the present facts.

    Args:
        recorded: what its card says; None if it is of a version that recorded nothing.
        stage: the command that makes it anew.
        ignored: keys of facts that may differ.
    """
    if recorded is None:
        raise UserError(
            f"{artefact} is of an older version, which did not record what made it: run rapipe "
            f"{stage}, or dvc repro"
        )
    if stale := differences(recorded, present, ignored):
        raise UserError(
            f"{artefact} was made with {listed(stale)}: run rapipe {stage}, or dvc repro"
        )
