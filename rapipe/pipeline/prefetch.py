"""Stage prefetch: the bank, and for each query split and strategy a neighbour table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rapipe import paths
from rapipe.config.schema import Params
from rapipe.device import device
from rapipe.encoder.encoder import Encoder
from rapipe.errors import UserError
from rapipe.io import memory_map
from rapipe.io.atomic import part_path
from rapipe.io.folders import atomic_folder
from rapipe.io.tables import write_json
from rapipe.pipeline.ask import request_of
from rapipe.pipeline.inputs import checked, hidden_label_ids, images_of, query_images
from rapipe.pipeline.provenance import check_encoder, describe_search
from rapipe.progress import say
from rapipe.records import SPLITS, UNLABELLED, Embeddings, Ids, Images, Vectors
from rapipe.retrieval.bank import bank_of
from rapipe.retrieval.search import KeyedVectors
from rapipe.retrieval.store import Rows, Store
from rapipe.retrieval.strategies import STRATEGIES

READS = (paths.CORPUS, paths.ENCODER)
WRITES = (paths.NEIGHBOURS,)

BLOCK = 8192
"""Vectors gathered at once."""
PART = part_path(paths.NEIGHBOURS)
ALL, ASKING = "all.npy", "asking.npy"
"""Vectors of the whole store, and of the images that ask; gone when the stage ends."""


def run(params: Params) -> None:
    """Write `data/neighbours/`."""
    store = Store.open(paths.STORE, paths.STORE_MANIFEST)
    check_encoder(store.manifest.encoder, paths.STORE, "embed")
    splits = {name: images_of(name) for name in SPLITS}
    classes = splits["train"].classes
    if store.manifest.classes[: len(classes)] != classes:
        raise UserError(
            f"{paths.STORE} was embedded from a corpus with other classes than {paths.CORPUS}: "
            "run rapipe embed, or dvc repro"
        )
    with atomic_folder(paths.NEIGHBOURS):
        write(store, splits, params)


def write(store: Store, splits: dict[str, Images], params: Params) -> None:
    """Write the bank and the tables, where `at` says."""
    vectors, rows = store.vectors(PART / ALL), store.rows
    order = rows.in_id_order()
    held_out = np.concatenate([splits[name].ids for name in ("validation", "test")])
    write_bank(store, order, vectors, held_out, hidden_label_ids(splits["train"], params), params)
    bank = Embeddings.read(at(paths.BANK))
    cards: dict[str, dict[str, Any]] = {own: {} for own in params.retrieval.strategies}
    for split in splits:
        queries = queries_of(query_images(split, bool(params.train.distill)), rows, order, vectors)
        for strategy, card in cards.items():
            found = STRATEGIES[strategy](queries, bank, request_of(params))
            found.check_against(bank.ids)
            found.write(at(paths.table(strategy, split)))
            card[split] = {"queries": len(queries.ids), **found.found_by}
            if found.found_by:
                say(f"{strategy} of {split}: {describe_search(found.found_by, params.retrieval.k)}")
    for strategy, card in cards.items():
        write_json(at(paths.table_card(strategy)), {"k": params.retrieval.k, **card})
    for scratch in (ALL, ASKING):
        (PART / scratch).unlink(missing_ok=True)


def at(path: Path) -> Path:
    """Where a file of `data/neighbours` is written until all of them are."""
    return PART / path.relative_to(paths.NEIGHBOURS)


def write_bank(
    store: Store,
    order: npt.NDArray[np.int64],
    vectors: Vectors,
    held_out: Ids,
    unknown: Ids,
    params: Params,
) -> None:
    """Write `data/neighbours/bank/`, and a card that says which memory it is.

    Args:
        held_out: ids of images that are left out.
        unknown: ids of images that are there without their labels.
    """
    rows, limit = store.rows.take(order), params.retrieval.bank
    chosen = bank_of(rows.ids, rows.sources, rows.splits, held_out, limit, params.seed)
    bank = rows.take(chosen)
    labels = np.where(np.isin(bank.ids, unknown), UNLABELLED, bank.labels)
    Embeddings(
        bank.ids, memory_map.lazy_rows(vectors, order[chosen]), labels, bank.sources, bank.splits
    ).write(at(paths.BANK))
    manifest = store.manifest
    names = [tag for tag, own in store.history.tags().items() if own == manifest.version]
    write_json(
        at(paths.BANK_CARD),
        {
            "memory": names[0] if names else f"v{manifest.version}",
            "store": manifest.sha256,
            "encoder": manifest.encoder,
            "classes": manifest.classes,
            "rows": len(bank),
            "labels_known": [params.train.label_fraction, params.seed],
        },
    )


def queries_of(
    images: Images, rows: Rows, order: npt.NDArray[np.int64], vectors: Vectors
) -> KeyedVectors:
    """Ids and vectors of the images; those that the store lacks are embedded now.

    The corpus says who asks: an image that was removed from the memory still learns.
    """
    ids = images.ids
    place = np.minimum(np.searchsorted(rows.ids[order], ids), len(order) - 1)
    row = order[place]
    missing = np.flatnonzero(rows.ids[row] != ids)
    if not len(missing):
        return KeyedVectors(ids, memory_map.lazy_rows(vectors, row))
    say(f"embedding {len(missing):,} images that ask but are not in the memory")
    encoder = Encoder.read(checked(paths.ENCODER)).to(device())

    def blocks() -> Iterator[Vectors]:
        for start in range(0, len(row), BLOCK):
            part = slice(start, start + BLOCK)
            block = vectors[row[part]]
            own = missing[(missing >= start) & (missing < start + BLOCK)]
            if len(own):
                block[own - start] = encoder.embed(images.pixels[own])
            yield block

    path = PART / ASKING
    memory_map.write_array(path, (len(row), vectors.shape[1]), blocks())
    return KeyedVectors(ids, memory_map.map_array(path))
