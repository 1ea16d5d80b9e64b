"""Which differences are more than chance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rapipe.config.names import NOISY
from rapipe.evaluation import statistics
from rapipe.evaluation.evidence import (
    CONTROL,
    Evidence,
)
from rapipe.evaluation.statistics import Verdict


class Claim(NamedTuple):
    """One comparison at one noise level."""

    backbone: str
    first: str
    second: str
    noise_std: float
    verdict: Verdict
    without: float
    """The difference without lookalikes of the memory; nan if nothing else is left."""
    adjusted_mcnemar: float
    adjusted_p: float

    @property
    def words(self) -> str:
        return statistics.words(self.verdict, self.adjusted_mcnemar, self.adjusted_p)


VOTE = "the best vote"
NOISE = "none, noise in training"


def claims(found: Evidence) -> list[Claim]:
    """Which differences were tested: on clean images and at the strongest noise.

    Each strategy against none and the control; what looks something up also
    against the best vote of its neighbours, and against noise in training without
    neighbours. P-values are adjusted for all of them.
    """
    compared = []
    for backbone in found.backbones:
        rights = _rights(found, backbone)
        for one, other in _pairs(list(rights)):
            for level in found.ends:
                a, b = rights[one][:, level], rights[other][:, level]
                verdict = statistics.compare(a, b, found.seed)
                without = found.without_lookalikes(a) - found.without_lookalikes(b)
                compared.append((backbone, one, other, found.levels[level], verdict, without))
    verdicts = [verdict for *_, verdict, _ in compared]
    by_image = statistics.holm([verdict.mcnemar for verdict in verdicts])
    by_seed = statistics.holm([verdict.p for verdict in verdicts])
    return [Claim(*own, *ps) for own, *ps in zip(compared, by_image, by_seed, strict=True)]


def _rights(found: Evidence, backbone: str) -> dict[str, npt.NDArray[np.bool_]]:
    """By what is compared, whether it is right (S, L, N)."""
    rights = {name: found.stacks[backbone, name].correct for name in found.strategies(backbone)}
    for name in found.looking_up(backbone):
        voted = found.stacks[backbone, name].voted
        if voted is not None:
            rights[f"{VOTE} of {name}"] = voted
    noisy = found.stacks.get((backbone + NOISY, "none"))
    return {**rights, NOISE: noisy.correct} if noisy else rights


def _pairs(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """What is compared with what."""
    for other, one in combinations(names, 2):
        vote = other.startswith(VOTE) or one.startswith(VOTE)
        if not vote and NOISE not in (one, other):
            if other in ("none", CONTROL):
                yield one, other
            elif one == CONTROL:  # whichever of the two the parameters name first
                yield other, one
        if one == f"{VOTE} of {other}":
            yield other, one
        if one == NOISE and not vote and other != CONTROL:
            yield (one, other) if other == "none" else (other, one)
