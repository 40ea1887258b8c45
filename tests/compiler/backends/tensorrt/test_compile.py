"""Whole compiles for TensorRT: what is in the artifact, what it says, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest

from planish.compiler.driver import compile_model
from planish.compiler.reporting.artifact import Artifact
from planish.compiler.reporting.headline import headline
from planish.ir.errors import PlanishError, TargetError, UsageError
from planish.ir.load import load_as_written
from planish.targets.loader import load_target
from planish.targets.rules.table import check_model

T = onnx.TensorProto
STATIC = "canonicalize,quantize{scheme=static}"
FP8 = "canonicalize,quantize-float8"


def make(folder: Path, model: Any, data: Any, target: str = "nvidia-a100", **options: Any) -> Any:
    given = {"calibration": data, "threads": 1, **options}
    return compile_model(model, target, output=folder / "out", **given)


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


@pytest.fixture(scope="module")
def images() -> tuple[onnx.ModelProto, list[dict[str, np.ndarray]]]:
    """A residual block of convolutions with a narrow one in front, and a classifier."""
    body = """
      c0 = Conv<pads=[1,1,1,1]>(x, k0) r0 = Relu(c0)
      c1 = Conv<pads=[1,1,1,1]>(r0, k1, b1) r1 = Relu(c1)
      c2 = Conv<pads=[1,1,1,1]>(r1, k2) a = Add(c2, r0) r2 = Relu(a)
      c3 = Conv<pads=[1,1,1,1]>(r2, k3) p = GlobalAveragePool(c3) f = Flatten(p)
      y = MatMul(f, w)
    """
    tensors = {
        "k0": normal(16, 3, 3, 3, scale=0.2), "k1": normal(16, 16, 3, 3, seed=1, scale=0.1),
        "b1": normal(16, seed=2, scale=0.1), "k2": normal(16, 16, 3, 3, seed=3, scale=0.1),
        "k3": normal(20, 16, 3, 3, seed=4, scale=0.1), "w": normal(20, 10, seed=5),
    }  # fmt: skip
    header = '<ir_version: 8, opset_import: ["": 17]>'
    ports = "(float[n, 3, 8, 8] x) => (float[n, 10] y)"
    model = onnx.parser.parse_model(f"{header} g {ports} {{ {body} }}")
    for name, array in tensors.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return model, [{"x": normal(8, 3, 8, 8, seed=i)} for i in range(8)]


@pytest.fixture(scope="module")
def small(images: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """It in 8 bits for an A100."""
    return make(tmp_path_factory.mktemp("small"), *images, pipeline=STATIC, max_drift="sqnr=5")


def ops(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


def test_a_convolutional_net_in_8_bits(small: Any) -> None:
    folder, result = small.folder, small.result
    model = onnx.load(folder / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    errors = check_model(load_as_written(folder / "model.onnx"), load_target("nvidia-a100"))
    assert [e for e in errors if e.severity != "note"] == []
    assert {o.domain for o in model.opset_import} == {""}
    refused = {r.site: r.code for r in result.remarks if r.kind == "refused"}
    assert sorted(refused.values()) == ["too-small", "too-small", "uneven-shape"]  # 3, 10 and 20
    quantized = [e for e in result.edits if e.pass_name == "quantize"]
    assert len(quantized) == 2
    types = {i.name: i.data_type for i in model.graph.initializer}
    codes = [n for n in types if types[n] == T.INT8]
    assert len([n for n in codes if n.endswith("quantized")]) == 2
    assert any(r.code == "residual-in-8-bits" for r in result.remarks)
    convolutions = [n for n in model.graph.node if n.op_type == "Conv"]
    made = {o: n for n in model.graph.node for o in n.output}
    for conv in convolutions:  # Q/DQ on both factors or on none
        sides = [made.get(i) is not None and made[i].op_type == "DequantizeLinear"
                 for i in conv.input[:2]]  # fmt: skip
        assert sides in ([True, True], [False, False])
    for node in model.graph.node:  # nothing but layers and the residual reads what is dequantized
        for i in node.input:
            if i in made and made[i].op_type == "DequantizeLinear":
                assert node.op_type in ("Conv", "Add")
    assert {types[n.input[2]] for n in convolutions if len(n.input) > 2} == {T.FLOAT16}


def test_the_verdict_says_where_it_was_not_run(small: Any) -> None:
    result = small.result
    assert result.exit_code == 11
    assert "not run on the target" in headline(result)
    assert (result.run_on_target, result.reference_model) == (False, "reference.onnx")
    assert result.kernels.counts == {}
    manifest = json.loads((small.folder / "manifest.json").read_text())
    assert manifest["reference_model"] == "reference.onnx"
    assert "not built here" in manifest["engine"]["built"]
    assert len(manifest["engine"]["checks"]) == 3
    card = (small.folder / "README.md").read_text()
    assert "Nothing was run on a GPU" in card
    assert "build_engine.py" in card
    assert "InferenceSession" not in card


def test_the_float_conversion_is_an_edit_with_its_loss(small: Any) -> None:
    (edit,) = [e for e in small.result.edits if e.pass_name == "tensorrt"]
    assert (edit.site, edit.setting) == ("graph", "float16")
    assert 0 < edit.loss < 1e-5
    assert edit.saving > 0


def test_the_self_test_runs_the_reference_and_finds_changes(small: Any, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, str(small.folder / "verify.py")], capture_output=True)
    assert done.returncode == 0, done.stdout
    artifact = Artifact.open(small.folder)
    assert artifact.session().output_names == ("y",)
    copy = artifact.save(tmp_path / "copy").path
    reference = onnx.load(copy / "reference.onnx")
    reference.graph.node[0].name = "other"
    onnx.save(reference, copy / "reference.onnx")
    done = subprocess.run([sys.executable, str(copy / "verify.py")], capture_output=True)
    assert done.returncode == 1
    assert b"reference.onnx" in done.stdout


def test_size_counts_the_model_alone(small: Any) -> None:
    assert small.result.bytes_after == (small.folder / "model.onnx").stat().st_size


def test_a_plan_replays_to_the_same_bytes(small: Any, images: Any, tmp_path: Path) -> None:
    again = make(tmp_path, *images, plan=small.folder, max_drift="sqnr=5")
    for name in ("model.onnx", "reference.onnx"):
        assert (again.folder / name).read_bytes() == (small.folder / name).read_bytes()


def test_policy_compiles_by_itself_in_8_bit_floats_for_hopper(
    kit: ModuleType, tmp_path: Path
) -> None:
    made = make(tmp_path, kit.chain(3), kit.feeds(), "nvidia-h100")
    assert made.result.exit_code == 11
    pipelines = [trial.pipeline for trial in made.result.trials]
    assert "canonicalize,quantize-float8" in pipelines
    assert any("scheme=static" in pipeline for pipeline in pipelines)
    assert all("dynamic" not in p for p in pipelines)
    assert {"Add", "MatMul"} <= set(ops(made.folder / "model.onnx"))


def test_eight_bit_floats_in_the_artifact(kit: ModuleType, tmp_path: Path) -> None:
    made = make(tmp_path, kit.chain(2), kit.feeds(), "nvidia-h100", pipeline=FP8)
    model = onnx.load(made.folder / "model.onnx")
    kinds = [i.data_type for i in model.graph.initializer]
    assert kinds.count(T.FLOAT8E4M3FN) >= 2
    assert model.opset_import[0].version >= 19
    assert "QuantizeLinear" not in ops(made.folder / "reference.onnx")
    assert made.result.quality.verdict == "within-budget"
    assert len([e for e in made.result.edits if e.pass_name == "quantize-float8"]) == 2


def test_eight_bit_floats_are_refused_where_they_are_not_computed(
    kit: ModuleType, tmp_path: Path
) -> None:
    made = make(tmp_path, kit.chain(2), kit.feeds(), "nvidia-a100", pipeline=FP8)
    refused = [r for r in made.result.remarks if r.pass_name == "quantize-float8"]
    assert {(r.kind, r.code) for r in refused} == {("refused", "target")}


def test_float16_is_given_back_where_it_costs_too_much(kit: ModuleType, tmp_path: Path) -> None:
    made = make(tmp_path, kit.chain(2), kit.feeds(), pipeline="canonicalize", max_drift="sqnr=100")
    assert made.result.plan.given_back == {"tensorrt": ("graph",)}
    kinds = {i.data_type for i in onnx.load(made.folder / "model.onnx").graph.initializer}
    assert T.FLOAT16 not in kinds
    assert made.result.quality.verdict == "within-budget"


def test_no_half_precision_without_measured_ranges(kit: ModuleType, tmp_path: Path) -> None:
    made = make(tmp_path, kit.chain(2), None, profile="batch=1:4:8")
    kinds = {i.data_type for i in onnx.load(made.folder / "model.onnx").graph.initializer}
    assert kinds == {T.FLOAT}
    (remark,) = [r for r in made.result.remarks if r.pass_name == "tensorrt"]
    assert remark.code == "no-calibration"
    assert made.result.quality.verdict == "unverified"


def test_what_exceeds_float16_on_held_out_data_alone_is_found(
    kit: ModuleType, tmp_path: Path
) -> None:
    body = "a = Mul(x, x) b = Mul(a, a) s = Sqrt(b) y = Sqrt(s)"
    model = kit.graph(body, {}, "float[n, 8] x", "float[n, 8] y")
    tame = [{"x": normal(4, 8, seed=i)} for i in range(4)]
    wild = [{"x": np.full((4, 8), 30.0, np.float32)}]
    made = make(tmp_path, model, tame, holdout=wild, pipeline="canonicalize")
    near = [r for r in made.result.remarks if r.code == "out-of-range"]
    assert len(near) == 2
    assert "float16" in near[0].sentence


# -- what is refused -------------------------------------------------------------------


def test_open_axes_of_unknown_size_are_refused(kit: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing says how large it gets") as caught:
        make(tmp_path, kit.chain(2), None)
    assert "--profile" in caught.value.hint
    assert not (tmp_path / "out").exists()


def test_a_profile_is_for_engines(kit: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not for generic"):
        make(tmp_path, kit.chain(2), kit.feeds(), "generic", profile="batch=1:2:3")


def test_operators_without_a_counterpart_are_refused_by_name(
    kit: ModuleType, tmp_path: Path
) -> None:
    model = kit.graph("y = com.microsoft.Inverse(x)", {},
                      "float[n, 8, 8] x", "float[n, 8, 8] y")  # fmt: skip
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    with pytest.raises(TargetError, match=r"com\.microsoft:Inverse"):
        make(tmp_path, model, [{"x": normal(4, 8, 8)}])
    assert not (tmp_path / "out").exists()


def test_models_that_cannot_be_run_here_are_refused(kit: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(PlanishError, match=r"memory|running the whole model"):
        make(tmp_path, kit.chain(2), None, max_memory="1MB", profile="batch=1:2:3")


def test_dynamic_ranges_are_not_for_tensorrt(kit: ModuleType, tmp_path: Path) -> None:
    made = make(tmp_path, kit.chain(2), kit.feeds(), pipeline="canonicalize,quantize")
    refused = {r.code for r in made.result.remarks if r.pass_name == "quantize"}
    assert refused == {"no-dynamic-kernel"}


def test_operators_that_the_rules_refuse_are_named_with_the_way_out(
    kit: ModuleType, tmp_path: Path
) -> None:
    body = "b = BitwiseAnd(k, k) f = Cast<to=1>(b) y = Add(x, f)"
    model = kit.graph(body, {}, "float[n, 8] x, int64[n, 8] k", "float[n, 8] y")
    data = [{"x": normal(4, 8), "k": np.ones((4, 8), np.int64)}]
    with pytest.raises(TargetError, match="BitwiseAnd") as caught:
        make(tmp_path, model, data)
    assert "planish targets check" in caught.value.hint
    assert "node" in caught.value.where
    assert not (tmp_path / "out").exists()


def test_what_tensorrt_computes_in_float32_only_stays_float32(
    kit: ModuleType, tmp_path: Path
) -> None:
    """ONNX has the operator in float16, TensorRT's table has not."""
    tensors = {"step": np.array(16), "window": np.hanning(32).astype(np.float32)}
    body = "r = Relu(x) s = STFT<onesided=1>(r, step, window) y = Abs(s)"
    model = kit.graph(body, tensors, "float[2, 64, 1] x", "float[2, 3, 17, 2] y")
    data = [{"x": normal(2, 64, 1, seed=i)} for i in range(4)]
    made = make(tmp_path, model, data, pipeline="canonicalize")
    (edit,) = [e for e in made.result.edits if e.pass_name == "tensorrt"]
    assert edit.details == {"float32 nodes (type)": 1}
    nodes = {n.op_type: n for n in onnx.load(made.folder / "model.onnx").graph.node}
    casts = [n.op_type for n in onnx.load(made.folder / "model.onnx").graph.node]
    assert casts.count("Cast") >= 2
    assert "STFT" in nodes
