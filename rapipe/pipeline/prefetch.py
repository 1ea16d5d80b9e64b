"""Stage prefetch: the bank, and for each query split and strategy a neighbour table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rapipe import paths
from rapipe.config import deciding
from rapipe.config.names import SELF, TRAINING
from rapipe.config.schema import Params, RetrievalParams
from rapipe.corpus.labels import hidden_label_ids
from rapipe.device import device
from rapipe.encoder.embedding_cache import embed_cached
from rapipe.encoder.imported import ImportedVectors, read_encoder
from rapipe.errors import UserError
from rapipe.io import memory_map, ray_cluster
from rapipe.io.atomic import part_path
from rapipe.io.folders import atomic_folder
from rapipe.io.provenance import Facts
from rapipe.io.tables import write_json
from rapipe.pipeline.copies import copied_pixels
from rapipe.pipeline.inputs import (
    PARAMS,
    check_encoder,
    checked,
    encoder_fingerprint,
    images_of,
    present_encoder,
    query_images,
    sources_in_role,
)
from rapipe.pipeline.requests import request_of
from rapipe.pipeline.running.argument_keys import argument_keys, keys_of
from rapipe.progress import say
from rapipe.records import SPLITS, UNLABELLED, Embeddings, Ids, Images, Vectors
from rapipe.retrieval.bank import select_bank
from rapipe.retrieval.search import VectorsWithIds, describe_search
from rapipe.retrieval.store import Rows, Store
from rapipe.retrieval.strategies import STRATEGIES, RetrievalRequest

READS = (paths.CORPUS, paths.ENCODER)
WRITES = (paths.NEIGHBOURS,)

BLOCK = 8192
"""Vectors gathered at once."""
PART = part_path(paths.NEIGHBOURS)
STORE_VECTORS, QUERY_VECTORS = "store.npy", "queries.npy"
"""Scratch files, gone when the stage ends."""


@argument_keys(**keys_of("retrieval", RetrievalParams), address="embed.address")
def run(params: Params) -> None:
    """Write `data/neighbours/`."""
    encoder = present_encoder(params)
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
        write(store, splits, params, encoder[PARAMS])


def write(store: Store, splits: dict[str, Images], params: Params, of_encoder: Facts) -> None:
    """Write the bank and the tables into `PART`.

    Args:
        of_encoder: what the encoder was made with.
    """
    vectors, rows = store.vectors(PART / STORE_VECTORS), store.rows
    order = rows.in_id_order()
    held_out = np.concatenate([splits[name].ids for name in ("validation", "test")])
    train, fraction = splits["train"], params.train.label_fraction
    hidden_labels = hidden_label_ids(train.ids, train.labels, fraction, params.seed)
    write_bank(store, order, vectors, held_out, hidden_labels, params, of_encoder)
    bank = Embeddings.read(partial(paths.BANK))
    request, teacher = shared_request(params), bool(params.classifiers.distill)
    cards: dict[str, dict[str, Any]] = {name: {} for name in params.retrieval.strategies}
    copied = copies_of(params)
    for split in (*splits, *copied):
        if split in copied:
            queries = copied_queries(query_images("train", teacher), split, params)
        else:
            queries = queries_of(query_images(split, teacher), rows, order, vectors)
        for strategy, card in cards.items():
            if split in copied:
                noisy = split == paths.NOISY_TRAIN
                card[split] = {PARAMS: deciding.of_noisy_table(params, strategy, noisy)}
            if queries is None:
                continue
            table = STRATEGIES[strategy](queries, bank, request)
            table.check_against(bank.ids)
            table.write(partial(paths.table(strategy, split)))
            facts = {"queries": len(queries.ids), **table.found_by}
            card[split] = {**card.get(split, {}), **facts}
            if table.found_by:
                say(f"{strategy} of {split}: {describe_search(table.found_by, request.k)}")
    for strategy, card in cards.items():
        k = 0 if strategy == SELF else request.k
        facts = {"k": k, PARAMS: deciding.of_table(params, strategy), **card}
        write_json(partial(paths.table_card(strategy)), facts)
    for scratch in (STORE_VECTORS, QUERY_VECTORS):
        (PART / scratch).unlink(missing_ok=True)


def shared_request(params: Params) -> RetrievalRequest:
    """The request; a cluster searches where `retrieval.engine` says so."""
    request, address = request_of(params), params.embed.address or ray_cluster.LOCAL
    if params.retrieval.engine == "local":
        return request
    return replace(request, method=replace(request.method, cluster=address))


def partial(path: Path) -> Path:
    """Where a file of `data/neighbours` is written until all of them are."""
    return PART / path.relative_to(paths.NEIGHBOURS)


def write_bank(
    store: Store,
    order: npt.NDArray[np.int64],
    vectors: Vectors,
    held_out: Ids,
    hidden_labels: Ids,
    params: Params,
    of_encoder: Facts,
) -> None:
    """Write `data/neighbours/bank/`, and a card that says which version of the store it is.

    Args:
        held_out: ids of images that are left out.
        hidden_labels: ids of images that are in it without their labels.
        of_encoder: what the encoder was made with.
    """
    rows, limit = store.rows.take(order), params.retrieval.bank
    excluded = sources_in_role(TRAINING)
    facts = (rows.ids, rows.sources, rows.splits)
    selected = select_bank(*facts, held_out, limit, params.seed, excluded)
    bank = rows.take(selected)
    labels = np.where(np.isin(bank.ids, hidden_labels), UNLABELLED, bank.labels)
    Embeddings(
        bank.ids, memory_map.lazy_rows(vectors, order[selected]), labels, bank.sources, bank.splits
    ).write(partial(paths.BANK))
    manifest = store.manifest
    tags = [tag for tag, version in store.history.tags().items() if version == manifest.version]
    write_json(
        partial(paths.BANK_CARD),
        {
            "memory": tags[0] if tags else f"v{manifest.version}",
            "store": manifest.sha256,
            "encoder": manifest.encoder,
            "classes": manifest.classes,
            "rows": len(bank),
            PARAMS: {
                **of_encoder,
                **deciding.of_bank(params),
                "encoder": manifest.encoder,
                "store": manifest.sha256,
            },
        },
    )


def copies_of(params: Params) -> list[str]:
    """The tables of noisy copies that classifiers, and teachers, learn with."""
    if not params.retrieval.query_noise:
        return []
    noisy = {name.noisy for name in params.classifiers.names}
    tables = {True: paths.NOISY_TRAIN, False: paths.COPIED_TRAIN}
    return [table for of_noisy, table in tables.items() if of_noisy in noisy]


def copied_queries(images: Images, table: str, params: Params) -> VectorsWithIds | None:
    """Ids of training images, and a vector of a noisy copy of each; None without an encoder."""
    encoder = read_encoder(checked(paths.ENCODER), paths.VECTORS).to(device())
    if isinstance(encoder, ImportedVectors):
        say("there is no encoder, so noisy copies of training images have no neighbours")
        return None
    pixels = copied_pixels(images, params, table == paths.NOISY_TRAIN)
    say(f"embedding noisy copies of {len(images):,} training images")
    return VectorsWithIds(
        images.ids, embed_cached(encoder, pixels, paths.QUERIES, encoder_fingerprint())
    )


def queries_of(
    images: Images, rows: Rows, order: npt.NDArray[np.int64], vectors: Vectors
) -> VectorsWithIds:
    """Ids and vectors of the images; those that the store lacks are embedded now.

    The corpus decides which images are queries: one that was removed from the store is still
    a training image.
    """
    ids = images.ids
    position = np.minimum(np.searchsorted(rows.ids[order], ids), len(order) - 1)
    store_rows = order[position]
    missing = np.flatnonzero(rows.ids[store_rows] != ids)
    if not len(missing):
        return VectorsWithIds(ids, memory_map.lazy_rows(vectors, store_rows))
    say(f"embedding {len(missing):,} query images that are not in the store")
    encoder = read_encoder(checked(paths.ENCODER), paths.VECTORS).to(device())

    def blocks() -> Iterator[Vectors]:
        for start in range(0, len(store_rows), BLOCK):
            part = slice(start, start + BLOCK)
            block = vectors[store_rows[part]]
            inside = missing[(missing >= start) & (missing < start + BLOCK)]
            if len(inside):
                block[inside - start] = encoder.embed(images.pixels[inside])
            yield block

    path = PART / QUERY_VECTORS
    memory_map.write_array(path, (len(store_rows), vectors.shape[1]), blocks())
    return VectorsWithIds(ids, memory_map.map_array(path))
