"""Networks that move channels: shuffles, splits and joins, several scales; and norms over them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .parts import Added, Conv, Depthwise, Head, Joined, Mean, shuffled


class _Grouped(nn.Module):
    """A unit of ShuffleNet: grouped 1x1 convolutions around a shuffle and a depthwise one."""

    def __init__(self, ins: int, mid: int, outs: int, groups: int, stride: int) -> None:
        super().__init__()
        self.groups, self.stride = groups, stride
        self.first = Conv(ins, mid, 1, groups=groups)
        self.deep = Conv(mid, mid, 3, stride, mid, act=None)
        self.last = Conv(mid, outs, 1, groups=groups, act=None)

    def forward(self, x: Tensor) -> Tensor:
        y = self.last(self.deep(shuffled(self.first(x), self.groups)))
        if self.stride == 1:
            return torch.relu(x + y)
        return torch.relu(torch.cat([functional.avg_pool2d(x, 3, 2, 1), y], 1))


def shufflenet1() -> nn.Module:
    """Grouped 1x1 convolutions and channel shuffles (Zhang et al., 2018)."""
    return nn.Sequential(Conv(3, 8), _Grouped(8, 8, 8, 2, 2), _Grouped(16, 8, 16, 2, 1), Head(16))


class _Halved(nn.Module):
    """A unit of ShuffleNet v2: one half as it is, the other through layers; joined, shuffled."""

    def __init__(self, size: int) -> None:
        super().__init__()
        half = size // 2
        deep = Conv(half, half, groups=half, act=None)
        self.body = nn.Sequential(Conv(half, half, 1), deep, Conv(half, half, 1))

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1)
        return shuffled(torch.cat([left, self.body(right)], 1), 2)


class _Down(nn.Module):
    def __init__(self, ins: int, outs: int) -> None:
        super().__init__()
        half = outs // 2
        self.left = nn.Sequential(Conv(ins, ins, 3, 2, ins, act=None), Conv(ins, half, 1))
        deep = Conv(half, half, 3, 2, half, act=None)
        self.right = nn.Sequential(Conv(ins, half, 1), deep, Conv(half, half, 1))

    def forward(self, x: Tensor) -> Tensor:
        return shuffled(torch.cat([self.left(x), self.right(x)], 1), 2)


def shufflenet2() -> nn.Module:
    """Channels split, joined and shuffled (Ma et al., 2018)."""
    return nn.Sequential(
        Conv(3, 8), _Down(8, 16), _Halved(16), _Halved(16), Conv(16, 24, 1), Head(24)
    )


class _Ghost(nn.Module):
    """Half of the channels by a convolution, the other half by a cheap one of those."""

    def __init__(self, ins: int, outs: int) -> None:
        super().__init__()
        self.first, self.cheap = (
            Conv(ins, outs // 2, 1),
            Conv(outs // 2, outs // 2, 3, 1, outs // 2),
        )

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        return torch.cat([first, self.cheap(first)], 1)


def ghostnet() -> nn.Module:
    """Cheap copies of channels (Han et al., 2020)."""
    body = nn.Sequential(_Ghost(8, 24), _Ghost(24, 8))
    return nn.Sequential(Conv(3, 8), Added(nn.Identity(), body), Conv(8, 6, 1), Head(6))


class UNet(nn.Module):
    """Skips that are joined (Ronneberger et al., 2015). up: by a layer, or by interpolation."""

    def __init__(self, *, up: bool) -> None:
        super().__init__()
        self.one, self.two = self._pair(3, 8), self._pair(8, 12)
        self.low = self._pair(12, 16)
        self.wide: nn.Module = nn.Upsample(scale_factor=2, mode="bilinear")
        self.up2 = nn.ConvTranspose2d(16, 10, 2, 2) if up else self.wide
        self.in2 = self._pair((10 if up else 16) + 12, 12)
        self.up1 = nn.ConvTranspose2d(12, 6, 2, 2) if up else self.wide
        self.in1 = self._pair((6 if up else 12) + 8, 8)
        self.classes = nn.Conv2d(8, 2, 1)

    @staticmethod
    def _pair(ins: int, outs: int) -> nn.Module:
        return nn.Sequential(Conv(ins, outs), Conv(outs, outs))

    def forward(self, x: Tensor) -> Tensor:
        one = self.one(x)
        two = self.two(functional.max_pool2d(one, 2))
        low = self.low(functional.max_pool2d(two, 2))
        mid = self.in2(torch.cat([self.up2(low), two], 1))
        classes: Tensor = self.classes(self.in1(torch.cat([one, self.up1(mid)], 1)))
        return classes


class _Stage(nn.Module):
    """A cross-stage partial block: a split, bottlenecks on one part, all parts joined."""

    def __init__(self, ins: int, outs: int, mid: int, count: int) -> None:
        super().__init__()
        self.mid = mid
        self.first = Conv(ins, 2 * mid, 1, act=nn.SiLU)
        self.blocks = nn.ModuleList(
            Added(
                nn.Identity(), nn.Sequential(Conv(mid, 6, act=nn.SiLU), Conv(6, mid, act=nn.SiLU))
            )
            for _ in range(count)
        )
        self.last = Conv((2 + count) * mid, outs, 1, act=nn.SiLU)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.first(x).split((self.mid, self.mid), 1))
        for block in self.blocks:
            parts.append(block(parts[-1]))
        joined: Tensor = self.last(torch.cat(parts, 1))
        return joined


class _Pyramid(nn.Module):
    """Pools of pools, joined (SPPF)."""

    def __init__(self, size: int, mid: int) -> None:
        super().__init__()
        self.first, self.last = Conv(size, mid, 1), Conv(4 * mid, size, 1)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.first(x)]
        for _ in range(3):
            parts.append(functional.max_pool2d(parts[-1], 5, 1, 2))
        joined: Tensor = self.last(torch.cat(parts, 1))
        return joined


class Yolo(nn.Module):
    """Splits, joins, two scales and their heads, as YOLO versions 5 to 8 have them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(Conv(3, 8, act=nn.SiLU), Conv(8, 10, 3, 2, act=nn.SiLU))
        self.fine = _Stage(10, 14, 4, 2)
        self.coarse = nn.Sequential(Conv(14, 18, 3, 2, act=nn.SiLU), _Pyramid(18, 7))
        self.mix = _Stage(32, 12, 4, 1)
        self.heads = nn.ModuleList(
            nn.Sequential(Conv(size, 9, act=nn.SiLU), nn.Conv2d(9, 6, 1)) for size in (12, 18)
        )

    def forward(self, x: Tensor) -> Tensor:
        fine = self.fine(self.stem(x))
        coarse = self.coarse(fine)
        up = functional.interpolate(coarse, scale_factor=2.0)
        maps = (self.mix(torch.cat([up, fine], 1)), coarse)
        found = [head(y).flatten(2) for head, y in zip(self.heads, maps, strict=True)]
        return torch.sigmoid(torch.cat(found, 2)).transpose(1, 2)


