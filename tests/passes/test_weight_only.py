from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from planish.compiler.calibration.observers import Masking
from planish.compiler.pipeline import parse
from planish.compiler.workshop import instantiate
from planish.ir.digest import contents_digest
from planish.ir.errors import PassError, UsageError
from planish.ir.facts import FLOAT, QUANTIZED
from planish.ir.graph import constant_array, operator
from planish.ir.load import load_model
from planish.ir.save import save_model
from planish.ir.sites import find_sites
from planish.passes.api import CALIBRATED, GRAMS

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(11)


def array(*shape: int) -> Array:
    return RNG.normal(size=shape).astype(np.float32)


def head(inputs: str, outputs: str, opset: int = 20) -> str:
    return f'<ir_version: 10, opset_import: ["" : {opset}]>\ng ({inputs}) => ({outputs})\n'


LAYER = head("float[n, 64] x", "float[n, 48] y") + "{ a = MatMul(x, w) b = Add(a, c) y = Relu(b) }"
W, C = array(64, 48), array(48)
FEEDS = [{"x": array(100, 64)} for _ in range(2)]
TABLE = head("int64[n, s] ids", "float[n, s, 64] y") + "{ y = Gather(t, ids) }"
T = array(100, 64) / 8
IDS = [{"ids": RNG.integers(0, 100, (3, 9))}]
TIED = head("int64[n, s] ids", "float[n, s, 100] y") + (
    "{ e = Gather(t, ids) h = Tanh(e) [head] y = MatMul(h, u) }"
)


def bench(graphs: ModuleType, text: str, feeds: Any = None, **given: Any) -> Any:
    settings = {k: given.pop(k) for k in ("target", "calibrated", "masking") if k in given}
    return graphs.Bench(graphs.parse(text, **given), feeds or FEEDS, **settings)


def layer(graphs: ModuleType, **settings: Any) -> Any:
    return bench(graphs, LAYER, w=W, c=C, **settings)


def unpacked(data: Array, bits: int) -> Array:
    """Codes out of bytes, the first in the lowest bits: [rows, bytes] -> [rows, codes]."""
    rows = data.reshape(len(data), -1)
    found = [[(byte >> shift) & (2**bits - 1) for byte in row for shift in range(0, 8, bits)]
             for row in rows.tolist()]  # fmt: skip
    return np.array(found, np.float64)


def read(model: ir.Model, name: str, bits: int, block: int, inputs: int) -> Array:
    """The weight [inputs, outputs] that the bytes of an emitted model mean, in float64."""
    held = model.graph.initializers
    data, scale = (constant_array(held[f"{name}.weight_{part}"]) for part in ("packed", "scale"))
    assert data is not None
    assert scale is not None
    codes = unpacked(data, bits)[:, :inputs]
    blocks = scale.shape[1]
    zeros = np.full(scale.shape, 2.0 ** (bits - 1))
    if f"{name}.weight_zero_point" in held:
        stored = constant_array(held[f"{name}.weight_zero_point"])
        assert stored is not None
        zeros = unpacked(stored, bits)[:, :blocks]
    steps = np.repeat(scale.astype(np.float64), block, axis=1)[:, :inputs]
    return np.asarray(((codes - np.repeat(zeros, block, axis=1)[:, :inputs]) * steps).T)


def relative(got: Array, expected: Array) -> float:
    return float(((got - expected) ** 2).sum() / (expected.astype(np.float64) ** 2).sum())


