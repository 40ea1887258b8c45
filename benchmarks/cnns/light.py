"""What can be cut of the nine classic networks of the onnx package, worked out by hand.

Their layers are those of the papers: LRN stands behind the first convolutions of AlexNet, ZFNet
and Inception v1, and all but DenseNet end with a Softmax.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Counts = Mapping[str, Sequence[int]]
SOFTMAX = {"reduction": (1000,)}
INCEPTION_V1 = (
    *(64, 96, 128, 16, 32, 32), *(128, 128, 192, 32, 96, 64), *(192, 96, 208, 16, 48, 64),
    *(160, 112, 224, 24, 64, 64), *(128, 128, 256, 24, 64, 64), *(112, 144, 288, 32, 64, 64),
    *(256, 160, 320, 32, 128, 128) * 2, *(384, 192, 384, 48, 128, 128),
)  # fmt: skip
"""Nine modules of six layers (Szegedy et al., 2015)."""
INCEPTION_V2 = (
    *(64, 64, 64, 64, 96, 96, 32), *(64, 64, 96, 64, 96, 96, 64), *(128, 160, 64, 96, 96),
    *(224, 64, 96, 96, 128, 128, 128), *(192, 96, 128, 96, 128, 128, 128),
    *(160, 128, 160, 128, 160, 160, 96), *(96, 128, 192, 160, 192, 192, 96),
    *(128, 192, 192, 256, 256), *(352, 192, 320, 160, 224, 224, 128),
    *(352, 192, 320, 192, 224, 224, 128),
)  # fmt: skip
"""Ten modules of seven layers or, where they halve the image, five (Ioffe and Szegedy, 2015)."""
LIGHT: Mapping[str, tuple[Counts, Counts]] = {
    # Behind the norms convolutions of two groups: places in both, or a whole one.
    "bvlc_alexnet": (
        {"channels": (128, 192, 192), "neurons": (4096, 4096), "features": (2,)},
        {"reduction": (96, 256, 1000)},
    ),
    # 58 layers: 128 inside, 32 added; the stem, three transitions.
    "densenet121": (
        {"channels": (64, 128, 256, 512, *[128] * 58, *[32] * 58)}, {"signature": (1000,)},
    ),
    # The first and the third layer go into norms.
    "inception_v1": ({"channels": (64, *INCEPTION_V1)}, {"reduction": (64, 192, 1000)}),
    "inception_v2": ({"channels": (64, 64, 192, *INCEPTION_V2)}, SOFTMAX),
    # The stem, four streams, two groups inside each of 3, 4, 6 and 3 blocks.
    "resnet50": (
        {"channels": (64, 256, 512, 1024, 2048, *[64] * 6, *[128] * 8, *[256] * 12, *[512] * 6)},
        SOFTMAX,
    ),
    # Places of four groups, and those that a shuffle puts into one group of the next layer. Of 136
    # channels inside a unit none are left apart, since 34 is no multiple of 4; of the stream, 24
    # and 112 channels joined to 136, even and odd ones are.
    "shufflenet": (
        {"channels": (2, 7, *[17] * 8, *[34] * 3)}, {"reduction": (1000,), "single": (136,)},
    ),
    # The stem; in each of eight modules the narrow layer and two wide ones.
    "squeezenet": (
        {"channels": (64, *(16, 64, 64) * 2, *(32, 128, 128) * 2, *(48, 192, 192) * 2,
                      *(64, 256, 256) * 2)},
        SOFTMAX,
    ),
    "vgg19": (
        {"channels": (64, 64, 128, 128, *[256] * 4, *[512] * 8), "neurons": (4096, 4096)}, SOFTMAX,
    ),
    "zfnet512": (
        {"channels": (512, 512, 512), "neurons": (1024, 4096)}, {"reduction": (96, 256, 1000)},
    ),
}  # fmt: skip
"""By model: units of what can be cut by kind, sizes of what is refused by code."""
