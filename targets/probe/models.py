"""Small whole models with known shapes: what a run adds to the sum of its nodes is fitted on them.

Random weights; the shapes are those of common networks, none is taken from a real one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from .graphs import MICROSOFT, Builder, Graph, codes, numbers

BATCHES = (1, 8)


def whole_models() -> Iterator[Graph]:
    """Each architecture at each batch size."""
    for make in _ARCHITECTURES:
        for batch in BATCHES:
            b = Builder()
            b.outputs = [make(b, batch)]
            yield b.graph(1)


def _linear(b: Builder, x: str, k: int, n: int) -> str:
    product = b.node("MatMul", x, b.constant(numbers(k, n) / k))
    return b.node("Add", product, b.constant(numbers(n)))


def _integer_linear(b: Builder, x: str, k: int, n: int) -> str:
    steps, zeros = b.constant(np.full(n, 1e-4, np.float32)), b.constant(np.zeros(n, np.int8))
    inputs = (x, b.constant(codes(np.int8, k, n)), steps, zeros, b.constant(numbers(n)))
    return b.node("DynamicQuantizeMatMul", *inputs, domain=MICROSOFT)


_Linear = Callable[[Builder, str, int, int], str]


def _perceptron(b: Builder, batch: int) -> str:
    x = b.feed("x", numbers(batch * 4, 256))
    for _ in range(4):
        x = b.node("Relu", _linear(b, x, 256, 256))
    return x


def _encoder(linear: _Linear) -> Callable[[Builder, int], str]:
    def make(b: Builder, batch: int) -> str:
        x = b.feed("x", numbers(batch, 48, 256))
        for _ in range(3):
            x = _attend(b, x, linear, batch)
            hidden = b.node("Gelu", linear(b, x, 256, 1024))
            x = _normed(b, b.node("Add", x, linear(b, hidden, 1024, 256)))
        return x

    return make


def _attend(b: Builder, x: str, linear: _Linear, batch: int) -> str:
    shape = b.constant(np.array([batch, 48, 4, 64], np.int64))
    back = b.constant(np.array([batch, 48, 256], np.int64))
    q, k, v = (b.node("Reshape", linear(b, x, 256, 256), shape) for _ in range(3))
    q, v = (b.node("Transpose", value, perm=[0, 2, 1, 3]) for value in (q, v))
    scores = b.node("MatMul", q, b.node("Transpose", k, perm=[0, 2, 3, 1]))
    mixed = b.node("MatMul", b.node("Softmax", scores, axis=-1), v)
    joined = b.node("Reshape", b.node("Transpose", mixed, perm=[0, 2, 1, 3]), back)
    return _normed(b, b.node("Add", x, linear(b, joined, 256, 256)))


def _normed(b: Builder, x: str) -> str:
    ones, zeros = b.constant(np.ones(256, np.float32)), b.constant(np.zeros(256, np.float32))
    return b.node("LayerNormalization", x, ones, zeros, axis=-1)


def _residual(b: Builder, batch: int) -> str:
    x = _conv(b, b.feed("x", numbers(batch, 3, 32, 32)), 3, 32)
    for _ in range(4):
        inner = b.node("Relu", _conv(b, x, 32, 32))
        x = b.node("Relu", b.node("Add", x, _conv(b, inner, 32, 32)))
    return b.node("GlobalAveragePool", x)


def _separable(b: Builder, batch: int) -> str:
    x = _conv(b, b.feed("x", numbers(batch, 3, 48, 48)), 3, 64)
    for _ in range(4):
        x = b.node("Relu", _conv(b, x, 64, 64, group=64))
        x = b.node("Relu", _conv(b, x, 64, 64, side=1))
    return b.node("GlobalAveragePool", x)


def _conv(b: Builder, x: str, inner: int, outer: int, side: int = 3, group: int = 1) -> str:
    weight = b.constant(numbers(outer, inner // group, side, side) / inner)
    pads = [side // 2] * 4
    return b.node("Conv", x, weight, kernel_shape=[side] * 2, pads=pads, group=group)


_ARCHITECTURES: tuple[Callable[[Builder, int], str], ...] = (
    _perceptron, _encoder(_linear), _encoder(_integer_linear), _residual, _separable,
)  # fmt: skip
