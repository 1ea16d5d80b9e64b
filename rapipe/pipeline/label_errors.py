"""A part of the stage audit: list images whose label is possibly wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rapipe import paths
from rapipe.evaluation import label_errors
from rapipe.evaluation.label_errors import Suspects
from rapipe.io.locations import read_locations
from rapipe.io.tables import write_csv
from rapipe.pipeline.inputs import bank_card, checked
from rapipe.records import Embeddings, Ids, Images, Labels, Neighbours, Vectors
from rapipe.retrieval.search import SearchMethod, search

COLUMNS = (
    *("split", "row", "id", "source", "location", "class", "suggested", "confidence"),
    *("suggested_confidence", "reason", "neighbour_id", "similarity"),
)
LISTED = 10_000
"""Possible label errors that are listed; the rest are only counted."""
REASONS = ("votes", "near_duplicate", "same_pixels")
SHOWN, NEIGHBOURS = 20, 4
"""Those that the report shows, and neighbours of each."""
METHOD = SearchMethod("auto", cache=paths.INDEX)
"""Exact while that takes a minute or so."""


@dataclass(frozen=True)
class Queries:
    """The images of a split whose labels are known, and their vectors."""

    split: Images
    """All images of the split."""
    rows: npt.NDArray[np.int64]
    """(Q,), of those whose labels are known."""
    vectors: Vectors  # (Q, D)

    @property
    def ids(self) -> Ids:
        """(Q,)."""
        return self.split.ids[self.rows]

    @property
    def labels(self) -> Labels:
        """(Q,)."""
        return self.split.labels[self.rows]


def list_label_errors(
    queries: dict[str, Queries], bank: Embeddings, nearest: Neighbours, threshold: float | None
) -> dict[str, Any]:
    """Write the possible label errors; return their counts, and neighbours of the first.

    Nothing votes on test images.

    Args:
        nearest: the nearest row of the bank for each test image.
        threshold: the similarity above which two images are nearly copies.
    """
    train, validation = queries["train"], queries["validation"]
    _, copies = np.unique(bank.ids, return_counts=True)
    k = min(label_errors.K, len(bank) - int(copies.max()))
    votes, found, rows, judged = None, [], [], 0
    if k > 0:  # else an image has no neighbour but itself
        tables = [search(part.vectors, bank, k, part.ids, METHOD) for part in (train, validation)]
        table, labels = join_tables(tables), np.concatenate([train.labels, validation.labels])
        classes = len(train.split.classes)
        votes = label_errors.choose_vote(tables[1], bank.labels, validation.labels, classes)
        judgement = label_errors.unjudged(len(labels))
        if votes:
            judgement = label_errors.judge(table, bank.ids, bank.labels, labels, votes, classes)
        judged = int((~np.isnan(judgement.confidence)).sum())
        suspects = label_errors.find_suspects(table, bank.labels, labels, judgement, threshold)
        found.append(suspects)
        rows = describe(suspects, {"train": train, "validation": validation}, table, bank)
    test = queries["test"]
    judgement = label_errors.unjudged(len(test.rows))
    found.append(
        label_errors.find_suspects(nearest, bank.labels, test.labels, judgement, threshold)
    )
    rows = [*rows, *describe(found[-1], {"test": test}, nearest, bank)][:LISTED]
    neighbours = [row.pop("neighbours") for row in rows]
    keys = [(row["split"], row["row"]) for row in rows]
    locations = read_locations(checked(paths.LOCATIONS), keys)
    for row, key in zip(rows, keys, strict=True):
        row["location"] = locations[key]
    write_csv(paths.LABEL_ERRORS, rows, COLUMNS)
    commonest = np.unique(validation.labels, return_counts=True)[1].max(initial=0)
    return {
        "judged": judged,
        "k": votes.k if votes else None,
        "validation_top1": votes.validation_top1 if votes else None,
        "validation_commonest": int(commonest) / max(1, len(validation.rows)),
        "found": sum(len(part.rows) for part in found),
        "listed": len(rows),
        **{
            name: sum(int(getattr(part, name).sum()) for part in found)
            for name in ("by_votes", "by_near_duplicate", "by_same_pixels")
        },
        "neighbours": neighbours[:SHOWN],
    }


def join_tables(tables: Sequence[Neighbours]) -> Neighbours:
    """Tables of the same bank and K as one."""
    return Neighbours(
        np.concatenate([table.query_ids for table in tables]),
        np.concatenate([table.indices for table in tables]),
        np.concatenate([table.similarities for table in tables]),
    )


def describe(
    suspects: Suspects, queries: dict[str, Queries], table: Neighbours, bank: Embeddings
) -> list[dict[str, Any]]:
    """The first suspects in words, each with its nearest neighbours.

    Args:
        queries: by split, in the order of the table.
    """
    names = bank_card()["classes"]
    splits = np.repeat([*queries], [len(part.rows) for part in queries.values()])
    rows = np.concatenate([part.rows for part in queries.values()])
    labels = np.concatenate([part.labels for part in queries.values()])
    described = []
    for i, row in enumerate(suspects.rows[:LISTED].tolist()):
        split = str(splits[row])
        near, column = table.indices[row], suspects.columns[i]
        reasons = [name for name in REASONS if getattr(suspects, f"by_{name}")[i]]
        described.append(
            {
                "split": split,
                "row": int(rows[row]),
                "id": int(table.query_ids[row]),
                "source": str(queries[split].split.sources[rows[row]]),
                "location": "",
                "class": names[labels[row]],
                "suggested": names[suspects.suggested[i]],
                "confidence": _number(suspects.confidence[i]),
                "suggested_confidence": _number(suspects.suggested_confidence[i]),
                "reason": "+".join(reasons).replace("_", " "),
                "neighbour_id": int(bank.ids[near[column]]) if column >= 0 else None,
                "similarity": float(table.similarities[row, column]) if column >= 0 else None,
                "neighbours": [
                    {
                        "id": int(bank.ids[other]),
                        "class": names[bank.labels[other]] if bank.labels[other] >= 0 else "?",
                        "similarity": round(float(similarity), 6),
                    }
                    for other, similarity in zip(
                        near[:NEIGHBOURS], table.similarities[row, :NEIGHBOURS], strict=True
                    )
                ],
            }
        )
    return described


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
