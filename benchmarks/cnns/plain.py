"""Networks whose channels stay in their places: residual, depthwise, parallel, in 1-D and 3-D."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .parts import Added, Conv, Depthwise, Excited, Head, Joined


def vgg() -> nn.Module:
    """Convolutions, a flattened map of 2x2, two hidden layers (Simonyan and Zisserman, 2015)."""
    return nn.Sequential(
        Conv(3, 8), nn.MaxPool2d(2), Conv(8, 12), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(2),
        nn.Flatten(), nn.Linear(48, 20), nn.ReLU(), nn.Dropout(), nn.Linear(20, 16), nn.ReLU(),
        nn.Linear(16, 10),
    )  # fmt: skip


def _basic(ins: int, outs: int, stride: int = 1) -> nn.Module:
    way = nn.Identity() if stride == 1 else Conv(ins, outs, 1, stride, act=None)
    return Added(
        nn.Sequential(Conv(ins, outs, 3, stride), Conv(outs, outs, act=None)), way, act=nn.ReLU()
    )


def resnet() -> nn.Module:
    """Basic blocks, one with a projection (He et al., 2016)."""
    return nn.Sequential(
        Conv(3, 8), nn.MaxPool2d(3, 2, 1), _basic(8, 8), _basic(8, 8), _basic(8, 16, 2),
        _basic(16, 16), Head(16),
    )  # fmt: skip


def _bottleneck(ins: int, mid: int, outs: int, stride: int = 1, groups: int = 1) -> nn.Module:
    way = nn.Identity() if ins == outs else Conv(ins, outs, 1, stride, act=None)
    body = nn.Sequential(
        Conv(ins, mid, 1), Conv(mid, mid, 3, stride, groups), Conv(mid, outs, 1, act=None)
    )
    return Added(body, way, act=nn.ReLU())


def bottleneck() -> nn.Module:
    """Bottleneck blocks, each stage begins with a projection."""
    return nn.Sequential(
        Conv(3, 8), _bottleneck(8, 4, 16), _bottleneck(16, 4, 16), _bottleneck(16, 8, 32, 2),
        _bottleneck(32, 8, 32), Head(32),
    )  # fmt: skip


def resnext() -> nn.Module:
    """Bottlenecks with grouped convolutions (Xie et al., 2017)."""
    return nn.Sequential(
        Conv(3, 8), _bottleneck(8, 16, 24, groups=2), _bottleneck(24, 16, 24, groups=2), Head(24)
    )


class _Dense(nn.Module):
    def __init__(self, ins: int, mid: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(ins), nn.Conv2d(ins, mid, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(mid)
        self.conv2 = nn.Conv2d(mid, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(torch.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(torch.relu(self.norm2(y)))], 1)


def densenet() -> nn.Module:
    """Batch norms in front of layers, behind joins (Huang et al., 2017)."""
    return nn.Sequential(
        Conv(3, 8), _Dense(8, 12, 4), _Dense(12, 12, 4),
        nn.Sequential(nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 6, 1), nn.AvgPool2d(2)),
        _Dense(6, 12, 4), _Dense(10, 12, 4), nn.BatchNorm2d(14), nn.ReLU(), Head(14),
    )  # fmt: skip


def _inverted(ins: int, mid: int, outs: int, stride: int = 1, narrow: int = 0) -> nn.Module:
    act = nn.Hardswish if narrow else nn.ReLU6
    body = nn.Sequential(
        Conv(ins, mid, 1, act=act), Conv(mid, mid, 3, stride, mid, act=act),
        Excited(mid, narrow, linear=stride > 1) if narrow else nn.Identity(),
        Conv(mid, outs, 1, act=None),
    )  # fmt: skip
    return body if ins != outs or stride > 1 else Added(nn.Identity(), body)


def mobilenet2() -> nn.Module:
    """Inverted residuals over depthwise convolutions (Sandler et al., 2018)."""
    return nn.Sequential(
        Conv(3, 8, act=nn.ReLU6), Depthwise(8, 6), _inverted(6, 24, 12, 2), _inverted(12, 36, 12),
        Conv(12, 32, 1, act=nn.ReLU6), Head(32),
    )  # fmt: skip


def mobilenet3() -> nn.Module:
    """Squeeze and excitation, by convolutions and by linear layers (Howard et al., 2019)."""
    return nn.Sequential(
        Conv(3, 8, act=nn.Hardswish), _inverted(8, 16, 8, narrow=4),
        _inverted(8, 24, 12, 2, narrow=6), Conv(12, 32, 1, act=nn.Hardswish),
        Head(32, 20, act=nn.Hardswish),
    )  # fmt: skip


def multiplier() -> nn.Module:
    """Depthwise convolutions that make two channels of each, as the first of Xception-like nets."""
    return nn.Sequential(Conv(3, 6), Conv(6, 12, groups=6), Conv(12, 8, 1), Head(8))


def inception() -> nn.Module:
    """Parallel branches of several sizes, joined (Szegedy et al., 2015 and 2016)."""

    def module(ins: int) -> nn.Module:
        flat = nn.Sequential(
            nn.Conv2d(4, 4, (1, 3), padding=(0, 1)), nn.Conv2d(4, 6, (3, 1), padding=(1, 0))
        )
        return Joined(
            Conv(ins, 8, 1), nn.Sequential(Conv(ins, 4, 1), Conv(4, 8)),
            nn.Sequential(Conv(ins, 4, 1), flat, nn.ReLU()),
            nn.Sequential(nn.MaxPool2d(3, 1, 1), Conv(ins, 5, 1)),
        )  # fmt: skip

    return nn.Sequential(Conv(3, 8), module(8), nn.MaxPool2d(2), module(27), Head(27))


def repvgg() -> nn.Module:
    """Branches of 3x3, 1x1 and nothing but a norm, added up (Ding et al., 2021)."""

    def block(ins: int, outs: int, stride: int = 1) -> nn.Module:
        same = [nn.BatchNorm2d(ins)] if (ins, stride) == (outs, 1) else []
        wide, narrow = Conv(ins, outs, 3, stride, act=None), Conv(ins, outs, 1, stride, act=None)
        return Added(wide, narrow, *same, act=nn.ReLU())

    return nn.Sequential(block(3, 8), block(8, 8), block(8, 16, 2), block(16, 16), Head(16))


def signal() -> nn.Module:
    """A residual network over [n, 3, length], its convolutions dilated (Bai et al., 2018)."""

    def block(size: int, dilation: int) -> nn.Module:
        one = nn.Conv1d(size, size + 4, 3, padding=dilation, dilation=dilation)
        body = nn.Sequential(one, nn.BatchNorm1d(size + 4), nn.ReLU(), nn.Conv1d(size + 4, size, 1))
        return Added(body, nn.Identity())

    return nn.Sequential(
        nn.Conv1d(3, 8, 3), block(8, 1), block(8, 2), nn.AdaptiveMaxPool1d(1), nn.Flatten(),
        nn.Linear(8, 10),
    )  # fmt: skip


def volume() -> nn.Module:
    """Convolutions over [n, 3, depth, height, width]."""
    return nn.Sequential(
        nn.Conv3d(3, 8, 3, padding=1), nn.BatchNorm3d(8), nn.ReLU(), nn.MaxPool3d(2),
        nn.Conv3d(8, 12, (3, 1, 1)), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(),
        nn.Linear(12, 10),
    )  # fmt: skip


def normed(groups: int) -> nn.Module:
    """A residual network of 8 channels with group norms (Wu and He, 2018)."""

    def layer(ins: int, act: bool = True) -> nn.Module:
        norm = [nn.Conv2d(ins, 8, 3, padding=1), nn.GroupNorm(groups, 8)]
        return nn.Sequential(*norm, nn.ReLU() if act else nn.Identity())

    block = Added(nn.Sequential(layer(8), layer(8, act=False)), nn.Identity(), act=nn.ReLU())
    return nn.Sequential(layer(3), block, Conv(8, 6), Head(6))
