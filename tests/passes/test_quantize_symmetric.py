"""``quantize`` where the target's data ask for symmetric ranges, whole tiles and real matrices."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest

from planish.ir.graph import constant_array, scalar

RNG = np.random.default_rng(8)
GPU = "nvidia-a100"


def array(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def head(inputs: str, outputs: str) -> str:
    return f'<ir_version: 10, opset_import: ["" : 20]>\ng ({inputs}) => ({outputs})\n'


def product(graphs: ModuleType, rows: str = "n", shape: tuple[int, int] = (64, 48)) -> Any:
    """One product of activations that are all above zero."""
    text = head(f"float[{rows}, {shape[0]}] x", f"float[{rows}, {shape[1]}] y")
    text += "{ y = MatMul(x, w) }"
    count = int(rows) if rows.isdecimal() else 40
    feeds = [{"x": np.abs(array(count, shape[0]))}]
    return graphs.Bench(graphs.parse(text, w=array(*shape)), feeds, target=GPU)


@pytest.mark.parametrize("calibrator", ["minmax", "mse", "percentile", "entropy"])
def test_zero_points_are_zeros_and_there(graphs: ModuleType, calibrator: str) -> None:
    bench = product(graphs)
    bench.run("quantize", scheme="static", calibrator=calibrator)
    tensors = bench.model.graph.initializers
    zero = constant_array(tensors["x_zero_point"])
    weight_zero = constant_array(tensors["linear1.weight_zero_point"])
    scale = scalar(tensors["x_scale"])
    assert zero is not None
    assert weight_zero is not None
    assert scale is not None
    assert [zero.dtype, weight_zero.dtype] == ["int8", "int8"]
    assert [zero.shape, weight_zero.shape] == [(), (48,)]
    assert not zero.any()
    assert not weight_zero.any()
    peak = float(bench.feeds[0]["x"].max())
    assert 0 < scale <= peak / 127 * (1 + 1e-6)
    if calibrator == "minmax":
        assert scale == pytest.approx(peak / 127)


def test_one_row_is_a_vector_and_stays_float(graphs: ModuleType) -> None:
    for rows, codes in (("1", {"linear1": "uneven-shape"}), ("2", {}), ("n", {})):
        bench = product(graphs, rows)
        bench.run("quantize", scheme="static")
        assert bench.refusals() == codes


def test_narrow_products_stay_float(graphs: ModuleType) -> None:
    for shape, codes in (((8, 64), {"linear1": "too-small"}), ((16, 16), {})):
        bench = product(graphs, shape=shape)
        bench.run("quantize", scheme="static")
        assert bench.refusals() == codes


@pytest.mark.parametrize(
    ("shape", "group", "code"),
    [
        ((16, 16, 3, 3), 1, ""),
        ((20, 16, 3, 3), 1, "uneven-shape"),
        ((16, 12, 3, 3), 1, "too-small"),
        ((24, 1, 3, 3), 24, ""),  # depthwise
        ((20, 1, 3, 3), 20, "uneven-shape"),
    ],
)
def test_channels_of_convolutions(
    graphs: ModuleType, shape: tuple[int, ...], group: int, code: str
) -> None:
    inputs = shape[1] * group
    text = head(f"float[n, {inputs}, 6, 6] x", "float[n, m, h, v] y")
    text += f"{{ c = Conv<group={group}>(x, w) y = Relu(c) }}"
    feeds = [{"x": array(2, inputs, 6, 6)}]
    bench = graphs.Bench(graphs.parse(text, w=array(*shape)), feeds, target=GPU)
    bench.run("quantize", scheme="static")
    assert set(bench.refusals().values()) == ({code} if code else set())
    if not code:  # Q/DQ in front alone
        assert graphs.ops(bench.model)[-2:] == ["Conv", "Relu"]


def test_ranges_of_run_time_and_integer_tables_are_refused(graphs: ModuleType) -> None:
    text = head("int64[n] i, float[n, 64] x", "float[n, 64] y")
    text += "{ r = Gather(t, i) a = Add(r, x) y = MatMul(a, w) }"
    feeds = [{"i": np.arange(6), "x": array(6, 64)}]
    model = graphs.parse(text, t=array(512, 64), w=array(64, 64))
    bench = graphs.Bench(model, feeds, target=GPU)
    bench.run("quantize", scheme="dynamic")
    assert sorted(bench.refusals().values()) == ["no-dynamic-kernel", "target"]