# -- linear layers -----------------------------------------------------------------------


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("bits", "worst"), [(8, 1e-4), (4, 0.01), (2, 0.2)])
def test_a_layer_becomes_a_product_with_packed_weights(
    graphs: ModuleType, bits: int, worst: float, symmetric: bool
) -> None:
    made = layer(graphs)
    (edit,) = made.run("weight-only", bits=bits, symmetric=symmetric).edits
    zeros = "" if symmetric else ", linear1.weight_zero_point"
    assert graphs.lines(made.model) == [
        f"a = MatMulNBits(x, linear1.weight_packed, linear1.weight_scale{zeros})",
        "b = Add(a, c)",
        "y = Relu(b)",
    ]
    node = made.model.graph[0]
    settings = {name: attr.value for name, attr in node.attributes.items()}
    assert settings == {"K": 64, "N": 48, "bits": bits, "block_size": 32, "accuracy_level": 4}
    assert made.model.opset_imports["com.microsoft"] == 1
    meant = read(made.model, "linear1", bits, 32, 64)
    assert 0 < relative(meant, W) < worst
    x = FEEDS[0]["x"]
    expected = np.maximum(x.astype(np.float64) @ meant + C, 0)
    np.testing.assert_allclose(made.outputs({"x": x})["y"], expected, rtol=0, atol=1e-4)
    packed = made.outputs({"x": x}, "all")["y"]
    assert 0 < relative(packed, expected) < 1e-3  # int8 activations
    few = x[:16].astype(np.float64)
    assert edit.loss == pytest.approx(relative(few @ meant + C, few @ W + C), rel=1e-3)
    assert edit.runtime_loss == pytest.approx(relative(packed, expected), rel=1)
    after = sum(v.const_value.nbytes for v in made.model.graph.initializers.values())
    assert edit.saving == W.nbytes + C.nbytes - after


