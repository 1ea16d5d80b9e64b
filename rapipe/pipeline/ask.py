"""How the parameters ask for neighbours, wherever strategies are run.

Apart from `memory`, so that stages that run no strategy do not depend on them.
"""

from __future__ import annotations

from rapipe.neighbours import Ask
from rapipe.params import Params
from rapipe.pipeline.memory import method_of


def ask_of(params: Params) -> Ask:
    """How neighbours are asked for."""
    own = params.retrieval
    return Ask(own.k, params.seed, method_of(params), own.diversity, own.replay)
