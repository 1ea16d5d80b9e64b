"""The grammar of a classifier's name."""

from __future__ import annotations

from dataclasses import dataclass

from rapipe.errors import UserError
from rapipe.io.text import quoted

INITIAL_WEIGHTS = ("corpus", "elsewhere")
"""Words behind a backbone's name: where it was pretrained; without one it starts from scratch."""
FROZEN, DISTILLED, NOISE = "frozen", "distilled", "noise"
"""Words behind a backbone's name: its weights stay; it has a teacher; it sees noisy images too."""
NOISY = "+" + NOISE


@dataclass(frozen=True)
class ClassifierName:
    """What a name in `train.backbones` says: NAME[+START][+frozen][+HEAD][+distilled][+noise]."""

    network: str
    """The backbone's name in the table of backbones."""
    start: str
    """`scratch`, or one of STARTS."""
    frozen: bool
    """Only what is put onto the backbone learns: its head, and the fusion with neighbours."""
    head: str
    """Its name in the table of heads."""
    distilled: bool
    """It learns from what the teacher of `train.distill` says, on all images."""
    noisy: bool
    """It is trained on noisy images too."""


def parse_name(text: str) -> ClassifierName:
    """Read a name of `train.backbones`; `UserError` if its words are not in their order."""
    network, *words = text.split("+")
    left = list(words)

    def taken(*known: str) -> str:
        return left.pop(0) if left and left[0] in known else ""

    start, frozen = taken(*INITIAL_WEIGHTS), taken(FROZEN)
    head = left.pop(0) if left and left[0] not in (DISTILLED, NOISE) else ""
    distilled, noisy = taken(DISTILLED), taken(NOISE)
    if left or head in (*INITIAL_WEIGHTS, FROZEN, "linear") or "" in (network, *words):
        raise UserError(
            f"{quoted(text)} is no name of a classifier; write NAME[+{'|'.join(INITIAL_WEIGHTS)}][+{FROZEN}]"
            f"[+HEAD][+{DISTILLED}][+{NOISE}], in this order"
        )
    return ClassifierName(
        network, start or "scratch", bool(frozen), head or "linear", bool(distilled), bool(noisy)
    )
