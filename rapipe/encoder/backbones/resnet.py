"""ResNets (He et al., CVPR 2016) of timm's layers; neighbours enter after each stage."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from rapipe.encoder.backbones.base import Backbone, Fuse, fuse_map, no_fusion

NARROWEST_STRIDED = 8
"""Fewest channels of a shortcut that is a plain convolution of stride 2."""


class SubsampledConv2d(nn.Conv2d):
    """A 1x1 convolution with a stride, computed as one without a stride on every n-th pixel.

    The gradient of the former's weights is written beyond the memory meant for it by torch's
    library for CPUs (oneDNN, seen in torch 2.15), where there are fewer than 8 channels in,
    and channels last: the process dies, or goes on with other numbers.
    """

    def forward(self, input: Tensor) -> Tensor:
        down, across = self.stride
        return F.conv2d(input[:, :, ::down, ::across], self.weight)


class ResNetBackbone(Backbone):
    """timm's ResNet, its stem chosen for the size of the images.

    Args:
        blocks: their number in each of the four stages.
        width: channels of the first stage, which each later stage doubles; of the
            narrow layers inside if blocks are bottlenecks, whose ends are 4 times as wide.
        stem: `cifar` (3x3, stride 1), `half` (3x3, stride 2), or `imagenet`
            (7x7, stride 2, then max-pooling of stride 2).
        bottleneck: blocks of three convolutions in place of the basic ones of two.
    """

    branches = True

    def __init__(
        self, blocks: tuple[int, ...], width: int, stem: str, bottleneck: bool = False
    ) -> None:
        from timm.models import resnet  # seconds: only for those who use it

        super().__init__()
        block = resnet.Bottleneck if bottleneck else resnet.BasicBlock
        channels = tuple(width * 2**stage for stage in range(len(blocks)))
        self.widths = tuple(block.expansion * inner for inner in channels)
        self.features = self.widths[-1]
        net = resnet.ResNet(block, list(blocks), num_classes=0, channels=channels)
        if stem != "imagenet":
            stride = 1 if stem == "cifar" else 2
            net.conv1 = nn.Conv2d(3, net.conv1.out_channels, 3, stride, 1, bias=False)
            nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
            net.maxpool = nn.Identity()
        shortcut = net.layer2[0].downsample
        if shortcut[0].in_channels < NARROWEST_STRIDED:
            subsampled = SubsampledConv2d(width, shortcut[0].out_channels, 1, 2, bias=False)
            subsampled.weight = shortcut[0].weight
            shortcut[0] = subsampled
        self.net = net

    def forward(self, images: Tensor, fuse: Fuse = no_fusion) -> Tensor:
        net = self.net
        x = net.maxpool(net.act1(net.bn1(net.conv1(images))))  # (B, C, H, W)
        for stage, layers in enumerate((net.layer1, net.layer2, net.layer3, net.layer4)):
            x = fuse_map(fuse, stage, layers(x))
        pooled: Tensor = net.global_pool(x)  # (B, F)
        return pooled


def resnet18(width: int, stem: str, image_size: int) -> Backbone:
    """ResNet-18: 18 layers of basic blocks; width 64 is the published size.

    Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.
    """
    return ResNetBackbone((2, 2, 2, 2), width, stem)


def resnet34(width: int, stem: str, image_size: int) -> Backbone:
    """ResNet-34: 34 layers of basic blocks; width 64 is the published size.

    Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.
    """
    return ResNetBackbone((3, 4, 6, 3), width, stem)


def resnet50(width: int, stem: str, image_size: int) -> Backbone:
    """ResNet-50: 50 layers of bottleneck blocks; width 64 is the published size.

    Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.
    """
    return ResNetBackbone((3, 4, 6, 3), width, stem, bottleneck=True)
