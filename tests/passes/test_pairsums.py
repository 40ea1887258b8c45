"""int8 weights where two products are added in 16 bits: which codes are taken, and what is said."""

from __future__ import annotations

import re
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from planish.ir.graph import constant_array

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(3)
TARGET = "x86-avx2"


def array(*shape: int) -> Array:
    return RNG.normal(size=shape).astype(np.float32)


def graph(graphs: ModuleType, body: str, inputs: str, outputs: str, **tensors: Array) -> Any:
    head = f'<ir_version: 10, opset_import: ["" : 20]>\ng ({inputs}) => ({outputs})\n'
    return graphs.parse(f"{head}{{ {body} }}", **tensors)


def linear(graphs: ModuleType, x: Array, w: Array, **settings: Any) -> Any:
    """One layer [64] -> [64] and its calibration data."""
    model = graph(graphs, "y = MatMul(x, w)", "float[n, 64] x", "float[n, 64] y", w=w)
    return graphs.Bench(model, [{"x": x}], target=TARGET, **settings)


def codes_of(bench: Any, name: str = "linear1") -> Array:
    found = constant_array(bench.model.graph.initializers[f"{name}.weight_quantized"])
    assert found is not None
    return found.astype(np.int64)


def lowest_and_highest(codes: Array) -> tuple[int, int]:
    """Of all sums of pairs of rows, for any uint8 activations."""
    pairs = codes.reshape(-1, 2, codes.shape[1])
    low, high = np.minimum(pairs, 0).sum(axis=1), np.maximum(pairs, 0).sum(axis=1)
    return int(255 * low.min()), int(255 * high.max())


@pytest.mark.parametrize("scheme", ["static", "dynamic"])
def test_codes_are_safe_unless_asked_otherwise(graphs: ModuleType, scheme: str) -> None:
    bench = linear(graphs, array(40, 64), array(64, 64))
    bench.run("quantize", scheme=scheme)
    low, high = lowest_and_highest(codes_of(bench))
    assert -32768 <= low < -30000
    assert 30000 < high <= 32767
    assert bench.remarks("note")["linear1"].code == "pair-safe"


def hardly_clipped() -> tuple[Array, Array]:
    """Samples and weights: the first two rows are as large as can be in every column, which takes
    a bit from all of it, and one sample of 16 takes their sum just out: 130 * (127 + 127)."""
    x, w = RNG.uniform(0, 0.3, (16, 64)), RNG.uniform(-1, 1, (64, 64))
    x[:, :2], x[0, :2], x[1, 5] = 0.2, 0.51, 1.0
    w[:2], w[4] = 1.0, 0.0
    return x.astype(np.float32), w.astype(np.float32)


@pytest.mark.parametrize("scheme", ["static", "dynamic"])
def test_all_bits_stay_where_the_emulated_loss_is_smaller(graphs: ModuleType, scheme: str) -> None:
    bench = linear(graphs, *hardly_clipped())
    bench.run("quantize", scheme=scheme, sums="emulated")
    codes = codes_of(bench)
    np.testing.assert_array_equal(np.abs(codes).max(axis=0), 127)
    assert lowest_and_highest(codes)[1] > 32767
    remark = bench.remarks("note")["linear1"]
    assert remark.code == "pair-emulated"
    assert "saturate on calibration samples" in remark.sentence


def test_the_loss_that_is_stated_is_that_of_the_instruction(graphs: ModuleType) -> None:
    """Of the first 16 samples, in int64 and float64, pair by pair."""
    x, w = hardly_clipped()
    bench = linear(graphs, x, w)
    bench.run("quantize", scheme="static", calibrator="minmax", sums="emulated")
    sentence = bench.remarks("note")["linear1"].sentence
    step = (float(x.max()) - float(x.min())) / 255
    zero = 0
    a = np.clip(np.rint(x / np.float32(step)) + zero, 0, 255).astype(np.int64)
    scale = np.abs(w).max(axis=0).astype(np.float64) / 127
    q = np.clip(np.rint(w / scale), -127, 127).astype(np.int64)
    sums = sum(np.clip(a[:, k : k + 2] @ q[k : k + 2], -32768, 32767) for k in range(0, 64, 2))
    exact = (a - zero) @ w.astype(np.float64)
    error = (((sums - zero * q.sum(axis=0)) * scale - exact) ** 2).sum() / (exact**2).sum()
    stated = re.search(r"relative squared error (\S+), (\S+) with", sentence)
    assert stated is not None
    assert float(stated[1]) == pytest.approx(error, rel=0.02)
    clipped = int(re.findall(r"of which (\d+) results", sentence)[0])
    assert clipped == np.count_nonzero(sums != a @ q) > 0


def test_data_that_do_saturate_keep_the_codes_safe(graphs: ModuleType) -> None:
    """All activations large, all weights alike: every sum would be clipped."""
    x, w = np.abs(array(40, 64)) + np.float32(5), np.abs(array(64, 64)) + np.float32(2)
    bench = linear(graphs, x, w)
    bench.run("quantize", scheme="static", sums="emulated")
    assert lowest_and_highest(codes_of(bench))[1] <= 32767
    assert bench.remarks("note")["linear1"].code == "pair-safe"


def test_without_calibration_data_nothing_is_emulated(graphs: ModuleType) -> None:
    bench = linear(graphs, array(40, 64), array(64, 64), calibrated=False)
    bench.run("quantize", sums="emulated")
    assert bench.remarks("note")["linear1"].code == "pair-safe"


@pytest.mark.parametrize("sums", ["safe", "emulated"])
def test_a_convolution_pairs_positions_and_channels(graphs: ModuleType, sums: str) -> None:
    bench = graphs.Bench(
        graph(
            graphs, "y = Conv<pads=[1, 1, 1, 1]>(x, k)", "float[n, 16, 6, 6] x",
            "float[n, 16, 6, 6] y", k=array(16, 16, 3, 3),
        ),
        [{"x": np.maximum(array(40, 16, 6, 6), 0)}], target=TARGET,
    )  # fmt: skip
    bench.run("quantize", scheme="static", sums=sums)
    codes = codes_of(bench, "conv1").transpose(2, 3, 1, 0).reshape(-1, 16)
    low, high = lowest_and_highest(codes)
    code = bench.remarks("note")["conv1"].code
    assert code == {"safe": "pair-safe", "emulated": "pair-emulated"}[sums]
    assert (low >= -32768 and high <= 32767) is (sums == "safe")


def test_channels_that_stand_alone_keep_all_bits_without_a_word(graphs: ModuleType) -> None:
    bench = graphs.Bench(
        graph(
            graphs, "y = Conv<group=16, pads=[1, 1, 1, 1]>(x, k)", "float[n, 16, 6, 6] x",
            "float[n, 16, 6, 6] y", k=np.abs(array(16, 1, 3, 3)),
        ),
        [{"x": array(4, 16, 6, 6)}], target=TARGET,
    )  # fmt: skip
    bench.run("quantize", scheme="static")
    np.testing.assert_array_equal(codes_of(bench, "conv1").max(axis=(1, 2, 3)), 127)
    assert bench.remarks("note") == {}
