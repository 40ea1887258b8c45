"""Which inputs are attention masks: by what the graph does with them, not by their names."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import onnx_ir as ir
import pytest

from planish.ir.finding.masks import candidates, mask_inputs
from planish.ir.load import load_model

ATTENTION = """
    t = Transpose <perm = [0, 2, 1]> (x)
    scores = MatMul (x, t)
    one = Constant <value_float = 1.0> ()
    low = Constant <value_float = -10000.0> ()
    zero = Constant <value_float = 0.0> ()
    axis = Constant <value_ints = [1]> ()
    m = Cast <to = 1> (mask)
    row = Unsqueeze (m, axis)
    yes = Cast <to = 9> (row)
    no = Not (yes)
"""
ADDED = "inverse = Sub (one, row)\n bias = Mul (inverse, low)\n masked = Add (scores, bias)\n"
CLOSED = "p = Softmax <axis = -1> (masked)\n y = MatMul (p, x)\n"


def model(
    body: str, *, mask: str = "int64[b, s] mask", outputs: str = "float[b, s, 4] y", opset: int = 23
) -> ir.Model:
    """A graph over activations x [b, s, 4] and an input called mask."""
    header = f'<ir_version: 10, opset_import: ["": {opset}, "com.microsoft": 1]>'
    return ir.from_onnx_text(f"{header} g (float[b, s, 4] x, {mask}) => ({outputs}) {{ {body} }}")


@pytest.mark.parametrize(
    "masking",
    [
        ADDED,
        "masked = Where (yes, scores, low)",
        "masked = Where (no, low, scores)",
        "bias = Where (yes, zero, low)\n s2 = Mul (scores, one)\n masked = Add (bias, s2)",
        # the oldest form: w * m - 10000 * (1 - m)
        "a = Mul (scores, row)\n i = Sub (one, row)\n b = Mul (low, i)\n masked = Sub (a, b)",
        # joined with a causal mask made of constants and shapes
        """n = Shape <start = 1> (mask)
        full = ConstantOfShape (n)
        causal = Trilu <upper = 0> (full)
        c = Cast <to = 9> (causal)
        both = And (c, yes)
        bias = Where (both, zero, low)
        capped = Max (scores, low)
        masked = Add (capped, bias)""",
        # chosen by what another input holds
        """bias = Where (yes, zero, low)
        most = ReduceMax (x)
        large = Greater (most, one)
        chosen = Where (large, bias, zero)
        masked = Add (scores, chosen)""",
    ],
)
def test_a_mask_on_the_scores(masking: str) -> None:
    assert mask_inputs(model(ATTENTION + masking + "\n" + CLOSED)) == ["mask"]


@pytest.mark.parametrize("dtype", ["int32", "int8", "uint8", "bool"])
def test_any_integer_or_boolean_may_be_a_mask(dtype: str) -> None:
    built = model(ATTENTION + ADDED + CLOSED, mask=f"{dtype}[batch, 128] mask")
    assert mask_inputs(built) == ["mask"]


@pytest.mark.parametrize(
    "mask", ["float[b, s] mask", "int64[b] mask", "int64[b, 1, s] mask", "int64 mask"]
)
def test_other_inputs_are_not(mask: str) -> None:
    built = model(ATTENTION + ADDED + CLOSED, mask=mask)
    assert candidates(built) == []
    assert mask_inputs(built) == []


@pytest.mark.parametrize(
    "attention",
    [
        "y = Attention <q_num_heads = 1, kv_num_heads = 1> (x, x, x, yes)",
        "i = Cast <to = 6> (mask)\n y = com.microsoft.MultiHeadAttention <num_heads = 1> "
        "(x, x, x, , i)",
        "i = Cast <to = 6> (mask)\n y = com.microsoft.Attention <num_heads = 1> (x, w, v, i)",
        # joined with a bias that knows only the shape of another input
        """n = Shape <start = 1> (x)
        ramp = ConstantOfShape (n)
        bias = Where (yes, zero, low)
        both = Add (bias, ramp)
        y = Attention <q_num_heads = 1, kv_num_heads = 1> (x, x, x, both)""",
    ],
)
def test_the_mask_of_an_attention_operator(attention: str) -> None:
    weights = "w = Constant <value_floats = [0.0]> ()\n v = Constant <value_floats = [0.0]> ()\n"
    assert mask_inputs(model(ATTENTION + weights + attention)) == ["mask"]


@pytest.mark.parametrize(
    "attention",
    [
        "y = Attention <q_num_heads = 1, kv_num_heads = 1> (x, x, f)",
        "y = com.microsoft.MultiHeadAttention <num_heads = 1> (x, f, x)",
    ],
)
def test_an_input_that_is_attended_to_is_no_mask(attention: str) -> None:
    last = "two = Constant <value_ints = [2]> ()\n f = Unsqueeze (m, two)\n"
    assert mask_inputs(model(ATTENTION + last + attention)) == []


@pytest.mark.parametrize(
    "pooling",
    [
        # masked mean over the real tokens
        """two = Constant <value_ints = [2]> ()
        w = Unsqueeze (m, two)
        held = Mul (y, w)
        total = ReduceSum (held, axis)
        count = ReduceSum (w, axis)
        safe = Max (count, one)
        mean = Div (total, safe)""",
        # padding zeroed
        """two = Constant <value_ints = [2]> ()
        w = Unsqueeze (mask, two)
        on = Cast <to = 9> (w)
        mean = Where (on, y, zero)""",
        # the probabilities masked again after the softmax
        "q = Where (yes, p, zero)\n mean = MatMul (q, x)",
        "size = Shape (mask)\n mean = ConstantOfShape (size)",
    ],
)
def test_a_mask_may_also_gate_activations(pooling: str) -> None:
    built = model(ATTENTION + ADDED + CLOSED + pooling, outputs="float[b, s, 4] y, float[n] mean")
    assert mask_inputs(built) == ["mask"]


@pytest.mark.parametrize(
    "use",
    [
        "table = Constant <value_floats = [0.5, 1.5]> ()\n z = Gather (table, mask)",
        "z = MatMul (m, w)\n w = Identity (m)",
        "i = Cast <to = 7> (row)\n z = GatherElements (scores, i)",
        "z = Add (x, row)",
        "z = Concat <axis = 1> (x, row)",
        "sum = Constant <value_int = 1> ()\n z = CumSum (mask, sum)",
        "z = com.microsoft.Unheard (mask)",
        "z = Identity (mask)",
        "z = Reshape (x, mask)",
        """most = ReduceMax (x)
        large = Greater (most, one)
        chosen = Where (large, row, zero)
        z = MatMul (chosen, x)""",
    ],
)
def test_one_other_use_is_enough_to_refuse(use: str) -> None:
    lines = use.split("\n")
    body = "\n".join(reversed(lines)) if "w = Identity" in use else use
    built = model(ATTENTION + ADDED + CLOSED + body, outputs="float[b, s, 4] y, float[n] z")
    assert mask_inputs(built) == []


def test_a_mask_that_never_masks_is_none() -> None:
    gates = "two = Constant <value_ints = [2]> ()\n w = Unsqueeze (m, two)\n y = Mul (x, w)"
    assert mask_inputs(model(ATTENTION + gates)) == []
    assert mask_inputs(model("y = Identity (x)")) == []


def test_a_softmax_behind_a_matrix_product_is_not_the_masks() -> None:
    body = "two = Constant <value_ints = [2]> ()\n w = Unsqueeze (m, two)\n g = Mul (x, w)"
    classes = "k = MatMul (g, t)\n y = Softmax (k)"
    assert mask_inputs(model(f"{ATTENTION}{body}\n{classes}")) == []


def test_a_use_inside_a_nested_graph_is_not_followed() -> None:
    branch = """
        c = Constant <value = bool {1}> ()
        z = If (c) <
            then_branch = a () => (float[b, s] u) { u = Identity (m) },
            else_branch = e () => (float[b, s] v) { v = Neg (m) }>
    """
    built = model(ATTENTION + ADDED + CLOSED + branch, outputs="float[b, s, 4] y, float[b, s] z")
    assert mask_inputs(built) == []


def test_an_overridable_initializer_is_no_input() -> None:
    built = model(ATTENTION + ADDED + CLOSED, mask="int64[1, 3] mask")
    value = built.graph.inputs[1]
    value.const_value = ir.tensor([[1, 1, 0]], name="mask")
    built.graph.register_initializer(value)
    assert mask_inputs(built) == []


# -- real models --------------------------------------------------------------------------


@pytest.mark.torch
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("opset", [17, 20, 23])
def test_minilm(tasks: ModuleType, workdir: Path, opset: int, attention: str) -> None:
    path = tasks.export_minilm(workdir, opset, attention)
    built = load_model(path).model
    assert [v.name for v in candidates(built)] == ["input_ids", "attention_mask"]
    assert mask_inputs(built) == ["attention_mask"]


@pytest.mark.parametrize(
    ("file", "mask"),
    [
        ("onnx_structural/contrib_transformers/bert_toy_optimized.onnx", ["input_mask"]),
        ("onnx_structural/genai/tiny_gpt2_fp16_past.onnx", ["attention_mask"]),
        ("magika/standard_v3_3/model.onnx", []),
    ],
)
def test_other_exporters(data: Path, file: str, mask: list[str]) -> None:
    assert mask_inputs(ir.load(data / file)) == mask
