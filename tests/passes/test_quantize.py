from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from planish.compiler.calibration.observers import Masking
from planish.ir.errors import UsageError
from planish.ir.facts import FLOAT, QUANTIZED
from planish.ir.graph import constant_array, scalar
from planish.ir.load import load_model
from planish.ir.sites import find_sites
from planish.passes.math.calibrate import CALIBRATORS
from planish.passes.math.histogram import Histogram

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(8)


def array(*shape: int) -> Array:
    return RNG.normal(size=shape).astype(np.float32)


def head(inputs: str, outputs: str, opset: int = 20) -> str:
    return f'<ir_version: 10, opset_import: ["" : {opset}]>\ng ({inputs}) => ({outputs})\n'


LAYER = head("float[n, 64] x", "float[n, 48] y") + "{ a = MatMul(x, w) b = Add(a, c) y = Relu(b) }"
W, C = array(64, 48) * np.linspace(0.1, 2, 48, dtype=np.float32), array(48)
FEEDS = [{"x": array(40, 64) + np.float32(0.3)} for _ in range(2)]
DATA = np.concatenate([feed["x"] for feed in FEEDS]).astype(np.float64)


def layer(graphs: ModuleType, **settings: Any) -> Any:
    return graphs.Bench(graphs.parse(LAYER, w=W, c=C), FEEDS, **settings)


