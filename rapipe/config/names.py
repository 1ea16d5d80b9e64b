"""The grammar of a classifier's name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rapipe.errors import UserError
from rapipe.io.text import quoted

SCRATCH, PRETRAINED, CHECKPOINT = "scratch", "pretrained", "checkpoint"
"""Where initial weights come from; the first is no word behind a backbone's name."""
FROZEN, DISTILLED, NOISE = "frozen", "distilled", "noise"
"""Words behind a backbone's name: its weights stay; it has a teacher; it sees noisy images too."""
NOISY = "+" + NOISE
ENCODER = "encoder"
"""The backbone that is the memory's encoder, with its weights and its input."""
SELF = "self"
"""The strategy that shows an image's own vector, and nothing of the bank."""
WITH_SELF = (SELF, "self+knn")
"""Strategies that show an image's own vector."""
GENERATED = "generated"
"""The kind of source whose images are generated from the training images of the others."""
TASK, MEMORY, TRAINING, BOTH, SHIFT = "task", "memory", "training", "both", "shift"
"""Roles of sources."""
LINEAR = "linear"
"""The head of a name without one."""
PROJECTION = "projection"
"""The head that starts from a projection head, if its backbone is pretrained with one."""
RENAMED = {"corpus": PRETRAINED, "elsewhere": CHECKPOINT}
"""Words that older versions read."""


@dataclass(frozen=True)
class ClassifierName:
    """NAME[+pretrained|+checkpoint][+frozen][+HEAD][+distilled][+noise], in its parts.

    >>> ClassifierName.parse("resnet18+pretrained+frozen").head
    'linear'
    """

    backbone: str
    """Its name in the table of backbones, or `encoder`."""
    initial: str
    """Where its weights come from: `scratch`, `pretrained` or `checkpoint`."""
    frozen: bool
    """Only what is put onto the backbone learns: its head, and the fusion with neighbours."""
    head: str
    """Its name in the table of heads."""
    distilled: bool
    """It learns from what a teacher says, on all images."""
    noisy: bool
    """It is trained on noisy images too."""

    @classmethod
    def parse(cls, text: str) -> ClassifierName:
        """Read a name; `UserError` if its words are not in their order."""
        backbone, *words = text.split("+")
        rest = list(words)

        def pop(*choices: str) -> str:
            return rest.pop(0) if rest and rest[0] in choices else ""

        initial, frozen = pop(PRETRAINED, CHECKPOINT), pop(FROZEN)
        head = rest.pop(0) if rest and rest[0] not in (DISTILLED, NOISE) else ""
        distilled, noisy = pop(DISTILLED), pop(NOISE)
        if backbone == ENCODER:
            if initial:
                raise UserError(
                    f"{quoted(text)}: {ENCODER} is the memory's, with its weights: leave "
                    f"+{initial} out"
                )
            initial = PRETRAINED
        for word in words:
            if word in RENAMED:
                raise UserError(f"{quoted(text)}: +{word} is called +{RENAMED[word]} now")
        if rest or head in (PRETRAINED, CHECKPOINT, FROZEN, LINEAR) or "" in (backbone, *words):
            raise UserError(
                f"{quoted(text)} is no name of a classifier; write NAME[+{PRETRAINED}|{CHECKPOINT}]"
                f"[+{FROZEN}][+HEAD][+{DISTILLED}][+{NOISE}], in this order"
            )
        return cls(
            backbone, initial or SCRATCH, bool(frozen), head or LINEAR, bool(distilled), bool(noisy)
        )


def init_of(init: str | Mapping[str, str], backbone: str) -> str:
    """What this backbone starts from as a checkpoint: one for all, or its own; empty if none.

    >>> init_of({"resnet18": "weights.pth"}, "resnet18")
    'weights.pth'
    """
    return init if isinstance(init, str) else init.get(backbone, "")
