"""Rules of the CUDA provider: each with a model that breaks it alone and a twin that keeps it.

Nothing here runs the provider: the tests say that the checker applies its documented kernels as
they are written down, and that the operators written down exist.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from planish.ir.load import load_as_written
from planish.targets.loader import load_target, target_names
from planish.targets.rules import cuda
from planish.targets.rules.rule import Violation
from planish.targets.rules.table import CUDA, check_model

TARGET = "nvidia-onnxruntime-cuda"
HALF, BRAIN, FLOAT = TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.FLOAT


def model(
    body: str, ports: str, tensors: dict[str, np.ndarray] | None = None, opset: int = 21
) -> onnx.ModelProto:
    header = f'<ir_version: 10, opset_import: ["": {opset}, "com.microsoft": 1]>'
    made = onnx.parser.parse_model(f"{header} g {ports} {{ {body} }}")
    for name, array in (tensors or {}).items():
        made.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return made


def checked(proto: onnx.ModelProto, folder: Path, target: str = TARGET) -> list[Violation]:
    """What is found in a model; notes, on sizes say, are left out."""
    path = folder / "model.onnx"
    onnx.save(proto, path)
    found = check_model(load_as_written(path), load_target(target))
    return [violation for violation in found if violation.severity != "note"]


def lstm(activations: Iterable[str] = (), **attributes: Any) -> onnx.ModelProto:
    """An LSTM of 4 on rows of 3, or a GRU where linear_before_reset is given."""
    gru = "linear_before_reset" in attributes
    kind, gates = ("GRU", 3) if gru else ("LSTM", 4)
    if activations:
        attributes["activations"] = list(activations)
    inputs = ["x", "w", "r"]
    tensors = {"w": np.ones((1, gates * 4, 3), np.float32), "r": np.ones((1, gates * 4, 4), "f4")}
    if attributes.pop("peepholes", False):
        inputs += ["", "", "", "", "p"]
        tensors["p"] = np.ones((1, 12), np.float32)
    node = helper.make_node(kind, inputs, ["y"], name="layer", hidden_size=4, **attributes)
    graph = helper.make_graph(
        [node], "g",
        [helper.make_tensor_value_info("x", FLOAT, [2, 5, 3])],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        [onnx.numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


FLOATS = "(float[2, 4] x) => (float[2, 4] y)"
CODES = {"a": np.ones((4, 4), np.int8), "s": np.ones((), "f4"), "z": np.zeros((), np.uint8)}
QLINEAR = model(
    "q = QuantizeLinear(x, s, z) c = QLinearMatMul(q, s, z, a, s, w, s, z) "
    "y = DequantizeLinear(c, s, z)",
    FLOATS, CODES | {"w": np.zeros((), np.int8)},
)  # fmt: skip
PRODUCT = model("y = MatMul(x, a)", FLOATS, {"a": np.ones((4, 4), np.float32)})
INTEGERS = "(int8[2, 4] x) => (int32[2, 4] y)"
CASES = {
    "cuda-integer-operator": (
        (QLINEAR, PRODUCT),
        (
            model("y = MatMulInteger(x, a)", INTEGERS.replace("int8[", "uint8["), CODES),
            model("y = MatMulInteger(x, a)", INTEGERS, CODES),
        ),
    ),
    "cuda-no-kernel": (
        (model("y = Tan(x)", FLOATS), model("y = Sin(x)", FLOATS)),
        (model("y = LpNormalization(x)", FLOATS), model("y = Mish(x)", FLOATS)),  # written out
        (model('y = com.microsoft.CDist<metric="euclidean">(x, x)', FLOATS.replace("4] y", "2] y")),
         model("y = com.microsoft.QuickGelu(x)", FLOATS)),
    ),
    "cuda-float-kernel": (
        (model("y = Pad(x, p)", "(bfloat16[2] x) => (bfloat16[4] y)", {"p": np.array([1, 1])}),
         model("y = Pad(x, p)", "(float16[2] x) => (float16[4] y)", {"p": np.array([1, 1])})),
        (model("y = Conv(x, x)", "(bfloat16[1,1,4,4] x) => (bfloat16[1,1,1,1] y)"),
         model("y = Conv(x, x)", "(bfloat16[1,1,4,4] x) => (bfloat16[1,1,1,1] y)", opset=22)),
        (model("y = GridSample(x, x)", "(float16[1,2,2,2] x) => (float16[1,2,2,2] y)"),
         model("y = GridSample(x, x)", "(float[1,2,2,2] x) => (float[1,2,2,2] y)")),
    ),
    "cuda-recurrent": (
        (lstm(["Sigmoid", "Relu", "Tanh"]), lstm(["Sigmoid", "Tanh", "Tanh"])),
        (lstm(clip=3.0), lstm()),
        (lstm(input_forget=1), lstm(input_forget=0)),
        (lstm(peepholes=True), lstm()),
        (lstm(linear_before_reset=0), lstm(linear_before_reset=1)),
    ),
}  # fmt: skip
PAIRS = [(rule, *pair) for rule, pairs in CASES.items() for pair in pairs]


@pytest.mark.parametrize(("rule", "broken", "kept"), PAIRS)
def test_a_model_that_breaks_it_alone_and_a_twin_that_keeps_it(
    rule: str, broken: onnx.ModelProto, kept: onnx.ModelProto, tmp_path: Path
) -> None:
    found = checked(broken, tmp_path)
    assert {v.rule for v in found} == {rule}
    assert {v.severity for v in found} == {"slow"}
    assert checked(kept, tmp_path) == []
    assert not [v for v in checked(broken, tmp_path, "nvidia-a100") if v.rule == rule]


def test_every_rule_has_a_case() -> None:
    assert {rule.id for rule in CUDA} == CASES.keys()


def test_8_bits_behind_pairs_are_told_for_this_provider(tmp_path: Path) -> None:
    body = """
      q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z)
      w = DequantizeLinear(a, s) y = MatMul(d, w)
    """
    found = checked(model(body, FLOATS, CODES), tmp_path)
    assert [v.rule for v in found] == ["no-integer-products"]


@pytest.mark.parametrize("name", target_names())
def test_other_targets_are_not_asked(name: str) -> None:
    target = load_target(name)
    asked = {rule.id for rule in CUDA if not rule.excused(target)}
    assert bool(asked) is (target.runtime.provider == "CUDAExecutionProvider")


def test_the_operators_that_are_written_down_exist() -> None:
    known = {s.name for s in onnx.defs.get_all_schemas_with_history() if not s.domain}
    own = {k.op_name for k in ort.capi._pybind_state.get_all_opkernel_def()}
    listed = set[str]()
    for names in (cuda._IN_ALL, cuda._NO_BRAIN, cuda._FLOAT_ONLY, cuda._HALF_ONLY, cuda._NO_FLOATS):
        assert not listed & names
        listed |= names
    assert not listed & cuda.INTEGER_OPERATORS
    standard = {name for name in listed | cuda.INTEGER_OPERATORS if ":" not in name}
    assert standard - known <= {"SimplifiedLayerNormalization"}
    assert standard - known <= own
    assert all(re.fullmatch(r"com\.microsoft:\w+", name) for name in listed - standard)


@pytest.mark.parametrize(
    ("kind", "opset", "wanted"),
    [("MatMul", 13, 3), ("Conv", 13, 2), ("Conv", 22, 3), ("IsInf", 13, 1), ("GridSample", 22, 1),
     ("com.microsoft:GroupQueryAttention", 21, 2), ("And", 21, 0), ("Tan", 21, None)],
)  # fmt: skip
def test_how_many_floats_an_operator_is_computed_in(kind: str, opset: int, wanted: Any) -> None:
    found = cuda.float_types(kind, opset)
    assert (None if found is None else len(found)) == wanted
