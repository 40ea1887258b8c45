"""Which nodes are thought to vanish, against the graph that ONNX Runtime really makes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from planish.ir.graph import operator
from planish.ir.load import load_model
from planish.ir.types.bound import bound_shapes
from planish.targets.cost.fusion import fuse
from planish.targets.runtime import optimized_graph

DRAWN = np.random.default_rng(0)


def floats(*shape: int) -> np.ndarray:
    return DRAWN.normal(size=shape).astype(np.float32)


def codes(*shape: int) -> np.ndarray:
    return DRAWN.integers(-127, 127, shape).astype(np.int8)


WEIGHTS: dict[str, Any] = {
    "w": floats(8, 8), "bias": floats(8), "half": np.float32(0.5), "root": np.float32(2**0.5),
    "one": np.float32(1), "gamma": floats(8), "beta": floats(8),
    "s": np.float32(0.1), "z": np.uint8(128), "zero": np.uint8(0), "t": np.float32(0.05),
    "codes": codes(8, 8), "step": np.full(8, 0.02, np.float32), "others": codes(8, 8),
    "zeros": np.zeros(8, np.int8), "image": floats(16, 16, 3, 3), "kernel": codes(16, 16, 3, 3),
    "steps": np.full(16, 0.02, np.float32), "nothing": np.zeros(16, np.int8),
    "mean": floats(16), "variance": np.ones(16, np.float32), "scale": np.float32(0.125),
}  # fmt: skip

IMAGE, ROWS, TEXT = "float[n, 16, 8, 8] x", "float[m, 8] x", "float[b, s, 8] x"
QX = "q = QuantizeLinear(x, s, z)\n d = DequantizeLinear(q, s, z)\n"
QW = "dw = DequantizeLinear <axis = 1> (codes, step, zeros)\n"
QK = "dk = DequantizeLinear <axis = 0> (kernel, steps, nothing)\n"
QY = "p = QuantizeLinear(h, t, zero)\n y = DequantizeLinear(p, t, zero)"

CASES = {
    "a 2-D product takes its bias": (ROWS, "h = MatMul(x, w)\n y = Add(h, bias)", ["MatMul"]),
    "a 3-D one of open sizes does not": (
        TEXT, "h = MatMul(x, w)\n y = Add(h, bias)", ["MatMul", "Add"]),
    "convolution, activation": (IMAGE, "h = Conv(x, image)\n y = Relu(h)", ["Conv"]),
    "convolution, normalisation, activation": (
        IMAGE, "h = Conv(x, image)\n b = BatchNormalization(h, mean, mean, mean, variance)\n"
        "y = Relu(b)", ["Conv"]),
    "gelu spelled out": (
        TEXT, "a = Div(x, root)\n e = Erf(a)\n p = Add(e, one)\n m = Mul(x, p)\n y = Mul(m, half)",
        ["Erf"]),
    "a bias in front of gelu": (TEXT, "h = MatMul(x, w)\n a = Add(h, bias)\n y = Gelu(a)",
                                ["MatMul", "Gelu"]),
    "silu": (TEXT, "g = Sigmoid(x)\n y = Mul(x, g)", ["Sigmoid"]),
    "residual and normalisation": (
        TEXT, "h = MatMul(x, w)\n r = Add(x, h)\n y = LayerNormalization(r, gamma, beta)",
        ["MatMul", "LayerNormalization"]),
    "scaled scores": (TEXT, "k = Transpose <perm = [0, 2, 1]> (x)\n h = MatMul(x, k)\n"
                      "y = Mul(h, scale)", ["MatMul"]),
    "static product": (TEXT, f"{QX}{QW}y = MatMul(d, dw)", ["QuantizeLinear", "MatMul"]),
    "static product, output in codes": (
        TEXT, f"{QX}{QW}h = MatMul(d, dw)\n {QY}",
        ["QuantizeLinear", "MatMul", "DequantizeLinear"]),
    "static convolution, relu, output in codes": (
        IMAGE, f"{QX}{QK}c = Conv(d, dk)\n h = Relu(c)\n {QY}",
        ["QuantizeLinear", "Conv", "DequantizeLinear"]),
    "static convolution without codes behind": (
        IMAGE, f"{QX}{QK}y = Conv(d, dk)",
        ["QuantizeLinear", "DequantizeLinear", "DequantizeLinear", "Conv"]),
    "dynamic product": (
        TEXT, "q, qs, qz = DynamicQuantizeLinear(x)\n i = MatMulInteger(q, codes, qz, zeros)\n"
        "f = Cast <to = 1> (i)\n m = Mul(qs, step)\n y = Mul(f, m)", ["MatMulInteger"]),
    "two dynamic products of one input": (
        TEXT, "q, qs, qz = DynamicQuantizeLinear(x)\n i = MatMulInteger(q, codes, qz, zeros)\n"
        "f = Cast <to = 1> (i)\n m = Mul(qs, step)\n a = Mul(f, m)\n"
        "j = MatMulInteger(q, others, qz, zeros)\n g = Cast <to = 1> (j)\n n = Mul(qs, gamma)\n"
        "c = Mul(g, n)\n y = Add(a, c)",
        ["DynamicQuantizeLinear", "MatMulInteger", "MatMulInteger", "Add"]),
    "weights only": (TEXT, f"{QW}y = MatMul(x, dw)", ["MatMul"]),
    "constants": (TEXT, "c = Mul(bias, half)\n y = Add(x, c)", ["Add"]),
}  # fmt: skip

LAYOUT = frozenset({"ReorderInput", "ReorderOutput"})
"""Copies that the runtime puts around blocked convolutions; predicted as part of them."""


def model(inputs: str, body: str) -> onnx.ModelProto:
    outputs = "float[n, a, b, c] y" if inputs == IMAGE else inputs.replace(" x", " y")
    header = '<ir_version: 10, opset_import: ["": 20, "com.microsoft": 1]>'
    if "Transpose" in body:
        outputs = "float[b, s, s] y"
    proto = onnx.parser.parse_model(f"{header} g ({inputs}) => ({outputs}) {{ {body} }}")
    for name, array in WEIGHTS.items():
        if any(name in node.input for node in proto.graph.node):
            proto.graph.initializer.append(numpy_helper.from_array(array, name))
    return proto


@pytest.mark.parametrize("name", CASES)
def test_what_is_left_has_as_many_kernels_as_the_runtime_runs(name: str) -> None:
    inputs, body, expected = CASES[name]
    proto = model(inputs, body)
    graph = load_model(proto).model
    nodes = list(graph.graph)
    found = fuse(nodes, bound_shapes(graph))
    left = [operator(n)[1] for n in nodes if n not in found.gone]
    assert Counter(left) == Counter(expected)
    really = optimized_graph(proto.SerializeToString(), threads=1).graph.node
    kernels = [n.op_type for n in really if n.op_type not in LAYOUT and not layout_copy(n)]
    assert len(kernels) == sum(found.copies.get(n, 1) for n in nodes if n not in found.gone), (
        kernels
    )


def layout_copy(node: onnx.NodeProto) -> bool:
    """A Transpose between layouts of images."""
    return node.op_type == "Transpose" and len(node.attribute[0].ints) == 4


KERNELS = {
    "static product": "u8s8", "static convolution, relu, output in codes": "conv-u8s8",
    "dynamic product": "dynamic", "two dynamic products of one input": "u8s8",
    "weights only": "nbits8", "gelu spelled out": "gelu",
}  # fmt: skip


@pytest.mark.parametrize("name", KERNELS)
def test_the_kernel_that_a_group_runs_in(name: str) -> None:
    graph = load_model(model(*CASES[name][:2])).model
    found = fuse(list(graph.graph), bound_shapes(graph))
    assert set(found.kernel.values()) == {KERNELS[name]}
