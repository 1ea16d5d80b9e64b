"""Mistakes in arguments of the library as mistakes in params.yaml."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from typing import ParamSpec, TypeVar

from rapipe.config.corpus_params import CorpusParams
from rapipe.errors import ArgumentError

P = ParamSpec("P")
R = TypeVar("R")


def keys_of(group: str, spec: type) -> dict[str, str]:
    """The keys of a group of params.yaml, by the names of a spec's fields, which are the same."""
    return {field.name: f"{group}.{field.name}" for field in fields(spec)}


CORPUS_KEYS = {
    **keys_of("corpus", CorpusParams),
    **{"path": "corpus.sources", "request": "corpus.sources", "skip": "corpus.on_error: skip"},
}
"""Keys by the names of arguments in `rapipe.corpus`."""


def argument_keys(**keys: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorator: an `ArgumentError` becomes a `UserError` that names keys of params.yaml.

    Args:
        keys: by the name of the argument.
    """

    def decorate(run: Callable[P, R]) -> Callable[P, R]:
        @wraps(run)
        def renamed(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return run(*args, **kwargs)
            except ArgumentError as error:
                raise error.renamed(keys) from None

        return renamed

    return decorate
