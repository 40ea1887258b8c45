"""4-bit floats and int4 for TensorRT: what the parser reads, and what its twin computes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from planish.compiler.backends.tensorrt.fewbits import in_few_bits
from planish.compiler.backends.tensorrt.precision import WIDE
from planish.compiler.backends.tensorrt.writing import typed
from planish.compiler.driver import compile_model
from planish.compiler.planning.plan import plan_model
from planish.ir.errors import InputError, TargetError
from planish.ir.load import load_as_written
from planish.passes.math.blockcodes import dequantize_blocks
from planish.passes.math.blockwise import round_blocks
from planish.passes.math.float4 import round_rows
from planish.passes.math.mxfp8 import round_rows_mx
from planish.passes.math.packing import pack_nbits
from planish.targets.loader import load_target
from planish.targets.rules.table import check_model
from planish.targets.runtime import open_session

T = onnx.TensorProto
FLOAT4, INT4 = "canonicalize,quantize-float4", "canonicalize,weight-only{block=128 method=round}"
B200, A100 = "nvidia-b200", "nvidia-a100"
RNG = np.random.default_rng(4)


def normal(*shape: int, scale: float = 1.0) -> np.ndarray:
    return (scale * RNG.normal(size=shape)).astype(np.float32)


TENSORS = {
    "w": normal(128, 256, scale=0.1), "b": normal(256, scale=0.1),
    "v": normal(256, 128, scale=0.05), "u": normal(128, 48, scale=0.1),
}  # fmt: skip
BODY = """
  m = MatMul(x, w) a = Add(m, b) r = Relu(a) n = MatMul(r, v) s = Add(n, x) y = MatMul(s, u)
