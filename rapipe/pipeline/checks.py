"""Names in the parameters against the tables of methods, before any work.

This module imports every table only to refuse; it changes no artefact. So the
stages do not declare what it imports, and a new method re-runs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rapipe.backbones import BACKBONES
from rapipe.errors import UserError
from rapipe.neighbours import STRATEGIES
from rapipe.objectives import OBJECTIVES
from rapipe.params import NOISY, Params, load
from rapipe.pipeline.memory import method_of
from rapipe.sources import SOURCES
from rapipe.views import VIEWS


def load_checked(path: Path) -> Params:
    """Parameters whose every name is known; `UserError` names the key, value and choices."""
    params = load(path)
    for i, source in enumerate(params.corpus.sources):
        _known(f"corpus.sources[{i}].kind", source.kind, SOURCES)
    _known("pretrain.objective", params.pretrain.objective, OBJECTIVES)
    _known("pretrain.encoder", params.pretrain.encoder, BACKBONES)
    _known("pretrain.views", params.pretrain.views, [name for name in VIEWS if name != "none"])
    for i, name in enumerate(params.retrieval.strategies):
        _known(f"retrieval.strategies[{i}]", name, STRATEGIES)
    method_of(params).check()
    for i, name in enumerate(params.train.backbones):
        _known(f"train.backbones[{i}]", name, [*BACKBONES, *(own + NOISY for own in BACKBONES)])
    _known("train.augment", params.train.augment, VIEWS)
    return params


def _known(key: str, name: str, table: Iterable[str]) -> None:
    if name not in table:
        raise UserError(f"{key} is {name!r}; it must be one of {', '.join(table)}")
