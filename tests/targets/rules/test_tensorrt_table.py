"""The table of TensorRT's operators: whole, and each of its limits caught and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from planish.ir.load import load_as_written
from planish.targets.loader import load_target
from planish.targets.rules.rule import Violation
from planish.targets.rules.table import TENSORRT, check_model
from planish.targets.tensorrt.table import DOMAIN, FILE, Limit, parsed, table, version

I64 = np.int64
AXES, TWO = np.array([1], np.int64), np.array([0, 1], np.float32)
REDUCTIONS = tuple(
    f"Reduce{n}" for n in "L1 L2 LogSum LogSumExp Max Mean Min Prod Sum SumSquare".split()
)
QKV = ("f2,4,8,16",) * 3

Args = tuple[tuple[Any, ...], dict[str, Any]]
Pair = tuple[Args, Args]


def args(*inputs: Any, **more: Any) -> Args:
    return inputs, more


def attention(*more: Any, **attributes: Any) -> Args:
    return args(*QKV, *more, opset=24, **attributes)


def with_rank(index: int) -> Pair:
    """Attention with one operand on three axes."""
    inputs: list[Any] = [*QKV, "f2,4,8,8"]
    return attention_of(inputs, index), attention_of(inputs, None)


def attention_of(inputs: list[Any], index: int | None) -> Args:
    given = [("f2,8,64" if i == index else text) for i, text in enumerate(inputs)]
    return args(*given, opset=24, q_num_heads=4, kv_num_heads=4)


def limited(base: tuple[Any, ...], name: str, broken: Any, kept: Any, **more: Any) -> Pair:
    """A pair that differs in an attribute."""
    return args(*base, **{name: broken}, **more), args(*base, **{name: kept}, **more)


IMAGE, ROW, SCALES = ("f1,8,6,6",), ("f4,8",), np.ones(4, np.float32)
RESIZE = ("f1,8,6,6", "", SCALES)
POOL: dict[str, Any] = {"kernel_shape": [2, 2]}
LSTM = ("f5,2,8", np.ones((1, 16, 8), np.float32), np.ones((1, 16, 4), np.float32))
CACHE = ("f2,4,16,8", "f2,4,1,8", "i2")
FP4 = ("f4,64", np.float32(1))
ONE = ("f4,8", np.float32(1))


def constant(tensor: str) -> Args:
    """A Constant of each kind."""
    kinds: dict[str, Any] = {
        "value_string": "a", "value_strings": ["a", "b"], "value_float": 1.0,
    }  # fmt: skip
    return args(**{tensor: kinds[tensor]})


CASES: dict[tuple[str, str], Pair] = {
    **{
        (op, "input 1 known"): (args("f4,8", "i1", opset=18), args("f4,8", AXES, opset=18))
        for op in REDUCTIONS
    },
    ("Squeeze", "input 1 known"): (args("f4,1", "i1"), args("f4,1", AXES)),
    ("Unsqueeze", "input 1 known"): (args("f4,1", "i1"), args("f4,1", AXES)),
    ("CumSum", "input 1 known"): (args("f4,8", "i"), args("f4,8", I64(1))),
    ("OneHot", "input 1 known"): (
        args("i4", "i", TWO), args("i4", I64(8), TWO),
    ),
    ("Dropout", "input 2 known"): (
        args("f4,8", np.float32(0.5), "b"), args("f4,8", np.float32(0.5), np.bool_(False)),
    ),
    ("Dropout", "input 2 below"): (
        args("f4,8", np.float32(0.5), np.bool_(True)),
        args("f4,8", np.float32(0.5), np.bool_(False)),
    ),
    ("STFT", "input 1 known"): (
        args("f1,64,1", "i", np.ones(16, np.float32)),
        args("f1,64,1", I64(8), np.ones(16, np.float32)),
    ),
    ("STFT", "input 2 known"): (
        args("f1,64,1", I64(8), "f16"), args("f1,64,1", I64(8), np.ones(16, np.float32)),
    ),
    ("TRT_FP4DynamicQuantize", "input 1 known"): (args("f4,64", "f"), args(*FP4)),
    ("TRT_FP4DynamicQuantize", "input 1 ranks"): (args("f4,64", TWO[:1]), args(*FP4)),
    **{("Attention", f"input {i} ranks"): with_rank(i) for i in range(4)},
    ("Attention", "input 4 absent"): (attention("", "f2,4,8,16"), attention()),
    ("Attention", "input 5 absent"): (attention("", "", "f2,4,8,16"), attention()),
    ("Attention", "input 6 absent"): (attention("", "", "", "i2"), attention()),
    ("Attention", "outputs"): (args(*QKV, opset=24, outputs=2), attention()),
    ("Attention", "softcap"): (attention(softcap=2.0), attention(softcap=0.0)),
    ("Attention", "qk_matmul_output_mode"): (
        attention(qk_matmul_output_mode=1), attention(qk_matmul_output_mode=0),
    ),
    ("Attention", "softmax_precision"): (attention(softmax_precision=1), attention()),
    **{
        (op, "input 0 ranks"): (args("f1,8,6", kernel_shape=[2]), args(*IMAGE, **POOL))
        for op in ("AveragePool", "MaxPool")
    },
    **{
        (op, "dilations"): limited(IMAGE, "dilations", [1, 2], [1, 1], **POOL)
        for op in ("AveragePool", "MaxPool", "LpPool")
    },
    ("MaxPool", "outputs"): (args(*IMAGE, outputs=2, **POOL), args(*IMAGE, **POOL)),
    ("LayerNormalization", "outputs"): (
        args("f4,8", np.ones(8, np.float32), outputs=2), args("f4,8", np.ones(8, np.float32)),
    ),
    ("BatchNormalization", "training_mode"): limited(
        ("f2,4,3,3", *[SCALES] * 4), "training_mode", 1, 0
    ),
    ("BatchNormalization", "outputs"): (
        args("f2,4,3,3", *[SCALES] * 4, outputs=3), args("f2,4,3,3", *[SCALES] * 4),
    ),
    ("LpNormalization", "p"): limited(ROW, "p", 3, 2),
    ("LpPool", "p"): limited(IMAGE, "p", 3, 2, **POOL),
    ("Einsum", "equation"): limited(("f2,3", "f3,4"), "equation", "iK,Kj->ij", "ik,kj->ij"),
    **{
        ("Constant", kind): (constant(kind), constant("value_float"))
        for kind in ("value_string", "value_strings")
    },
    ("DeformConv", "input 0 ranks"): (
        args("f1,2,5,5,5", np.ones((2, 2, 1, 1, 1), np.float32), "f1,3,5,5,5"),
        args("f1,2,5,5", np.ones((2, 2, 1, 1), np.float32), "f1,2,5,5"),
    ),
    ("GridSample", "input 0 ranks"): (
        args("f1,2,5,5,5", "f1,5,5,5,3"), args("f1,2,5,5", "f1,5,5,2"),
    ),
    ("LSTM", "input_forget"): limited(LSTM, "input_forget", 1, 0, hidden_size=4),
    ("LSTM", "layout"): limited(LSTM, "layout", 1, 0, hidden_size=4),
    ("Resize", "coordinate_transformation_mode"): limited(
        RESIZE, "coordinate_transformation_mode", "tf_crop_and_resize", "asymmetric"
    ),
    ("Resize", "mode"): limited(RESIZE, "mode", "cubic", "linear"),
    ("Resize", "nearest_mode"): limited(RESIZE, "nearest_mode", "simple", "floor"),
    ("Resize", "keep_aspect_ratio_policy"): limited(
        RESIZE, "keep_aspect_ratio_policy", "not_larger", "stretch"
    ),
    ("Resize", "antialias"): limited(RESIZE, "antialias", 1, 0),
    ("RotaryEmbedding", "input 3 types"): (
        args("f2,4,8,16", "f64,8", "f64,8", "n2,8", opset=23),
        args("f2,4,8,16", "f64,8", "f64,8", "i2,8", opset=23),
    ),
    ("ScatterND", "reduction"): limited(("f4,8", "i2,1", "f2,8"), "reduction", "add", "none"),
    ("TensorScatter", "input 0 ranks"): (
        args("f2,16,8", "f2,4,1,8", "i2", opset=24), args(*CACHE, opset=24),
    ),
    ("TensorScatter", "input 1 ranks"): (
        args("f2,4,16,8", "f2,1,8", "i2", opset=24), args(*CACHE, opset=24),
    ),
    ("TensorScatter", "axis"): limited(CACHE, "axis", 1, 2, opset=24),
    ("TopK", "sorted"): limited(("f4,8", np.array([2], np.int64)), "sorted", 0, 1),
    ("TopK", "input 1 below"): (
        args("f4,9000", np.array([3840], np.int64)), args("f4,9000", np.array([3839], np.int64)),
    ),
    **{
        (op, "opset"): (args(*ONE, opset=19), args(*ONE, opset=18))
        for op in ("TRT_FP8QuantizeLinear", "TRT_FP8DequantizeLinear")
    },
    **{
        (op, "opset"): (args(*ONE, opset=21), args(*ONE, opset=20))
        for op in ("TRT_INT4QuantizeLinear", "TRT_INT4DequantizeLinear")
    },
    ("TRT_FP4DynamicQuantize", "block_size"): limited(FP4, "block_size", 32, 16),
    ("TRT_FP4DynamicQuantize", "scale_type"): limited(FP4, "scale_type", 1, 17),
    ("TRT_MXFP8DynamicQuantize", "block_size"): limited(("f4,64",), "block_size", 16, 32),
    ("TRT_KVCacheUpdate", "input 0 ranks"): (
        args("f2,16,8", "f2,4,1,8", "n2"), args("f2,4,16,8", "f2,4,1,8", "n2"),
    ),
    ("TRT_KVCacheUpdate", "input 1 ranks"): (
        args("f2,4,16,8", "f2,8", "n2"), args("f2,4,16,8", "f2,4,1,8", "n2"),
    ),
    ("TRT_KVCacheUpdate", "input 2 types"): (
        args("f2,4,16,8", "f2,4,1,8", "i2"), args("f2,4,16,8", "f2,4,1,8", "n2"),
    ),
    ("TRT_Attention", "causal_kind"): limited(QKV, "causal_kind", "both", "none"),
}  # fmt: skip


def kind_of(limit: Limit) -> str:
    """What a limit is about, as the keys of ``CASES`` say it."""
    if limit.attribute:
        return limit.attribute
    if limit.input is not None:
        kinds: dict[str, Any] = {"known": limit.known, "ranks": limit.ranks, "types": limit.types}
        kinds |= {"below": limit.below, "absent": limit.absent}
        return f"input {limit.input} {next(kind for kind, value in kinds.items() if value)}"
    return "outputs" if limit.outputs is not None else "opset" if limit.opset_below else "by hand"


def every_limit() -> Iterator[tuple[str, str, str]]:
    for (domain, op), operator in table().operators.items():
        for limit in operator.limits:
            if not limit.by_hand:
                yield domain, op, kind_of(limit)


def said(form: Any, folder: Path) -> list[Violation]:
    """What TensorRT's rules say of a model on Blackwell, but for notes."""
    path = folder / "model.onnx"
    path.write_bytes(form.bytes())
    found = check_model(load_as_written(path), load_target("nvidia-b200"), rules=TENSORRT)
    return [violation for violation in found if violation.severity != "note"]


