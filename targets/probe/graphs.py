"""The small graphs that a probe times: copies of one node, side by side on one input.

Weights differ by name only, so that no copy is found to be another one. Outputs are small or not
fetched: the runtime computes every output of a graph, whichever are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isqrt
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Array: TypeAlias = npt.NDArray[Any]
Key: TypeAlias = tuple[int, ...]

OPSET, IR_VERSION = 21, 10
MICROSOFT = "com.microsoft"
BLOCK = 32
ROW = 128  # of softmax and normalisation
BATCH = 8  # matrices of a product of two computed operands
_SEED = 0


@dataclass(frozen=True)
class Graph:
    """A model as bytes with its feeds. nodes: how many of the timed node it holds.

    ports: inputs with an output of their own, each of which costs the runtime time.
    """

    model: bytes
    feeds: Mapping[str, Array]
    nodes: int
    fetch: str
    ports: int = 0


@dataclass
class Builder:
    """Nodes, constants and ports that become a model."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    feeds: dict[str, Array] = field(default_factory=dict)

    def feed(self, name: str, array: Array) -> str:
        """An input of any size, fed with the array."""
        dtype = helper.np_dtype_to_tensor_dtype(array.dtype)
        self.inputs.append(helper.make_tensor_value_info(name, dtype, [None] * array.ndim))
        self.feeds[name] = array
        return name

    def constant(self, array: Array | np.generic) -> str:
        """An initializer of its own."""
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def node(self, op: str, *inputs: str, domain: str = "", outputs: int = 1, **given: Any) -> str:
        """A node; its first output."""
        name = f"n{len(self.nodes)}"
        made = [name, *(f"{name}.{i}" for i in range(1, outputs))]
        self.nodes.append(helper.make_node(op, inputs, made, domain=domain, **given))
        return name

    def graph(self, count: int) -> Graph:
        """The model; the values in ``outputs`` are its outputs, the first one is fetched."""
        ports = [onnx.ValueInfoProto(name=name) for name in self.outputs]  # types are inferred
        graph = helper.make_graph(self.nodes, "probe", self.inputs, ports, self.constants)
        imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        model = helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION)
        return Graph(model.SerializeToString(), self.feeds, count, self.outputs[0])


Build: TypeAlias = Callable[[Key, int], Graph]


def numbers(*shape: int) -> Array:
    """Normal float32 numbers, the same ones for a shape."""
    return np.random.default_rng(_SEED).standard_normal(shape, dtype=np.float32)


def codes(dtype: Any, *shape: int) -> Array:
    """Integers over the whole range of an 8-bit type."""
    limits = np.iinfo(dtype)
    drawn = np.random.default_rng(_SEED).integers(limits.min, limits.max, shape, endpoint=True)
    return drawn.astype(dtype)


def copies(b: Builder, count: int, make: Callable[[], str]) -> Graph:
    """``count`` times what ``make`` adds, each an output."""
    b.outputs = [make() for _ in range(count)]
    return b.graph(count)


def product(key: Key, count: int) -> Graph:
    """MatMul on (M, K, N)."""
    m, k, n = key
    b = Builder()
    x, weight = b.feed("x", numbers(m, k)), numbers(k, n)
    return copies(b, count, lambda: b.node("MatMul", x, b.constant(weight)))


def batched_product(key: Key, count: int) -> Graph:
    """One node multiplies BATCH matrices; ``nodes`` counts matrices."""
    m, k, n = key
    b = Builder()
    left, right = b.feed("x", numbers(BATCH, m, k)), b.feed("y", numbers(BATCH, k, n))
    pairs = (right, *(b.node("Neg", right) for _ in range(count - 1)))
    b.outputs = [b.node("MatMul", left, y) for y in pairs]
    return b.graph(BATCH * count)


def quantized_product(key: Key, count: int) -> Graph:
    """MatMulIntegerToFloat of uint8 by int8 on (M, K, N)."""
    m, k, n = key
    b = Builder()
    x, weight, parts = b.feed("x", codes(np.uint8, m, k)), codes(np.int8, k, n), _scales(b, n)
    step, zero, steps, zeros = parts

    def make() -> str:
        inputs = (x, b.constant(weight), step, steps, zero, zeros)
        return b.node("MatMulIntegerToFloat", *inputs, domain=MICROSOFT)

    return copies(b, count, make)