def test_an_accuracy_level_that_computes_in_float_adds_nothing(graphs: ModuleType) -> None:
    made = layer(graphs)
    (edit,) = made.run("weight-only", accuracy_level=1).edits
    assert made.model.graph[0].attributes["accuracy_level"].value == 1
    assert edit.runtime_loss is None
    x = FEEDS[0]
    np.testing.assert_allclose(made.outputs(x, "all")["y"], made.outputs(x)["y"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize(("width", "block"), [(172, 32), (40, 16), (80, 64), (100, 128)])
def test_inputs_need_not_fill_their_last_block(
    graphs: ModuleType, bits: int, width: int, block: int
) -> None:
    text = head(f"float[n, {width}] x", "float[n, 30] y") + "{ y = MatMul(x, w) }"
    x = array(60, width)
    made = bench(graphs, text, [{"x": x}], w=array(width, 30))
    assert len(made.run("weight-only", bits=bits, block=block).edits) == 1
    meant = read(made.model, "linear1", bits, block, width)
    got = made.outputs({"x": x})["y"]
    np.testing.assert_allclose(got, x @ meant, rtol=0, atol=1e-4 * np.abs(got).max())


@pytest.mark.parametrize("turned", [0, 1])
def test_a_gemm_keeps_its_bias_in_an_add(graphs: ModuleType, turned: int) -> None:
    text = head("float[n, 64] x", "float[n, 48] y") + (
        f"{{ y = Gemm <transB = {turned}> (x, w, c) }}"
    )
    made = bench(graphs, text, w=W.T.copy() if turned else W, c=C)
    made.run("weight-only")
    assert graphs.ops(made.model) == ["MatMulNBits", "Add"]
    x = FEEDS[0]["x"]
    expected = x @ read(made.model, "linear1", 4, 32, 64) + C
    np.testing.assert_allclose(made.outputs({"x": x})["y"], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("shape", ["64", "n, 2, s, 64"])
def test_activations_have_any_number_of_axes(graphs: ModuleType, shape: str) -> None:
    text = head(f"float[{shape}] x", "float y") + "{ a = MatMul(x, w) y = ReduceSum(a) }"
    x = array(64) if shape == "64" else array(3, 2, 5, 64)
    made = bench(graphs, text, [{"x": x}], w=W)
    assert len(made.run("weight-only").edits) == 1
    expected = (x @ read(made.model, "linear1", 4, 32, 64)).sum()
    assert made.outputs({"x": x})["y"] == pytest.approx(expected, rel=1e-4, abs=1e-3)


# -- how codes are chosen ------------------------------------------------------------------


def test_calibration_data_makes_the_outputs_better_not_the_weights(graphs: ModuleType) -> None:
    """Correlated inputs: GPTQ trades errors of the weights for smaller ones of the outputs."""
    x = (array(400, 8) @ array(8, 64) + 0.2 * array(400, 64)).astype(np.float32)
    found = {}
    for method in ("gptq", "round", "hqq"):
        made = bench(graphs, LAYER, [{"x": x}], w=W, c=C)
        made.run("weight-only", method=method, bits=2)
        meant = read(made.model, "linear1", 2, 32, 64)
        found[method] = relative(x @ meant, x @ W), relative(meant, W)
    assert found["gptq"][0] < 0.5 * min(found["round"][0], found["hqq"][0])
    assert found["gptq"][1] > found["hqq"][1]


@pytest.mark.parametrize(
    ("rows", "calibrated", "method"),
    [(200, True, "gptq"), (100, True, "round"), (200, False, "round")],
)
def test_the_method_is_what_the_data_allows(
    graphs: ModuleType, rows: int, calibrated: bool, method: str
) -> None:
    """128 rows are two for each input."""
    scale = np.linspace(0.1, 3, 64, dtype=np.float32)
    feeds = [{"x": array(rows // 2, 64) * scale} for _ in range(2)]
    automatic = bench(graphs, LAYER, feeds, w=W, c=C, calibrated=calibrated)
    automatic.run("weight-only")
    asked = bench(graphs, LAYER, feeds, w=W, c=C, calibrated=calibrated)
    asked.run("weight-only", method=method)
    assert contents_digest(automatic.model) == contents_digest(asked.model)


def test_rounding_minds_the_energy_of_inputs(graphs: ModuleType) -> None:
    scale = np.repeat([3.0, 0.1], 32)[RNG.permutation(64)].astype(np.float32)
    x = (array(300, 64) * scale).astype(np.float32)
    losses = []
    for calibrated in (True, False):
        made = bench(graphs, LAYER, [{"x": x}], w=W, c=C, calibrated=calibrated)
        made.run("weight-only", method="round", bits=2)
        losses.append(relative(x @ read(made.model, "linear1", 2, 32, 64), x @ W))
    assert losses[0] < 0.95 * losses[1]


def test_gram_matrices_are_sums_over_real_tokens(graphs: ModuleType) -> None:
    text = head("float[n, s, 8] x, int64[n, s] mask", "float[n, s, 8] y") + "{ y = Tanh(x) }"
    mask = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0]])
    feeds = [{"x": array(n, 4, 8), "mask": mask[:n]} for n in (3, 1)]
    made = bench(graphs, text, feeds, masking=Masking("mask", ("n", "s")))
    grams = made.context.analysis(GRAMS, (("x", 2), ("y", 2)))
    rows = np.concatenate([f["x"][f["mask"] > 0] for f in feeds]).astype(np.float64)
    for name, kept in (("x", rows), ("y", np.tanh(rows))):
        gram = grams[name, 2]
        assert gram.count == len(kept) == 8
        np.testing.assert_allclose(gram.matrix, kept.T @ kept, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(gram.mean, kept.mean(axis=0), rtol=1e-5, atol=1e-6)


def test_names_of_sums_do_not_meet_those_of_values(graphs: ModuleType) -> None:
    text = head("float[n, 64] x", "float[n, 48] y") + '{ h = Tanh(x) "h/total" = Abs(h) '
    text += '"h/gram" = Add("h/total", h) y = MatMul("h/gram", w) }'
    grams = bench(graphs, text, w=W).context.analysis(GRAMS, (("h", 1), ("h/gram", 1)))
    rows = np.tanh(np.concatenate([f["x"] for f in FEEDS]).astype(np.float64))
    np.testing.assert_allclose(grams["h", 1].matrix, rows.T @ rows, rtol=1e-5, atol=1e-4)


def test_squares_beyond_float32_cost_the_sums_not_the_pass(graphs: ModuleType) -> None:
    feeds = [{"x": FEEDS[0]["x"] * np.where(np.arange(64) == 3, 3e19, 1).astype(np.float32)}]
    wide = bench(graphs, LAYER, feeds, w=W, c=C)
    assert wide.context.analysis(GRAMS, (("x", 1),)).get(("x", 1)) is None
    assert len(wide.run("weight-only").edits) == 1


# -- tables and what is tied to them ---------------------------------------------------------


@pytest.mark.parametrize("indices", ["int64", "int32"])
@pytest.mark.parametrize("bits", [8, 4, 2])
def test_rows_of_a_table_are_widened_when_they_are_looked_up(
    graphs: ModuleType, bits: int, indices: str
) -> None:
    made = bench(
        graphs, TABLE.replace("int64", indices), [{"ids": IDS[0]["ids"].astype(indices)}], t=T
    )
    (edit,) = made.run("weight-only", bits=bits).edits
    assert graphs.ops(made.model) == ["GatherBlockQuantized", "Cast"]
    assert made.model.graph.initializers["embedding1.weight_scale"].dtype == ir.DataType.FLOAT16
    ids = np.array([[0, 99, -1], [5, 5, -100]], indices)
    meant = read(made.model, "embedding1", bits, 32, 64).T
    assert 0 < relative(meant, T) < 0.2
    for optimize in ("none", "all"):
        got = made.outputs({"ids": ids}, optimize)["y"]
        np.testing.assert_allclose(got, meant[ids], rtol=5e-4, atol=1e-7)  # in float16
    assert edit.loss == pytest.approx(relative(meant[IDS[0]["ids"]], T[IDS[0]["ids"]]), rel=1e-2)


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_half_precision_stays_half_precision(graphs: ModuleType, bits: int) -> None:
    text = head("int64[n, s] ids", "float16[n, s, 48] y") + (
        "{ e = Gather(t, ids) a = MatMul(e, w) y = Add(a, c) }"
    )
    tensors = {name: a.astype(np.float16) for name, a in (("t", T), ("w", W / 8), ("c", C))}
    ids = RNG.integers(0, 100, (20, 10))
    made = bench(graphs, text, [{"ids": ids}], **tensors)
    assert len(made.run("weight-only", bits=bits).edits) == 2
    assert graphs.ops(made.model) == ["GatherBlockQuantized", "MatMulNBits", "Add"]
    table = read(made.model, "embedding1", bits, 32, 64).T
    meant = read(made.model, "linear1", bits, 32, 64)
    expected = table[ids] @ meant + tensors["c"]
    assert relative(made.outputs({"ids": ids})["y"], expected) < 1e-6
    packed = made.outputs({"ids": ids}, "all")["y"]
    assert packed.dtype == np.float16
    assert relative(packed, expected) < 1e-3


def test_scales_beyond_float16_stay_in_float32(graphs: ModuleType) -> None:
    made = bench(graphs, TABLE, IDS, t=T * np.float32(1e-6))
    made.run("weight-only")
    assert graphs.ops(made.model) == ["GatherBlockQuantized"]
    meant = read(made.model, "embedding1", 4, 32, 64).T
    np.testing.assert_allclose(made.outputs(IDS[0])["y"], meant[IDS[0]["ids"]], rtol=1e-5)


@pytest.mark.parametrize("width", [48, 64])
def test_a_table_may_be_stored_transposed(graphs: ModuleType, width: int) -> None:
    """Also where it is square, so that no shape tells rows from columns."""
    text = head("int64[n, s] ids", f"float[n, s, {width}] y") + (
        "{ rows = Transpose(t) y = Gather(rows, ids) }"
    )
    table = T[:64, :width] if width <= T.shape[1] else np.pad(T, ((0, 0), (0, 16)))[:64]
    ids = RNG.integers(0, 64, (20, 10))
    made = bench(graphs, text, [{"ids": ids}], t=np.ascontiguousarray(table.T))
    assert len(made.run("weight-only").edits) == 1
    meant = read(made.model, "embedding1", 4, 32, width).T
    assert relative(made.outputs({"ids": ids})["y"], meant[ids]) < 1e-6
    assert relative(meant, table) < 0.02


def test_a_table_behind_which_a_normalisation_is_spelled_out_opens_optimised(
    graphs: ModuleType,
) -> None:
    """ONNX Runtime fuses that with a Cast in front of it into what it then refuses."""
    text = (
        head("int64[n, s] ids", "float[n, s, 48] y")
        + """{
        e = Gather(t, ids)
        last = Constant<value_ints = [-1]>() two = Constant<value_float = 2.0>()
        tiny = Constant<value_float = 1e-5>()
        mean = ReduceMean(e, last) less = Sub(e, mean) square = Pow(less, two)
        spread = ReduceMean(square, last) more = Add(spread, tiny) root = Sqrt(more)
        ratio = Div(less, root) scaled = Mul(ratio, g) y = Add(scaled, h)
    }"""
    )
    given = {"t": T[:, :48], "g": np.ones(48, np.float32), "h": np.zeros(48, np.float32)}
    ids = RNG.integers(0, 64, (20, 10))
    made = bench(graphs, text, [{"ids": ids}], **given)
    assert len(made.run("weight-only").edits) == 1
    plain, optimized = (made.outputs({"ids": ids}, o)["y"] for o in ("none", "all"))
    assert relative(optimized, plain) < 1e-5


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("form", ["transpose", "gemm", "copy"])
def test_an_embedding_and_its_head_keep_one_packed_table(
    graphs: ModuleType, form: str, bits: int
) -> None:
    """Also where the exporter stored the table a second time, transposed."""
    text, tensors = TIED, {"t": T}
    if form == "transpose":
        text = text.replace("[head]", "u = Transpose <perm = [1, 0]> (t) [head]")
    elif form == "gemm":
        text = head("int64[s] ids", "float[s, 100] y") + (
            "{ e = Gather(t, ids) h = Tanh(e) [head] y = Gemm <transB = 1> (h, t) }"
        )
    else:
        tensors["u"] = T.T.copy()
    ids = RNG.integers(0, 100, 60) if form == "gemm" else RNG.integers(0, 100, (3, 20))
    made = bench(graphs, text, [{"ids": ids}], **tensors)
    (edit,) = made.run("weight-only", bits=bits).edits
    assert list(made.refusals().values()) == ["tied"]
    assert graphs.ops(made.model) == ["Reshape", "GatherBlockQuantized", "Tanh", "MatMulNBits"]
    held = made.model.graph.initializers
    assert (
        sum(v.dtype == ir.DataType.UINT8 and v.const_value.size > 200 for v in held.values()) == 1
    )
    meant = read(made.model, edit.site, bits, 32, 64)
    expected = np.tanh(meant.T[ids]) @ meant
    got = made.outputs({"ids": ids})["y"]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    assert relative(made.outputs({"ids": ids}, "all")["y"], expected) < 1e-3


def test_a_table_whose_head_is_another_is_no_copy(graphs: ModuleType) -> None:
    made = bench(graphs, TIED, [{"ids": IDS[0]["ids"]}], t=T, u=(T.T * 2).copy())
    assert len(made.run("weight-only").edits) == 2


def test_a_weight_that_is_used_twice_is_packed_once(graphs: ModuleType) -> None:
    text = head("float[n, 64] x", "float[n, 64] y") + (
        "{ a = MatMul(x, w) b = MatMul(a, w) c = Tanh(b) d = MatMul(c, w) y = Add(d, e) }"
    )
    x = array(200, 64)
    made = bench(graphs, text, [{"x": x}], w=array(64, 64) / 8, e=array(64))
    (edit,) = made.run("weight-only").edits
    assert graphs.ops(made.model).count("MatMulNBits") == 3
    names = {n.inputs[1].name for n in made.model.graph if n.op_type == "MatMulNBits"}
    assert names == {f"{edit.site}.weight_packed"}
    meant = read(made.model, edit.site, 4, 32, 64)
    bias = constant_array(made.model.graph.initializers["e"])
    expected = np.tanh(x @ meant @ meant) @ meant + bias
    np.testing.assert_allclose(made.outputs({"x": x})["y"], expected, rtol=0, atol=1e-4)


def test_a_table_that_is_looked_up_twice_is_packed_once(graphs: ModuleType) -> None:
    text = head("int64[n] i, int64[n] j", "float[n, 64] y") + (
        "{ a = Gather(t, i) b = Gather(t, j) y = Sub(a, b) }"
    )
    feed = {"i": RNG.integers(0, 100, 7), "j": RNG.integers(0, 100, 7)}
    made = bench(graphs, text, [feed], t=T)
    assert len(made.run("weight-only").edits) == 1
    meant = read(made.model, "embedding1", 4, 32, 64).T
    got = made.outputs(feed)["y"]
    np.testing.assert_allclose(got, meant[feed["i"]] - meant[feed["j"]], rtol=0, atol=1e-3)


# -- what is left alone ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "code"),
    [({"block": 8}, "no-nbits-kernel"), ({"block": 48}, "no-nbits-kernel"),
     ({"exclude": ("linear*",)}, "excluded")],
)  # fmt: skip
def test_refusals_by_option(graphs: ModuleType, options: dict[str, Any], code: str) -> None:
    made = layer(graphs)
    before = contents_digest(made.model)
    assert not made.run("weight-only", **options).edits
    assert set(made.refusals().values()) == {code}
    assert contents_digest(made.model) == before


def test_tables_alone_leave_the_layers_to_another_pass(graphs: ModuleType) -> None:
    made = bench(graphs, TIED, [{"ids": IDS[0]["ids"]}], t=T, u=array(64, 100))
    assert len(made.run("weight-only", layers=False).edits) == 1
    assert list(made.refusals().values()) == ["excluded"]
    assert len(made.run("quantize").edits) == 1
    assert graphs.ops(made.model)[:2] == ["GatherBlockQuantized", "Cast"]
    assert "MatMulInteger" in graphs.ops(made.model)
    for text in ("weight-only{layers=false},quantize", "quantize{embeddings=false},weight-only"):
        assert len(instantiate(parse(text))) == 2
    with pytest.raises(UsageError, match="no site can be float"):
        instantiate(parse("weight-only,quantize"))


def test_gptq_needs_data(graphs: ModuleType) -> None:
    made = layer(graphs, calibrated=False)
    assert not made.run("weight-only", method="gptq").edits
    assert set(made.refusals().values()) == {"no-calibration"}


REFUSED = {
    "conv": ("float[n, 16, 8, 8] x", "float y", "y = Conv(x, k)", "no-nbits-kernel"),
    "small": ("float[n, 8] x", "float y", "y = MatMul(x, small)", "too-small"),
    "ragged row": ("int64[n] x", "float y", "y = Gather(odd, x)", "ragged-rows"),
    "double": ("double[n, 64] x", "double y", "y = MatMul(x, twice)", "dtype"),
    "scaled": ("float[n, 64] x", "float y", "y = Gemm <alpha = 2.0> (x, w)", "not-canonical"),
    "other reader": ("float[n, 64] x", "float y, float[64, 64] z",
                     "y = MatMul(x, s) z = Neg(s)", "shared"),
    "other reader of the transposed": (
        "float[n, 64] x", "float y, float z",
        "t = Transpose <perm = [1, 0]> (s) y = MatMul(x, t) z = Neg(t)", "shared"),
    "both ways": ("float[n, 64] x", "float y",
                  "a = MatMul(x, s) t = Transpose <perm = [1, 0]> (s) y = MatMul(a, t)",
                  "not-canonical"),
}  # fmt: skip
TENSORS = {
    "k": array(16, 16, 3, 3), "small": array(8, 16), "odd": array(300, 33), "s": array(64, 64),
    "twice": array(64, 64).astype(np.float64), "w": W,
}  # fmt: skip


GIVEN = {
    "conv": {"x": array(1, 16, 8, 8)}, "small": {"x": array(4, 8)},
    "ragged row": {"x": np.arange(5)}, "double": {"x": array(4, 64).astype(np.float64)},
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_by_layer(graphs: ModuleType, case: str) -> None:
    inputs, outputs, body, code = REFUSED[case]
    read_names = {word.strip(",)") for word in body.replace("(", " ").split()}
    tensors = {name: t for name, t in TENSORS.items() if name in read_names}
    model = graphs.parse(head(inputs, outputs) + f"{{ {body} }}", **tensors)
    made = graphs.Bench(model, [GIVEN[case]] if case in GIVEN else FEEDS, calibrated=False)
    assert not made.run("weight-only").edits
    assert list(made.refusals().values()) == [code]


def test_a_tied_head_is_left_float_where_the_bytes_cannot_be_shared(graphs: ModuleType) -> None:
    text = head("int64[n] ids", "float[n, 100] y") + (
        "{ e = Gather(t, ids) u = Transpose <perm = [1, 0]> (t) [head] y = MatMul(e, u) }"
    )
    made = bench(graphs, text, [{"ids": np.arange(50)}], t=array(100, 72))
    assert not made.run("weight-only").edits
    assert set(made.refusals().values()) == {"tied"}
    untied = bench(graphs, text, [{"ids": np.arange(50)}], t=array(100, 64))
    untied.run("weight-only", embeddings=False)
    assert set(untied.refusals().values()) == {"excluded"}


@pytest.mark.parametrize("rows", [100, 64])
def test_a_table_that_is_also_multiplied_untransposed_stays(graphs: ModuleType, rows: int) -> None:
    """An expected embedding, ``probabilities @ table``, beside a lookup."""
    text = head(f"int64[n] ids, float[n, {rows}] p", "float[n, 64] y, float[n, 64] z") + (
        "{ y = Gather(t, ids) [mix] z = MatMul(p, t) }"
    )
    feeds = [{"ids": np.arange(9), "p": array(9, rows)}]
    made = bench(graphs, text, feeds, t=array(rows, 64))
    assert not made.run("weight-only").edits
    assert set(made.refusals().values()) == {"not-canonical"}


def test_layers_in_bodies_stay_float(graphs: ModuleType) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[n, 64] x, bool b) => (float[n, 64] y) {
      h = MatMul(x, v)
      y = If (b) <then_branch = t () => (float[n, 64] p) { p = MatMul(h, w) },
                  else_branch = e () => (float[n, 64] q) { q = Neg(h) }>
    }"""
    feeds = [{"x": array(200, 64), "b": np.array(flag)} for flag in (True, False)]
    made = bench(graphs, text, feeds, v=array(64, 64), w=array(64, 64))
    assert len(made.run("weight-only").edits) == 1
    assert set(made.refusals().values()) == {"subgraph"}
    assert np.isfinite(made.outputs(feeds[0])["y"]).all()


# -- afterwards --------------------------------------------------------------------------------


@pytest.mark.parametrize("table", [False, True])
def test_a_file_of_packed_weights_is_known_for_quantized(
    graphs: ModuleType, table: bool, tmp_path: Path
) -> None:
    text = TIED.replace("[head]", "u = Transpose <perm = [1, 0]> (t) [head]") if table else LAYER
    tensors = {"t": T} if table else {"w": W, "c": C}
    feeds = [{"ids": RNG.integers(0, 100, (3, 20))}] if table else FEEDS
    made = bench(graphs, text, feeds, **tensors)
    made.run("weight-only")
    save_model(made.model, tmp_path / "packed.onnx")
    again = graphs.Bench(load_model(tmp_path / "packed.onnx").model, feeds)
    before = contents_digest(again.model)
    sites = find_sites(again.model)
    assert all(QUANTIZED in s.facts and FLOAT not in s.facts for s in sites)
    assert len(sites) == (2 if table else 1)
    for name in ("canonicalize", "weight-only", "quantize"):
        assert not again.run(name).edits
    assert contents_digest(again.model) == before


def test_undone_the_graph_is_as_it_was(graphs: ModuleType) -> None:
    made = bench(graphs, TIED, [{"ids": IDS[0]["ids"]}], t=T, u=T.T.copy())
    before = graphs.snapshot(made.model)
    outcome = made.run("weight-only")
    assert "com.microsoft" in made.model.opset_imports
    made.manager.undo(outcome)
    assert graphs.snapshot(made.model) == before


def test_without_room_for_a_run_there_are_no_gram_matrices(graphs: ModuleType) -> None:
    made = layer(graphs, calibrated=False)
    made.context.limit = 1 << 33
    assert not made.context.analysis(CALIBRATED)
    assert len(made.run("weight-only").edits) == 1
    with pytest.raises(PassError, match="does not fit"):
        made.context.analysis(GRAMS, (("x", 1),))["x", 1]


def test_old_opsets_will_do(graphs: ModuleType) -> None:
    text = head("float[n, 64] x", "float[n, 48] y", opset=9) + "{ y = MatMul(x, w) }"
    made = bench(graphs, text, w=W)
    assert len(made.run("weight-only").edits) == 1
    assert operator(made.model.graph[0]) == ("com.microsoft", "MatMulNBits")
    assert np.isfinite(made.outputs(FEEDS[0], "all")["y"]).all()
