"""DINO: agree with the momentum encoder about which prototypes a view is like.

With lightly's head and loss, and two views, both global: small local crops say little
of images of 32 pixels. The momentum encoder's outputs are centred and sharpened, so that
neither one prototype nor all of them alike can win.

Letters: B batch.
"""

from __future__ import annotations

import warnings
from typing import Any

from torch import Tensor, nn

from rapipe.encoder.backbones import Backbone
from rapipe.errors import ArgumentError
from rapipe.pretraining.objectives.base import ObjectiveSpec
from rapipe.pretraining.objectives.momentum import MomentumObjective
from rapipe.pretraining.objectives.parts import in_float32

HEAD = (2048, 256, 2048)
DEPRECATED = r"`torch.nn.utils.weight_norm` is deprecated"
"""A warning about lightly's own use of torch."""


class DINO(MomentumObjective):
    """Sorts a view into learned prototypes as a momentum encoder sorts the other view.

    Head F-2048-2048-256-2048, its last layer the prototypes; the spec's widths are
    those of the hidden layers, the bottleneck and the prototypes. The momentum rises from
    .99 to 1.

    Source: Caron et al., "Emerging Properties in Self-Supervised Vision Transformers",
    ICCV 2021.
    """

    def __init__(self, encoder: Backbone, spec: ObjectiveSpec) -> None:
        from lightly.loss import DINOLoss

        self.check(spec)
        widths = spec.head or HEAD
        projector, momentum_projector = _head(encoder, widths), _head(encoder, widths)
        momentum_projector.load_state_dict(projector.state_dict())  # deepcopy cannot: weight_norm
        super().__init__(encoder, spec, projector, momentum_projector)
        self.agree = DINOLoss(output_dim=widths[-1])

    @classmethod
    def check(cls, spec: ObjectiveSpec) -> None:
        super().check(spec)
        if len(spec.head) not in (0, len(HEAD)):
            raise ArgumentError(
                f"`head` is {list(spec.head)}, but `objective` is dino, whose head has three "
                "widths: hidden layers, bottleneck, prototypes"
            )

    def forward(self, views: tuple[Tensor, ...], labels: Tensor) -> Tensor:
        students = [self.embed(view) for view in views]
        teachers = [self.momentum_embed(view) for view in views]
        return in_float32(self._loss, *teachers, *students)

    def _loss(self, *outputs: Tensor) -> Tensor:
        """Of the teacher's outputs for each view, then the student's."""
        loss: Tensor = self.agree(list(outputs[: self.views]), list(outputs[self.views :]))
        return loss


def _head(encoder: Backbone, widths: tuple[int, ...]) -> nn.Module:
    """It normalises batches if the encoder does, as lightly advises."""
    from lightly.models.modules.heads import DINOProjectionHead

    norm = any(isinstance(part, nn.BatchNorm2d) for part in encoder.modules())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", DEPRECATED, FutureWarning)
        head: Any = DINOProjectionHead(encoder.features, *widths, batch_norm=norm)
    return head  # type: ignore[no-any-return]
