"""A replay memory of what the vote gets wrong: rows are kept by their loss, not by their age.

Letters: N bank rows, L labelled ones, V voters, C classes, K neighbours.
"""

from __future__ import annotations

import weakref

import numpy as np
import numpy.typing as npt

from rapipe.records import Embeddings, Neighbours
from rapipe.retrieval.search import VectorsWithIds, check_k
from rapipe.retrieval.search.ranking import TopK
from rapipe.retrieval.strategies.base import (
    EXACT_SEARCH,
    NotServedError,
    RetrievalRequest,
    Rows,
    count_copies,
    nearest,
)
from rapipe.retrieval.strategies.replay import check_room, mix_ids, nearest_in, positions_of
from rapipe.retrieval.votes import count_votes, softmax

Losses = npt.NDArray[np.float64]
EXPONENT = 0.6
"""How much the priority counts, as the paper has it: 0 is a uniform draw."""
SMALLEST = 1e-12
"""Priority of rows that a vote has no doubt about: they are drawn last."""
VOTERS = 20
"""Nearest other rows that vote on a row."""


def prioritised_replay(
    queries: VectorsWithIds, bank: Embeddings, request: RetrievalRequest
) -> Neighbours:
    """The k nearest of a memory that keeps images by their loss: prioritised replay.

    Of the bank `request.replay` rows are drawn without replacement, a row of loss p with a
    weight of p ** 0.6; `replay` keeps those that came last instead. Tables are made before any
    training, when no classifier has a loss yet. So a row's loss is that of a vote without
    training: of its 20 nearest other rows with a label, weighted by softmax. A row without a
    label has the mean loss of the others. What is drawn depends on the bank and the seed, not on
    the queries. A query that is in the memory sees the next row of the draw in its stead.

    The paper also weights the updates of a network, so that a draw by priority does not bias
    them; neighbours are no updates.

    Source: Schaul et al., "Prioritized Experience Replay", ICLR 2016.

    Raises:
        NotServedError: no row has a label, or `k` is larger than `replay`.
        ArgumentError: `k` is out of range.
    """
    k, size = request.k, request.replay
    check_k(k, queries.ids, bank.ids)
    check_room(k, size)
    order = draw_order(bank, request.seed)
    positions = positions_of(queries.ids, bank.ids[order])  # (Q,)
    inside = (positions >= 0) & (positions < size)
    spare = np.where(inside, count_copies(queries.ids, bank.ids), 0)  # (Q,) rows it may not see
    shape = len(positions), k
    top = TopK(np.empty(shape, np.int32), np.empty(shape, np.float32))
    for more in np.unique(spare).tolist():
        group = np.flatnonzero(spare == more)
        memory = np.sort(order[: size + more])
        top.rows[group], top.similarities[group] = nearest_in(memory, queries.take(group), bank, k)
    return Neighbours(queries.ids, *top, EXACT_SEARCH)


def draw_order(bank: Embeddings, seed: int) -> Rows:
    """The order (N,) in which rows are drawn without replacement; copies come together.

    Each waits for a time of the exponential distribution with its weight as the rate, and who
    waits least comes first (Efraimidis and Spirakis, "Weighted random sampling with a
    reservoir", Information Processing Letters 2006). Copies have their mean loss.
    """
    losses = _latest_losses(bank)
    _, at, counts = np.unique(bank.ids, return_inverse=True, return_counts=True)
    priorities = (np.bincount(at, losses) / counts)[at].clip(SMALLEST)  # (N,)
    uniform = (mix_ids(bank.ids, seed).astype(np.float64) + 0.5) / 2.0**64  # in (0, 1]
    return np.argsort(-np.log(uniform) / priorities**EXPONENT, kind="stable")


def vote_losses(bank: Embeddings) -> Losses:
    """Negative log-likelihood (N,) of each row's label, by a vote of its nearest other rows.

    One more voter is spread over all classes, so that a loss is finite, and above 0.

    Raises:
        NotServedError: no row has a label.
    """
    labelled = np.flatnonzero(bank.labels >= 0)  # (L,)
    if not len(labelled):
        raise NotServedError(
            "`strategies` has 'prioritised-replay', but no image of the bank has a label to have "
            "a loss; choose replay, or another `bank`"
        )
    voters = bank if len(labelled) == len(bank) else bank.take(labelled)
    queries = VectorsWithIds(voters.ids, voters.vectors)
    near, _ = nearest(queries, voters, min(VOTERS, len(voters)))
    present = near.rows >= 0  # (L, V)
    weights = np.where(present, softmax(near.similarities), 0.0)
    classes, labels = np.unique(voters.labels, return_inverse=True)
    c = len(classes)
    votes = count_votes(np.where(present, labels[near.rows], -1), weights, c)  # (L, C)
    total = votes.sum(axis=1)
    of_label = votes[np.arange(len(labels)), labels]
    shares = np.divide(of_label, total, out=np.full(len(total), 1 / c), where=total > 0)
    count = present.sum(axis=1)
    losses = -np.log((count * shares + 1 / c) / (count + 1))
    result = np.full(len(bank), losses.mean())
    result[labelled] = losses
    return result


_latest: list[tuple[weakref.ref[Embeddings], Losses]] = []
"""Of the bank that was asked last: classifiers are measured at many noise levels on one bank."""


def _latest_losses(bank: Embeddings) -> Losses:
    """`vote_losses`, which take a search of the whole bank, once for a bank."""
    for reference, losses in _latest:
        if reference() is bank:
            return losses
    losses = vote_losses(bank)
    _latest[:] = [(weakref.ref(bank), losses)]
    return losses
