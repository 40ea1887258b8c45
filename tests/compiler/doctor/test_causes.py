"""Small models with one fault each: the first cause, what the runtime shows, and what mends it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnxruntime import quantization

from benchmarks import doctor_models as made
from planish.compiler.doctor import causes, repairs
from planish.compiler.doctor.diagnosis import Diagnosis
from planish.compiler.doctor.examine import examine
from planish.compiler.doctor.executed import Executed, Row
from planish.compiler.progress import Silent
from planish.ir.errors import UsageError
from planish.ir.load import load_as_written, load_model
from planish.ir.rewriter import Rewriter
from planish.ir.save import save_model
from planish.targets.census import runtime_census
from planish.targets.loader import load_target
from planish.targets.rules.layers import IN_FLOAT
from planish.targets.rules.rule import Finding, Rule, View
from planish.targets.rules.table import RULES
from planish.targets.runtime import open_session

WIDTH = 96

ATTENTION = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[B, T, 32] x, bool[B, 1, T] keep) => (float[B, T, 32] y) {
    q = MatMul(x, wq)
    k = MatMul(x, wk)
    kt = Transpose <perm = [0, 2, 1]> (k)
    scores = MatMul(q, kt)
    bias = Where(keep, zero, least)
    masked = Add(scores, bias)
    p = Softmax <axis = -1> (masked)
    y = MatMul(p, x)
}
"""
CNN = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[B, 16, 12, 12] x) => (float[B, 16, 12, 12] y) {
    a = Conv <pads = [1, 1, 1, 1]> (x, w1)
    b = Relu(a)
    y = Conv <pads = [1, 1, 1, 1]> (b, w2)
}
"""


def look(path: Path, **more: Any) -> Diagnosis:
    return examine(path, "host", threads=1, progress=Silent(), seconds=0.02, **more)


def save(text: str, path: Path, **tensors: Any) -> Path:
    model = ir.from_onnx_text(text, initializers=[ir.tensor(v, name=k) for k, v in tensors.items()])
    for node in model.graph:
        node.name = f"make_{node.outputs[0].name}"
    ir.save(model, path)
    return path


def answers(path: Path, feeds: list[Any]) -> list[np.ndarray]:
    session = open_session(path, threads=1)
    return [session.run(feed)[0] for feed in feeds]


def attention(folder: Path) -> tuple[Path, list[Any]]:
    """Attention of one head that masks with -3.4e38, and feeds of which tokens are masked."""
    rng = np.random.default_rng(0)
    path = save(
        ATTENTION, folder / "attention.onnx",
        wq=rng.normal(size=(32, 32)).astype(np.float32),
        wk=rng.normal(size=(32, 32)).astype(np.float32),
        zero=np.float32(0), least=np.finfo(np.float32).min,
    )  # fmt: skip
    keep = np.arange(9) < np.array([[[9]], [[5]]])
    x = [rng.normal(size=(2, 9, 32)).astype(np.float32) * 0.3 for _ in range(3)]
    return path, [{"x": each, "keep": keep} for each in x]


def test_a_range_that_a_mask_has_blown(tmp_path: Path) -> None:
    path, feeds = attention(tmp_path)
    broken = made.static(path, tmp_path / "broken.onnx", feeds)
    found = look(broken, calibration=feeds, fix=tmp_path / "fixed.onnx")
    assert found.causes[0].rule == "softmax-range-blown"
    assert found.exit_code == 10
    assert "--fix" in look(broken, calibration=feeds).causes[0].command
    assert not found.causes[0].command  # it is done
    expected = answers(path, feeds)
    before, after = (answers(p, feeds) for p in (broken, tmp_path / "fixed.onnx"))
    far = [
        max(np.abs(a - b).max() for a, b in zip(x, expected, strict=True)) for x in (before, after)
    ]
    assert far[0] > 0.3  # attention no longer chooses
    assert far[1] < far[0] / 2
    assert found.mended is not None
    assert dict(found.mended.done)["softmax-range-blown"] >= 2


def test_operators_of_two_signed_operands(tmp_path: Path) -> None:
    path, feeds = attention(tmp_path)
    exclude = made.around_softmax(path)
    broken = made.static(
        path, tmp_path / "signed.onnx", feeds, nodes_to_exclude=exclude, **made.SIGNED
    )
    found = look(broken, calibration=feeds, fix=tmp_path / "fixed.onnx")
    first = found.causes[0]
    assert (first.rule, first.severity) == ("signed-products", "slow")
    assert {place.op for place in first.places} == {"QLinearMatMul"}
    assert first.share is not None
    assert 0 < first.share <= 1
    assert first.ms == pytest.approx(sum(place.ms or 0.0 for place in first.places), rel=0.3)
    for one, other in zip(
        answers(broken, feeds), answers(tmp_path / "fixed.onnx", feeds), strict=True
    ):
        assert np.array_equal(one, other)
    assert not [c for c in look(tmp_path / "fixed.onnx").causes if c.severity == "slow"]


JOINED = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[B, 16, 12, 12] x) => (float[B, 16, 12, 12] y) {
    a = Conv <pads = [1, 1, 1, 1]> (x, w1)
    b = Conv <pads = [1, 1, 1, 1]> (x, w2)
    c = Concat <axis = 1> (a, b)
    p = MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (c)
    y = Conv <pads = [1, 1, 1, 1]> (p, w3)
}
"""


