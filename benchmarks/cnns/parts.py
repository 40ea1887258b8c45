"""Layers that the networks share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Activation = Callable[[], nn.Module]


class Conv(nn.Sequential):
    """A convolution that keeps the size (but for its stride), a batch norm, an activation."""

    def __init__(
        self, ins: int, outs: int, kernel: int = 3, stride: int = 1, groups: int = 1,
        act: Activation | None = nn.ReLU,
    ) -> None:  # fmt: skip
        layer = nn.Conv2d(ins, outs, kernel, stride, kernel // 2, groups=groups, bias=False)
        super().__init__(layer, nn.BatchNorm2d(outs), *([] if act is None else [act()]))


class Depthwise(nn.Sequential):
    """A depthwise convolution and a 1x1 convolution."""

    def __init__(self, ins: int, outs: int, stride: int = 1) -> None:
        super().__init__(Conv(ins, ins, stride=stride, groups=ins), Conv(ins, outs, 1))


class Head(nn.Module):
    """[n, ins, h, w] -> [n, 10]: the mean over the image, hidden layers, scores."""

    def __init__(self, ins: int, *hidden: int, act: Activation = nn.ReLU) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for outs in hidden:
            layers += [nn.Linear(ins, outs), act(), nn.Dropout()]
            ins = outs
        self.layers = nn.Sequential(*layers, nn.Linear(ins, 10))

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.layers(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))
        return scores


class Mean(nn.Module):
    """[n, c, h, w] -> [n, c]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


class Added(nn.Module):
    """What branches make of one input, added up; then an activation, if any."""

    def __init__(self, *branches: nn.Module, act: nn.Module | None = None) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.act = act or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        first, *others = (branch(x) for branch in self.branches)
        for other in others:
            first = first + other
        found: Tensor = self.act(first)
        return found


class Joined(nn.Module):
    """What branches make of one input, one behind the other."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


class Excited(nn.Module):
    """Squeeze and excitation (Hu et al., 2018), by 1x1 convolutions or by linear layers."""

    def __init__(self, size: int, narrow: int, *, linear: bool = False) -> None:
        super().__init__()
        self.linear = linear
        kind: Callable[[int, int], nn.Module] = (
            nn.Linear if linear else lambda ins, outs: nn.Conv2d(ins, outs, 1)
        )
        self.down, self.up = kind(size, narrow), kind(narrow, size)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((2, 3), keepdim=not self.linear)
        gate = nn.functional.hardsigmoid(self.up(nn.functional.relu(self.down(mean))))
        return x * (gate[:, :, None, None] if self.linear else gate)


def shuffled(x: Tensor, groups: int) -> Tensor:
    """Channel shuffle (Zhang et al., 2018)."""
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)
