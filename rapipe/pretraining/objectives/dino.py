"""DINO: agree with the momentum encoder about which prototypes a view is like.

With lightly's head and loss. The momentum encoder (the teacher) sees two views; the encoder
that learns (the student) sees small crops besides, if there are any: multi-crop. The
teacher's outputs are centred and sharpened, so that neither one prototype nor all of them
alike can win.

Letters: B batch, K prototypes, V views of the teacher.
"""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from rapipe.encoder.backbones import Backbone
from rapipe.errors import ArgumentError
from rapipe.pretraining.objectives.base import ObjectiveSpec
from rapipe.pretraining.objectives.momentum import MomentumObjective
from rapipe.pretraining.objectives.parts import in_float32
from rapipe.training.ranks import mean

HEAD = (2048, 256, 2048)
DEPRECATED = r"`torch.nn.utils.weight_norm` is deprecated"
"""A warning about lightly's own use of torch."""
LOCAL_SHARE = 96 / 224
"""Side of a local crop, over that of a view."""


class DINO(MomentumObjective):
    """Sorts a view into learned prototypes as a momentum encoder sorts the other view.

    Head F-2048-2048-256-2048, its last layer the prototypes; the spec's widths are
    those of the hidden layers, the bottleneck and the prototypes. The momentum rises from
    .99 to 1. Local crops are of 5 to 40 % of an image, three sevenths as wide as the views,
    or the nearest multiple of a transformer's patches; the views are then of 40 to 100 %.

    Raises:
        ArgumentError: there are local crops, but the encoder takes images of one size only.

    Source: Caron et al., "Emerging Properties in Self-Supervised Vision Transformers",
    ICCV 2021.
    """

    ignores = ("temperature",)

    def __init__(self, encoder: Backbone, spec: ObjectiveSpec) -> None:
        from lightly.loss import DINOLoss

        self.check(spec)
        widths = spec.head or HEAD
        projector, momentum_projector = _head(encoder, widths), _head(encoder, widths)
        momentum_projector.load_state_dict(projector.state_dict())  # deepcopy cannot: weight_norm
        super().__init__(encoder, spec, projector, momentum_projector)
        self.agree = DINOLoss(output_dim=widths[-1])
        self.local_crops = spec.local_crops
        if spec.local_crops:
            self.local_side = _take_local_crops(encoder, spec)

    @classmethod
    def check(cls, spec: ObjectiveSpec) -> None:
        super().check(spec)
        if len(spec.head) not in (0, len(HEAD)):
            raise ArgumentError(
                f"`head` is {list(spec.head)}, but `objective` is dino, whose head has three "
                "widths: hidden layers, bottleneck, prototypes"
            )

    def forward(self, views: tuple[Tensor, ...], labels: Tensor) -> Tensor:
        students = [self.embed(view) for view in views[: self.views]]
        teachers = [self.momentum_embed(view) for view in views[: self.views]]
        if crops := views[self.views :]:
            students += self.embed(torch.cat(crops)).chunk(len(crops))
        return in_float32(self._loss, *teachers, *students)

    def _loss(self, *outputs: Tensor) -> Tensor:
        """Of the teacher's outputs for each view, then the student's."""
        teachers, students = outputs[: self.views], outputs[self.views :]
        self.measured = self._entropies(torch.stack(teachers).detach())
        loss: Tensor = self.agree(list(teachers), list(students))
        return loss

    def _entropies(self, outputs: Tensor) -> dict[str, Tensor]:
        """In nats, of the teacher's targets (V, B, K), and of their mean.

        Without centring the second falls to 0, since one prototype wins; without sharpening
        the first rises to ln K, since all are alike. The loss is the first and the mean
        Kullback-Leibler divergence of the student.
        """
        targets = ((outputs - self.agree.center) / self.agree.teacher_temp).softmax(dim=-1)
        entropy = torch.special.entr
        return {
            "teacher_entropy": entropy(targets).sum(dim=-1).mean(),
            "mean_target_entropy": entropy(mean(targets.mean(dim=(0, 1)))).sum(),
        }


def _head(encoder: Backbone, widths: tuple[int, ...]) -> nn.Module:
    """It normalises batches if the encoder does, as lightly advises."""
    from lightly.models.modules.heads import DINOProjectionHead

    norm = any(isinstance(part, nn.BatchNorm2d) for part in encoder.modules())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", DEPRECATED, FutureWarning)
        head: Any = DINOProjectionHead(encoder.features, *widths, batch_norm=norm)
    return head  # type: ignore[no-any-return]


def _take_local_crops(encoder: Backbone, spec: ObjectiveSpec) -> int:
    """The side of local crops, which the encoder takes from now on.

    A vision transformer of timm's resamples its positions for them.
    """
    net: Any = getattr(encoder, "net", None)
    side = round(LOCAL_SHARE * spec.image_size)
    if hasattr(net, "dynamic_img_size"):
        from timm.layers import Format

        patches = net.patch_embed
        net.dynamic_img_size = True
        patches.strict_img_size, patches.flatten, patches.output_fmt = False, False, Format.NHWC
        patch = patches.patch_size[0]
        side = max(1, round(LOCAL_SHARE * spec.image_size / patch)) * patch
    try:
        copy.deepcopy(encoder).to("meta").eval()(torch.empty(2, 3, side, side, device="meta"))
    except Exception as error:  # a network refuses images in every way there is
        raise ArgumentError(
            f"`local_crops` is {spec.local_crops}, but `encoder` takes no images of {side} pixels "
            f"beside those of {spec.image_size}: set it to 0, or choose a convolutional network "
            "or a vision transformer of timm's"
        ) from error
    return side