def of_limits(violations: list[Violation]) -> list[str]:
    kinds = ("trt-input-", "trt-attribute", "trt-operands-", "trt-operator-opset")
    return [v.value for v in violations if v.rule.startswith(kinds)]


@pytest.mark.parametrize(("domain", "op", "kind"), list(every_limit()))
def test_a_limit_is_caught_and_its_twin_passes(
    domain: str, op: str, kind: str, forms: Any, tmp_path: Path
) -> None:
    name = f"{domain}:{op}" if domain else op
    (broken, more), (kept, other) = CASES[op, kind]
    found = said(forms.single(name, *broken, **more), tmp_path)
    assert len(of_limits(found)) == 1, found
    assert not of_limits(said(forms.single(name, *kept, **other), tmp_path))


def test_every_case_is_of_a_limit() -> None:
    limits = [(op, kind) for _, op, kind in every_limit()]
    assert sorted(limits) == sorted(CASES)


def test_the_table_is_that_of_the_parser() -> None:
    found = table()
    assert (found.version, found.opsets, len(found.operators)) == ("11.1", (9, 24), 216)
    assert len([op for op in found.operators.values() if not op.supported]) == 41
    assert found.operators["", "Equal"].types == found.operators["", "Add"].types
    assert ir.DataType.BFLOAT16 not in found.operators["", "Mish"].types
    assert found.operators["", "Attention"].since == (10, 14)
    assert found.operators[DOMAIN, "TRT_MoE"].capability == (100, 119)
    assert FILE.stat().st_size < 30_000


