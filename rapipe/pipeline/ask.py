"""How the parameters ask for neighbours, wherever strategies are run.

Apart from `memory`, so that stages that run no strategy do not depend on them.
"""

from __future__ import annotations

from rapipe.config.schema import Params
from rapipe.pipeline.provenance import method_of
from rapipe.retrieval.strategies import RetrievalRequest


def request_of(params: Params) -> RetrievalRequest:
    """How neighbours are asked for."""
    own = params.retrieval
    return RetrievalRequest(own.k, params.seed, method_of(params), own.diversity, own.replay)
