"""Predictions against numbers worked out by hand: rooflines, tables, what is not known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from planish.ir.load import load_model
from planish.ir.types.bound import bound_shapes
from planish.targets.cost.measured import Convolutions, Measured, Products, Streams
from planish.targets.cost.modules import by_module, by_operator, by_site
from planish.targets.cost.predict import Predicted, Prediction, layers_ms, predict
from planish.targets.loader import load_target
from planish.targets.schema import Memory, Rates, Target

LINEAR = "y = MatMul(x, w)"


def floats(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def build(
    body: str, weights: Mapping[str, Any], inputs: str = "float[m, 64] x", outputs: str = "float y"
) -> ir.Model:
    header = '<ir_version: 10, opset_import: ["": 20, "com.microsoft": 1]>'
    proto = onnx.parser.parse_model(f"{header} g ({inputs}) => ({outputs}) {{ {body} }}")
    proto.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in weights.items())
    return load_model(proto).model


def machine(**figures: Any) -> Target:
    return replace(load_target("x86-avx512-vnni"), kind="machine", cores=4, **figures)


def run(model: ir.Model, target: Target, threads: int = 0, **sizes: int) -> Prediction:
    return predict(model, target, bound_shapes(model, sizes), threads)


def test_layers_without_a_graph_take_what_they_take_in_one() -> None:
    for rows, inputs, outputs in ((8192, 64, 256), (1, 64, 256)):
        whole = run(build(LINEAR, {"w": floats(inputs, outputs)}), FAST, m=rows)
        alone = layers_ms(FAST, rows, [("products.float32", inputs, outputs)])
        assert alone == pytest.approx(whole.known_ms)
        twice = layers_ms(FAST, rows, [("products.float32", inputs, outputs)] * 2)
        assert twice == pytest.approx(2 * whole.known_ms)
    assert layers_ms(load_target("x86-avx2"), 8, [("products.float32", 64, 64)]) is None


FAST = machine(rates=Rates(fp32=2.0), memory=Memory(bandwidth_gbs=100.0))


def test_a_large_product_is_bound_by_the_peak_rate() -> None:
    found = run(build(LINEAR, {"w": floats(64, 256)}, "float[m, 64] x"), FAST, m=8192)
    flops = 2 * 8192 * 64 * 256
    moved = 4 * (8192 * 64 + 64 * 256 + 8192 * 256)
    compute, memory = flops / 2e12 * 1e3, moved / 100e9 * 1e3
    assert memory < compute * 2
    (node,) = found.nodes
    assert node.ms == pytest.approx(max(compute, memory))
    assert node.bound == ("compute" if compute > memory else "memory")
    assert (node.basis, found.basis) == ("estimated", "estimated")
    assert found.ms == found.known_ms == node.ms


def test_a_row_times_a_matrix_is_bound_by_memory() -> None:
    (node,) = run(build(LINEAR, {"w": floats(64, 256)}), FAST, m=1).nodes
    assert node.ms == pytest.approx(4 * (64 + 64 * 256 + 256) / 100e9 * 1e3)
    assert node.bound == "memory"


def test_a_quantized_row_reads_codes_where_a_float_one_reads_floats() -> None:
    body = (
        "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) "
        "v = DequantizeLinear(w, s, c) y = MatMul(d, v)"
    )
    codes = np.ones((64, 256), np.int8)
    ends = {"s": np.float32(0.1), "z": np.uint8(128), "c": np.int8(0)}
    found = run(build(body, {"w": codes, **ends}), FAST, m=1)
    (node,) = [n for n in found.nodes if n.op == "MatMul"]
    assert node.ms == pytest.approx((64 + 64 * 256 + 4 * 256) / 100e9 * 1e3, rel=1e-3)


def test_fewer_threads_have_their_share_of_the_rate() -> None:
    slow = replace(FAST, rates=Rates(fp32=0.01))
    model = build(LINEAR, {"w": floats(64, 256)})
    whole, one = run(model, slow, m=64).ms, run(model, slow, 1, m=64).ms
    assert whole is not None
    assert one == pytest.approx(4 * whole)


def test_int8_uses_the_break_even_ratio_of_the_class() -> None:
    body = "y = com.microsoft.MatMulIntegerToFloat(x, w, a, b)"
    weights = {"w": np.ones((512, 512), np.int8), "a": np.float32(1), "b": floats(512)}
    model = build(body, weights, "uint8[m, 512] x", "float[m, 512] y")
    target = replace(FAST, rates=Rates(fp32=0.1), int8=replace(FAST.int8, speed_ratio=4.0))
    (node,) = run(model, target, m=512).nodes
    assert node.ms == pytest.approx(2 * 512**3 / 0.4e12 * 1e3)
    unknown = replace(target, int8=replace(FAST.int8, speed_ratio=None))
    assert run(model, unknown, m=512).ms is None


def test_without_figures_there_is_no_number() -> None:
    found = run(build(LINEAR, {"w": floats(64, 256)}), load_target("x86-avx2"), m=8)
    assert [(n.ms, n.basis) for n in found.nodes] == [(None, "unknown")]
    assert (found.ms, found.basis) == (None, "unknown")
    assert "targets probe" in found.note


def test_an_axis_without_a_size_is_unknown() -> None:
    found = run(build(LINEAR, {"w": floats(64, 256)}), FAST)
    assert (found.ms, found.basis) == (None, "unknown")
    assert "MatMul" in found.note


PRODUCT = tuple(
    (1.0, m, k, n, 2e-4 * m * k * n) for m in (1.0, 64.0) for k in (16.0, 256.0)
    for n in (16.0, 256.0)
)  # fmt: skip
TABLES = Measured(
    date="2026-01-01", runtime="onnxruntime 1.31.1", cpu="test", call=((1.0, 5.0),),
    node=((1.0, 0.2),), bandwidth=((1.0, 1e3, 10.0), (1.0, 1e9, 10.0)),
    products=Products(float32=PRODUCT),
    convolutions=Convolutions(pointwise=((1.0, 1.0, 1.0, 1.0, 1.0), (1.0, 1e6, 1e6, 1e6, 2.0))),
    streams=Streams(unary=((1.0, 1.0, 1.0), (1.0, 1e6, 1e6)), binary=((1.0, 1.0, 2.0),),
                    broadcast=((1.0, 1.0, 1.0), (1.0, 1e6, 1e6))),
)  # fmt: skip


def test_a_table_is_read_for_the_sizes_of_the_node() -> None:
    found = run(build(LINEAR, {"w": floats(64, 128)}), machine(measured=TABLES), 1, m=32)
    (node,) = found.nodes
    assert node.ms == pytest.approx(2e-4 * 32 * 64 * 128 / 1e3)
    assert (node.basis, node.bound) == ("measured", "compute")
    assert found.ms == pytest.approx(found.known_ms + 5e-3)


def test_beyond_a_table_and_for_other_threads_it_is_an_estimate() -> None:
    model, target = build(LINEAR, {"w": floats(64, 128)}), machine(measured=TABLES)
    (beyond,) = run(model, target, 1, m=640).nodes
    assert beyond.ms == pytest.approx(2e-4 * 640 * 64 * 128 / 1e3)
    assert beyond.basis == "estimated"
    assert run(model, target, 3, m=32).basis == "estimated"
    assert "3 threads" in run(model, target, 3, m=32).note


def test_weights_take_at_least_the_time_to_read_them() -> None:
    slow = replace(TABLES, bandwidth=((1.0, 1e3, 0.001), (1.0, 1e9, 0.001)))
    (node,) = run(build(LINEAR, {"w": floats(64, 128)}), machine(measured=slow), 1, m=1).nodes
    assert node.ms == pytest.approx(4 * 64 * 128 / 0.001e9 * 1e3)
    assert node.bound == "memory"


def test_the_correction_of_whole_models() -> None:
    target = machine(measured=replace(TABLES, correction=((1.0, 100.0, 1.5),)))
    found = run(build(LINEAR, {"w": floats(64, 128)}), target, 1, m=32)
    assert found.ms == pytest.approx(0.1 + 1.5 * found.known_ms)


def test_a_table_that_is_missing_leaves_the_roofline_and_that_nothing() -> None:
    model = build("y = Sigmoid(x)", {})
    figures = {"measured": TABLES, "rates": Rates(fp32=1.0)}
    assert run(model, machine(**figures), 1, m=64).ms is None
    (node,) = run(model, machine(**figures, memory=Memory(bandwidth_gbs=1.0)), 1, m=64).nodes
    assert node.ms == pytest.approx(2 * 4 * 64 * 64 / 1e9 * 1e3)
    assert node.basis == "estimated"


def test_what_is_fused_or_folded_costs_nothing() -> None:
    body = "h = MatMul(x, w)\n b = Add(h, c)\n d = Mul(c, c)\n y = Add(b, d)"
    model = build(body, {"w": floats(64, 128), "c": floats(128)})
    found = {n.node: n for n in run(model, machine(measured=TABLES), 1, m=32).nodes}
    kinds = {n.op: [m.ms for m in found.values() if m.op == n.op] for n in found.values()}
    assert kinds["Mul"] == [0.0]
    assert kinds["Add"][0] == 0.0
    assert kinds["Add"][1]


def test_a_loop_is_unknown_and_an_if_takes_its_longest_branch() -> None:
    body = """
        y = If(c) <then_branch = t () => (float[m, 64] p) { p = Relu(x) },
                   else_branch = e () => (float[m, 64] q) { r = Relu(x) q = Relu(r) }>
    """
    model = build(body, {}, "float[m, 64] x, bool c")
    one = run(build("y = Relu(x)", {}), machine(measured=TABLES), 1, m=64)
    (node,) = run(model, machine(measured=TABLES), 1, m=64).nodes
    assert node.ms == pytest.approx(2 * one.known_ms)
    assert node.basis == "estimated"


def shares() -> tuple[Predicted, ...]:
    return (
        Predicted("a", "MatMul", "layer.0.q", 1.0, "measured", "compute"),
        Predicted("b", "Add", "layer.0.q", 0.5, "estimated", "memory"),
        Predicted("c", "MatMul", "layer.1.q", 2.0, "measured", "compute"),
        Predicted("d", "Loop", "", None, "unknown", ""),
    )


def test_sites_modules_and_operators_add_up() -> None:
    sites = {share.name: share for share in by_site(shares())}
    assert (sites["layer.0.q"].ms, sites["layer.0.q"].basis) == (1.5, "estimated")
    assert (sites["layer.0.q"].bound, sites["layer.0.q"].nodes) == ("compute", 2)
    assert {s.name: s.ms for s in by_module(shares())} == {
        "layer": 3.5, "layer.0": 1.5, "layer.1": 2.0
    }  # fmt: skip
    assert [(s.name, s.ms) for s in by_operator(shares())] == [
        ("Loop", None), ("MatMul", 3.0), ("Add", 0.5)
    ]  # fmt: skip
