"""The networks, and which groups of channels each of them has, worked out by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType

from torch import nn

from . import mixed, plain

Counts = Mapping[str, tuple[int, ...]]
IMAGE = (3, 16, 16)
SCORES = MappingProxyType({"signature": (10,)})


@dataclass(frozen=True)
class Net:
    """cuttable: units of every group by kind. refused: the sizes that occur, by code. shape: of
    one sample. loose: sizes that are refused although channels could be told apart, known limits.
    """

    name: str
    build: Callable[[], nn.Module]
    cuttable: Counts
    refused: Counts = field(default_factory=lambda: SCORES)
    shape: tuple[int, ...] = IMAGE
    loose: tuple[int, ...] = ()


def channels(*units: int, **others: tuple[int, ...]) -> Counts:
    """Units by kind, those of channels in any order."""
    return {"channels": tuple(sorted(units))} | others


NETS: tuple[Net, ...] = (
    # Every layer but the last; the second is flattened with its 2x2 map.
    Net("VGG", plain.vgg, channels(8, 12, neurons=(16, 20))),
    # Two streams, and one group inside each of four blocks.
    Net("ResNet, basic blocks", plain.resnet, channels(8, 8, 8, 16, 16, 16)),
    # The stem, two streams, two groups inside each of four blocks.
    Net("ResNet, bottlenecks", plain.bottleneck, channels(8, 16, 32, *[4] * 4, *[8] * 4)),
    # Stem and stream; in each block the places of two groups in front of the grouped convolution
    # and behind it; whole groups are another way to cut the same.
    Net("ResNeXt", plain.resnext, channels(8, 24, *[8] * 4, features=(2, 2))),
    # Stem and transition; in each of four layers what it makes inside and what it adds.
    Net("DenseNet", plain.densenet, channels(8, 6, *[12] * 4, *[4] * 4)),
    # Depthwise convolutions belong to what they read.
    Net("MobileNetV2", plain.mobilenet2, channels(8, 6, 24, 12, 36, 32)),
    # Narrow layers of squeeze and excitation besides: 4 by convolutions, 6 by linear layers.
    Net("MobileNetV3", plain.mobilenet3, channels(8, 16, 4, 24, 12, 32, neurons=(6, 20))),
    # Two of one: a unit has one channel in front and two behind; or the first, or second, of each.
    Net("depthwise multiplier", plain.multiplier, channels(6, 8, features=(2,))),
    # Every layer but the last.
    Net("Inception", plain.inception,
        channels(8, *[8, 4, 8, 4, 4, 6, 5] * 2)),
    # The branches of a block are one; an identity branch couples blocks.
    Net("RepVGG", plain.repvgg, channels(8, 16)),
    Net("dilated 1-D", plain.signal, channels(8, 12, 12), shape=(3, 24)),
    Net("3-D", plain.volume, channels(8, 12), shape=(3, 8, 8, 8)),
    # Four groups of two channels: whole groups, in the stream and inside the block.
    Net("GroupNorm, 4 groups", partial(plain.normed, 4), channels(4, 4, 6)),
    # All channels in one group: only the last convolution, with its batch norm, is free.
    Net("GroupNorm, 1 group", partial(plain.normed, 1), channels(6),
        SCORES | {"reduction": (8,)}),
    Net("GroupNorm, 8 groups", partial(plain.normed, 8), channels(8, 8, 6)),
    # The stream: channel p, with all that are four places away, from the stem on. Inside a unit
    # places and shuffles leave two: channels (j, g) and (j + 2, g) of both groups g.
    Net("ShuffleNet", mixed.shufflenet1, channels(4, 2, 2)),
    # One group for all that is joined and shuffled; the stem with its depthwise convolution;
    # inside each of three units what the depthwise convolution reads; the last layer.
    Net("ShuffleNet v2", mixed.shufflenet2, channels(8, 8, 8, 8, 8, 24)),
    # Stem, stream and the cheap copies of it are one: channel p with p + 4.
    Net("GhostNet", mixed.ghostnet, channels(4, 12, 6)),
    # Every layer but the last.
    Net("U-Net, ConvTranspose", partial(mixed.UNet, up=True),
        channels(8, 8, 12, 12, 16, 16, 10, 12, 12, 6, 8, 8), {"signature": (2,)}),
    Net("U-Net, Resize", partial(mixed.UNet, up=False),
        channels(8, 8, 12, 12, 16, 16, 12, 12, 8, 8), {"signature": (2,)}),
    # Stem 8, 10; stages: the split layer with all residuals of its second half, the bottlenecks
    # inside, the last layer; pyramid 18, 7, 18; one layer in each head.
    Net("YOLO-like", mixed.Yolo,
        channels(8, 10, 8, 6, 6, 14, 18, 7, 18, 8, 6, 12, 9, 9), {"signature": (6,)}),
    # Two scales are added up: their layers are one; the head is one for both.
    Net("feature pyramid", mixed.Pyramid, channels(8, 12, 10, 7), {"signature": (4,)}),
    Net("ASPP", mixed.Context, channels(8, 6, 6, 5, 4, 9), {"signature": (2,)}),
    # Gated linear units: channel p with p + size / 2.
    Net("gated 1-D", mixed.gated, channels(8, 5), shape=(3, 24)),
    # Layer norms over the channels of both streams; neurons are free.
    Net("ConvNeXt", mixed.convnext, {"neurons": (24, 36)},
        SCORES | {"reduction": (8, 12)}),
    # Channels that become pixels: a limit, since DepthToSpace is not followed.
    Net("super-resolution", mixed.superresolution, channels(8),
        {"signature": (3,), "unknown-op": (24,)}, loose=(24,)),
    # Mean and maximum over the stem, and what gates with them.
    Net("CBAM", mixed.Attended, channels(6), SCORES | {"reduction": (8,)}),
)  # fmt: skip
