"""Quantized models that disappoint, each with the twin in which the cause is mended."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import quantization
from onnxruntime.quantization import QuantFormat, QuantType

from benchmarks.data import Array, Feeds

FIRST, OTHERS = np.float32(8 / 255), np.float32(0.01)
"""Scales of the rows that are fed, and of those between layers."""


class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
    """Feeds in the form that onnxruntime.quantization asks for."""

    def __init__(self, feeds: Iterable[Feeds]) -> None:
        self.feeds: Iterator[Feeds] = iter(list(feeds))

    def get_next(self) -> Feeds | None:
        return next(self.feeds, None)


def static(model: Path, output: Path, feeds: Iterable[Feeds], **options: Any) -> Path:
    """``quantize_static`` with its defaults but for ``options``."""
    quantization.quantize_static(model, output, Reader(feeds), **options)
    return output


SIGNED = {
    "quant_format": QuantFormat.QOperator,
    "activation_type": QuantType.QInt8,
    "weight_type": QuantType.QInt8,
}
"""Integer operators with signed activations, as other runtimes want them."""
PAIRS = SIGNED | {"quant_format": QuantFormat.QDQ, "activation_type": QuantType.QUInt8}


def optimised(model: Path, output: Path) -> Path:
    """The model as the runtime saves it after all its optimisations, ORT_ENABLE_ALL."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(output)
    onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    return output


def around_softmax(model: Path) -> list[str]:
    """Every Softmax with the nodes between it and the products whose scores it reads."""
    graph = onnx.load(model, load_external_data=False).graph
    made = {name: node for node in graph.node for name in node.output}
    found: list[str] = []
    for softmax in (node for node in graph.node if node.op_type == "Softmax"):
        todo = [softmax.input[0]]
        found.append(softmax.name)
        while todo:
            node = made.get(todo.pop())
            if node is not None and node.op_type in ("Add", "Where") and node.name not in found:
                found.append(node.name)
                todo.extend(node.input)
    return found


class Layers:
    """A chain of Gemm layers with Gelu between, rows [batch, width] in and out."""

    def __init__(self, width: int, count: int, seed: int = 0) -> None:
        self.width, self.count = width, count
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []

    def const(self, name: str, value: npt.ArrayLike) -> str:
        self.tensors.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def op(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        node = helper.make_node(kind, inputs, [name], name=f"{kind}_{name}", **attributes)
        self.nodes.append(node)
        return name

    def drawn(self) -> tuple[Array, Array, Array]:
        """Codes [inputs, outputs] with one scale a column, and a bias."""
        w = self.rng.normal(scale=self.width**-0.5, size=(self.width, self.width))
        scale = (np.abs(w).max(0) / 127).astype(np.float32)
        bias = self.rng.normal(scale=0.1, size=self.width).astype(np.float32)
        return np.rint(w / scale).astype(np.int8), scale, bias

    def save(self, path: Path, last: str) -> Path:
        """Write the model; its file."""
        rows: list[str | int | None] = ["batch", self.width]
        graph = helper.make_graph(
            self.nodes, "layers",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, rows)],
            [helper.make_tensor_value_info(last, TensorProto.FLOAT, rows)],
            self.tensors,
        )  # fmt: skip
        opsets = [helper.make_opsetid("", 21)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
        return path


def with_biases(path: Path, *, int32: bool, width: int = 512, count: int = 4) -> Path:
    """Int8 Gemm layers whose inputs alone are quantized, as for TensorRT; biases float or int32."""
    made, x = Layers(width, count), "x"
    for index in range(count):
        codes, scale, bias = made.drawn()
        step = OTHERS if index else FIRST
        s, z = made.const(f"s{index}", step), made.const(f"z{index}", np.uint8(128))
        q = made.op("QuantizeLinear", [x, s, z])
        a = made.op("DequantizeLinear", [q, s, z])
        w = _weight(made, index, codes, scale)
        b = made.const(f"b{index}", bias)
        if int32:
            steps = step * scale
            rounded = made.const(f"b{index}_codes", np.rint(bias / steps).astype(np.int32))
            b = made.op("DequantizeLinear", [rounded, made.const(f"b{index}_scale", steps)], axis=0)
        x = made.op("Gelu", [made.op("Gemm", [a, w, b])])
    return made.save(path, x)


def weights_only(path: Path, *, turned: bool, width: int = 1024, count: int = 4) -> Path:
    """Layers with int8 weights and float activations: stored [N, K] as torch writes them, or
    [K, N]."""
    made, x = Layers(width, count), "x"
    for index in range(count):
        codes, scale, bias = made.drawn()
        b = made.const(f"b{index}", bias)
        codes = np.ascontiguousarray(codes.T) if turned else codes
        w = _weight(made, index, codes, scale, axis=0 if turned else 1)
        x = made.op("Gelu", [made.op("Gemm", [x, w, b], transB=int(turned))])
    return made.save(path, x)


def _weight(made: Layers, index: int, codes: Array, scale: Array, axis: int = 1) -> str:
    inputs = [
        made.const(f"w{index}", codes),
        made.const(f"w{index}_scale", scale),
        made.const(f"w{index}_zero", np.zeros(scale.shape, np.int8)),
    ]
    return made.op("DequantizeLinear", inputs, axis=axis)


def row_feeds(rows: int, width: int, count: int = 4, seed: int = 1) -> list[Feeds]:
    """Feeds of normal numbers [rows, width]."""
    rng = np.random.default_rng(seed)
    return [{"x": rng.normal(size=(rows, width)).astype(np.float32)} for _ in range(count)]
