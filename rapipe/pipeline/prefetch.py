"""Stage prefetch: the bank, and for each query split and strategy a neighbour table."""

from __future__ import annotations

import shutil

from rapipe import paths, store
from rapipe.bank import bank_of
from rapipe.neighbours import STRATEGIES
from rapipe.params import Params
from rapipe.records import SPLITS
from rapipe.search import Queries


def run(params: Params) -> None:
    """Write `data/neighbours/`."""
    embeddings, _ = store.read(paths.STORE, paths.STORE_MANIFEST)
    bank = bank_of(embeddings, params.retrieval.bank, params.seed)
    shutil.rmtree(paths.NEIGHBOURS, ignore_errors=True)
    bank.write(paths.BANK)
    for strategy in params.retrieval.strategies:
        for split in SPLITS:
            own = embeddings.take((embeddings.splits == split) & (embeddings.labels >= 0))
            found = STRATEGIES[strategy](
                Queries(own.ids, own.vectors), bank, params.retrieval.k, params.seed
            )
            found.check_against(bank.ids)
            found.write(paths.table(strategy, split))