def test_every_operator_is_one_that_onnx_or_tensorrt_has() -> None:
    known = {schema.name for schema in onnx.defs.get_all_schemas_with_history()}
    foreign = {op for domain, op in table().operators if not domain} - known
    assert foreign == {"ImageScaler", "ParametricSoftplus", "ScaledTanh"}  # of Caffe2's days
    assert all(op.startswith("TRT_") for domain, op in table().operators if domain)


WRONG: dict[str, Callable[[dict[str, Any]], None]] = {
    "KeyError": lambda raw: raw["limits"].append({"operators": ["Nothing"], "outputs": 1}),
    "TypeError": lambda raw: raw["limits"].append({"operators": ["Abs"], "inptu": 1}),
    "KeyError ": lambda raw: raw["operators"].update(Abs={"types": ["floaty"]}),
    "ValueError": lambda raw: raw["operators"].update(Abs={"since": "ten"}),
}


@pytest.mark.parametrize("error", WRONG)
def test_a_wrong_table_is_no_table(error: str) -> None:
    raw: dict[str, Any] = {
        "version": "1", "opsets": [9, 24], "sources": [], "types": {}, "trt": {}, "limits": [],
        "operators": {"Abs": {}},
    }  # fmt: skip
    assert list(parsed(raw).operators) == [("", "Abs")]
    WRONG[error](raw)
    with pytest.raises((KeyError, TypeError, ValueError)) as raised:
        parsed(raw)
    assert raised.type.__name__ == error.strip()


def test_versions_are_compared_as_numbers() -> None:
    assert version("10.15") > version("10.8") > version("10")
    assert version(None) > version("99.9.9")
