"""What people really have, in small: each model through import and the lossless pipeline, its
outputs the original's. Opsets and IR versions systematically, then one thing at a time.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from planish.cli import main
from planish.ir.errors import PlanishError
from planish.ir.graph import all_nodes
from planish.ir.load import Imported, load_model
from planish.ir.save import to_bytes
from planish.ir.verify import violations
from planish.targets.runtime import open_session

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(5)
FLOAT = TensorProto.FLOAT


def floats(*shape: int) -> Array:
    return RNG.normal(size=shape).astype(np.float32)


def lossless(graphs: ModuleType, source: Any, feed: dict[str, Array]) -> Imported:
    """Import and canonicalize; the outputs are what the runtime computes from the original."""
    given = source if isinstance(source, Path) else source.SerializeToString()
    before = open_session(given, threads=1, optimize="none").run(feed)
    imported = load_model(source)
    graphs.Bench(imported.model, [feed]).run("canonicalize")
    assert violations(imported.model, imported.signature) == []
    after = open_session(to_bytes(imported.model), threads=1, optimize="none").run(feed)
    for a, b in zip(before, after, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        if a.dtype.kind == "f":
            np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5, equal_nan=True)
        else:
            assert a.tolist() == b.tolist()
    return imported


def text(
    body: str, opset: int = 17, io: str = "(float[n, 4] x) => (float[m, k] y)", **more: Any
) -> Any:
    """A model from the text of its graph; ``more``: initializers by name."""
    domains = '"com.microsoft" : 1, "ai.onnx.ml" : 3, "own" : 1'
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : {opset}, {domains}]>\ng {io} {{ {body} }}'
    )
    model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in more.items())
    return model


def node(*arguments: Any, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(*arguments, **attributes)


# -- opsets and IR versions ------------------------------------------------------------

IMAGE = {"x": floats(2, 3, 8, 8)}


def network(opset: int) -> onnx.ModelProto:
    """A small network in the words of one opset, whatever changed its form between 7 and 26."""
    weights = {
        "w": floats(4, 3, 3, 3), "s": floats(4) ** 2 + 1, "b": floats(4), "m": floats(4),
        "v": floats(4) ** 2 + 1, "g": floats(5, 4), "h": floats(5), "one": np.array([1]),
        "axes": np.array([2, 3]), "zero": np.array([0]), "end": np.array([3]),
        "low": np.float32(-2), "high": np.float32(2), "half": np.float32(0.5),
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    }  # fmt: skip

    def either(
        limit: int, op: str, old: dict[str, Any], new: list[str], data: str
    ) -> onnx.NodeProto:
        if opset < limit:
            return node(op, [data], [f"{data}{op}"], **old)
        return node(op, [data, *new], [f"{data}{op}"])

    nodes = [
        either(11, "Pad", {"pads": [0, 0, 1, 1, 0, 0, 1, 1]}, ["pads"], "x"),
        node("Conv", ["xPad", "w"], ["c"]),
        node("BatchNormalization", ["c", "s", "b", "m", "v"], ["n"], epsilon=1e-3),
        either(11, "Clip", {"min": -2.0, "max": 2.0}, ["low", "high"], "n"),
        node("Dropout", ["nClip"], ["d"]),
        either(18, "ReduceMean", {"axes": [2, 3]}, ["axes"], "d"),
        either(13, "Squeeze", {"axes": [2, 3]}, ["axes"], "dReduceMean"),
        node("Gemm", ["dReduceMeanSqueeze", "g", "h"], ["f"], transB=1, alpha=0.5),
        either(10, "Slice", {"axes": [1], "starts": [0], "ends": [3]}, ["zero", "end", "one"], "f"),
        node("Identity", ["fSlice"], ["i"]),
        node("Sum", ["i", "i"], ["t"]),
        node("Softmax", ["t"], ["u"], axis=1),
        either(13, "Unsqueeze", {"axes": [1]}, ["one"], "u"),
        node("Mul", ["half", "uUnsqueeze"], ["y"]),
    ]
    read = {name for n in nodes for name in n.input}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", FLOAT, ["n", 1, 3])],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in weights.items() if k in read],
    )
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", opset)])


@pytest.mark.parametrize("opset", range(7, 27))
def test_every_opset(graphs: ModuleType, opset: int) -> None:
    proto = network(opset)
    proto.ir_version = max(8, helper.find_min_ir_version_for(proto.opset_import))
    imported = lossless(graphs, proto, IMAGE)
    ops = [n.op_type for n in imported.model.graph]
    assert not {"BatchNormalization", "Dropout", "Identity", "Gemm", "Sum"} & set(ops)
    assert imported.model.opset_imports[""] == opset


@pytest.mark.parametrize("version", range(3, 14))
@pytest.mark.parametrize("opset", [8, 18])
def test_every_ir_version(graphs: ModuleType, version: int, opset: int) -> None:
    proto = network(opset)
    proto.ir_version = version
    if version == 3:  # every initializer is an input, too
        kinds = [(t.name, t.data_type, list(t.dims)) for t in proto.graph.initializer]
        proto.graph.input.extend(helper.make_tensor_value_info(*kind) for kind in kinds)
    imported = lossless(graphs, proto, IMAGE)
    assert [s.name for s in imported.signature.inputs] == ["x"]


@pytest.mark.parametrize(("opset", "version"), [(6, 8), (27, 8), (17, 2), (17, 14)])
def test_versions_beyond_are_named(opset: int, version: int) -> None:
    proto = network(17)
    proto.opset_import[0].version, proto.ir_version = opset, version
    with pytest.raises(PlanishError, match=f"(opset {opset}|IR version {version}); .* supported"):
        load_model(proto)


# -- weights in every form -------------------------------------------------------------

SMALL = {
    "FLOAT8E4M3FN": ml_dtypes.float8_e4m3fn,
    "FLOAT8E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
    "FLOAT8E5M2": ml_dtypes.float8_e5m2,
    "FLOAT8E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
    "INT4": ml_dtypes.int4,
    "UINT4": ml_dtypes.uint4,
    "INT2": ml_dtypes.int2,
    "UINT2": ml_dtypes.uint2,
    "FLOAT4E2M1": ml_dtypes.float4_e2m1fn,
}


@pytest.mark.parametrize("name", SMALL)
def test_weights_in_small_types(graphs: ModuleType, name: str) -> None:
    codes = np.array([[0, 1, 1, 0], [1, 0, 0, 1], [1, 1, 0, 0]]).T.astype(SMALL[name])
    opset = 25 if "2" in name and "INT" in name else 23 if name == "FLOAT4E2M1" else 21
    model = text("d = DequantizeLinear(w, s) y = MatMul(x, d)", opset, s=np.float32(0.5))
    model.ir_version = 13 if opset == 25 else 11 if opset == 23 else 10
    model.graph.initializer.append(ir.to_proto(ir.tensor(codes, name="w")))
    feed = {"x": floats(2, 4)}
    try:
        open_session(model.SerializeToString(), threads=1, optimize="none").run(feed)
    except PlanishError:  # no kernel: passed through
        model = ir.to_proto(load_model(model).model)
    else:
        lossless(graphs, model, feed)
    weight = load_model(model).model.graph.initializers["w"].const_value
    assert weight is not None
    assert weight.dtype == ir.DataType[name]
    assert weight.numpy().astype(np.float32).tolist() == codes.astype(np.float32).tolist()


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_half_precision(graphs: ModuleType, kind: str) -> None:
    dtype = np.dtype(kind) if kind == "float16" else np.dtype(ml_dtypes.bfloat16)
    body = "d = Cast<to = 1>(w) p = MatMul(x, d) h = Cast<to = 10>(p) y = Relu(h)"
    model = text(body, io="(float[n, 4] x) => (float16[n, 3] y)")
    model.graph.initializer.append(ir.to_proto(ir.tensor(floats(4, 3).astype(dtype), name="w")))
    lossless(graphs, model, {"x": floats(2, 4)})


def test_a_large_constant_node_becomes_an_initializer_without_a_copy(graphs: ModuleType) -> None:
    model = text("y = MatMul(x, w)", io="(float[n, 512] x) => (float[n, 512] y)")
    value = numpy_helper.from_array(floats(512, 512), "w")
    model.graph.node.insert(0, node("Constant", [], ["w"], value=value))
    imported = lossless(graphs, model, {"x": floats(2, 512)})
    assert list(imported.model.graph.initializers) == ["w"]


def test_a_large_constant_of_shape_stays_one_number(graphs: ModuleType) -> None:
    body = "w = ConstantOfShape<value = float[1] {0.5}>(s) y = MatMul(x, w)"
    model = text(body, s=np.array([4, 100_000]))
    imported = lossless(graphs, model, {"x": floats(2, 4)})
    assert [n.op_type for n in imported.model.graph] == ["ConstantOfShape", "MatMul"]
    assert len(to_bytes(imported.model)) < 2000


def test_several_weight_files(graphs: ModuleType, tmp_path: Path) -> None:
    body = "p = Mul(x, a) q = Add(p, b) y = Mul(q, c)"
    model = text(body, a=floats(4), b=floats(4), c=floats(4))
    for tensor in model.graph.initializer:
        onnx.external_data_helper.set_external_data(tensor, f"{tensor.name}.bin")
        (tmp_path / f"{tensor.name}.bin").write_bytes(tensor.raw_data)
        tensor.ClearField("raw_data")
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    imported = lossless(graphs, tmp_path / "m.onnx", {"x": floats(2, 4)})
    kinds = {type(v.const_value) for v in imported.model.graph.initializers.values()}
    assert kinds == {ir.ExternalTensor}


def test_no_initializer_at_the_top_level(graphs: ModuleType) -> None:
    weight = "w = Constant<value = float[4, 2] {1, 2, 3, 4, 5, 6, 7, 8}>()"
    body = f"""y = If (b) <then_branch = t () => (float[n, 2] p) {{ {weight} p = MatMul(x, w) }},
                           else_branch = e () => (float[n, 4] q) {{ q = Neg(x) }}>"""
    model = text(body, io="(float[n, 4] x, bool b) => (float[n, k] y)")
    for b in (True, False):
        imported = lossless(graphs, model, {"x": floats(2, 4), "b": np.array(b)})
        assert not imported.model.graph.initializers


def test_inspect_names_layers_in_bodies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = """y = If (b) <then_branch = t () => (float[n, 4] p) { [inner] p = MatMul(x, w) },
                           else_branch = e () => (float[n, 4] q) { q = Neg(x) }>"""
    model = text(body, io="(float[n, 4] x, bool b) => (float[n, 4] y)", w=floats(4, 4))
    onnx.save(model, tmp_path / "model.onnx")
    assert main(["inspect", str(tmp_path / "model.onnx")]) == 0
    assert "linear (in a body)" in capsys.readouterr().out


# -- control flow, sequences, functions ------------------------------------------------

BODIES = {
    "scan": """s, y = Scan <num_scan_inputs = 1, body = b (float[4] h, float[4] i) =>
               (float[4] k, float[4] o) { c = Constant<value_float = 2.0>() t = Mul(c, i)
               k = Add(h, t) o = Identity(k) }> (z, x)""",
    "sequence": "q = SplitToSequence<axis = 0, keepdims = 1>(x) i = Identity(q) "
    "y = ConcatFromSequence<axis = 0>(i)",
    "optional": "o = Optional(x) i = Identity(o) y = OptionalGetElement(i)",
    "string": 'a = Constant<value_string = "a">() e = Cast<to = 8>(x) '
    "f = Cast<to = 1>(e) y = Relu(f)",
    "unknown-rank": "s = Shape(x) r = Reshape(x, s) i = Identity(r) y = Reshape(i, s)",
    "data-dependent": "n = NonZero(x) t = Transpose(n) y = Cast<to = 1>(t)",
}


@pytest.mark.parametrize("name", BODIES)
def test_control_flow_and_other_types(graphs: ModuleType, name: str) -> None:
    io = (
        "(float[] x) => (float[] y)"
        if name == "unknown-rank"
        else "(float[n, 4] x) => (float[m, k] y)"
    )
    model = text(BODIES[name], io=io)
    if name == "scan":
        model.graph.initializer.append(numpy_helper.from_array(floats(4), "z"))
    if name == "unknown-rank":
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.ClearField("shape")
    lossless(graphs, model, {"x": floats(3, 4)})


FUNCTIONS = """<ir_version: 10, opset_import: ["" : 18, "own" : 1]>
g (float[n, 4] x) => (float[n, 4] y)
<float[4, 4] w = {1, 0, 0, 2, 0, 1, 0, 0, 0, 0, 1, 0, 3, 0, 0, 1}>
{ a = own.layer<slope = 0.25>(x, w) y = own.twice(a) }
<domain: "own", opset_import: ["" : 18, "own" : 1]>
twice (a) => (c) { b = own.same(a) c = Add(b, a) }
<domain: "own", opset_import: ["" : 18]>
same (a) => (b) { b = Identity(a) }
<domain: "own", opset_import: ["" : 18]>
layer<slope>(a, w) => (d)
{ b = Gemm(a, w) c = LeakyRelu<alpha: float = @slope>(b) z = Constant<value_float = 0.0>()
  s = ReduceSum<keepdims = 0>(c) p = Greater(s, z)
  d = If (p) <then_branch = t () => (float[n, 4] e) { e = Neg(c) },
              else_branch = f () => (float[n, 4] h) { h = Identity(c) }> }