def test_signed_operators_that_are_joined_become_unsigned(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    w = {f"w{i}": rng.normal(size=(16, n, 3, 3)) for i, n in ((1, 16), (2, 16), (3, 32))}
    tensors = {name: value.astype(np.float32) for name, value in w.items()}
    path = save(JOINED, tmp_path / "f.onnx", **tensors)
    feeds = [{"x": rng.normal(size=(1, 16, 12, 12)).astype(np.float32)} for _ in range(3)]
    broken = made.static(path, tmp_path / "signed.onnx", feeds, **made.SIGNED)
    assert "QLinearConcat" in {node.op_type for node in onnx.load(broken).graph.node}
    found = look(broken, calibration=feeds, fix=tmp_path / "fixed.onnx")
    assert found.mended is not None
    assert dict(found.mended.done) == {"signed-products": 3}
    assert not [c for c in found.causes if "--fix" in c.command]
    mended = load_model(tmp_path / "fixed.onnx").model
    kept = {t.dtype for v in mended.graph.initializers.values() if (t := v.const_value) is not None}
    assert ir.DataType.UINT8 in kept
    for one, other in zip(
        answers(broken, feeds), answers(tmp_path / "fixed.onnx", feeds), strict=True
    ):
        assert np.array_equal(one, other)


def test_a_repair_is_offered_only_where_it_can_be_made(tmp_path: Path) -> None:
    path, feeds = attention(tmp_path)
    broken = made.static(path, tmp_path / "signed.onnx", feeds, **made.SIGNED)
    run = {cause.rule: cause.command for cause in look(broken, calibration=feeds).causes}
    assert run["softmax-range-blown"].startswith("planish compile FLOAT.onnx")
    assert "--fix" in run["signed-products"]
    found = look(broken, calibration=feeds, fix=tmp_path / "fixed.onnx")
    assert "--fix" not in str(found)
    assert found.mended is not None
    assert dict(found.mended.left).keys() == {"softmax-range-blown"}
    why = dict(found.mended.reasons)["softmax-range-blown"]
    assert why.endswith("there is no pair to take out")
    assert f"nodes: {why}" in str(found)
    assert found.to_json()["fixed"]["reasons"] == {"softmax-range-blown": why}


def test_an_unknown_operator_between_signed_codes_is_named(tmp_path: Path) -> None:
    path, feeds = attention(tmp_path)
    broken = made.static(path, tmp_path / "signed.onnx", feeds, **made.SIGNED)
    proto = onnx.load(broken)
    codes = next(n.output[0] for n in proto.graph.node if n.op_type == "QLinearMatMul")
    shape = onnx.helper.make_node("Shape", [codes], ["shape"], name="size")
    proto.graph.node.append(shape)
    proto.graph.output.append(onnx.helper.make_tensor_value_info("shape", 7, None))
    onnx.save(proto, broken)
    found = look(broken, calibration=feeds, fix=tmp_path / "fixed.onnx")
    assert found.mended is not None
    assert not found.mended.path
    why = "it is not known what Shape size makes of int8 codes"
    assert dict(found.mended.reasons)["signed-products"] == why


@pytest.mark.parametrize(
    ("make", "rule", "kernel"),
    [
        (lambda p: made.with_biases(p, int32=False, width=WIDTH, count=2),
         "bias-output-unquantized", "com.microsoft:QGemm"),
        (lambda p: made.weights_only(p, turned=True, width=WIDTH, count=2),
         "weight-only-transposed", "com.microsoft:MatMulNBits"),
    ],
    ids=["float bias", "transposed"],
)  # fmt: skip
def test_layers_that_miss_their_kernel(
    make: Callable[[Path], Path], rule: str, kernel: str, tmp_path: Path
) -> None:
    broken, fixed = make(tmp_path / "broken.onnx"), tmp_path / "fixed.onnx"
    found = look(broken, fix=fixed)
    assert [cause.rule for cause in found.causes] == [rule]
    assert found.layers == (0, 2)
    assert len(found.causes[0].places) == 2
    assert all("Gemm" in place.runs_as for place in found.causes[0].places)
    assert found.causes[0].share is not None
    assert found.causes[0].share > 0.3
    again = look(fixed)
    assert again.layers == (2, 2)
    assert again.healthy
    assert again.exit_code == 0
    assert runtime_census(fixed, threads=1).counts[kernel] == 2


@pytest.mark.parametrize("block", [0, 32])
def test_a_weight_that_is_turned_says_the_same(block: int, tmp_path: Path) -> None:
    """Against the product by hand; without optimisations, which would round activations."""
    rng = np.random.default_rng(0)
    n, k = 24, 64
    codes = rng.integers(-100, 101, (n, k)).astype(np.int8)
    scale = rng.uniform(0.01, 0.02, (n, k // block) if block else (n,)).astype(np.float32)
    text = f"""
    <ir_version: 10, opset_import: ["" : 21]>
    g (float[B, {k}] x) => (float[B, {n}] y) {{
        w = DequantizeLinear <axis = {1 if block else 0}, block_size = {block}> (codes, scale)
        y = Gemm <transB = 1> (x, w, bias)
    }}"""
    bias = rng.normal(size=n).astype(np.float32)
    path = save(text, tmp_path / "turned.onnx", codes=codes, scale=scale, bias=bias)
    assert look(path, fix=tmp_path / "fixed.onnx").causes[0].rule == "weight-only-transposed"
    x = rng.normal(size=(5, k)).astype(np.float32)
    (y,) = open_session(tmp_path / "fixed.onnx", optimize="none").run({"x": x})
    wide = np.repeat(scale, block, axis=1) if block else scale[:, None]
    assert np.allclose(y, x @ (codes * wide).T + bias, atol=1e-4)


def test_a_file_that_was_saved_optimised(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = {n: rng.normal(size=(16, 16, 3, 3)).astype(np.float32) for n in ("w1", "w2")}
    path = save(CNN, tmp_path / "cnn.onnx", **weights)
    found = look(made.optimised(path, tmp_path / "saved.onnx"))
    assert [c.rule for c in found.causes if c.severity == "error"] == ["machine-specific-file"]
    assert found.causes[0].rule == "machine-specific-file"
    assert not look(path).causes
    feeds = [{"x": rng.normal(size=(1, 16, 12, 12)).astype(np.float32)}]
    made.static(tmp_path / "saved.onnx", tmp_path / "static.onnx", feeds)
    rows = runtime_census(tmp_path / "static.onnx", threads=1).kernels
    assert [row.integer for row in rows] == [False, False]  # the tool does not know its layers


def test_a_healthy_model_is_told_so_with_its_profile(tmp_path: Path) -> None:
    found = look(made.with_biases(tmp_path / "good.onnx", int32=True, width=WIDTH, count=2))
    assert found.healthy
    assert "healthy" in str(found).splitlines()[0]
    assert found.run is not None
    assert {row.op for row in found.run.spent} == {"com.microsoft:QGemm", "QuantizeLinear", "Gelu"}
    assert {row.op: row.count for row in found.run.spent}["com.microsoft:QGemm"] == 2
    assert found.run.rounds >= 3


def test_times_add_up_to_the_profile(tmp_path: Path) -> None:
    found = look(made.with_biases(tmp_path / "m.onnx", int32=False, width=WIDTH, count=2))
    assert found.run is not None
    (cause,) = found.causes
    assert cause.ms is not None
    named = {"Gemm", "DequantizeLinear"}
    known = sum(row.ms for row in found.run.spent if row.op in named)
    assert cause.ms == pytest.approx(known)


def test_a_layer_that_no_rule_explains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = made.with_biases(tmp_path / "m.onnx", int32=False, width=WIDTH, count=2)
    monkeypatch.setattr(causes, "RULES", ())
    (cause,) = look(broken).causes
    assert (cause.rule, cause.severity, len(cause.places)) == ("", "slow", 2)
    assert "1. slow  unexplained: 2 nodes" in str(look(broken))


def test_a_rule_that_the_runtime_denies_is_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = made.with_biases(tmp_path / "m.onnx", int32=True, width=WIDTH, count=2)
    rule = next(rule for rule in RULES if rule.id == "static-few-bits")
    wrong = Rule(
        "wrong", "", lambda view: (Finding(layer.node) for layer in view.static),
        f"for no reason {IN_FLOAT}", "", rule.severity,
    )  # fmt: skip
    monkeypatch.setattr(causes, "RULES", (wrong,))
    (cause,) = look(good).causes
    assert cause.severity == "note"
    assert cause.reason.startswith("this version of the runtime does otherwise")


def test_a_target_that_is_not_here_gets_rules_and_predicted_times(tmp_path: Path) -> None:
    broken = made.with_biases(tmp_path / "m.onnx", int32=False, width=WIDTH, count=2)
    found = examine(broken, "x86-avx2", threads=1, progress=Silent())
    assert found.run is None
    assert found.not_run
    assert not found.healthy
    assert {c.rule for c in found.causes} == {"bias-output-unquantized", "pair-sums-saturate"}
    assert found.causes[0].rule == "pair-sums-saturate"  # wrong comes before slow
    far = examine(broken, "nvidia-a100", threads=1, progress=Silent())
    assert far.run is not None
    assert far.run.basis == "predicted"
    assert any(cause.ms for cause in far.causes)
    assert "times are predicted" in str(far)


def test_codes_that_may_saturate_elsewhere_are_a_note(tmp_path: Path) -> None:
    found = look(made.with_biases(tmp_path / "m.onnx", int32=True, width=WIDTH, count=2))
    if found.target.arch == "x86_64" and not found.target.int8.saturates:
        assert any("--target x86-avx2" in note for note in found.notes)


TABLE = """
<ir_version: 10, opset_import: ["" : 20]>
g (int64[B, T] x) => (float[B, T, 8] y) {
    table = DequantizeLinear(codes, scale, zero)
    y = Gather(table, x)
}
"""


def test_rows_of_a_table_are_dequantized_alone(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(-128, 128, (600, 8)).astype(np.int8)
    path = save(TABLE, tmp_path / "t.onnx", codes=codes, scale=np.float32(0.03), zero=np.int8(5))
    found = look(path, fix=tmp_path / "fixed.onnx")
    assert found.causes[0].rule == "table-dequantized-whole"
    x = rng.integers(0, 600, (2, 7))
    (y,) = open_session(tmp_path / "fixed.onnx").run({"x": x})
    assert np.array_equal(
        y, ((codes.astype(np.int32) - 5) * np.float32(0.03))[x].astype(np.float32)
    )
    kinds = [node.op_type for node in onnx.load(tmp_path / "fixed.onnx").graph.node]
    assert kinds == ["Gather", "DequantizeLinear"]


CONSTANT = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[64, 64] x) => (float[64, 64] y) {
    c = DequantizeLinear <axis = 0> (codes, scale)
    y = Sub(x, c)
}
"""


def test_a_constant_is_widened_once(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(-128, 128, (64, 64)).astype(np.int8)
    scale = rng.uniform(0.01, 0.1, 64).astype(np.float32)
    path = save(CONSTANT, tmp_path / "c.onnx", codes=codes, scale=scale)
    assert look(path, fix=tmp_path / "fixed.onnx").causes[0].rule == "constant-dequantized"
    x = rng.normal(size=(64, 64)).astype(np.float32)
    (y,) = open_session(tmp_path / "fixed.onnx").run({"x": x})
    assert np.array_equal(y, x - codes.astype(np.float32) * scale[:, None])


def test_signed_codes_that_several_read(tmp_path: Path) -> None:
    path, feeds = attention(tmp_path)
    exclude = made.around_softmax(path)
    signed = made.static(
        path, tmp_path / "s.onnx", feeds, nodes_to_exclude=exclude,
        activation_type=quantization.QuantType.QInt8,
    )  # fmt: skip
    found = look(signed, calibration=feeds, fix=tmp_path / "fixed.onnx")
    assert found.causes[0].rule == "signed-and-shared"
    plain = [
        open_session(p, optimize="none").run(feeds[0])[0] for p in (signed, tmp_path / "fixed.onnx")
    ]
    assert np.array_equal(plain[0], plain[1])
    again = look(tmp_path / "fixed.onnx", calibration=feeds)
    assert again.layers is not None
    assert again.layers[0] == again.layers[1]


POOLED = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[B, 16, 24, 24] x) => (float[B, 16, 12, 12] y, float[B, 16, 12, 12] z) {
    a = Conv <pads = [1, 1, 1, 1]> (x, w1)
    b = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (a)
    y = Conv <pads = [1, 1, 1, 1]> (b, w2)
    z = Sigmoid(y)
}
"""


@pytest.mark.parametrize(
    ("ran_as", "counts"), [("MaxPool", True), ("com.microsoft:NhwcMaxPool", False)]
)
def test_a_pool_of_codes_counts_to_the_layer_in_float_behind_it(
    ran_as: str, counts: bool, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    w1, w2 = (rng.normal(size=(16, 16, 3, 3)).astype(np.float32) for _ in range(2))
    path = save(POOLED, tmp_path / "f.onnx", w1=w1, w2=w2)
    feeds = [{"x": rng.normal(size=(1, 16, 24, 24)).astype(np.float32)} for _ in range(3)]
    signed = made.static(
        path, tmp_path / "s.onnx", feeds, activation_type=quantization.QuantType.QInt8
    )
    view = View(load_as_written(signed), load_target("x86-avx512-vnni"))
    pool = next(node for node in view.nodes if node.op_type == "MaxPool")
    row = Row("b", ran_as, 7.0, (pool,))
    ran = Executed((row,), {pool: (row,)})
    broken = causes.broken_rules(view, {"signed-and-shared"})
    (cause,) = causes.causes_of(broken, causes.measured_cost(ran), 7.0, ran)
    assert cause.places[0].op == "Conv"
    assert cause.ms == (7.0 if counts else 0.0)


RESIDUAL = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[B, T, 32] x) => (float[B, T, 32] y) {
    h = MatMul(x, w)
    s = Add(h, x)
    y = LayerNormalization <axis = -1> (s, scale)
}
"""


def test_an_addition_that_is_kept_from_the_normalisation(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    w, scale = rng.normal(size=(32, 32)).astype(np.float32), np.ones(32, np.float32)
    path = save(RESIDUAL, tmp_path / "r.onnx", w=w, scale=scale)
    found = look(path)
    assert [(c.rule, c.severity) for c in found.causes] == [("norm-merged-with-add", "note")]
    assert found.causes[0].places[0].runs_as == ("com.microsoft:SkipLayerNormalization",)
    assert any(note.startswith("nothing is quantized: planish compile") for note in found.notes)
    rewriter = Rewriter(load_model(path).model)
    norms = [node for node in rewriter.graph if node.op_type == "LayerNormalization"]
    repairs.REPAIRS["norm-merged-with-add"](rewriter, norms)
    save_model(rewriter.model, tmp_path / "kept.onnx")
    x = rng.normal(size=(2, 5, 32)).astype(np.float32)
    total = x @ w + x
    expected = (total - total.mean(-1, keepdims=True)) / np.sqrt(
        total.var(-1, keepdims=True) + 1e-5
    )
    (y,) = open_session(tmp_path / "kept.onnx").run({"x": x})
    assert np.allclose(y, expected, atol=1e-4)
    assert (
        "com.microsoft:SkipLayerNormalization" not in runtime_census(tmp_path / "kept.onnx").counts
    )


def test_a_mended_file_is_not_written_over_another(tmp_path: Path) -> None:
    broken = made.with_biases(tmp_path / "m.onnx", int32=False, width=WIDTH, count=1)
    for name in ("m.onnx", "no/such/folder.onnx", "x.txt"):
        with pytest.raises(UsageError):
            look(broken, fix=tmp_path / name)
    with pytest.raises(UsageError, match="not for nvidia"):
        examine(broken, "nvidia-a100", fix=tmp_path / "y.onnx", progress=Silent())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx"]


def test_nothing_to_mend_writes_nothing(tmp_path: Path) -> None:
    good = made.with_biases(tmp_path / "m.onnx", int32=True, width=WIDTH, count=1)
    found = look(good, fix=tmp_path / "fixed.onnx")
    assert found.mended is not None
    assert not found.mended.path
    assert not (tmp_path / "fixed.onnx").exists()
    assert "not mended: nothing that was found" in str(found)
