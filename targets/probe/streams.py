"""Graphs of operators that pass over their elements, one after the other or side by side.

A chain is used where the result has the shape of the input: like a model's, its buffers are used
again. Nodes side by side read an input each, else the runtime computes equal ones once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from .graphs import MICROSOFT, ROW, Build, Builder, Graph, Key, codes, numbers

Link: TypeAlias = Callable[[Builder, str], str]


def chain(link: Link, shape: Callable[..., Key], dtype: Any = np.float32) -> Build:
    """``count`` links behind each other on an input of ``shape(*key)``."""

    def build(key: Key, count: int) -> Graph:
        b = Builder()
        value = b.feed("x", _drawn(dtype, shape(*key)))
        for _ in range(count):
            value = link(b, value)
        b.outputs = [value]
        return b.graph(count)

    return build


def beside(link: Link, shape: Callable[..., Key], dtype: Any = np.float32) -> Build:
    """``count`` links, each on an input of its own."""

    def build(key: Key, count: int) -> Graph:
        b = Builder()
        array = _drawn(dtype, shape(*key))
        b.outputs = [link(b, b.feed(f"x{i}", array)) for i in range(count)]
        return replace(b.graph(count), ports=count)

    return build


def ports(key: Key, count: int) -> Graph:
    """``count`` next to empty nodes with an input and an output each: what feeding them costs."""
    return beside(lambda b, x: b.node("Relu", x), rows)(key, count)


def _drawn(dtype: Any, shape: Key) -> Any:
    return numbers(*shape) if dtype is np.float32 else codes(dtype, *shape)


def lines(count: int, length: int) -> Key:
    """Rows as they are."""
    return (count, length)


def rows(elements: int) -> Key:
    """Elements as rows of ROW."""
    return (max(1, elements // ROW), min(ROW, elements))


def _norm(b: Builder, x: str) -> str:
    length = int(b.feeds["x"].shape[-1])
    ones, zeros = np.ones(length, np.float32), np.zeros(length, np.float32)
    return b.node("LayerNormalization", x, b.constant(ones), b.constant(zeros), axis=-1)


def _broadcast(b: Builder, x: str) -> str:
    return b.node("Mul", x, b.constant(1 + numbers(ROW) / 1000))


def _gather(b: Builder, x: str) -> str:
    indices = np.random.default_rng(0).permutation(int(b.feeds["x"].shape[0]))
    return b.node("Gather", x, b.constant(indices.astype(np.int64)))


def _moved(b: Builder, x: str) -> str:
    """Slice and Concat by turns: the first halves the rows, the second doubles them."""
    if len(b.nodes) % 2:
        return b.node("Concat", x, x, axis=1)
    half = int(b.feeds["x"].shape[1]) // 2
    start, end, axis = (b.constant(np.array([i], np.int64)) for i in (0, half, 1))
    return b.node("Slice", x, start, end, axis)


def _integer(b: Builder, x: str) -> str:
    step, zero = b.constant(np.float32(0.02)), b.constant(np.uint8(128))
    return b.node("QLinearAdd", x, step, zero, "x", step, zero, step, zero, domain=MICROSOFT)


def _coding(op: str) -> Link:
    def link(b: Builder, x: str) -> str:
        return b.node(op, x, b.constant(np.float32(0.02)), b.constant(np.uint8(128)))

    return link


def _where(b: Builder, x: str) -> str:
    if not b.constants:
        b.constant(np.arange(ROW) % 2 == 0)
    return b.node("Where", b.constants[0].name, x, "x")


def _pool_shape(elements: int) -> Key:
    side = max(2, int((elements // 16) ** 0.5))
    return (1, 16, side, side)


STREAMS: Mapping[str, Build] = {
    "binary": chain(lambda b, x: b.node("Add", x, "x"), rows),
    "broadcast": chain(_broadcast, rows),
    "unary": chain(lambda b, x: b.node("Relu", x), rows),
    "exponential": chain(lambda b, x: b.node("Sigmoid", x), rows),
    "gelu": chain(lambda b, x: b.node("Gelu", x), rows),
    "softmax": chain(lambda b, x: b.node("Softmax", x, axis=-1), lines),
    "norm": chain(_norm, lines),
    "reduce": beside(
        lambda b, x: b.node("ReduceMean", x, b.constant(np.array([-1], np.int64))), lines
    ),
    "transpose": beside(
        lambda b, x: b.node("Transpose", x, perm=[0, 2, 1, 3]),
        lambda count, length: (1, max(1, count // 8), 8, length),
    ),
    "turn": beside(
        lambda b, x: b.node("Transpose", x, perm=[1, 0]), lambda e: (max(1, e // 64), 64)
    ),
    "gather": chain(_gather, lambda e: (max(1, e // 64), 64)),
    "move": chain(_moved, lambda count, length: (count, 2 * length)),
    "quantize": beside(_coding("QuantizeLinear"), rows),
    "dequantize": beside(_coding("DequantizeLinear"), rows, np.uint8),
    "dynamic": beside(lambda b, x: b.node("DynamicQuantizeLinear", x, outputs=3), rows),
    "integer": chain(_integer, rows, np.uint8),
    "compare": chain(_where, rows),
    "pool": beside(
        lambda b, x: b.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]), _pool_shape
    ),
}
"""By the names of the fields of ``measured.Streams``."""

BY_LINES = frozenset({"softmax", "norm", "reduce", "transpose", "move"})
"""Keyed by the count of rows and their length; the others by their elements."""