"""
DATA = [{"x": normal(4, 6, 128)} for _ in range(6)]


def graph(body: str = BODY, opset: int = 17, ports: str = "") -> onnx.ModelProto:
    ports = ports or "(float[n, s, 128] x) => (float[n, s, 48] y)"
    header = f'<ir_version: 8, opset_import: ["": {opset}]>'
    model = onnx.parser.parse_model(f"{header} g {ports} {{ {body} }}")
    for name, array in TENSORS.items():
        if name in body:
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return model


def make(folder: Path, pipeline: str, target: str, model: Any = None, **options: Any) -> Any:
    given = {"calibration": DATA, "threads": 1, "max_drift": "sqnr=5", **options}
    model = graph() if model is None else model
    return compile_model(model, target, output=folder / "out", pipeline=pipeline, **given)


def findings(folder: Path, target: str) -> list[str]:
    found = check_model(load_as_written(folder / "model.onnx"), load_target(target))
    return [each.rule for each in found if each.severity != "note"]


def maker(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    found: onnx.NodeProto
    (found,) = [node for node in model.graph.node if name in node.output]
    return found


def stored(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    found: onnx.TensorProto
    (found,) = [tensor for tensor in model.graph.initializer if tensor.name == name]
    return found


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


@pytest.fixture(scope="module")
def float4(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make(tmp_path_factory.mktemp("float4"), FLOAT4, B200)


@pytest.fixture(scope="module")
def int4(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make(tmp_path_factory.mktemp("int4"), INT4, A100, holdout=DATA[:2])


@pytest.mark.parametrize(("kind", "target"), [("float4", B200), ("int4", A100)])
def test_nothing_objects(kind: str, target: str, request: pytest.FixtureRequest) -> None:
    made = request.getfixturevalue(kind)
    assert findings(made.folder, target) == []
    for name in ("model.onnx", "reference.onnx"):
        onnx.checker.check_model(str(made.folder / name), full_check=True)
    done = subprocess.run([sys.executable, str(made.folder / "verify.py")], capture_output=True)
    assert done.returncode == 0, done.stdout
    assert made.result.quality.verdict == "within-budget"


# -- NVFP4 ---------------------------------------------------------------------------------


def test_products_read_4_bit_floats_on_both_sides(float4: Any) -> None:
    model = onnx.load(float4.folder / "model.onnx")
    assert {o.domain: o.version for o in model.opset_import} == {"": 23, "trt": 1}
    assert model.ir_version == 11
    products = [node for node in model.graph.node if node.op_type == "MatMul"]
    assert len(products) == 3
    for product in products:
        cast = maker(model, product.input[0])
        assert (cast.op_type, attributes(cast)) == ("Cast", {"to": T.FLOAT16})
        wide = maker(model, cast.input[0])
        assert (wide.op_type, attributes(wide)) == (
            "DequantizeLinear", {"axis": -1, "block_size": 16}
        )  # fmt: skip
        codes, steps = maker(model, wide.input[0]), maker(model, wide.input[1])
        assert (codes.domain, codes.op_type) == ("trt", "TRT_FP4DynamicQuantize")
        assert attributes(codes) == {"axis": -1, "block_size": 16, "scale_type": T.FLOAT8E4M3FN}
        assert list(codes.output) == [wide.input[0], steps.input[0]]
        assert steps.input[1] == codes.input[1]  # one scale, twice
        assert stored(model, codes.input[1]).data_type == T.FLOAT
        turn = maker(model, maker(model, product.input[1]).input[0])
        assert turn.op_type == "Transpose"
        wide = maker(model, turn.input[0])
        assert attributes(wide) == {"axis": -1, "block_size": 16}
        weight, scales = stored(model, wide.input[0]), maker(model, wide.input[1])
        blocks = stored(model, scales.input[0])
        assert (weight.data_type, blocks.data_type) == (T.FLOAT4E2M1, T.FLOAT8E4M3FN)
        assert len(weight.raw_data) == np.prod(weight.dims) // 2
        assert list(blocks.dims) == [weight.dims[0], weight.dims[1] // 16]


def unpacked(tensor: onnx.TensorProto) -> np.ndarray:
    """Numbers of E2M1, the first in the lower half of a byte, by the table of its codes."""
    table = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
    both = np.frombuffer(tensor.raw_data, np.uint8)
    codes = np.stack([both & 15, both >> 4], axis=1).reshape(tuple(tensor.dims))
    return np.asarray(np.where(codes & 8, -1, 1) * table[codes & 7])


def weight_of(model: onnx.ModelProto, product: onnx.NodeProto) -> np.ndarray:
    """What a product reads, [K, N], by the meaning of the operators in front of it."""
    wide = maker(model, maker(model, maker(model, product.input[1]).input[0]).input[0])
    codes, scales = unpacked(stored(model, wide.input[0])), maker(model, wide.input[1])
    blocks = onnx.numpy_helper.to_array(stored(model, scales.input[0])).astype(np.float64)
    one = float(onnx.numpy_helper.to_array(stored(model, scales.input[1])))
    return np.asarray((codes * np.repeat(blocks, 16, axis=1) * one).T)


def test_the_twin_computes_what_the_codes_mean(float4: Any) -> None:
    """From the file for TensorRT to the outputs of the reference, in plain arithmetic."""
    model = onnx.load(float4.folder / "model.onnx")
    x = DATA[0]["x"]
    value = x.astype(np.float64)
    for product in [node for node in model.graph.node if node.op_type == "MatMul"]:
        wide = maker(model, maker(model, product.input[0]).input[0])
        scale = stored(model, maker(model, wide.input[0]).input[1])
        one = float(onnx.numpy_helper.to_array(scale))
        rounded = round_rows(value.astype(np.float32), one)
        value = rounded.astype(np.float64) @ weight_of(model, product)
        if value.shape[-1] == 256:
            value = np.maximum(value + TENSORS["b"].astype(np.float16), 0)
        elif value.shape[-1] == 128:
            value = value + x
    session = open_session(float4.folder / "reference.onnx", threads=1)
    (got,) = session.run({"x": x})
    apart = np.square(got - value).sum() / np.square(value).sum()
    assert apart < 1e-4  # a rounding here and there falls to the other side


def test_the_reference_is_standard(float4: Any) -> None:
    model = onnx.load(float4.folder / "reference.onnx")
    assert {o.domain for o in model.opset_import} == {""}
    kinds = {tensor.data_type for tensor in model.graph.initializer}
    assert T.FLOAT4E2M1 not in kinds


def test_half_precision_is_tried_with_the_codes_spelled(float4: Any) -> None:
    checks = json.loads((float4.folder / "manifest.json").read_text())["engine"]["checks"]
    assert "rounding in blocks spelled in standard operators, was run" in checks[-1]
    (edit,) = [e for e in float4.result.edits if e.pass_name == "tensorrt"]
    assert 0 < edit.loss < 1e-4
    assert edit.details == {}


def test_without_half_precision_4_bit_floats_widen_to_float32(graphs: ModuleType) -> None:
    text = '<ir_version: 10, opset_import: ["" : 19]>\ng (float[n, 128] x) => (float[n, 48] y)'
    bench = graphs.Bench(
        graphs.parse(f"{text} {{ y = MatMul(x, u) }}", u=TENSORS["u"]),
        [{"x": normal(8, 128)}], target=B200,
    )  # fmt: skip
    bench.run("quantize-float4")
    model = ir.to_proto(in_few_bits(typed(bench.model, WIDE)))
    onnx.checker.check_model(model, full_check=True)
    assert "Cast" not in {node.op_type for node in model.graph.node}
    product = maker(model, "y")
    assert maker(model, maker(model, product.input[0]).input[0]).input[0] == "x"


def test_a_plan_replays_to_the_same_bytes(float4: Any, tmp_path: Path) -> None:
    again = compile_model(
        graph(), B200, output=tmp_path / "out", calibration=DATA, threads=1,
        max_drift="sqnr=5", plan=float4.folder,
    )  # fmt: skip
    for name in ("model.onnx", "reference.onnx"):
        assert (again.folder / name).read_bytes() == (float4.folder / name).read_bytes()


@pytest.mark.parametrize(
    ("pipeline", "bits"), [(FLOAT4, 4.5), ("canonicalize,quantize-mxfp8", 8.25)]
)
def test_a_plan_counts_what_is_handed_over(pipeline: str, bits: float) -> None:
    """Not the spelling, which is larger, and slower than what it stands for."""
    plan = plan_model(graph(), B200, calibration=DATA, pipeline=pipeline).chosen
    weights = sum(TENSORS[name].size for name in "wvu")
    assert weights * bits / 8 < plan.size.after < weights * bits / 8 + 8000  # names and nodes
    assert plan.time.after is None
    assert {(site.bits, site.kernel) for site in plan.sites} == {(int(bits), "")}


def test_policy_offers_4_bit_floats_behind_8_bit_ones(tmp_path: Path) -> None:
    made = compile_model(
        graph(), B200, output=tmp_path / "out", calibration=DATA, threads=1, max_drift="sqnr=5"
    )
    pipelines = [trial.pipeline for trial in made.result.trials]
    at = {name: next(i for i, p in enumerate(pipelines) if name in p)
          for name in ("quantize-float8", "quantize-float4")}  # fmt: skip
    assert at["quantize-float8"] < at["quantize-float4"]


# -- MXFP8 ---------------------------------------------------------------------------------


@pytest.mark.parametrize("calibration", [DATA, None], ids=["half", "float32"])
def test_blocks_of_8_bit_floats(calibration: Any, tmp_path: Path) -> None:
    made = make(tmp_path, "canonicalize,quantize-mxfp8", B200, calibration=calibration,
                holdout=DATA[:2], profile="n=1:4:8,s=1:6:8")  # fmt: skip
    model, wanted = onnx.load(made.folder / "model.onnx"), T.FLOAT16 if calibration else T.FLOAT
    assert findings(made.folder, B200) == []
    onnx.checker.check_model(model, full_check=True)
    done = subprocess.run([sys.executable, str(made.folder / "verify.py")], capture_output=True)
    assert done.returncode == 0, done.stdout
    products = [node for node in model.graph.node if node.op_type == "MatMul"]
    assert len(products) == 3
    value = DATA[0]["x"].astype(np.float64)
    for product in products:
        wide = maker(model, product.input[0])
        turn = maker(model, product.input[1])
        weight = maker(model, turn.input[0])
        assert (wide.op_type, turn.op_type) == ("TRT_MXFP8DequantizeLinear", "Transpose")
        for node in (wide, weight):
            assert node.domain == "trt"
            assert attributes(node) == {"axis": -1, "block_size": 32, "output_dtype": wanted}
        codes = maker(model, wide.input[0])
        assert list(codes.output) == list(wide.input)
        assert attributes(codes) == {"axis": -1, "block_size": 32, "output_dtype": T.FLOAT8E4M3FN}
        numbers, bytes_ = (onnx.numpy_helper.to_array(stored(model, n)) for n in weight.input)
        assert bytes_.dtype == np.uint8
        scales = np.repeat(np.exp2(bytes_.astype(np.float64) - 127), 32, axis=1)
        matrix = (numbers.astype(np.float64) * scales).T
        value = round_rows_mx(value.astype(np.float32)).astype(np.float64) @ matrix
        if value.shape[-1] == 256:
            value = np.maximum(value + TENSORS["b"], 0)
        elif value.shape[-1] == 128:
            value = value + DATA[0]["x"]
    session = open_session(made.folder / "reference.onnx", threads=1)
    (got,) = session.run({"x": DATA[0]["x"]})
    assert np.square(got - value).sum() < 1e-5 * np.square(value).sum()


# -- int4 ----------------------------------------------------------------------------------


def test_int4_stands_right_in_front_of_its_product(int4: Any) -> None:
    model = onnx.load(int4.folder / "model.onnx")
    assert {o.domain: o.version for o in model.opset_import} == {"": 21}
    assert model.ir_version == 10
    wide = [node for node in model.graph.node if node.op_type == "DequantizeLinear"]
    assert len(wide) == 3
    for node in wide:
        (product,) = [n for n in model.graph.node if node.output[0] in n.input]
        assert product.op_type == "MatMul"
        assert attributes(node) == {"axis": 0, "block_size": 128}
        assert len(node.input) == 2
        codes, scales = stored(model, node.input[0]), stored(model, node.input[1])
        assert (codes.data_type, scales.data_type) == (T.INT4, T.FLOAT16)
        assert list(scales.dims) == [codes.dims[0] // 128, codes.dims[1]]
        assert np.all(onnx.numpy_helper.to_array(scales) > 0)


def test_int4_codes_are_those_of_the_search(int4: Any) -> None:
    model = onnx.load(int4.folder / "model.onnx")
    product = next(n for n in model.graph.node if n.op_type == "MatMul")
    node = maker(model, product.input[1])
    codes = onnx.numpy_helper.to_array(stored(model, node.input[0])).astype(np.float64)
    scales = onnx.numpy_helper.to_array(stored(model, node.input[1])).astype(np.float64)
    energy = np.square(np.concatenate([d["x"].reshape(-1, 128) for d in DATA])).mean(axis=0)
    coded = round_blocks(TENSORS["w"], bits=4, block=128, symmetric=True, signed=False,
                         importance=energy)  # fmt: skip
    wide = dequantize_blocks(coded).astype(np.float64)
    made = codes * np.repeat(scales, 128, axis=0)
    assert codes.min() >= -8
    assert codes.max() <= 7
    near = np.abs(made - wide) <= 2e-3 * np.abs(wide).max()
    assert near.all()


def test_scales_that_float16_does_not_hold_keep_the_product_in_float32(tmp_path: Path) -> None:
    model = graph("m = MatMul(x, tiny) k = Mul(m, large) r = Relu(k) y = MatMul(r, u)")
    for name, array in (("tiny", normal(128, 128, scale=3e-5)), ("large", np.float32(2e3))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    made = make(tmp_path, INT4, A100, model)
    typed_model = onnx.load(made.folder / "model.onnx")
    wide = [node for node in typed_model.graph.node if node.op_type == "DequantizeLinear"]
    types = [stored(typed_model, node.input[1]).data_type for node in wide]
    assert sorted(types) == [T.FLOAT, T.FLOAT16]
    assert {stored(typed_model, node.input[0]).data_type for node in wide} == {T.INT4}
    for node in wide:
        (product,) = [n for n in typed_model.graph.node if node.output[0] in n.input]
        assert product.op_type == "MatMul"
    (edit,) = [e for e in made.result.edits if e.pass_name == "tensorrt"]
    assert edit.details["float32 nodes (scale)"] == 1
    assert findings(made.folder, A100) == []


def test_the_twin_rounds_no_activations(int4: Any) -> None:
    """ONNX Runtime would make MatMulNBits of int4, and round activations to 8 bits in it."""
    model = onnx.load(int4.folder / "reference.onnx")
    assert T.INT4 not in {tensor.data_type for tensor in model.graph.initializer}
    x = DATA[0]["x"]
    outputs = [
        open_session(int4.folder / "reference.onnx", threads=1, optimize=level).run({"x": x})[0]
        for level in ("none", "all")
    ]
    np.testing.assert_allclose(outputs[0], outputs[1], rtol=1e-4, atol=1e-4)


def test_blocks_that_are_not_whole_and_tables_stay(tmp_path: Path) -> None:
    body = "e = Gather(t, i) m = MatMul(e, p) y = MatMul(m, q)"
    model = graph(body, ports="(int64[n, s] i) => (float[n, s, 48] y)")
    for name, shape in (("t", (500, 256)), ("p", (256, 192)), ("q", (192, 48))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(normal(*shape), name))
    data = [{"i": RNG.integers(0, 500, (4, 6))} for _ in range(6)]
    made = make(tmp_path, INT4, A100, model, calibration=data)
    refused = {r.site: r.code for r in made.result.remarks if r.pass_name == "weight-only"
               and r.kind == "refused"}  # fmt: skip
    assert sorted(refused.values()) == ["no-nbits-kernel", "ragged-blocks"]
    kinds = Counter(i.data_type for i in onnx.load(made.folder / "model.onnx").graph.initializer)
    assert kinds[T.INT4] == 1
    assert findings(made.folder, A100) == []


def test_opsets_that_the_runtime_does_not_take_have_no_int4(tmp_path: Path) -> None:
    file = tmp_path / "old.toml"
    file.write_text(
        'name = "old"\nsummary = "An Ampere GPU with an old parser"\nkind = "machine"\n'
        'extends = "nvidia-ampere"\n\n[runtime]\nmax_opset = 20\n\n'
        '[sources]\n"runtime.max_opset" = "a test"\n'
    )
    made = make(tmp_path, INT4, str(file))
    refused = {r.code for r in made.result.remarks if r.pass_name == "weight-only"}
    assert refused == {"opset"}


# -- models that were packed before ---------------------------------------------------------


def packed_model(**changes: Any) -> onnx.ModelProto:
    """x times a weight [256, 128] as MatMulNBits."""
    coded = round_blocks(TENSORS["v"], bits=4, block=128, symmetric=True, signed=False)
    data, scales, _ = pack_nbits(coded)
    scales = scales * changes.pop("sign", 1)
    sizes = {"K": 256, "N": 128, "bits": 4, "block_size": 128} | changes.pop("sizes", {})
    zeros = changes.pop("zeros", None)
    tensors = {"data": data, "scales": scales} | ({} if zeros is None else {"zeros": zeros})
    node = onnx.helper.make_node(
        "MatMulNBits", ["x", *tensors], ["y"], "packed", domain="com.microsoft", **sizes
    )
    ports = [
        onnx.helper.make_tensor_value_info(n, T.FLOAT, ["n", size])
        for n, size in (("x", 256), ("y", 128))
    ]
    stored = [onnx.numpy_helper.from_array(a, n) for n, a in tensors.items()]
    made = onnx.helper.make_graph([node], "g", ports[:1], ports[1:], stored)
    opsets = [onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("com.microsoft", 1)]
    return onnx.helper.make_model(made, opset_imports=opsets, ir_version=10)


ROWS = [{"x": normal(8, 256)} for _ in range(4)]


def test_packed_weights_of_others_are_written_anew(tmp_path: Path) -> None:
    made = make(tmp_path, "canonicalize", A100, packed_model(), calibration=ROWS)
    model = onnx.load(made.folder / "model.onnx")
    assert "MatMulNBits" not in {n.op_type for n in model.graph.node}
    assert findings(made.folder, A100) == []
    coded = round_blocks(TENSORS["v"], bits=4, block=128, symmetric=True, signed=False)
    session = open_session(made.folder / "reference.onnx", threads=1)
    expected = ROWS[0]["x"].astype(np.float64) @ dequantize_blocks(coded)
    np.testing.assert_allclose(session.run(ROWS[0])[0], expected, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"zeros": np.full((128, 1), 0x77, np.uint8)}, "zero points"),
        ({"sign": -1}, "a scale of -"),
        ({"sign": np.float32(0)}, "a scale of 0"),
    ],
)
def test_packed_weights_without_a_form_are_refused(changes: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=said) as caught:
        make(tmp_path, "canonicalize", A100, packed_model(**changes), calibration=ROWS)
    assert "weight-only" in caught.value.hint
    assert "packed" in caught.value.where
    assert not (tmp_path / "out").exists()


def test_calibration_data_that_is_no_number_is_refused(tmp_path: Path) -> None:
    bad = [{"x": np.full((4, 6, 128), np.nan, np.float32)} for _ in range(4)]
    with pytest.raises(InputError, match=r"NaN|not finite"):
        make(tmp_path, FLOAT4, B200, calibration=bad)
    assert not (tmp_path / "out").exists()


def test_float4_packs_two_codes_to_a_byte() -> None:
    """As ``ml_dtypes`` and ONNX number the codes."""
    assert np.arange(16, dtype=np.uint8).view(ml_dtypes.float4_e2m1fn).astype(float).tolist() == [
        0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6
    ]  # fmt: skip
