"""How an encoder can be used downstream, and what each use was worth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rapipe.evaluation.results import Row

VOTE, PROBE, FINE_TUNED = "vote", "probe", "fine_tuned"
WORDS = {VOTE: "vote of neighbours", PROBE: "linear probe", FINE_TUNED: "fine-tuned"}
"""Each use in words; the first two are of the encoder as it is."""


class Curve(NamedTuple):
    """What one encoder is worth by epochs of its pretraining."""

    name: str
    rows: Sequence[Row]
    """Each an epoch of pretraining and a use, with top1 and the ends of its interval."""