def dynamic_product(key: Key, count: int) -> Graph:
    """DynamicQuantizeMatMul by int8 on (M, K, N)."""
    m, k, n = key
    b = Builder()
    x, weight = b.feed("x", numbers(m, k)), codes(np.int8, k, n)
    _, _, steps, zeros = _scales(b, n)

    def make() -> str:
        inputs = (x, b.constant(weight), steps, zeros)
        return b.node("DynamicQuantizeMatMul", *inputs, domain=MICROSOFT)

    return copies(b, count, make)


def nbits_product(bits: int) -> Build:
    """MatMulNBits with asymmetric blocks of 32 at accuracy level 4."""

    def build(key: Key, count: int) -> Graph:
        m, k, n = key
        blocks = -(-k // BLOCK)
        b = Builder()
        x, packed = b.feed("x", numbers(m, k)), codes(np.uint8, n, blocks, BLOCK * bits // 8)
        scale = b.constant(np.full((n, blocks), 0.01, np.float32))
        zero = b.constant(codes(np.uint8, n, -(-blocks * bits // 8)))
        given = {"K": k, "N": n, "bits": bits, "block_size": BLOCK, "accuracy_level": 4}

        def make() -> str:
            inputs = (x, b.constant(packed), scale, zero)
            return b.node("MatMulNBits", *inputs, domain=MICROSOFT, **given)

        return copies(b, count, make)

    return build


def _scales(b: Builder, n: int) -> tuple[str, str, str, str]:
    """Scale and zero point of the activations, then of each column."""
    return (
        b.constant(np.float32(0.02)), b.constant(np.uint8(128)),
        b.constant(np.full(n, 0.01, np.float32)), b.constant(np.zeros(n, np.int8)),
    )  # fmt: skip


def convolution(rank: int, side: int, *, depthwise: bool = False) -> Build:
    """Conv of ``side`` taps along each of ``rank`` axes on (pixels, K, N); padded to the same size.

    Behind each stands a MaxPool that reads little, so that its output needs no other layout.
    """

    def build(key: Key, count: int) -> Graph:
        b, (shape, weight, given) = Builder(), _conv_sizes(key, rank, side, depthwise)
        x, w = b.feed("x", numbers(*shape)), numbers(*weight)
        b.inputs[0] = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
        return copies(
            b, count, lambda: _thinned(b, b.node("Conv", x, b.constant(w), **given), shape)
        )

    return build


def quantized_convolution(rank: int, side: int, *, depthwise: bool = False) -> Build:
    """QLinearConv of uint8 by int8, as ``convolution``."""

    def build(key: Key, count: int) -> Graph:
        b, (shape, weight, given) = Builder(), _conv_sizes(key, rank, side, depthwise)
        x, w = b.feed("x", codes(np.uint8, *shape)), codes(np.int8, *weight)
        b.inputs[0] = helper.make_tensor_value_info("x", TensorProto.UINT8, shape)
        step, zero, steps, zeros = _scales(b, weight[0])

        def make() -> str:
            inputs = (x, step, zero, b.constant(w), steps, zeros, b.constant(np.float32(0.5)), zero)
            return _thinned(b, b.node("QLinearConv", *inputs, **given), shape)

        return copies(b, count, make)

    return build


def _conv_sizes(key: Key, rank: int, side: int, depthwise: bool) -> (
    tuple[Key, Key, dict[str, Any]]
):  # fmt: skip
    pixels, k, n = key
    channels = n if depthwise else k // side**rank
    space = (pixels,) if rank == 1 else (isqrt(pixels),) * rank
    weight = (n, 1 if depthwise else channels, *(side,) * rank)
    given = {"kernel_shape": [side] * rank, "pads": [side // 2] * (2 * rank)}
    return (1, channels, *space), weight, {**given, "group": n if depthwise else 1}


def _thinned(b: Builder, value: str, shape: Key) -> str:
    rank = len(shape) - 2
    return b.node("MaxPool", value, kernel_shape=[1] * rank, strides=list(shape[2:]))