def on_grid(x: Array, low: float, high: float) -> Array:
    """uint8 with a zero point, written out in float64."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / 255
    zero = np.rint(-low / scale)
    return np.asarray((np.clip(np.rint(x / scale) + zero, 0, 255) - zero) * scale)


def rounded(w: Array, axis: int, levels: int = 127) -> Array:
    """Symmetric, one scale for each index of the axis, written out in float64."""
    others = tuple(i for i in range(w.ndim) if i != axis)
    scale = np.abs(w.astype(np.float64)).max(axis=others, keepdims=True) / levels
    return np.asarray(np.clip(np.rint(w / scale), -levels, levels) * scale)


def corrected(w: Array = W, c: Array = C, data: Array = DATA) -> Array:
    """The bias that keeps the mean output."""
    return np.asarray(c + data.mean(axis=0) @ (w - rounded(w, 1)))


# -- linear layers ---------------------------------------------------------------------


def test_a_static_layer_becomes_a_product_between_pairs(graphs: ModuleType) -> None:
    bench = layer(graphs)
    outcome = bench.run("quantize", scheme="static", calibrator="minmax")
    assert graphs.ops(bench.model) == [
        "QuantizeLinear", "DequantizeLinear", "DequantizeLinear", "MatMul", "Add", "Relu",
    ]  # fmt: skip
    x = FEEDS[0]["x"]
    expected = on_grid(x, DATA.min(), DATA.max()) @ rounded(W, 1) + corrected()
    got = bench.outputs({"x": x})["y"]
    np.testing.assert_allclose(got, np.maximum(expected, 0), rtol=0, atol=2e-3)
    edit = outcome.edits[0]
    assert (edit.site, edit.setting, edit.saving) == ("linear1", "static", 3 * W.size)
    before, after = x[:16].astype(np.float64) @ W + C, expected[:16]
    loss = ((before - after) ** 2).sum() / (before**2).sum()
    assert edit.loss == pytest.approx(loss, rel=0.02)
    assert list(bench.model.graph.initializers) == [
        "x_scale", "x_zero_point", "linear1.weight_quantized", "linear1.weight_scale",
        "linear1.weight_zero_point", "c_corrected",
    ]  # fmt: skip


def test_a_dynamic_layer_takes_its_range_at_run_time(graphs: ModuleType) -> None:
    bench = layer(graphs)
    bench.run("quantize", scheme="dynamic")
    assert graphs.ops(bench.model) == [
        "DynamicQuantizeLinear", "MatMulInteger", "Mul", "Cast", "Mul", "Add", "Relu",
    ]  # fmt: skip
    for scale in (1.0, 100.0):  # far beyond what calibration saw
        x = (FEEDS[0]["x"] * scale).astype(np.float32)
        expected = on_grid(x.astype(np.float64), x.min(), x.max()) @ rounded(W, 1) + corrected()
        got = bench.outputs({"x": x})["y"]
        np.testing.assert_allclose(got, np.maximum(expected, 0), rtol=0, atol=2e-3 * scale)


@pytest.mark.parametrize("scheme", ["static", "dynamic"])
def test_weights_are_codes_with_a_scale_for_each_output(graphs: ModuleType, scheme: str) -> None:
    bench = layer(graphs)
    bench.run("quantize", scheme=scheme)
    constants = bench.model.graph.initializers
    codes = constant_array(constants["linear1.weight_quantized"])
    scale = constant_array(constants["linear1.weight_scale"])
    assert codes is not None
    assert scale is not None
    assert codes.dtype == np.int8
    assert scale.shape == (48,)
    np.testing.assert_array_equal(np.abs(codes).max(axis=0), 127)
    np.testing.assert_allclose(codes * scale, rounded(W, 1), rtol=1e-5, atol=1e-7)


def test_where_sums_of_two_products_saturate_no_pair_of_codes_can(graphs: ModuleType) -> None:
    text = head("float[n, 64] x", "float[n, 64] y") + "{ y = MatMul(x, w) }"
    bench = graphs.Bench(graphs.parse(text, w=array(64, 64)), FEEDS, target="x86-avx2")
    bench.run("quantize", scheme="dynamic")
    codes = constant_array(bench.model.graph.initializers["linear1.weight_quantized"])
    assert codes is not None
    pairs = codes.astype(int).reshape(32, 2, 64)
    lowest, highest = np.minimum(pairs, 0).sum(axis=1), np.maximum(pairs, 0).sum(axis=1)
    assert 255 * highest.max() <= 32767
    assert 255 * lowest.min() >= -32768
    assert np.abs(codes.astype(int)).max(axis=0).min() >= 64
    assert bench.remarks("note")["linear1"].code == "pair-safe"


@pytest.mark.parametrize("scheme", ["dynamic", "static"])
def test_each_reader_of_an_activation_takes_the_mean_of_its_own_channels(
    graphs: ModuleType, scheme: str
) -> None:
    """Channels of the convolution are axis 1, those of the linear layer axis 2, of equal size."""
    text = head("float[n, 64, 64] x", "float[n, 64, 48] y, float[n, 64, 64] z") + (
        "{ a = MatMul(x, w) y = Add(a, c) [conv] z = Conv(x, k, kb) }"
    )
    x = (array(3, 64, 64) + np.linspace(-2, 2, 64, dtype=np.float32)).astype(np.float32)
    tensors = {"w": W, "c": C, "k": array(64, 64, 1), "kb": array(64)}
    bench = graphs.Bench(graphs.parse(text, **tensors), [{"x": x}])
    bench.run("quantize", scheme=scheme)
    bias = constant_array(bench.model.graph.initializers["c_corrected"])
    assert bias is not None
    mean = x.reshape(-1, 64).mean(axis=0, dtype=np.float64)
    np.testing.assert_allclose(bias, C + mean @ (W - rounded(W, 1)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("scheme", ["dynamic", "static"])
def test_a_bias_behind_a_node_stays_as_it_is(graphs: ModuleType, scheme: str) -> None:
    text = head("float[n, 64] x", "float[n, 48] y") + (
        "{ b = Identity(c) a = MatMul(x, w) y = Add(a, b) }"
    )
    bench = graphs.Bench(graphs.parse(text, w=W, c=C), FEEDS)
    assert len(bench.run("quantize", scheme=scheme).edits) == 1
    assert "c" in bench.model.graph.initializers


@pytest.mark.parametrize(("on", "calibrated"), [(True, True), (False, True), (True, False)])
def test_the_bias_takes_back_the_mean_error(graphs: ModuleType, on: bool, calibrated: bool) -> None:
    bench = layer(graphs, calibrated=calibrated)
    bench.run("quantize", scheme="dynamic", bias_correction=on)
    names = list(bench.model.graph.initializers)
    if not (on and calibrated):
        assert "c" in names
        return
    assert "c" not in names
    bias = constant_array(bench.model.graph.initializers["c_corrected"])
    assert bias is not None
    np.testing.assert_allclose(bias, corrected(), rtol=1e-5, atol=1e-6)
    # on the data it was calibrated on, exact inputs given, the mean output is the float one
    mean = (DATA @ rounded(W, 1) + bias).mean(axis=0)
    np.testing.assert_allclose(mean, (DATA @ W + C).mean(axis=0), rtol=0, atol=1e-5)
    assert np.abs((DATA @ rounded(W, 1) + C).mean(axis=0) - mean).max() > 1e-3


def test_a_layer_without_bias_gets_none(graphs: ModuleType) -> None:
    text = head("float[n, 64] x", "float[n, 48] y") + "{ y = MatMul(x, w) }"
    bench = graphs.Bench(graphs.parse(text, w=W), FEEDS)
    bench.run("quantize", scheme="static")
    assert graphs.ops(bench.model)[-1] == "MatMul"
    assert next(reversed(list(bench.model.graph))).outputs[0].name == "y"


@pytest.mark.parametrize("calibrator", ["minmax", "percentile", "mse", "entropy"])
def test_calibrators_choose_the_range(graphs: ModuleType, calibrator: str) -> None:
    heavy = RNG.standard_t(3, size=(2000, 64)).astype(np.float32)
    bench = graphs.Bench(graphs.parse(LAYER, w=W, c=C), [{"x": heavy}])
    bench.run("quantize", scheme="static", calibrator=calibrator)
    scale = scalar(bench.model.graph.initializers["x_scale"])
    assert scale is not None
    low, high = CALIBRATORS[calibrator](Histogram.of(heavy), dtype="uint8", symmetric=False)
    assert scale == pytest.approx((high - low) / 255, rel=0.01)
    whole = (float(heavy.max()) - float(heavy.min())) / 255
    assert (scale == pytest.approx(whole, rel=1e-6)) is (calibrator == "minmax")


BLOCK = (
    head("float[n, s, 64] x, float[n, 1, s, s] bias", "float[n, s, 64] y")
    + """<int64[4] split = {0, 0, 4, 16}, int64[3] join = {0, 0, 64}, float root = {0.25}> {
  h = LayerNormalization(x, gamma, beta)
  [q] q = MatMul(h, wq)
  [k] k = MatMul(h, wk)
  [v] v = MatMul(h, wv)
  qh = Reshape(q, split)  kh = Reshape(k, split)  vh = Reshape(v, split)
  qt = Transpose <perm = [0, 2, 1, 3]> (qh)
  kt = Transpose <perm = [0, 2, 3, 1]> (kh)
  vt = Transpose <perm = [0, 2, 1, 3]> (vh)
  scores = MatMul(qt, kt)
  scaled = Mul(scores, root)
  masked = Add(scaled, bias)
  p = Softmax(masked)
  o = MatMul(p, vt)
  ot = Transpose <perm = [0, 2, 1, 3]> (o)
  oj = Reshape(ot, join)
  [o] out = MatMul(oj, wo)
  r = Add(out, x)
  h2 = LayerNormalization(r, gamma, beta)
  [up] u = MatMul(h2, wu)
  g = Gelu(u)
  [down] d = MatMul(g, wd)
  y = Add(d, r)
}"""
)


def block(graphs: ModuleType) -> Any:
    tensors = {name: array(64, 64) * 0.1 for name in ("wq", "wk", "wv", "wo")}
    tensors |= {"wu": array(64, 128) * 0.1, "wd": array(128, 64) * 0.1}
    tensors |= {"gamma": np.ones(64, np.float32), "beta": np.zeros(64, np.float32)}
    mask = np.triu(np.full((6, 6), np.finfo(np.float32).min), 1)[None, None]
    feeds = [{"x": array(2, 6, 64), "bias": np.repeat(mask, 2, 0).astype(np.float32)}]
    return graphs.Bench(graphs.parse(BLOCK, **tensors), feeds), feeds[0]


@pytest.mark.parametrize("scheme", ["static", "dynamic"])
def test_query_key_and_value_share_what_they_read(graphs: ModuleType, scheme: str) -> None:
    bench, feed = block(graphs)
    before = bench.outputs(feed)["y"]
    assert len(bench.run("quantize", scheme=scheme).edits) == 6
    op = "QuantizeLinear" if scheme == "static" else "DynamicQuantizeLinear"
    quantizers = [n for n in bench.model.graph if n.op_type == op]
    assert [n.inputs[0].name for n in quantizers] == ["h", "oj", "h2", "g"]
    readers = quantizers[0].outputs[0].uses()
    assert len(readers) == (1 if scheme == "static" else 3)
    after = bench.outputs(feed)["y"]
    assert 0 < np.abs(after - before).max() < 0.05 * np.abs(before).max()


def test_what_loses_most_stays_float(graphs: ModuleType) -> None:
    """Softmax, normalisation, GELU and residual additions, whatever is quantized around them."""
    bench, feed = block(graphs)
    bench.run("quantize", scheme="static")
    for node in bench.model.graph:
        if node.op_type in ("Softmax", "LayerNormalization", "Gelu", "Add"):
            makers = [v.producer() for v in node.inputs if v.producer() is not None]
            assert "DequantizeLinear" not in [maker.op_type for maker in makers]
    # and the mask, the lowest of all floats, is in no range
    scales = [scalar(v) for n, v in bench.model.graph.initializers.items() if n.endswith("_scale")]
    assert max(s for s in scales if s is not None) < 1.0
    assert np.isfinite(bench.outputs(feed)["y"]).all()


# -- convolutions ----------------------------------------------------------------------

IMAGES = (
    head("float[n, 16, h, w] x", "float[n, 16, h, w] y, float[n, 16, h, w] z")
    + """{
  [one] a = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, k1, c1)
  b = Relu(a)
  [two] c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (b, k2, c2)
  d = Add(c, x)
  y = Relu(d)
  [three] z = Conv <kernel_shape = [1, 1], group = 16> (b, k3)
}"""
)
KERNELS = {
    "k1": array(16, 16, 3, 3), "c1": array(16), "k2": array(16, 16, 3, 3), "c2": array(16),
    "k3": array(16, 1, 1, 1),
}  # fmt: skip
PICTURES = [{"x": array(4, 16, 5, 7)}]


def convolved(x: Array, kernel: Array, groups: int = 1) -> Array:
    """Same padding, written out in float64."""
    size = kernel.shape[2]
    wide = np.pad(x.astype(np.float64), [(0, 0), (0, 0), *[(size // 2, size // 2)] * 2])
    outputs, inputs = kernel.shape[:2]
    result = np.zeros((x.shape[0], outputs, *x.shape[2:]))
    for o in range(outputs):
        start = o // (outputs // groups) * inputs
        for i in range(inputs):
            for p in range(size):
                for q in range(size):
                    patch = wide[:, start + i, p : p + x.shape[2], q : q + x.shape[3]]
                    result[:, o] += kernel[o, i, p, q] * patch
    return result


def test_a_convolution_is_rounded_behind_its_relu(graphs: ModuleType) -> None:
    bench = graphs.Bench(graphs.parse(IMAGES, **KERNELS), PICTURES)
    outcome = bench.run("quantize", scheme="static", calibrator="minmax")
    assert [e.site for e in outcome.edits] == ["conv1", "conv2", "conv3"]
    quantized = [n.inputs[0].name for n in bench.model.graph if n.op_type == "QuantizeLinear"]
    assert quantized == ["x", "b", "c"]  # z is an output that nothing reads; a is not rounded

    def shift(x: Array, kernel: Array, groups: int = 1) -> Array:
        change = (kernel - rounded(kernel, 0)).sum(axis=(2, 3))
        mean = x.mean(axis=(0, 2, 3)).reshape(groups, -1)
        per = change.shape[0] // groups
        return np.concatenate([change[g * per : (g + 1) * per] @ mean[g] for g in range(groups)])

    x = PICTURES[0]["x"].astype(np.float64)
    b = np.maximum(convolved(x, KERNELS["k1"]) + KERNELS["c1"][:, None, None], 0)
    c = convolved(b, KERNELS["k2"]) + KERNELS["c2"][:, None, None]
    c1 = KERNELS["c1"] + shift(x, KERNELS["k1"])
    c2 = KERNELS["c2"] + shift(b, KERNELS["k2"])
    xq = on_grid(x, x.min(), x.max())
    bq = np.maximum(convolved(xq, rounded(KERNELS["k1"], 0)) + c1[:, None, None], 0)
    bq = on_grid(bq, b.min(), b.max())
    cq = convolved(bq, rounded(KERNELS["k2"], 0)) + c2[:, None, None]
    cq = on_grid(cq, c.min(), c.max())
    got = bench.outputs(PICTURES[0])
    step = (c.max() - c.min()) / 255
    off = np.abs(got["y"] - np.maximum(cq + x, 0))
    assert np.mean(off > 1e-3) < 0.01  # where a value lay between two steps
    assert off.max() < 3 * step
    np.testing.assert_allclose(
        got["z"], convolved(bq, rounded(KERNELS["k3"], 0), 16), rtol=0, atol=3 * step
    )


def test_the_loss_of_a_convolution_counts_its_rounded_output(graphs: ModuleType) -> None:
    bench = graphs.Bench(graphs.parse(IMAGES, **KERNELS), PICTURES)
    edits = bench.run("quantize", scheme="static", calibrator="minmax", bias_correction=False).edits
    x = PICTURES[0]["x"].astype(np.float64)
    before = np.maximum(convolved(x, KERNELS["k1"]) + KERNELS["c1"][:, None, None], 0)
    inner = convolved(on_grid(x, x.min(), x.max()), rounded(KERNELS["k1"], 0))
    after = np.maximum(inner + KERNELS["c1"][:, None, None], 0)
    expected = ((before - on_grid(after, before.min(), before.max())) ** 2).sum()
    assert edits[0].loss == pytest.approx(expected / (before**2).sum(), rel=0.02)


def test_a_residual_addition_reads_the_rounded_and_other_layers_the_float_value(
    graphs: ModuleType,
) -> None:
    bench = graphs.Bench(graphs.parse(IMAGES, **KERNELS), PICTURES)
    bench.run("quantize", scheme="static", selector=("conv2",))
    addition = next(n for n in bench.model.graph if n.op_type == "Add")
    assert addition.inputs[0].producer().op_type == "DequantizeLinear"
    assert addition.inputs[1].name == "x"
    assert graphs.node(bench.model, "three").inputs[0].name == "b"
    assert graphs.node(bench.model, "one").inputs[0].name == "x"


# -- tables ----------------------------------------------------------------------------

TABLE = head("int64[n, s] ids", "float[n, s, 64] y") + "{ e = Gather(table, ids) y = Tanh(e) }"


def test_tables_keep_eight_bits_and_a_scale_for_each_row(graphs: ModuleType) -> None:
    table = array(300, 64) * RNG.uniform(0.01, 10, (300, 1)).astype(np.float32)
    table[7] = 0
    ids = np.array([[1, 299, 7], [-1, 0, 1]])
    bench = graphs.Bench(graphs.parse(TABLE, table=table), [{"ids": ids}], calibrated=False)
    outcome = bench.run("quantize")
    assert graphs.ops(bench.model) == ["Gather", "Cast", "Gather", "Mul", "Tanh"]
    assert [(e.site, e.setting) for e in outcome.edits] == [("embedding1", "int8-rows")]
    wide = np.where(np.abs(table).max(axis=1, keepdims=True) > 0, table, 1e-30)
    expected = np.tanh(rounded(wide, 0)[ids])
    np.testing.assert_allclose(bench.outputs({"ids": ids})["y"], expected, rtol=0, atol=1e-5)
    assert outcome.edits[0].loss < 1e-3
    kept = sum(v.const_value.nbytes for v in bench.model.graph.initializers.values())
    assert kept == 300 * 64 + 4 * 300


# -- what is refused -------------------------------------------------------------------


def refusal(
    graphs: ModuleType, text: str, feed: dict[str, Array], options: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None, **tensors: Array,
) -> dict[str, str]:  # fmt: skip
    """The codes by site, after a look at the graph: it must be as it was."""
    model = graphs.parse(text, **tensors)
    before = graphs.snapshot(model)
    bench = graphs.Bench(model, [feed], **(settings or {}))
    outcome = bench.run("quantize", **({"scheme": "static"} | (options or {})))
    assert outcome.edits == []
    assert graphs.snapshot(model) == before
    found: dict[str, str] = bench.refusals()
    return found


def test_static_ranges_need_data_and_convolutions_static_ranges(graphs: ModuleType) -> None:
    bare = {"calibrated": False}
    codes = refusal(graphs, LAYER, FEEDS[0], settings=bare, w=W, c=C)
    assert codes == {"linear1": "no-calibration"}
    codes = refusal(graphs, IMAGES, PICTURES[0], {"scheme": "dynamic"}, None, **KERNELS)
    assert set(codes.values()) == {"no-dynamic-kernel"}


def test_small_layers_and_tables_stay(graphs: ModuleType) -> None:
    text = head("float[n, 64] x", "float[n, 8] y") + "{ y = MatMul(x, w) }"
    assert refusal(graphs, text, FEEDS[0], w=array(64, 8)) == {"linear1": "too-small"}
    text = head("float[n, 8, h, w] x", "float[n, 8, h, w] y") + "{ y = Conv(x, k) }"
    codes = refusal(graphs, text, {"x": array(1, 8, 3, 3)}, k=array(8, 8, 1, 1))
    assert codes == {"conv1": "too-small"}
    codes = refusal(graphs, TABLE, {"ids": np.array([[1]])}, table=array(200, 64))
    assert codes == {"embedding1": "too-small"}


def test_narrow_convolutions_are_taken_on_request(graphs: ModuleType) -> None:
    text = head("float[n, 3, h, w] x", "float[n, 8, h, w] y") + "{ y = Conv(x, k) }"
    feeds = [{"x": array(2, 3, 5, 5)}]
    bench = graphs.Bench(graphs.parse(text, k=array(8, 3, 1, 1)), feeds)
    assert bench.run("quantize", scheme="static").edits == []
    assert len(bench.run("quantize", scheme="static", narrow=True).edits) == 1
    assert graphs.ops(bench.model).count("QuantizeLinear") == 1  # its output leaves the model


def test_other_dtypes_stay(graphs: ModuleType) -> None:
    text = head("float16[n, 64] x", "float16[n, 48] y") + "{ y = MatMul(x, w) }"
    feed = {"x": array(2, 64).astype(np.float16)}
    assert refusal(graphs, text, feed, w=W.astype(np.float16)) == {"linear1": "dtype"}


def test_a_range_that_holds_a_mask_is_refused(graphs: ModuleType) -> None:
    text = (
        head("float[n, 64] x, float[n, 64] mask", "float[n, 48] y")
        + "{ a = Add(x, mask) y = MatMul(a, w) }"
    )
    for lowest in (-1e9, float(np.finfo(np.float32).min)):
        mask = np.where(RNG.random((40, 64)) < 0.2, lowest, 0).astype(np.float32)
        codes = refusal(graphs, text, {"x": FEEDS[0]["x"], "mask": mask}, w=W)
        assert codes == {"linear1": "mask-in-range"}


@pytest.mark.parametrize("scheme", ["static", "dynamic"])
def test_weights_that_others_need_are_not_kept_twice(graphs: ModuleType, scheme: str) -> None:
    square = array(64, 64)
    text = head("float[n, 64] x", "float[n, 64] y") + "{ a = MatMul(x, w) y = MatMul(a, w) }"
    assert refusal(graphs, text, FEEDS[0], {"scheme": scheme}, w=square) == {"linear1": "shared"}
    text = (
        head("float[n, 64] x", "float[n, 64] y")
        + "{ a = MatMul(x, w) y = Add(a, s) s = ReduceSum(w) }"
    )
    text = text.replace("y = Add(a, s) s = ReduceSum(w)", "s = ReduceSum(w) y = Add(a, s)")
    assert refusal(graphs, text, FEEDS[0], {"scheme": scheme}, w=square) == {"linear1": "shared"}
    text = (
        head("int64[n] ids", "float[n, 300] y")
        + "{ e = Gather(table, ids) t = Transpose(table) y = MatMul(e, t) }"
    )
    codes = refusal(graphs, text, {"ids": np.arange(9)}, {"scheme": scheme}, table=array(300, 64))
    assert set(codes.values()) == {"tied"}


def test_a_layer_behind_unknown_shapes_is_refused_where_a_range_is_needed(
    graphs: ModuleType,
) -> None:
    text = head("float[n, 64] x", "float[n, 48] y") + "{ h = Relu(x) y = MatMul(h, w) }"
    for scheme, code in (("static", "unknown-rank"), ("dynamic", None)):
        model = graphs.parse(text, w=W)
        graphs.value(model, "h").shape = None
        bench = graphs.Bench(model, FEEDS)
        outcome = bench.run("quantize", scheme=scheme)
        assert bench.refusals().get("linear1") == code
        assert len(outcome.edits) == (1 if code is None else 0)


def test_a_convolution_with_an_output_of_unknown_rank_is_refused(graphs: ModuleType) -> None:
    model = graphs.parse(IMAGES, **KERNELS)
    graphs.value(model, "b").shape = None
    bench = graphs.Bench(model, PICTURES)
    assert bench.run("quantize", scheme="static").edits == []
    assert set(bench.refusals().values()) == {"unknown-rank"}
    assert bench.run("equalize").edits == []


def test_what_is_excluded_stays_float(graphs: ModuleType) -> None:
    bench, _ = block(graphs)
    bench.run("quantize", scheme="dynamic", exclude=("block1.attention", "*.down"))
    assert [s.name for s in find_sites(bench.model).of_kind("linear") if QUANTIZED in s.facts] == [
        "block1.ffn.up"
    ]
    codes = bench.refusals()
    assert {codes[f"block1.attention.{role}"] for role in "qkvo"} == {"excluded"}
    with pytest.raises(UsageError, match="no site matches 'nope'"):
        bench.run("quantize", exclude=("nope",))


def test_tables_can_be_left_alone(graphs: ModuleType) -> None:
    feed = {"ids": np.array([[1]])}
    codes = refusal(graphs, TABLE, feed, {"embeddings": False}, table=array(300, 64))
    assert codes == {"embedding1": "excluded"}


# -- the pass as a whole ---------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["static", "dynamic"])
def test_a_second_run_finds_nothing_float(graphs: ModuleType, scheme: str) -> None:
    bench, _ = block(graphs)
    names = [site.name for site in find_sites(bench.model)]
    bench.run("quantize", scheme=scheme)
    assert [site.name for site in find_sites(bench.model)] == names
    assert all(FLOAT not in s.facts for s in find_sites(bench.model).of_kind("linear"))
    assert bench.run("quantize", scheme=scheme).edits == []
    assert set(bench.refusals().values()) == {"already-quantized"}


@pytest.mark.parametrize("scheme", ["static", "dynamic"])
def test_rollback_and_replay(graphs: ModuleType, scheme: str) -> None:
    bench, _ = block(graphs)
    before = graphs.snapshot(bench.model)
    outcome = bench.run("quantize", scheme=scheme)
    once = graphs.snapshot(bench.model)
    bench.manager.undo(outcome)
    assert graphs.snapshot(bench.model) == before
    bench.run("quantize", scheme=scheme)
    assert graphs.snapshot(bench.model) == once


def test_a_bias_that_is_shared_is_corrected_for_each_layer(graphs: ModuleType) -> None:
    text = (
        head("float[n, 64] x", "float[n, 48] y")
        + "{ a = MatMul(x, w) b = Add(a, c) d = MatMul(x, v) e = Add(d, c) y = Mul(b, e) }"
    )
    v = array(64, 48)
    bench = graphs.Bench(graphs.parse(text, w=W, v=v, c=C), FEEDS)
    assert len(bench.run("quantize").edits) == 2
    biases = [n.inputs[1] for n in bench.model.graph if n.op_type == "Add"]
    for bias, weight in zip(biases, (W, v), strict=True):
        own = constant_array(bias)
        assert own is not None
        np.testing.assert_allclose(own, corrected(weight), rtol=1e-5, atol=1e-6)


def test_padding_changes_no_range(graphs: ModuleType) -> None:
    text = (
        head("int64[n, s] ids, int64[n, s] mask", "float[n, s, 48] y")
        + "{ e = Gather(table, ids) y = MatMul(e, w) }"
    )
    table = array(30, 64)
    table[0] *= 50  # padding
    ids = RNG.integers(1, 30, (6, 9))
    mask = np.ones_like(ids)
    longer = [np.pad(a, [(0, 0), (0, 7)]) for a in (ids, mask)]
    masking = Masking("mask", ("n", "s"))
    scales = []
    for tokens, real in ((ids, mask), longer):
        model = graphs.parse(text, table=table, w=W)
        bench = graphs.Bench(model, [{"ids": tokens, "mask": real}], masking=masking)
        assert len(bench.run("quantize", scheme="static").edits) == 1
        constants = bench.model.graph.initializers
        scales.append((scalar(constants["e_scale"]), scalar(constants["e_zero_point"])))
    assert scales[0] == scales[1]
    assert scales[0][0] < np.abs(table[1:]).max() / 100


@pytest.mark.data
@pytest.mark.parametrize("scheme", ["static", "dynamic"])
def test_a_real_network_keeps_its_answers(task: Any, graphs: ModuleType, scheme: str) -> None:
    made = task("resnet20" if scheme == "static" else "tsp20")
    model = load_model(made.model).model
    feeds = list(made.calibration(64))
    bench = graphs.Bench(model, feeds)
    bench.run("canonicalize")
    before = next(iter(bench.outputs(feeds[0]).values()))
    outcome = bench.run("quantize", scheme=scheme)
    after = next(iter(bench.outputs(feeds[0]).values()))
    assert len(outcome.edits) >= 15
    noise = float(((before - after) ** 2).sum() / (before**2).sum())
    assert 0 < noise < 1e-2
    assert all(e.loss is not None and 0 < e.loss < 1e-2 for e in outcome.edits)
    assert isinstance(model, ir.Model)


def test_what_is_observed_is_decided_once_a_pass(graphs: ModuleType) -> None:
    layers = 40  # more than are perturbed in one go
    body = " ".join(f"x{i + 1} = MatMul(x{i}, w{i})" for i in range(layers))
    text = head("float[n, 32] x0", f"float[n, 32] x{layers}") + f"{{ {body} }}"
    weights = {f"w{i}": array(32, 32) / np.float32(6) for i in range(layers)}
    bench = graphs.Bench(graphs.parse(text, **weights), [{"x0": array(8, 32)}])
    asked: list[Any] = []
    answer = bench.context._statistics

    def recorded(requests: Any) -> Any:
        asked.append(requests)
        return answer(requests)

    bench.context._statistics = recorded
    assert len(bench.run("quantize", scheme="static").edits) == layers
    assert len(asked) > layers
    assert len({id(requests) for requests in asked}) == 1  # not found anew for each layer


@pytest.mark.parametrize("scheme", ["dynamic", "static"])
def test_pairs_of_the_model_that_stand_further_back_are_not_used(
    graphs: ModuleType, scheme: str
) -> None:
    """A layer in front of them cannot read what they compute."""
    text = head("float[n, 64] x", "float[n, 48] y, uint8[n, 64] q, float[n, 64] d") + (
        "{ y = MatMul(x, w) q, s, z = DynamicQuantizeLinear(x) "
        "c = QuantizeLinear(x, scale, zero) d = DequantizeLinear(c, scale, zero) }"
    )
    x, zero = FEEDS[0]["x"], np.array(0, np.uint8)
    tensors = {"w": W, "scale": np.array(1, np.float32), "zero": zero}
    first = graphs.Bench(graphs.parse(text, **tensors), FEEDS)
    first.run("quantize", scheme=scheme)
    if scheme == "static":  # the same pair as in front of the layer
        made = graphs.node(first.model, "MatMul_0").inputs[0].producer()
        scale, zero = (np.asarray(constant_array(made.inputs[i])) for i in (1, 2))
        tensors = {"w": W, "scale": scale, "zero": zero}
    bench = graphs.Bench(graphs.parse(text, **tensors), FEEDS)
    assert len(bench.run("quantize", scheme=scheme).edits) == 1
    assert graphs.run(bench.model, {"x": x})["y"].shape == (40, 48)


def test_a_layer_behind_an_operator_of_the_runtime_is_measured(graphs: ModuleType) -> None:
    """ONNX infers no type behind it; the samples have one."""
    text = """<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
g (float[b, s, 64] x) => (float[b, s, 48] y)
{
  a = com.microsoft.MultiHeadAttention <num_heads = 4> (x, x, x)
  y = MatMul(a, w)
}"""
    model = graphs.parse(text, w=W)
    bench = graphs.Bench(model, [{"x": array(2, 5, 64)}])
    assert len(bench.run("quantize", scheme="dynamic").edits) == 1


@pytest.mark.parametrize(("opset", "edits"), [(12, 0), (13, 1)])
def test_a_model_whose_opset_stays_below_13_is_left_alone(
    graphs: ModuleType, opset: int, edits: int
) -> None:
    text = head("float[n, 64] x", "float[n, 48] y", opset) + "{ y = MatMul(x, w) }"
    bench = graphs.Bench(graphs.parse(text, w=W), FEEDS)
    outcome = bench.run("quantize", scheme="dynamic")
    assert len(outcome.edits) == edits
    codes = list(bench.refusals().values())
    assert codes == ([] if edits else ["opset"])
