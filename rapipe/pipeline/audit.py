"""Stage audit: refuse held-out images in train or bank, and list near duplicates in the bank."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from rapipe import paths
from rapipe.config.schema import Params, RetrievalParams
from rapipe.corpus.labels import hidden_label_ids
from rapipe.device import device
from rapipe.encoder.encoder import Encoder
from rapipe.errors import UserError
from rapipe.evaluation import leakage
from rapipe.io.checksums import sha256
from rapipe.io.tables import write_checksummed, write_csv
from rapipe.pipeline.inputs import (
    bank_card,
    check_encoder,
    checked,
    images_of,
    labelled,
    query_images,
)
from rapipe.pipeline.running.argument_keys import argument_keys, keys_of
from rapipe.progress import say
from rapipe.records import SPLITS, Embeddings, Ids, Images, Neighbours, RecordError, Vectors
from rapipe.retrieval.search import VectorsWithIds, search
from rapipe.retrieval.store import Store

READS = (paths.CORPUS, paths.ENCODER, paths.NEIGHBOURS)
WRITES = (paths.LEAKAGE, paths.DUPLICATES)

COLUMNS = ("test_id", "test_row", "bank_id", "similarity", "same_class")
REBUILD = "run rapipe prefetch, or dvc repro"


@argument_keys(**keys_of("retrieval", RetrievalParams))
def run(params: Params) -> None:
    """Write `results/leakage.json` and `results/duplicates.csv`.

    Raises:
        UserError: there is a leak; names what, how many, and the first id.
    """
    for stale in (paths.LEAKAGE, paths.DUPLICATES):  # else a stale one would say that all is well
        stale.unlink(missing_ok=True)
    splits = {name: images_of(name) for name in SPLITS}
    bank = Embeddings.read(checked(paths.BANK))
    train, fraction = splits["train"], params.train.label_fraction
    hidden_labels = hidden_label_ids(train.ids, train.labels, fraction, params.seed)
    checks = {
        "split_overlap": check_splits(splits),
        "held_out_in_bank": check_bank(bank, splits),
        "withheld_labels": check_labels(bank, hidden_labels),
        **check_tables(params, bank.ids),
    }
    duplicates = list_duplicates(bank, np.flatnonzero(splits["test"].labels >= 0))
    write_checksummed(
        paths.LEAKAGE,
        {
            "checks": {name: {"checked": n, "found": 0} for name, n in checks.items()},
            **duplicates,
            "duplicates_sha256": sha256(paths.DUPLICATES),
        },
    )


def check_splits(splits: dict[str, Images]) -> int:
    """Raise `UserError` if an id is in two splits; return how many images were checked."""
    for one, other in combinations(SPLITS, 2):
        ids = leakage.shared_ids(splits[one].ids, splits[other].ids)
        leak = f"images of {one} that are in {other} too"
        _refuse(ids, paths.CORPUS, leak, "run rapipe corpus and what follows it, or dvc repro")
    return sum(map(len, splits.values()))


def check_bank(bank: Embeddings, splits: dict[str, Images]) -> int:
    """Raise `UserError` if the bank holds a held-out image; return its number of rows."""
    for split in ("validation", "test"):
        ids = leakage.shared_ids(splits[split].ids, bank.ids)
        _refuse(ids, paths.BANK, f"images of the {split} split", REBUILD)
    return len(bank)


def check_labels(bank: Embeddings, hidden: Ids) -> int:
    """Raise `UserError` if the bank holds a hidden label; return how many are hidden."""
    ids = leakage.shared_ids(hidden, bank.ids[bank.labels >= 0])
    _refuse(ids, paths.BANK, "labels that train.label_fraction withholds", REBUILD)
    return len(hidden)


def check_tables(params: Params, bank_ids: Ids) -> dict[str, int]:
    """Raise `UserError` if a query finds itself or no row; return the number of all queries."""
    n = 0
    for strategy in params.retrieval.strategies:
        for split in SPLITS:
            path = paths.table(strategy, split)
            try:
                table = Neighbours.read(checked(path))
            except RecordError as error:
                raise UserError(f"{path} contradicts itself ({error}): {REBUILD}") from None
            strangers = np.setdiff1d(
                table.query_ids, query_images(split, bool(params.classifiers.distill)).ids
            )
            _refuse(strangers, path, f"queries that are no labelled images of {split}", REBUILD)
            outside = leakage.outside_bank(table, len(bank_ids))
            leak = f"queries with a row outside the bank of {len(bank_ids):,} rows"
            _refuse(outside, path, leak, REBUILD)
            self_hits = leakage.self_hits(table, bank_ids)
            _refuse(self_hits, path, "queries that find themselves", REBUILD)
            n += len(table.query_ids)
    return {"strangers": n, "outside_bank": n, "self_hits": n}


def list_duplicates(bank: Embeddings, test_rows: np.ndarray) -> dict[str, Any]:
    """Write the near duplicates between test and bank; return their counts and threshold.

    Args:
        test_rows: rows of the labelled images in the test split.
    """
    store = Store.open(paths.STORE, paths.STORE_MANIFEST)
    check_encoder(bank_card()["encoder"], paths.BANK, "prefetch")
    check_encoder(store.manifest.encoder, paths.STORE, "embed")
    test, validation = labelled("test"), labelled("validation")
    stored = stored_vectors(store, np.concatenate([test.ids, validation.ids]))
    others = leakage.other_class_similarity(
        vectors_of(validation, stored), validation.labels, bank.vectors, bank.labels
    )
    threshold = leakage.threshold(others)
    if threshold is None:
        say("the bank has no two classes with labels, so nothing says what a near duplicate is")
    nearest = search(vectors_of(test, stored), bank, 1, test.ids)  # exact, whatever the tables are
    duplicates = leakage.near_duplicates(nearest, test.labels, bank.labels, threshold)
    _write(duplicates, test.ids, test_rows, bank.ids)
    judged = threshold is not None
    return {
        "quantile": leakage.QUANTILE,
        "threshold": threshold,
        "validation_images": int((~np.isnan(others)).sum()),
        "test_images": len(test),
        "bank_rows": len(bank),
        "near_duplicates": len(duplicates.queries) if judged else None,
        "near_duplicates_share": len(duplicates.queries) / len(test) if judged else None,
        "near_duplicates_of_same_class": int(duplicates.same_class.sum()) if judged else None,
        "histogram": leakage.histograms(test=nearest.similarities[:, 0], validation=others),
    }


def stored_vectors(store: Store, ids: Ids) -> VectorsWithIds:
    """The rows of the store with these ids, by id.

    To read them is cheaper than to embed the images again: 10,000 of 32 pixels take a
    ResNet-18 of width 64 about 40 seconds on two cores; to open a store and read as many
    rows takes one or two.
    """
    blocks = list(store.blocks(store.members() & np.isin(store.all_rows.ids, ids)))
    stored_ids = np.concatenate([np.empty(0, np.int64), *(rows.ids for rows, _ in blocks)])
    empty = np.empty((0, store.manifest.dimension), np.float32)
    vectors = np.concatenate([empty, *(block for _, block in blocks)])
    unique, first = np.unique(stored_ids, return_index=True)
    return VectorsWithIds(unique, vectors[first])


def vectors_of(images: Images, stored: VectorsWithIds) -> Vectors:
    """Unit vectors (N, D) of images; those that are not stored are embedded now."""
    is_stored = np.isin(images.ids, stored.ids)
    vectors = np.empty((len(images), stored.vectors.shape[1]), np.float32)
    vectors[is_stored] = stored.vectors[np.searchsorted(stored.ids, images.ids[is_stored])]
    if not is_stored.all():
        encoder = Encoder.read(checked(paths.ENCODER)).to(device())
        missing = images.pixels[~is_stored]
        vectors[~is_stored] = encoder.embed(missing, "embedding what the store lacks")
    return vectors


def _refuse(ids: Ids, path: Path, leak: str, remedy: str) -> None:
    if len(ids):
        raise UserError(f"{path} holds {leak}: {len(ids):,}, the first is {ids[0]}; {remedy}")


def _write(
    duplicates: leakage.NearDuplicates, test_ids: Ids, test_rows: np.ndarray, bank_ids: Ids
) -> None:
    columns = (
        test_ids[duplicates.queries].tolist(),
        test_rows[duplicates.queries].tolist(),
        bank_ids[duplicates.rows].tolist(),
        duplicates.similarities.tolist(),
        duplicates.same_class.astype(int).tolist(),
    )
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in zip(*columns, strict=True)]
    write_csv(paths.DUPLICATES, rows, COLUMNS)