class Pyramid(nn.Module):
    """Features of two scales added up, one head for both (Lin et al., 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = Conv(3, 8), Conv(8, 12, 3, 2)
        self.sides = nn.ModuleList([nn.Conv2d(8, 10, 1), nn.Conv2d(12, 10, 1)])
        self.head = nn.Sequential(Conv(10, 7), nn.Conv2d(7, 4, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.fine(x)
        low = self.sides[1](self.coarse(fine))
        high = self.sides[0](fine) + functional.interpolate(low, scale_factor=2.0)
        return self.head(high), self.head(low)


class Context(nn.Module):
    """Dilated branches and one mean over the image, joined (ASPP; Chen et al., 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Conv(3, 8)
        self.branches = Joined(
            Conv(8, 6, 1), nn.Conv2d(8, 6, 3, padding=2, dilation=2),
            nn.Conv2d(8, 5, 3, padding=3, dilation=3),
        )  # fmt: skip
        self.mean = nn.Conv2d(8, 4, 1)
        self.last = nn.Sequential(Conv(21, 9, 1), nn.Conv2d(9, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        mean = functional.interpolate(self.mean(x.mean((2, 3), keepdim=True)), x.shape[2:])
        scores: Tensor = self.last(torch.cat([torch.relu(self.branches(x)), mean], 1))
        return scores


class _Gated(nn.Module):
    def __init__(self, ins: int, outs: int) -> None:
        super().__init__()
        self.layer = nn.Conv1d(ins, 2 * outs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        opened: Tensor = functional.glu(self.layer(x), 1)
        return opened


def gated() -> nn.Module:
    """Gated linear units over [n, 3, length] (Dauphin et al., 2017)."""
    return nn.Sequential(
        _Gated(3, 8), Added(nn.Identity(), _Gated(8, 8)), _Gated(8, 5), nn.AdaptiveAvgPool1d(1),
        nn.Flatten(), nn.Linear(5, 10),
    )  # fmt: skip


class _LayerNorm(nn.LayerNorm):
    """Over the channels of [n, c, h, w]."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = super().forward(x.permute(0, 2, 3, 1))
        return y.permute(0, 3, 1, 2)


class _Next(nn.Module):
    def __init__(self, size: int, mid: int) -> None:
        super().__init__()
        self.deep = nn.Conv2d(size, size, 7, padding=3, groups=size)
        self.norm = nn.LayerNorm(size)
        self.up, self.down = nn.Linear(size, mid), nn.Linear(mid, size)
        self.scale = nn.Parameter(torch.rand(size) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.deep(x).permute(0, 2, 3, 1))
        y = self.scale * self.down(functional.gelu(self.up(y)))
        found: Tensor = x + y.permute(0, 3, 1, 2)
        return found


def convnext() -> nn.Module:
    """Layer norms over channels, linear layers on channels last (Liu et al., 2022)."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 4, 4), _LayerNorm(8), _Next(8, 24), _LayerNorm(8), nn.Conv2d(8, 12, 2, 2),
        _Next(12, 36), Mean(), nn.LayerNorm(12), nn.Linear(12, 10),
    )  # fmt: skip


def superresolution() -> nn.Module:
    """Channels that become pixels (Shi et al., 2016)."""
    return nn.Sequential(
        Conv(3, 8), nn.Conv2d(8, 24, 3, padding=1), nn.PixelShuffle(2), nn.ReLU(),
        nn.Conv2d(6, 3, 3, padding=1),
    )  # fmt: skip


class Attended(nn.Module):
    """Where to look, from the mean and the maximum over channels (CBAM; Woo et al., 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.where = Conv(3, 8), nn.Conv2d(2, 1, 3, padding=1)
        self.last = nn.Sequential(Depthwise(8, 6), Head(6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        seen = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        scores: Tensor = self.last(x * torch.sigmoid(self.where(seen)))
        return scores
