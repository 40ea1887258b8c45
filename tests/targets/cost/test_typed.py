"""Predictions for TensorRT against rooflines worked out by hand: types, fused chains, codes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from planish.ir.load import load_model
from planish.ir.types.bound import bound_shapes
from planish.targets.cost.predict import Prediction, predict
from planish.targets.loader import load_target
from planish.targets.schema import Target

A100, T4, H100 = (load_target(name) for name in ("nvidia-a100", "nvidia-t4", "nvidia-h100"))
CUDA = load_target("nvidia-a100-onnxruntime")
HALF = np.float16
SIZE = 64
"""Images are [n, 64, 8, 8], kernels [64, 64, 3, 3]: a large n is bound by arithmetic."""
IMAGE = SIZE * 8 * 8
KERNEL = SIZE * SIZE * 9
FLOPS = 2 * KERNEL * 64 + IMAGE  # the bias, too
CONV = "c = Conv<pads=[1,1,1,1]>(x, w, b) y = Relu(c)"
PAIR = "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) "
CODED = PAIR + "v = DequantizeLinear<axis=0>(w, t, u) c = Conv<pads=[1,1,1,1]>(d, v, b) y = Relu(c)"


def build(body: str, tensors: Mapping[str, Any], kind: str, shape: str = "n, 64, 8, 8") -> ir.Model:
    made = "float16" if kind == "int64" else kind
    ports = f"({kind}[{shape}] x) => ({made} y)"
    header = '<ir_version: 10, opset_import: ["": 20]>'
    proto = onnx.parser.parse_model(f"{header} g {ports} {{ {body} }}")
    for name, array in tensors.items():
        proto.graph.initializer.append(_proto(name, np.asarray(array)))
    return load_model(proto).model


def _proto(name: str, array: Any) -> onnx.TensorProto:
    if array.dtype != ml_dtypes.float8_e4m3fn:
        return numpy_helper.from_array(array, name)
    kind = onnx.TensorProto.FLOAT8E4M3FN
    return onnx.helper.make_tensor(name, kind, array.shape, array.tobytes(), raw=True)


def floating(dtype: Any) -> ir.Model:
    tensors = {"w": np.ones((SIZE, SIZE, 3, 3), dtype), "b": np.ones(SIZE, dtype)}
    return build(CONV, tensors, "float16" if dtype is HALF else "float")


def coded(codes: Any, body: str = CODED) -> ir.Model:
    """A convolution of codes among float16."""
    tensors = {
        "s": HALF(0.1), "z": codes(0), "w": np.ones((SIZE, SIZE, 3, 3)).astype(codes),
        "t": np.ones(SIZE, HALF), "u": np.zeros(SIZE).astype(codes), "b": np.ones(SIZE, HALF),
    }  # fmt: skip
    return build(body, tensors, "float16")


def run(model: ir.Model, target: Target, n: int) -> Prediction:
    return predict(model, target, bound_shapes(model, {"n": n}))


def time_of(found: Prediction, op: str) -> float:
    (ms,) = [n.ms for n in found.nodes if n.op == op]
    assert ms is not None
    return ms


@pytest.mark.parametrize(
    ("target", "model", "rate"),
    [
        (A100, floating(np.float32), 156.0),  # TF32, which TensorRT takes unless told otherwise
        (A100, floating(HALF), 312.0),
        (A100, coded(np.int8), 624.0),
        (T4, floating(np.float32), 8.1),  # no TF32
        (T4, floating(HALF), 65.0),
        (T4, coded(np.int8), 130.0),
        (H100, coded(ml_dtypes.float8_e4m3fn), 1979.0),
        (CUDA, floating(HALF), 312.0),
        (CUDA, floating(np.float32), 19.5),
    ],
)
def test_a_convolution_runs_at_the_rate_of_its_type(
    target: Target, model: ir.Model, rate: float
) -> None:
    """With memory out of the way."""
    fast = replace(target, memory=replace(target.memory, bandwidth_gbs=1e9))
    found = time_of(run(model, fast, 1024), "Conv")
    assert found == pytest.approx(1024 * FLOPS / (rate * 1e9))


def test_products_run_at_the_rate_of_their_type() -> None:
    fast = replace(A100, memory=replace(A100.memory, bandwidth_gbs=1e9))
    weight, scales = np.ones((256, 256), np.int8), {"t": np.ones(256, HALF), "s": HALF(0.1)}
    body = PAIR + "v = DequantizeLinear<axis=1>(w, t, u) y = MatMul(d, v)"
    zeros = {"z": np.int8(0), "u": np.zeros(256, np.int8)}
    int8 = build(body, {"w": weight, **scales, **zeros}, "float16", "n, 256")
    wide = build("y = MatMul(x, w)", {"w": np.ones((256, 256), np.float32)}, "float", "n, 256")
    # only the weight in codes: widened
    body = "v = DequantizeLinear<axis=1>(w, t, u) y = MatMul(x, v)"
    held = {"w": weight, "t": scales["t"], "u": zeros["u"]}
    weights = build(body, held, "float16", "n, 256")
    for model, rate in ((int8, 624.0), (wide, 156.0), (weights, 312.0)):
        found = time_of(run(model, fast, 4096), "MatMul")
        assert found == pytest.approx(2 * 4096 * 256**2 / (rate * 1e9))


def bytes_of(ms: float, target: Target = A100) -> float:
    assert target.memory.bandwidth_gbs is not None
    return ms * target.memory.bandwidth_gbs * 1e6


def test_what_stands_behind_a_convolution_passes_over_no_memory() -> None:
    """Bias, residual addition and activation: the two images read, one written, the weights."""
    body = "c = Conv<pads=[1,1,1,1]>(x, w, b) a = Add(c, x) y = Relu(a)"
    tensors = {"w": np.ones((SIZE, SIZE, 3, 3), HALF), "b": np.ones(SIZE, HALF)}
    found = run(build(body, tensors, "float16"), A100, 1)
    assert [n.ms == 0 for n in found.nodes] == [False, True, True]
    assert found.ms is not None
    assert bytes_of(found.ms) == pytest.approx(2 * (2 * IMAGE + KERNEL + SIZE))


def test_codes_are_read_and_written_by_the_layers() -> None:
    """Two layers: only the first quantization has a kernel, and what lies between is int8."""
    body = CODED.replace("y = Relu(c)", "r = Relu(c)") + (
        " p = QuantizeLinear(r, s, z) e = DequantizeLinear(p, s, z) "
        "y = Conv<pads=[1,1,1,1]>(e, v, b)"
    )
    found = run(coded(np.int8, body), A100, 1)
    spent = [(n.op, bytes_of(n.ms)) for n in found.nodes if n.ms]
    assert [op for op, _ in spent] == ["QuantizeLinear", "Conv", "Conv"]
    weights = KERNEL + 2 * SIZE + SIZE + 2 * SIZE  # codes, scales, zero points, bias
    expected = [3 * IMAGE, IMAGE + IMAGE + weights, IMAGE + 2 * IMAGE + weights]
    assert [moved for _, moved in spent] == pytest.approx(expected, abs=8)


def test_a_gate_is_part_of_the_layer_in_front_and_a_fork_is_not() -> None:
    weight = {"w": np.ones((SIZE, SIZE, 3, 3), HALF)}
    swish = "c = Conv<pads=[1,1,1,1]>(x, w) s = Sigmoid(c) y = Mul(c, s)"
    found = run(build(swish, weight, "float16"), A100, 1)
    assert [n.op for n in found.nodes if n.ms] == ["Conv"]
    fork = (
        "c = Conv<pads=[1,1,1,1]>(x, w) s = Sigmoid(c) p = MaxPool<kernel_shape=[1,1]>(c) "
        "y = Add(s, p)"
    )
    found = run(build(fork, weight, "float16"), A100, 1)
    assert [n.op for n in found.nodes if n.ms] == ["Conv", "Sigmoid", "MaxPool"]


def test_views_are_free_and_a_look_up_reads_rows() -> None:
    body = "r = Reshape(x, shape) t = Transpose<perm=[0,2,1]>(r) y = Identity(t)"
    shape = np.array([0, 64, 64])
    found = run(build(body, {"shape": shape}, "float16"), A100, 2)
    assert [n.op for n in found.nodes if n.ms] == ["Transpose"]
    assert found.ms is not None
    assert bytes_of(found.ms) == pytest.approx(2 * 2 * 2 * IMAGE)
    table = np.ones((100_000, 64), HALF)
    look = build("y = Gather(t, x)", {"t": table}, "int64", "n")
    ms = run(look, A100, 8).ms
    assert ms is not None
    assert bytes_of(ms) == pytest.approx(8 * 8 + 2 * 2 * 8 * 64)


def test_types_without_a_rate_have_no_time() -> None:
    unknown = replace(A100, rates=replace(A100.rates, fp16=None))
    assert run(floating(HALF), unknown, 1).ms is None
    assert run(floating(np.float32), unknown, 1).ms is not None
