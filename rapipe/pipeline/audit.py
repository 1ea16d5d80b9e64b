"""Stage audit: nothing held out is learned from or looked up, and what comes close is listed."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from rapipe import paths
from rapipe.config.schema import Params
from rapipe.device import device
from rapipe.encoder.encoder import Encoder
from rapipe.errors import UserError
from rapipe.evaluation import leakage
from rapipe.io.checksums import sha256
from rapipe.io.tables import write_checksummed, write_csv
from rapipe.pipeline.inputs import (
    bank_card,
    checked,
    hidden_label_ids,
    images_of,
    labelled,
    query_images,
)
from rapipe.pipeline.provenance import check_encoder
from rapipe.progress import say
from rapipe.records import SPLITS, Embeddings, Ids, Images, Neighbours, RecordError, Vectors
from rapipe.retrieval.search import KeyedVectors, search
from rapipe.retrieval.store import Store

READS = (paths.CORPUS, paths.ENCODER, paths.NEIGHBOURS)
WRITES = (paths.LEAKAGE, paths.DUPLICATES)

COLUMNS = ("test_id", "test_row", "bank_id", "similarity", "same_class")
REMAKE = "run rapipe prefetch, or dvc repro"


def run(params: Params) -> None:
    """Write `results/leakage.json` and `results/duplicates.csv`.

    Raises:
        UserError: something leaks; says what, how many, and the first id.
    """
    for stale in (paths.LEAKAGE, paths.DUPLICATES):  # else it would say that all is well
        stale.unlink(missing_ok=True)
    splits = {name: images_of(name) for name in SPLITS}
    bank = Embeddings.read(checked(paths.BANK))
    checks = {
        "split_overlap": check_splits(splits),
        "held_out_in_bank": check_bank(bank, splits),
        "withheld_labels": check_labels(bank, hidden_label_ids(splits["train"], params)),
        **check_tables(params, bank.ids),
    }
    found = listed(bank, np.flatnonzero(splits["test"].labels >= 0))
    write_checksummed(
        paths.LEAKAGE,
        {
            "checks": {name: {"checked": n, "found": 0} for name, n in checks.items()},
            **found,
            "duplicates_sha256": sha256(paths.DUPLICATES),
        },
    )


def check_splits(splits: dict[str, Images]) -> int:
    """Raise `UserError` if an id is in two splits, else say how many images were looked at."""
    for one, other in combinations(SPLITS, 2):
        found = leakage.shared_ids(splits[one].ids, splits[other].ids)
        what = f"images of {one} that are in {other} too"
        _refuse(found, paths.CORPUS, what, "run rapipe corpus and what follows it, or dvc repro")
    return sum(map(len, splits.values()))


def check_bank(bank: Embeddings, splits: dict[str, Images]) -> int:
    """Raise `UserError` if a held-out image may be looked up, else count the rows of the bank."""
    for split in ("validation", "test"):
        found = leakage.shared_ids(splits[split].ids, bank.ids)
        _refuse(found, paths.BANK, f"images of the {split} split", REMAKE)
    return len(bank)


def check_labels(bank: Embeddings, unknown: Ids) -> int:
    """Raise `UserError` if the bank knows a withheld label, else count the withheld ones."""
    found = leakage.shared_ids(unknown, bank.ids[bank.labels >= 0])
    _refuse(found, paths.BANK, "labels that train.label_fraction withholds", REMAKE)
    return len(unknown)


def check_tables(params: Params, bank_ids: Ids) -> dict[str, int]:
    """Raise `UserError` if a query finds itself or no row, else count the queries of all tables."""
    n = 0
    for strategy in params.retrieval.strategies:
        for split in SPLITS:
            path = paths.table(strategy, split)
            try:
                table = Neighbours.read(checked(path))
            except RecordError as error:
                raise UserError(f"{path} contradicts itself ({error}): {REMAKE}") from None
            strangers = np.setdiff1d(
                table.query_ids, query_images(split, bool(params.train.distill)).ids
            )
            _refuse(strangers, path, f"queries that are no labelled images of {split}", REMAKE)
            absent = leakage.outside_bank(table, len(bank_ids))
            told = f"queries with a row outside the bank of {len(bank_ids):,} rows"
            _refuse(absent, path, told, REMAKE)
            selves = leakage.self_hits(table, bank_ids)
            _refuse(selves, path, "queries that find themselves", REMAKE)
            n += len(table.query_ids)
    return {"strangers": n, "outside_bank": n, "self_hits": n}


def listed(bank: Embeddings, test_rows: np.ndarray) -> dict[str, Any]:
    """Write the near duplicates between test and bank, and tell how they were found.

    Args:
        test_rows: where in the test split its labelled images are.
    """
    memory = Store.open(paths.STORE, paths.STORE_MANIFEST)
    check_encoder(bank_card()["encoder"], paths.BANK, "prefetch")
    check_encoder(memory.manifest.encoder, paths.STORE, "embed")
    test, validation = labelled("test"), labelled("validation")
    known = remembered(memory, np.concatenate([test.ids, validation.ids]))
    others = leakage.other_class_similarity(
        vectors_of(validation, known), validation.labels, bank.vectors, bank.labels
    )
    above = leakage.threshold(others)
    if above is None:
        say("the memory has no two classes with labels, so nothing says what a near duplicate is")
    nearest = search(vectors_of(test, known), bank, 1, test.ids)  # exact, whatever the tables are
    alike = leakage.near_duplicates(nearest, test.labels, bank.labels, above)
    _write(alike, test.ids, test_rows, bank.ids)
    judged = above is not None
    return {
        "quantile": leakage.QUANTILE,
        "threshold": above,
        "validation_images": int((~np.isnan(others)).sum()),
        "test_images": len(test),
        "bank_rows": len(bank),
        "near_duplicates": len(alike.queries) if judged else None,
        "near_duplicates_share": len(alike.queries) / len(test) if judged else None,
        "near_duplicates_of_same_class": int(alike.same_class.sum()) if judged else None,
        "histogram": leakage.histograms(test=nearest.similarities[:, 0], validation=others),
    }


def remembered(memory: Store, ids: Ids) -> KeyedVectors:
    """The rows of the memory with these ids, by id.

    To read them is cheaper than to embed the images again: 10,000 of 32 pixels take a
    ResNet-18 of width 64 about 40 seconds on two cores; to open a store and read as many
    rows takes one or two.
    """
    chosen = memory.members() & np.isin(memory.all_rows.ids, ids)
    parts = list(memory.blocks(chosen))
    found = np.concatenate([np.empty(0, np.int64), *(rows.ids for rows, _ in parts)])
    nothing = np.empty((0, memory.manifest.dimension), np.float32)
    vectors = np.concatenate([nothing, *(own for _, own in parts)])
    own, first = np.unique(found, return_index=True)
    return KeyedVectors(own, vectors[first])


def vectors_of(images: Images, known: KeyedVectors) -> Vectors:
    """Unit vectors (N, D) of images; those that are not known are embedded now."""
    has = np.isin(images.ids, known.ids)
    vectors = np.empty((len(images), known.vectors.shape[1]), np.float32)
    vectors[has] = known.vectors[np.searchsorted(known.ids, images.ids[has])]
    if not has.all():
        encoder = Encoder.read(checked(paths.ENCODER)).to(device())
        vectors[~has] = encoder.embed(images.pixels[~has], "embedding what the memory lacks")
    return vectors


def _refuse(found: Ids, where: Path, what: str, remedy: str) -> None:
    if len(found):
        raise UserError(f"{where} holds {what}: {len(found):,}, the first is {found[0]}; {remedy}")


def _write(
    alike: leakage.NearDuplicates, test_ids: Ids, test_rows: np.ndarray, bank_ids: Ids
) -> None:
    columns = (
        test_ids[alike.queries].tolist(),
        test_rows[alike.queries].tolist(),
        bank_ids[alike.rows].tolist(),
        alike.similarities.tolist(),
        alike.same_class.astype(int).tolist(),
    )
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in zip(*columns, strict=True)]
    write_csv(paths.DUPLICATES, rows, COLUMNS)
