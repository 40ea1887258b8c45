"""What a probe measures: log-spaced grids for each kernel, as far as time allows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product as every
from math import prod

import numpy as np

from .graphs import (
    Build,
    Graph,
    Key,
    batched_product,
    convolution,
    dynamic_product,
    nbits_product,
    product,
    quantized_convolution,
    quantized_product,
)
from .streams import BY_LINES, STREAMS

PRODUCTS: Mapping[str, Build] = {
    "float32": product,
    "activations": batched_product,
    "u8s8": quantized_product,
    "dynamic": dynamic_product,
    "nbits8": nbits_product(8),
    "nbits4": nbits_product(4),
}
CONVOLUTIONS: Mapping[str, Build] = {
    "pointwise": convolution(2, 1),
    "spatial": convolution(2, 3),
    "depthwise": convolution(2, 3, depthwise=True),
    "line": convolution(1, 3),
    "pointwise_u8s8": quantized_convolution(2, 1),
    "spatial_u8s8": quantized_convolution(2, 3),
    "depthwise_u8s8": quantized_convolution(2, 3, depthwise=True),
    "line_u8s8": quantized_convolution(1, 3),
}
_TAPS = {"pointwise": 1, "spatial": 9, "depthwise": 9, "line": 3}

MAX_COPIES = 16
_MOST_ELEMENTS = 1 << 22
_RUN_US = 150.0  # what the copies of one graph are meant to take together


@dataclass(frozen=True)
class Grid:
    """Which sizes are measured.

    rows, depths, widths: M, K and N of products with constant weights. most: multiply-adds of one
    node. attention: sizes of products of two computed operands. pixels, channels: of convolutions.
    elements: of streams; lines, lengths: of those that work row by row. weights: bytes of the
    matrices whose reading is timed.
    """

    rows: tuple[int, ...] = (1, 4, 16, 64, 256, 1024)
    depths: tuple[int, ...] = (8, 32, 128, 512, 2048)
    widths: tuple[int, ...] = (8, 32, 128, 512, 2048)
    most: int = 1 << 28
    attention: tuple[int, ...] = (1, 16, 64, 256)
    pixels: tuple[int, ...] = (16, 256, 1024, 4096, 16384)
    channels: tuple[int, ...] = (3, 16, 64, 256)
    elements: tuple[int, ...] = (256, 4096, 65536, 1 << 20)
    lines: tuple[int, ...] = (16, 256, 4096, 65536)
    lengths: tuple[int, ...] = (8, 48, 384)
    weights: tuple[int, ...] = (1 << 18, 1 << 20, 1 << 22, 1 << 24, 1 << 26)


@dataclass(frozen=True)
class Point:
    """One kernel at one size. table: "products.float32"; key: (M, K, N), … as its rows have it."""

    table: str
    key: Key
    build: Build
    work: float

    def graph(self) -> Graph:
        """As many copies as make a run long enough to time."""
        return self.build(self.key, self.copies)

    @property
    def copies(self) -> int:
        """1 to 16, fewer where the node is large."""
        return max(1, min(MAX_COPIES, int(_RUN_US / self.work)))


def points(grid: Grid) -> list[Point]:
    """All points of a grid in a drawn order: what time cuts off is missing here and there, and a
    disturbance that lasts meets all tables alike."""
    found = [*_products(grid), *_convolutions(grid), *_streams(grid)]
    order = np.random.default_rng(0).permutation(len(found))
    return [found[i] for i in order]


def _products(grid: Grid) -> Iterator[Point]:
    for name, build in PRODUCTS.items():
        axes = (grid.rows, grid.depths, grid.widths)
        if name == "activations":
            axes = (grid.attention,) * 3
        for key in every(*axes):
            batch = 8 if name == "activations" else 1
            if batch * prod(key) <= grid.most:
                yield Point(f"products.{name}", key, build, 1 + prod(key) / 4e4)


def _convolutions(grid: Grid) -> Iterator[Point]:
    for name, build in CONVOLUTIONS.items():
        kind = name.removesuffix("_u8s8")
        for pixels, inner, outer in every(grid.pixels, grid.channels, grid.channels):
            alone = kind == "depthwise"
            if outer < 16 <= max(grid.channels) or (alone and inner != outer):
                continue
            key = (pixels, _TAPS[kind] * (1 if alone else inner), outer)
            if prod(key) <= grid.most:
                yield Point(f"convolutions.{name}", key, build, 2 + prod(key) / 2e4)


def _streams(grid: Grid) -> Iterator[Point]:
    for name, build in STREAMS.items():
        keys: list[Key] = [(elements,) for elements in grid.elements]
        if name in BY_LINES:
            keys = [key for key in every(grid.lines, grid.lengths) if prod(key) <= _MOST_ELEMENTS]
        for key in keys:
            yield Point(f"streams.{name}", key, build, 1 + prod(key) / 3e3)
