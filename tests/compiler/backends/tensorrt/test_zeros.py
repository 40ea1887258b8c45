"""int8 and zeros in the pattern 2:4 together, for Jetson Orin: nothing on the way fills them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from planish.compiler.backends.tensorrt.zeros import checked_zeros, codes_as_floats
from planish.compiler.driver import compile_model
from planish.ir.errors import TargetError
from planish.ir.load import load_as_written
from planish.targets.loader import load_target
from planish.targets.rules.table import check_model
from planish.targets.runtime import open_session

ORIN = "nvidia-jetson-orin"
SPARSE = "canonicalize,sparsify{small=true},quantize{scheme=static}"
RNG = np.random.default_rng(6)


def normal(*shape: int, scale: float = 1.0) -> np.ndarray:
    return (scale * RNG.normal(size=shape)).astype(np.float32)


def graph(body: str, ports: str, **tensors: np.ndarray) -> onnx.ModelProto:
    header = '<ir_version: 8, opset_import: ["": 17]>'
    model = onnx.parser.parse_model(f"{header} g {ports} {{ {body} }}")
    for name, array in tensors.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return model


def layers() -> tuple[onnx.ModelProto, list[dict[str, np.ndarray]]]:
    model = graph(
        "m = MatMul(x, w) a = Add(m, b) r = Relu(a) y = MatMul(r, v)",
        "(float[n, 64] x) => (float[n, 48] y)",
        w=normal(64, 128, scale=0.1), b=normal(128), v=normal(128, 48, scale=0.1),
    )  # fmt: skip
    return model, [{"x": normal(40, 64)} for _ in range(10)]


def images() -> tuple[onnx.ModelProto, list[dict[str, np.ndarray]]]:
    model = graph(
        "c = Conv<pads=[1,1,1,1]>(x, k) r = Relu(c) y = Conv(r, l)",
        "(float[n, 32, 8, 8] x) => (float[n, 24, 8, 8] y)",
        k=normal(32, 32, 3, 3, scale=0.1), l=normal(24, 32, 1, 1, scale=0.1),
    )  # fmt: skip
    return model, [{"x": normal(4, 32, 8, 8)} for _ in range(6)]


@pytest.fixture(scope="module", params=[layers, images], ids=["linear", "conv"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    model, data = request.param()
    return compile_model(
        model, ORIN, output=tmp_path_factory.mktemp("orin") / "out", calibration=data, threads=1,
        pipeline=SPARSE, max_drift="sqnr=1",
    )  # fmt: skip


def weights(model: onnx.ModelProto) -> list[tuple[np.ndarray, int]]:
    """int8 codes of each product as QuantizeLinear computes them, and the axis that is summed."""
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    maker = {o: node for node in model.graph.node for o in node.output}
    found = []
    for node in model.graph.node:
        if node.op_type not in ("MatMul", "Conv"):
            continue
        back = maker[node.input[1]]
        quantize = maker[back.input[0]]
        assert (back.op_type, quantize.op_type) == ("DequantizeLinear", "QuantizeLinear")
        weight = stored[quantize.input[0]].astype(np.float32)
        scale = stored[quantize.input[1]].astype(np.float32)
        shape = [1] * weight.ndim
        shape[1 if node.op_type == "MatMul" else 0] = -1
        codes = np.rint(weight / scale.reshape(shape))
        assert np.abs(codes).max() <= 128
        assert not np.any(stored[quantize.input[2]])
        found.append((codes, 0 if node.op_type == "MatMul" else 1))
    return found


def test_two_of_every_four_codes_are_zero_along_the_sum(made: Any) -> None:
    model = onnx.load(made.folder / "model.onnx")
    found = weights(model)
    assert len(found) == 2
    for codes, axis in found:
        groups = np.moveaxis(codes, axis, 0)
        counts = np.count_nonzero(groups.reshape(len(groups) // 4, 4, -1), axis=1)
        assert counts.max() == 2
        assert np.mean(codes == 0) < 0.6  # no more than the pattern asks for, but for small ones


def test_floats_in_front_of_the_quantizer_give_the_codes_of_the_twin(made: Any) -> None:
    model, twin = (onnx.load(made.folder / n) for n in ("model.onnx", "reference.onnx"))
    stored = [onnx.numpy_helper.to_array(t) for t in twin.graph.initializer if t.data_type == 3]
    wanted = [a for a in stored if a.ndim > 1]
    for (codes, _), other in zip(weights(model), wanted, strict=True):
        np.testing.assert_array_equal(codes, other)


def test_nothing_objects(made: Any) -> None:
    path = made.folder / "model.onnx"
    found = check_model(load_as_written(path), load_target(ORIN))
    assert [each.rule for each in found if each.severity != "note"] == []
    assert "sparse-codes" not in {each.rule for each in found}
    onnx.checker.check_model(str(path), full_check=True)
    assert onnx.load(path).opset_import[0].version <= 20
    done = subprocess.run([sys.executable, str(made.folder / "verify.py")], capture_output=True)
    assert done.returncode == 0, done.stdout
    manifest = (made.folder / "manifest.json").read_text()
    assert "the weights of 2 layers have zeros in the pattern 2:4, in model.onnx too" in manifest
    assert "as before" not in manifest  # nobody's model had them before


def test_edits_say_both(made: Any) -> None:
    passes = [edit.pass_name for edit in made.result.edits]
    assert passes.count("sparsify") == passes.count("quantize") == 2
    losses = [edit.loss for edit in made.result.edits if edit.pass_name == "sparsify"]
    assert all(0.01 < loss < 0.5 for loss in losses)


def test_layers_too_small_to_gain_are_left_whole(tmp_path: Path) -> None:
    model, data = layers()
    made = compile_model(
        model, ORIN, output=tmp_path / "out", calibration=data, threads=1,
        pipeline="canonicalize,sparsify,quantize{scheme=static}", max_drift="sqnr=1",
    )  # fmt: skip
    refused = {r.code for r in made.result.remarks if r.pass_name == "sparsify"}
    assert refused == {"too-small"}
    assert "QuantizeLinear" in {n.op_type for n in onnx.load(made.folder / "model.onnx").graph.node}


def test_int4_is_not_for_the_parser_of_jetpack_6(tmp_path: Path) -> None:
    model, data = layers()
    made = compile_model(
        model, ORIN, output=tmp_path / "out", calibration=data, threads=1,
        pipeline="canonicalize,weight-only{block=128}",
    )  # fmt: skip
    assert {r.code for r in made.result.remarks if r.pass_name == "weight-only"} == {"opset"}


# -- the step alone -----------------------------------------------------------------------

PAIR = "d = DequantizeLinear<axis=1>(c, s, z) y = MatMul(x, d)"


def quantized(codes: np.ndarray, scale: float = 0.01) -> ir.Model:
    proto = graph(
        PAIR, "(float[n, 16] x) => (float[n, 8] y)", c=codes,
        s=np.full(8, scale, np.float32), z=np.zeros(8, np.int8),
    )  # fmt: skip
    return ir.from_proto(proto)


def patterned() -> np.ndarray:
    codes = RNG.integers(1, 128, (16, 8), np.int8)
    codes.reshape(4, 4, 8)[:, 1:3] = 0
    return codes


def test_the_numbers_do_not_change() -> None:
    codes = patterned()
    model = quantized(codes)
    codes_as_floats(model, load_target(ORIN))
    proto = ir.to_proto(model)
    assert [n.op_type for n in proto.graph.node] == ["QuantizeLinear", "DequantizeLinear", "MatMul"]
    x = normal(3, 16)
    session = open_session(proto.SerializeToString(), threads=1, optimize="none")
    np.testing.assert_allclose(
        session.run({"x": x})[0], x.astype(np.float64) @ (codes * 0.01), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("target", ["nvidia-t4", "generic"])
def test_targets_without_such_kernels_get_codes(target: str) -> None:
    model = quantized(patterned())
    codes_as_floats(model, load_target(target))
    assert [n.op_type for n in model.graph] == ["DequantizeLinear", "MatMul"]


def test_codes_without_a_pattern_stay_codes() -> None:
    model = quantized(RNG.integers(1, 128, (16, 8), np.int8))
    codes_as_floats(model, load_target(ORIN))
    assert [n.op_type for n in model.graph] == ["DequantizeLinear", "MatMul"]


def test_a_pattern_that_got_lost_is_no_artifact() -> None:
    before, after = quantized(patterned()), quantized(RNG.integers(1, 128, (16, 8), np.int8))
    target = load_target(ORIN)
    assert "2:4" in checked_zeros(before, before, target)
    assert checked_zeros(after, after, target) == ""
    with pytest.raises(TargetError, match="1 of 1 layers lost their zeros"):
        checked_zeros(before, after, target)
