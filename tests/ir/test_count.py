"""Parameters, bytes and operations against shapes that really occur and formulas written out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from planish.ir.counting.count import (
    Rest,
    parameters,
    rest,
    site_flops,
    site_table,
    totals,
    weight_bytes,
)
from planish.ir.counting.flops import flops, total_flops
from planish.ir.load import load_model
from planish.ir.sites import find_sites
from planish.ir.types.bound import bound_shapes, symbols

Arrays = Mapping[str, Any]


def build(
    body: str,
    weights: Arrays | None = None,
    *,
    inputs: str = "float[b, s, 8] x",
    outputs: str = "float[p, q, r] y",
    opset: int = 20,
) -> ir.Model:
    header = f'<ir_version: 10, opset_import: ["": {opset}, "com.microsoft": 1]>'
    proto = onnx.parser.parse_model(f"{header} g ({inputs}) => ({outputs}) {{ {body} }}")
    used = {name: data for name, data in (weights or {}).items() if f'"{name}"' in body}
    tensors = (numpy_helper.from_array(np.asarray(a), n) for n, a in used.items())
    proto.graph.initializer.extend(tensors)
    return load_model(proto).model


def floats(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def operations(model: ir.Model, **sizes: int) -> int | None:
    return total_flops(model.graph, bound_shapes(model, sizes))


# -- shapes --------------------------------------------------------------------------------


def really(model: ir.Model, feeds: Arrays) -> dict[str, tuple[int, ...]]:
    """The shape of every value in a run of ONNX Runtime without optimisations."""
    import onnxruntime

    proto = ir.to_proto(model)
    names = [o for node in proto.graph.node for o in node.output if o]
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    results = session.run(names, dict(feeds))
    return {name: np.shape(result) for name, result in zip(names, results, strict=True)}


@pytest.mark.torch
@pytest.mark.parametrize("name", ["minilm", "stories260k", "tsp20"])
def test_shapes_of_exported_models_are_those_of_a_run(
    name: str, task: Callable[[str], Any]
) -> None:
    model = load_model(task(name).model).model
    sizes = {"batch": 2, "sequence": 7, "nodes": 20}
    feeds = {
        str(v.name): np.ones([sizes.get(str(d.value), 2) if not isinstance(d, int) else d
                              for d in v.shape or ()], v.dtype.numpy())
        for v in model.graph.inputs
        if v.dtype is not None
    }  # fmt: skip
    found, shapes = really(model, feeds), bound_shapes(model, sizes)
    assert {name: shapes.get(name) for name in found} == found


def test_shapes_that_the_graph_computes_are_those_of_a_run(data: Path) -> None:
    """Window attention: padding and windows are computed from the size of the image."""
    model = load_model(data / "ntire2022_esr" / "onnx" / "20_MobileSR.onnx").model
    assert symbols(model) == ["n", "h", "w"]
    found = really(model, {"lr": np.zeros((1, 3, 16, 24), np.float32)})
    shapes = bound_shapes(model, {"n": 1, "h": 16, "w": 24})
    assert {name: shapes.get(name) for name in found} == found


def test_what_is_not_bound_keeps_its_name_and_the_model_its_shapes() -> None:
    model = build('y = MatMul (x, "w")', {"w": floats(8, 6)})
    assert symbols(model) == ["b", "s"]
    before = [str(v.shape) for n in model.graph for v in n.outputs]
    assert bound_shapes(model, {"s": 5})["y"] == ("b", 5, 6)
    assert bound_shapes(model, {"unheard_of": 5})["y"] == ("b", "s", 6)
    assert bound_shapes(model)["y"] == ("b", "s", 6)
    assert [str(v.shape) for n in model.graph for v in n.outputs] == before


# -- operations ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "weights", "inputs", "outputs", "expected"),
    [
        # [2, 5, 8] by [8, 6]: a multiply-add is two
        ('y = MatMul (x, "w")', {"w": floats(8, 6)}, "float[b, s, 8] x", "float[p, q, r] y",
         2 * 2 * 5 * 6 * 8),
        # batch axes broadcast
        ("y = MatMul (x, z)", {}, "float[b, 1, s, 8] x, float[3, 8, 4] z", "float[p, q, r, t] y",
         2 * 2 * 3 * 5 * 4 * 8),
        ('y = Gemm <transB = 1> (x, "w", "c")', {"w": floats(6, 8), "c": floats(6)},
         "float[b, 8] x", "float[p, q] y", 2 * 2 * 6 * 8 + 2 * 6),
        ('y = Gemm <transA = 1> (x, "w")', {"w": floats(2, 6)}, "float[2, 8] x", "float[p, q] y",
         2 * 8 * 6 * 2),
        # 3x3, 4 groups of 2 channels, padded to the same size, bias
        ('y = Conv <group = 4, pads = [1, 1, 1, 1]> (x, "w", "c")',
         {"w": floats(12, 2, 3, 3), "c": floats(12)}, "float[b, 8, 9, 7] x", "float[p, q, h, w] y",
         2 * (2 * 12 * 9 * 7) * (2 * 9) + 2 * 12 * 9 * 7),
        # each input element meets 6 channels x 2x2
        ('y = ConvTranspose <strides = [2, 2]> (x, "w")', {"w": floats(8, 6, 2, 2)},
         "float[b, 8, 5, 4] x", "float[p, q, h, w] y", 2 * (2 * 8 * 5 * 4) * 6 * 4),
        ('y = Einsum <equation = "bid,bjd->bij"> (x, x)', {}, "float[b, s, 8] x",
         "float[p, q, r] y", 2 * 2 * 5 * 5 * 8),
        ("y = Softmax (x)", {}, "float[b, s, 8] x", "float[p, q, r] y", 5 * 80),
        ("y = Transpose (x)", {}, "float[b, s, 8] x", "float[p, q, r] y", 0),
        ("y = ReduceMean <keepdims = 0> (x)", {}, "float[b, s, 8] x", "float y", 80),
        ("y = MaxPool <kernel_shape = [2, 3]> (x)", {}, "float[b, 8, 5, 6] x",
         "float[p, q, h, w] y", 2 * 8 * 4 * 4 * 6),
        # one direction, 4 gates, 3 hidden
        ('y, h, c = LSTM <hidden_size = 3> (x, "w", "r")',
         {"w": floats(1, 12, 8), "r": floats(1, 12, 3)}, "float[s, b, 8] x",
         "float[s, d, b, n] y", 2 * 5 * 2 * 12 * (8 + 3)),
        ('y = com.microsoft.MatMulNBits <K = 8, N = 6, bits = 4, block_size = 16> (x, "w", "c")',
         {"w": np.ones((6, 1, 8), np.uint8), "c": floats(6)}, "float[b, s, 8] x",
         "float[p, q, r] y", 2 * 10 * 6 * 8),
    ],
)  # fmt: skip
def test_operations_written_out(
    body: str, weights: Arrays, inputs: str, outputs: str, expected: int
) -> None:
    assert operations(build(body, weights, inputs=inputs, outputs=outputs), b=2, s=5) == expected


def test_attention_in_one_operator_counts_as_spelled_out() -> None:
    spelled = build(
        "t = Transpose <perm = [0, 1, 3, 2]> (k) z = MatMul (q, t) p = Softmax (z)"
        " y = MatMul (p, v)",
        inputs="float[b, 2, s, 4] q, float[b, 2, n, 4] k, float[b, 2, n, 6] v",
        outputs="float[i, j, k1, l] y",
    )
    expected = operations(spelled, b=3, s=5, n=7)
    assert expected == 3 * 2 * 5 * 7 * (2 * 4 + 5 + 2 * 6)
    four = build(
        "y = Attention (q, k, v)",
        inputs="float[b, 2, s, 4] q, float[b, 2, n, 4] k, float[b, 2, n, 6] v",
        outputs="float[i, j, k1, l] y",
        opset=23,
    )
    three = build(
        "y = Attention <q_num_heads = 2, kv_num_heads = 2> (q, k, v)",
        inputs="float[b, s, 8] q, float[b, n, 8] k, float[b, n, 12] v",
        outputs="float[i, j, l] y",
        opset=23,
    )
    contrib = build(
        "y = com.microsoft.MultiHeadAttention <num_heads = 2> (q, k, v)",
        inputs="float[b, s, 8] q, float[b, n, 8] k, float[b, n, 12] v",
        outputs="float[i, j, l] y",
    )
    for model in (four, three, contrib):
        assert operations(model, b=3, s=5, n=7) == expected


def test_attention_with_shared_heads_and_a_past() -> None:
    model = build(
        "y, pk, pv = com.microsoft.GroupQueryAttention <num_heads = 4, kv_num_heads = 2>"
        " (q, k, v, past, past, lengths, total)",
        inputs="float[b, s, 16] q, float[b, s, 8] k, float[b, s, 8] v, float[b, 2, 7, 4] past,"
        " int32[b] lengths, int32 total",
        outputs="float[i, j, l] y",
    )
    assert operations(model, b=3, s=1) == 3 * 4 * 1 * (1 + 7) * (2 * 4 + 5 + 2 * 4)


def test_attention_that_projects() -> None:
    model = build(
        'y = com.microsoft.Attention <num_heads = 2> (x, "w", "c")',
        {"w": floats(8, 24), "c": floats(24)},
    )
    projection = 2 * 5 * 24 * (2 * 8 + 1)
    assert operations(model, b=2, s=5) == projection + 2 * 2 * 5 * 5 * (2 * 4 + 5 + 2 * 4)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ('y = MatMul (x, "w")', "the sequence is not bound"),
        ("m = Relu (x) y = com.example.Mystery (m)", "an operator nobody knows"),
    ],
)
def test_what_is_not_known_is_none(body: str, reason: str) -> None:
    header = '<ir_version: 10, opset_import: ["": 20, "com.example": 1]>'
    proto = onnx.parser.parse_model(
        f"{header} g (float[b, s, 8] x) => (float[p, q, r] y) {{ {body} }}"
    )
    if '"w"' in body:
        proto.graph.initializer.append(numpy_helper.from_array(floats(8, 6), "w"))
    model = load_model(proto).model
    shapes = bound_shapes(model, {"b": 2})
    assert flops(model.graph[-1], shapes) is None, reason
    assert total_flops(model.graph, shapes) is None
    counted = totals(model, shapes)
    assert counted.unknown[-1] in ("MatMul", "Relu"), "unbound, and named"


def test_shapes_of_contrib_operators_follow() -> None:
    model = build(
        'a = com.microsoft.SkipLayerNormalization (x, x, "g") b = com.microsoft.FastGelu (a)'
        ' c = com.microsoft.DynamicQuantizeMatMul (b, "w", "s") y = Relu (c)',
        {"g": floats(8), "w": np.ones((8, 6), np.int8), "s": floats(6)},
    )
    assert bound_shapes(model, {"b": 2, "s": 5})["y"] == (2, 5, 6)
    per_element = 10 * 80 + 5 * 80 + 1 * 60
    assert operations(model, b=2, s=5) == per_element + 2 * 60 * 8


# -- parameters and bytes ------------------------------------------------------------------


def test_parameters_are_what_was_trained() -> None:
    model = build(
        'e = Gather ("table", ids) r = Reshape (e, "shape") p = MatMul (r, "w")'
        ' b = Add (p, "bias") y = Mul (b, "half")',
        {
            "table": floats(10, 8),
            "w": floats(8, 6),
            "bias": floats(6),
            "half": np.float32(0.5),
            "shape": np.array([0, 0, 8]),
        },
        inputs="int64[b, s] ids",
    )
    assert parameters(model) == 10 * 8 + 8 * 6 + 6
    assert weight_bytes(model) == {"FLOAT": 4 * (80 + 48 + 6 + 1), "INT64": 24}


def test_a_shared_tensor_counts_once() -> None:
    model = build('a = MatMul (x, "w") y = MatMul (a, "w")', {"w": floats(8, 8)})
    assert parameters(model) == 64
    assert weight_bytes(model) == {"FLOAT": 256}
    (row,) = site_table(find_sites(model), bound_shapes(model, {"b": 2, "s": 5}))
    assert (row.parameters, row.bytes, row.uses) == (64, 256, 2)
    assert row.flops == 2 * (2 * 10 * 8 * 8)


def test_what_belongs_to_no_site() -> None:
    body = 'p = MatMul (x, "w") a = Mul (p, "scale") y = Reshape (a, "shape")'
    weights = {"w": floats(8, 6), "scale": floats(6), "shape": np.array([0, 0, 6])}
    model = build(body, weights)
    sites, shapes = find_sites(model), bound_shapes(model, {"b": 2, "s": 5})
    assert rest(model, sites, shapes) == Rest(6, 4 * 6 + 8 * 3, 2 * 5 * 6)
    assert rest(model, sites, bound_shapes(model)).flops is None


def test_quantization_keeps_the_parameters_and_shrinks_the_bytes() -> None:
    codes = {
        "w": np.ones((8, 6), np.int8),
        "ws": floats(6),
        "wz": np.zeros(6, np.int8),
        "bias": floats(6),
        "xs": np.float32(0.1),
        "xz": np.uint8(0),
    }
    body = (
        'q = QuantizeLinear (x, "xs", "xz") d = DequantizeLinear (q, "xs", "xz")'
        ' v = DequantizeLinear <axis = 1> ("w", "ws", "wz") p = MatMul (d, v) y = Add (p, "bias")'
    )
    model = build(body, codes)
    assert parameters(model) == 8 * 6 + 6
    assert weight_bytes(model) == {"FLOAT": 4 * (6 + 6 + 1), "INT8": 48 + 6, "UINT8": 1}
    (row,) = site_table(find_sites(model), bound_shapes(model, {"b": 1, "s": 1}))
    assert (row.parameters, row.dtype, row.shape) == (54, "INT8", (8, 6))
    assert row.bytes == 48 + 6 + 4 * 6 + 4 * 6, "codes, zero points, scales and bias"


def test_packed_weights_count_what_they_stand_for() -> None:
    model = build(
        'y = com.microsoft.MatMulNBits <K = 8, N = 6, bits = 4, block_size = 16> (x, "w", "s")',
        {"w": np.ones((6, 1, 8), np.uint8), "s": floats(6)},
    )
    assert parameters(model) == 48
    table = build(
        "y = com.microsoft.GatherBlockQuantized <bits = 4, block_size = 16, quantize_axis = 1>"
        ' ("w", x, "s")',
        {"w": np.ones((7, 16), np.uint8), "s": floats(7, 2)},
        inputs="int64[b, s] x",
    )
    assert parameters(table) == 7 * 32


def test_integer_biases_are_parameters_and_indices_are_not() -> None:
    model = build(
        'v = DequantizeLinear <axis = 0> ("w", "ws") d = DequantizeLinear <axis = 0> ("c", "cs")'
        " y = Conv (x, v, d)",
        {
            "w": np.ones((6, 8, 3, 3), np.int8),
            "c": np.ones(6, np.int32),
            "ws": floats(6),
            "cs": floats(6),
        },
        inputs="float[b, 8, 9, 9] x",
        outputs="float[p, q, h, t] y",
    )
    assert parameters(model) == 6 * 8 * 9 + 6
    lookup = build(
        'i = Gather ("order", ids) y = Gather <axis = 1> (x, i)',
        {"order": np.arange(9, dtype=np.int32)},
        inputs="float[b, s, 8] x, int64[n] ids",
    )
    assert parameters(lookup) == 0


def test_scales_of_dynamic_layers_and_of_table_rows_are_no_parameters() -> None:
    dynamic = build(
        """q, s, z = DynamicQuantizeLinear (x)
        p = MatMulInteger (q, "codes", z) r = Cast <to = 1> (p) t = Mul (s, "scale")
        y = Mul (r, t)""",
        {"codes": np.ones((8, 5), np.int8), "scale": floats(5)},
    )
    assert parameters(dynamic) == 8 * 5
    table = build(
        """c = Gather ("codes", ids) w = Cast <to = 1> (c) s = Gather ("scale", ids)
        y = Mul (w, s)""",
        {"codes": np.ones((9, 8), np.int8), "scale": floats(9, 1)},
        inputs="int64[b, s] ids",
    )
    assert parameters(table) == 9 * 8
    learnt = build(
        """w = Cast <to = 1> (mask) y = Mul (w, "gain")""",
        {"gain": floats(8)},
        inputs="int64[b, s, 8] mask",
    )
    assert parameters(learnt) == 8


def test_weights_inside_branches_count() -> None:
    model = build(
        """y = If (flag) <
            then_branch = t () => (float[b, s, 8] a) { c = Constant <value_floats = [1.0, 2.0, 3.0,
                4.0, 5.0, 6.0, 7.0, 8.0]> () a = Add (x, c) },
            else_branch = e () => (float[b, s, 8] d) { d = Neg (x) } >""",
        inputs="float[b, s, 8] x, bool flag",
    )
    assert parameters(model) == 8
    assert weight_bytes(model) == {"FLOAT": 32}


# -- real models ---------------------------------------------------------------------------


@pytest.mark.torch
def test_minilm(task: Callable[[str], Any]) -> None:
    model = load_model(task("minilm").model).model
    width, inner, length = 384, 1536, 128
    tables = (30522 + 512 + 2) * width
    layer = 4 * (width * width + width) + 2 * width * inner + inner + width + 4 * width
    assert parameters(model) == tables + 2 * width + 6 * layer
    shapes = bound_shapes(model, {"batch": 1, "sequence": length})
    sites = find_sites(model)
    products = sum(site_flops(s, shapes) or 0 for s in sites.of_kind("linear"))
    outputs = 4 * width + inner + width
    weights = 4 * width * width + 2 * width * inner
    assert products == 6 * length * (2 * weights + outputs)
    scores = [site_flops(s, shapes) for s in sites.of_kind("attention")]
    least = 2 * 2 * length * length * width
    assert all(count is not None and least < count < 1.2 * least for count in scores)
    counted = totals(model, shapes)
    assert counted.unknown == ()
    assert products < counted.flops < 1.1 * products + 6 * 1.2 * least


def test_yolox_nano_as_published(data: Path) -> None:
    """Its authors state 0.91 million parameters and 1.08 GFLOPs at 416 x 416."""
    model = load_model(data / "yolox_nano" / "model" / "yolox_nano.onnx").model
    counted = totals(model, bound_shapes(model))
    assert counted.unknown == ()
    assert counted.parameters == pytest.approx(0.91e6, rel=0.01)
    assert counted.flops == pytest.approx(1.08e9, rel=0.01)


def test_rows_become_plain_values(data: Path) -> None:
    model = load_model(data / "resnet_cifar10" / "resnet20.onnx").model
    rows = site_table(find_sites(model), bound_shapes(model, {"n": 1}))
    first = rows[0].to_json()
    assert first["name"] == "conv1"
    assert first["shape"] == [16, 3, 3, 3]
    assert first["facts"] == ["float"]
    assert sum(row.parameters for row in rows) == parameters(model) == 269034
    assert sum(row.bytes for row in rows) == weight_bytes(model)["FLOAT"]


def test_sizes_are_found_through_size_and_old_unsqueeze() -> None:
    body = """
        a = Shape(x)
        b = Gather <axis = 0> (a, "zero")
        c = Unsqueeze <axes = [0]> (b)
        d = Size(x)
        e = Unsqueeze <axes = [0]> (d)
        f = Concat <axis = 0> (c, e)
        y = ConstantOfShape(f)
    """
    model = build(body, {"zero": np.int64(0)}, outputs="float[p, q] y", opset=11)
    assert bound_shapes(model, {"b": 3, "s": 5})["y"] == (3, 3 * 5 * 8)


@pytest.mark.parametrize(("batch", "shape"), [(1, (5, 8)), (3, (3, 5, 8))])
def test_an_if_has_the_sizes_of_the_branch_that_it_takes(
    batch: int, shape: tuple[int, ...]
) -> None:
    body = """
        a = Shape(x)
        b = Gather <axis = 0> (a, "zero")
        c = Equal(b, "one")
        y = If(c) <then_branch = t () => (float[p, q] u) { u = Squeeze(x, "axis") },
                   else_branch = e () => (float[p, q, r] v) { v = Identity(x) }>
        z = Relu(y)
    """
    weights = {"zero": np.int64(0), "one": np.int64(1), "axis": np.array([0])}
    model = build(body, weights, outputs="float[p, q, r] z")
    assert bound_shapes(model, {"b": batch, "s": 5})["y"] == shape
