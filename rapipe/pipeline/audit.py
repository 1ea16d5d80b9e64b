"""Stage audit: refuse what leaks; list near duplicates in the bank, and possible label errors."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from rapipe import paths
from rapipe.config.names import SHIFT, TRAINING
from rapipe.config.schema import Params, RetrievalParams
from rapipe.corpus.labels import hidden_label_ids
from rapipe.errors import UserError
from rapipe.evaluation import leakage
from rapipe.io import memory_map
from rapipe.io.checksums import sha256
from rapipe.io.tables import write_checksummed, write_csv
from rapipe.pipeline.inputs import (
    PARAMS,
    audit_facts,
    check_encoder,
    checked,
    generated_sources,
    images_of,
    in_role,
    query_images,
    read_table,
    shift_images,
    sources_in_role,
)
from rapipe.pipeline.label_errors import Queries, list_label_errors
from rapipe.pipeline.quality import write_quality
from rapipe.pipeline.running.argument_keys import argument_keys, keys_of
from rapipe.pipeline.stored_vectors import stored_vectors, vectors_of
from rapipe.progress import say
from rapipe.records import (
    SPLITS,
    Embeddings,
    Ids,
    Images,
    RecordError,
)
from rapipe.retrieval.search import search
from rapipe.retrieval.store import Store

READS = (paths.CORPUS, paths.ENCODER, paths.NEIGHBOURS)
WRITES = (
    *(paths.LEAKAGE, paths.DUPLICATES, paths.LABEL_ERRORS),
    *(paths.QUALITY, paths.MEMORISATION),
)

COLUMNS = ("test_id", "test_row", "bank_id", "similarity", "same_class")
REBUILD = "run rapipe prefetch, or dvc repro"


@argument_keys(**keys_of("retrieval", RetrievalParams))
def run(params: Params) -> None:
    """Write `results/leakage.json`, and what it found: duplicates, label errors, copies.

    Raises:
        UserError: there is a leak; names what, how many, and the first id.
    """
    for stale in WRITES:  # else a stale one would say that all is well
        stale.unlink(missing_ok=True)
    facts = audit_facts(params)
    splits = {name: images_of(name) for name in SPLITS}
    bank = Embeddings.read(checked(paths.BANK))
    train, fraction = splits["train"], params.train.label_fraction
    hidden_labels = hidden_label_ids(train.ids, train.labels, fraction, params.seed)
    checks = {
        "split_overlap": check_splits(splits),
        "held_out_in_bank": check_bank(bank, splits),
        "withheld_labels": check_labels(bank, hidden_labels),
        **check_sources(bank, splits),
        **check_tables(params, bank.ids),
    }
    queries = queries_of(splits, hidden_labels, bank)
    duplicates = list_duplicates(queries, bank)
    errors = list_label_errors(queries, bank, duplicates.pop("nearest"), duplicates["threshold"])
    _summarise(duplicates, errors)
    write_quality(splits, params.seed)
    write_checksummed(
        paths.LEAKAGE,
        {
            "checks": {name: {"checked": n, "found": 0} for name, n in checks.items()},
            **duplicates,
            PARAMS: facts,
            "duplicates_sha256": sha256(paths.DUPLICATES),
            "label_errors": errors,
            "label_errors_sha256": sha256(paths.LABEL_ERRORS),
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
    for name, images in shift_images().items():
        ids = leakage.shared_ids(images.ids, bank.ids)
        remedy = "run rapipe embed and rapipe prefetch"  # which put the store back to the corpus
        _refuse(ids, paths.BANK, f"images of {name}, whose role is {SHIFT}", remedy)
    return len(bank)


def check_labels(bank: Embeddings, hidden: Ids) -> int:
    """Raise `UserError` if the bank holds a hidden label; return how many are hidden."""
    ids = leakage.shared_ids(hidden, bank.ids[bank.labels >= 0])
    _refuse(ids, paths.BANK, "labels that train.label_fraction withholds", REBUILD)
    return len(hidden)


def check_sources(bank: Embeddings, splits: dict[str, Images]) -> dict[str, int]:
    """Raise `UserError` if generated images are held out, or the bank holds what it may not.

    Returns:
        The numbers of images checked; none where no source is generated, or for training alone.
    """
    checks = {}
    if names := generated_sources():
        for split in ("validation", "test"):
            images = splits[split]
            ids = images.ids[np.isin(images.sources, names)]
            remedy = "run rapipe corpus and what follows it, or dvc repro"
            _refuse(ids, paths.split(split), "generated images", remedy)
        checks["generated_held_out"] = len(splits["validation"]) + len(splits["test"])
    if sources_in_role(TRAINING):
        ids = bank.ids[in_role(bank, TRAINING)]
        _refuse(ids, paths.BANK, f"images of a source whose role is {TRAINING}", REBUILD)
        checks["training_in_bank"] = len(bank)
    return checks


def check_tables(params: Params, bank_ids: Ids) -> dict[str, int]:
    """Raise `UserError` if a query finds itself or no row; return the number of all queries."""
    n = 0
    for strategy in params.retrieval.strategies:
        for split in SPLITS:
            path = paths.table(strategy, split)
            try:
                table = read_table(path)
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


def queries_of(
    splits: dict[str, Images], hidden_labels: Ids, bank: Embeddings
) -> dict[str, Queries]:
    """The labelled images of each split; those whose labels are withheld are left out."""
    store = Store.open(paths.STORE, paths.STORE_MANIFEST)
    check_encoder(store.manifest.encoder, paths.STORE, "embed")
    rows = {
        name: np.flatnonzero((images.labels >= 0) & ~np.isin(images.ids, hidden_labels))
        for name, images in splits.items()
    }
    ids = {name: images.ids[rows[name]] for name, images in splits.items()}
    outside = {name: ids[name] for name in splits if not np.isin(ids[name], bank.ids).all()}
    stored = stored_vectors(store, np.concatenate([*outside.values()]))
    order = np.argsort(bank.ids, kind="stable")
    queries = {}
    for name, images in splits.items():
        if name in outside:
            vectors = vectors_of(images, rows[name], stored)
        else:
            at = np.searchsorted(bank.ids, ids[name], sorter=order)
            vectors = memory_map.lazy_rows(bank.vectors, order[at])
        queries[name] = Queries(images, rows[name], vectors)
    return queries


def list_duplicates(queries: dict[str, Queries], bank: Embeddings) -> dict[str, Any]:
    """Write the near duplicates between test and bank; return counts, threshold and `nearest`."""
    test, validation = queries["test"], queries["validation"]
    others = leakage.other_class_similarity(
        validation.vectors, validation.labels, bank.vectors, bank.labels
    )
    threshold = leakage.threshold(others)
    if threshold is None:
        say("the bank has no two classes with labels, so nothing says what a near duplicate is")
    nearest = search(test.vectors, bank, 1, test.ids)  # exact, whatever the tables are
    duplicates = leakage.near_duplicates(nearest, test.labels, bank.labels, threshold)
    _write(duplicates, test.ids, test.rows, bank.ids)
    judged = threshold is not None
    return {
        "quantile": leakage.QUANTILE,
        "threshold": threshold,
        "validation_images": int((~np.isnan(others)).sum()),
        "test_images": len(test.rows),
        "bank_rows": len(bank),
        "near_duplicates": len(duplicates.queries) if judged else None,
        "near_duplicates_share": len(duplicates.queries) / len(test.rows) if judged else None,
        "near_duplicates_of_same_class": int(duplicates.same_class.sum()) if judged else None,
        "histogram": leakage.histograms(test=nearest.similarities[:, 0], validation=others),
        "nearest": nearest,
    }


def _summarise(duplicates: dict[str, Any], errors: dict[str, Any]) -> None:
    """Print what was found, and where it is listed."""
    count = duplicates["near_duplicates"]
    if count is not None:
        of = f"of {duplicates['test_images']:,} test images"
        say(f"near duplicates: {count:,} {of}, listed in {paths.DUPLICATES}")
    if errors["validation_top1"] is None:
        votes = "no neighbour has a label that could vote"
    else:
        votes = (
            f"{errors['by_votes']:,} of {errors['judged']:,} by votes, which are right for "
            f"{errors['validation_top1']:.0%} of the validation images"
        )
    say(
        f"possible label errors: {errors['found']:,} ({votes}; "
        f"{errors['by_near_duplicate']:,} by near duplicates, {errors['by_same_pixels']:,} by the "
        f"same pixels in another class), listed in {paths.LABEL_ERRORS}"
    )


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