"""


def test_functions_in_functions_with_branches(graphs: ModuleType) -> None:
    model = onnx.parser.parse_model(FUNCTIONS)
    imported = lossless(graphs, model, {"x": floats(2, 4)})
    assert not imported.model.functions
    assert "MatMul" in [n.op_type for n in all_nodes(imported.model)]


@pytest.mark.parametrize("op", ["ReduceSum<keepdims = 0>", "Softplus"])
def test_a_function_of_another_opset(graphs: ModuleType, op: str) -> None:
    """It stays a function where its operators have changed since (ReduceSum in opset 13)."""
    model = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17, "own" : 1]> g (float[n] x) => (float[] y)
        {{ y = own.f(x) }}
        <domain: "own", opset_import: ["" : 12]> f (a) => (b) {{ b = {op}(a) }}"""
    )
    model.graph.output[0].type.tensor_type.ClearField("shape")
    imported = lossless(graphs, model, {"x": floats(3)})
    kept = op != "Softplus"
    assert [r.code for r in imported.remarks] == ["function-kept"] * kept
    assert bool(imported.model.functions) == kept


# -- domains ---------------------------------------------------------------------------


def test_traditional_models(graphs: ModuleType) -> None:
    nodes = [
        node("Scaler", ["x"], ["s"], domain="ai.onnx.ml", offset=[0.5] * 4, scale=[2.0] * 4),
        node("LinearClassifier", ["s"], ["label", "scores"], domain="ai.onnx.ml",
             coefficients=floats(12).tolist(), intercepts=[0.1, 0.2, 0.3],
             classlabels_strings=["a", "b", "c"], post_transform="SOFTMAX"),
    ]  # fmt: skip
    model = text("y = Relu(x)")
    model.graph.node.extend(nodes)
    model.graph.output.append(helper.make_tensor_value_info("label", TensorProto.STRING, ["n"]))
    model.graph.output.append(helper.make_tensor_value_info("scores", FLOAT, ["n", 3]))
    lossless(graphs, model, {"x": floats(3, 4)})


