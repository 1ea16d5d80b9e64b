"""The search method and the retrieval request of params.yaml.

Apart from `inputs`, so that stages that run no strategy do not depend on strategies.
"""

from __future__ import annotations

from rapipe import paths
from rapipe.config.schema import Params
from rapipe.retrieval.search import SearchMethod
from rapipe.retrieval.strategies import RetrievalRequest


def method_of(params: Params) -> SearchMethod:
    """How neighbours are searched; `ArgumentError` if the backend has no such index."""
    group = params.retrieval
    return SearchMethod(group.backend, group.index, group.min_recall, paths.INDEX)


def request_of(params: Params) -> RetrievalRequest:
    """How neighbours are retrieved."""
    group = params.retrieval
    return RetrievalRequest(group.k, params.seed, method_of(params), group.diversity, group.replay)