def test_operators_of_the_runtime(graphs: ModuleType) -> None:
    body = """a = com.microsoft.FusedMatMul<transB = 1>(x, w) b = com.microsoft.BiasGelu(a, c)
              d = com.microsoft.QuickGelu(b) y = Identity(d)"""
    lossless(graphs, text(body, w=floats(6, 4), c=floats(6)), {"x": floats(3, 4)})


def test_operators_of_nobody_pass_through() -> None:
    body = "c = Identity(x) d = own.Strange<strength = 3>(c, w) y = Relu(d)"
    model = text(body, w=floats(4))
    imported = load_model(model)
    assert [n.op_type for n in imported.model.graph] == ["Identity", "Strange", "Relu"]
    again = onnx.load_model_from_string(to_bytes(imported.model))
    assert [(n.domain, n.op_type) for n in again.graph.node][1] == ("own", "Strange")
    assert again.graph.node[1].attribute[0].i == 3


# -- leftovers of training -------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_dropout_with_a_switch(graphs: ModuleType, training: bool) -> None:
    body = "d, mask = Dropout(x, ratio, switch) y = Relu(d)"
    model = text(body, ratio=np.float32(0), switch=np.array(training))
    imported = lossless(graphs, model, {"x": floats(3, 4)})
    assert ("Dropout" in [n.op_type for n in imported.model.graph]) == training


def test_a_batch_norm_in_training_mode(graphs: ModuleType) -> None:
    body = """c = Conv(x, w)
              y, m, v = BatchNormalization<training_mode = 1>(c, one, one, one, one)"""
    io = "(float[n, 3, 8, 8] x) => (float[n, 2, 6, 6] y, float[2] m, float[2] v)"
    model = text(body, io=io, w=floats(2, 3, 3, 3), one=np.ones(2, np.float32))
    imported = lossless(graphs, model, IMAGE)
    assert "BatchNormalization" in [n.op_type for n in imported.model.graph]


def test_gradients_pass_through() -> None:
    model = text("y = Relu(x)")
    model.opset_import.append(helper.make_opsetid("ai.onnx.preview.training", 1))
    domain = "ai.onnx.preview.training"
    model.graph.node.append(node("Gradient", ["x"], ["dx"], domain=domain, xs=["x"], y="y"))
    model.graph.output.append(helper.make_tensor_value_info("dx", FLOAT, None))
    assert [n.op_type for n in load_model(model).model.graph] == ["Relu", "Gradient"]
