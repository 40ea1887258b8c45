"""sparsify{codes=int8}: zeros and codes together, as quantize then finds them."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from planish.compiler.checking.patterns import KeepsPatterns
from planish.compiler.pipeline import parse, resolve
from planish.ir.errors import UsageError
from planish.ir.facts import QUANTIZED
from planish.ir.graph import constant_array
from planish.ir.sites import find_sites
from planish.passes.api import pass_class
from planish.passes.cutting import forms
from planish.passes.math.refit import damped

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(23)
ORIN = "nvidia-jetson-orin"
CODES: dict[str, Any] = {"small": True, "codes": "int8"}


def array(*shape: int) -> Array:
    return RNG.normal(size=shape).astype(np.float32)


def head(inputs: str, outputs: str) -> str:
    return f'<ir_version: 10, opset_import: ["" : 20]>\ng ({inputs}) => ({outputs})\n'


PLAIN = head("float[n, 64] x", "float[n, 48] y") + "{ p = MatMul(x, w) y = Add(p, b) }"
W, B = array(64, 48) * np.exp(array(48) / 2), array(48)
MIX = array(64, 64) * np.geomspace(1, 0.1, 64).astype(np.float32)
FEEDS = [{"x": array(150, 64) @ MIX + np.float32(0.5)} for _ in range(3)]
BLOCK = head("float[n, 64] x", "float[n, 32] y") + (
    "{ a = MatMul(x, up) b = Add(a, up_bias) h = Relu(b) c = MatMul(h, down) "
    "y = Add(c, down_bias) }"
)
CONV = head("float[n, 16, 9, 9] x", "float[n, 16, 9, 9] y") + (
    "{ y = Conv<pads = [1, 1, 1, 1], group = GROUPS>(x, w, b) }"
)
IMAGES = [{"x": array(5, 16, 9, 9) + np.float32(0.3)} for _ in range(2)]


def plain(graphs: ModuleType, weight: Array = W, target: str = ORIN) -> Any:
    model = graphs.parse(PLAIN, w=weight, b=B)
    return graphs.Bench(model, FEEDS, target=target, instruments=[KeepsPatterns()])


def stored(bench: Any, name: str) -> Array:
    found = constant_array(bench.model.graph.initializers[name])
    assert found is not None
    return found


def codes_in(bench: Any) -> list[tuple[Array, Array]]:
    """Weights as the graph holds them: int8 codes, and the scale of each output."""
    found = []
    for node in bench.model.graph:
        if node.op_type == "DequantizeLinear" and node.inputs[0].is_initializer():
            codes, scale = (constant_array(value) for value in node.inputs[:2])
            assert codes is not None
            assert scale is not None
            assert codes.dtype == np.int8
            found.append((codes, scale))
    return found


def dequantized(codes: Array, scale: Array, axis: int) -> Array:
    """In float32, as the runtime computes it."""
    shape = [-1 if i == axis else 1 for i in range(codes.ndim)]
    return np.asarray(codes.astype(np.float32) * scale.reshape(shape))


def codes_of(weight: Array, axis: int) -> Array:
    """Codes that a float weight holds, from the largest of each output alone, in float64."""
    others = tuple(i for i in range(weight.ndim) if i != axis)
    peaks = np.abs(weight).max(axis=others, keepdims=True).astype(np.float64)
    exact = weight / np.where(peaks > 0, peaks, 1) * 127
    np.testing.assert_allclose(exact, np.rint(exact), atol=1e-9)
    return np.rint(exact)


# -- the same codes, bit for bit -------------------------------------------------------


@pytest.mark.parametrize("target", [ORIN, "nvidia-a100"])
def test_quantize_finds_the_codes_that_were_chosen(graphs: ModuleType, target: str) -> None:
    bench = plain(graphs, target=target)
    (edit,) = bench.run("sparsify", **CODES).edits
    weight, bias = stored(bench, "w"), stored(bench, "b")
    assert edit.details["codes"] == "int8"
    chosen = codes_of(weight, 1)
    assert (np.abs(chosen).max(axis=0) == 127).all()
    assert len(np.unique(chosen)) > 100
    assert bench.run("quantize", scheme="static").edits
    ((codes, scale),) = codes_in(bench)
    assert np.array_equal(codes, chosen)
    assert np.array_equal(dequantized(codes, scale, 1), weight), "no error of weights"
    assert np.array_equal(stored(bench, "b_corrected"), bias), "nothing to make up for"
    (site,) = (site for site in find_sites(bench.model) if site.uses)
    assert set(site.facts) == {QUANTIZED, "sparse-2:4"}


def test_without_it_quantize_rounds(graphs: ModuleType) -> None:
    """What the test above would see of weights that are on no grid."""
    bench = plain(graphs)
    bench.run("sparsify", small=True)
    weight = stored(bench, "w")
    with pytest.raises(AssertionError):
        codes_of(weight, 1)
    bench.run("quantize", scheme="static")
    ((codes, scale),) = codes_in(bench)
    assert not np.array_equal(dequantized(codes, scale, 1), weight)


def test_codes_survive_an_order_of_channels(graphs: ModuleType) -> None:
    """The maker's outputs, the reader's inputs: both move, and both are found again."""
    down = array(96, 32)
    down[:24] *= 6
    weights = {"up": array(64, 96) / 8, "up_bias": array(96), "down": down, "down_bias": array(32)}
    model = graphs.parse(BLOCK, **weights)
    bench = graphs.Bench(model, FEEDS, target=ORIN, instruments=[KeepsPatterns()])
    edits = bench.run("sparsify", **CODES).edits
    assert [edit.details.get("reordered") for edit in edits] == [None, "up.neurons"]
    before = [stored(bench, name) for name in ("up", "down")]
    assert len(bench.run("quantize", scheme="static").edits) == 2
    for weight, (codes, scale) in zip(before, codes_in(bench), strict=True):
        assert np.array_equal(dequantized(codes, scale, 1), weight)
        assert np.array_equal(codes, codes_of(weight, 1))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("coarse", [False, True])
def test_of_convolutions_all_taps_of_an_output_share_a_grid(
    graphs: ModuleType, monkeypatch: pytest.MonkeyPatch, groups: int, coarse: bool
) -> None:
    if coarse:  # as 600 channels of 3 x 3 would be
        monkeypatch.setattr(forms, "WIDEST", 16)
    kernel = array(16, 16 // groups, 3, 3) * np.exp(array(16, 1, 1, 1))
    model = graphs.parse(CONV.replace("GROUPS", str(groups)), w=kernel, b=array(16))
    bench = graphs.Bench(model, IMAGES, target=ORIN, instruments=[KeepsPatterns()])
    sparse = replace(bench.context.target.sparse, inputs=None)
    bench.context.target = replace(bench.context.target, sparse=sparse)
    assert bench.run("sparsify", **CODES).edits
    weight = stored(bench, "w")
    taps = np.moveaxis(weight, 1, -1).reshape(-1, 4)
    assert (np.count_nonzero(taps, axis=1) <= 2).all()
    assert bench.run("quantize", scheme="static", narrow=True).edits
    ((codes, scale),) = codes_in(bench)
    assert np.array_equal(codes, codes_of(weight, 0))
    assert np.array_equal(dequantized(codes, scale, 0), weight)


def test_channels_of_zeros_and_hardly_more(graphs: ModuleType) -> None:
    """Of channels that are next to nothing ``quantize`` raises the scale, so that float16 holds it:
    nothing is left of them, and the codes of all others are those that were chosen."""
    weight = W.copy()
    weight[:, 3] = 0
    weight[:, 7] *= np.float32(1e-40) / np.abs(weight[:, 7]).max()
    weight[:, 9] *= np.float32(1e-30)
    bench = plain(graphs, weight)
    assert bench.run("sparsify", **CODES).edits
    made = stored(bench, "w")
    assert not made[:, 3].any()
    assert np.isfinite(made).all()
    assert bench.run("quantize", scheme="static").edits
    ((codes, scale),) = codes_in(bench)
    quiet = [3, 7, 9]
    assert not codes[:, quiet].any()
    assert np.abs(made[:, quiet]).max() < 1e-28
    others = ~np.isin(np.arange(len(scale)), quiet)
    assert np.array_equal(dequantized(codes, scale, 1)[:, others], made[:, others])
    assert scale.min() >= 2.0**-14


# -- what it loses ---------------------------------------------------------------------


def lost(codes: Array, scale: Array, moments: Array) -> Array:
    """tr(D^T C D) of each output, float64, D against the weight as it was."""
    changes = (codes.astype(np.float64) * scale.astype(np.float64) - W.astype(np.float64)).T
    return np.array([d @ moments @ d for d in changes])


@pytest.mark.parametrize("score", ["sparsegpt", "wanda", "magnitude"])
def test_it_loses_no_more_than_zeros_first_and_codes_behind_them(
    graphs: ModuleType, score: str
) -> None:
    """Of every output, by the ridge regression that both are fitted to, and by the data alone."""
    x = np.concatenate([feed["x"] for feed in FEEDS]).astype(np.float64)
    about = x - x.mean(axis=0)
    covariance = about.T @ about / len(x)
    found = []
    for settings in (CODES, {"small": True}):
        bench = plain(graphs)
        bench.run("sparsify", score=score, **settings)
        bench.run("quantize", scheme="static")
        found += codes_in(bench)
    together, apart = (lost(*each, damped(covariance, len(x))) for each in found)
    assert (together <= apart * (1 + 1e-6)).all()  # both moments come from sums in float32
    assert together.sum() < 0.9999 * apart.sum()
    assert lost(*found[0], covariance).sum() < lost(*found[1], covariance).sum()
    for codes, _ in found:
        assert (np.count_nonzero(codes.reshape(-1, 4, 48), axis=1) <= 2).all()


def test_the_declared_loss_is_that_of_what_is_stored(graphs: ModuleType) -> None:
    bench = plain(graphs)
    before = outputs(bench)
    (edit,) = bench.run("sparsify", **CODES).edits
    after = outputs(bench)
    relative = ((after - before) ** 2).sum() / (before**2).sum()
    assert edit.loss == pytest.approx(relative, rel=0.3)  # measured on the first rows
    np.testing.assert_allclose(after.mean(axis=0), before.mean(axis=0), atol=1e-3)


def outputs(bench: Any) -> Array:
    return np.concatenate([bench.outputs(feed)["y"] for feed in FEEDS]).astype(np.float64)


# -- when nothing is done --------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("codes=int8 pattern=unstructured", "none skips pattern=unstructured: ask for 2:4"),
        ("codes=int8 pattern=block", "none skips pattern=block: ask for 2:4"),
        ("codes=int8 refit=false", "refit=false wants codes=none"),
        ("codes=int8 score=magnitude refit=false", "refit=false wants codes=none"),
        ("codes=int4", "int8"),
    ],
)
def test_combinations_that_make_no_sense(text: str, said: str) -> None:
    options = pass_class("sparsify").Options
    with pytest.raises(UsageError, match=said):
        resolve(next(iter(parse(f"sparsify{{{text}}}"))), options)


def refused(bench: Any, **options: Any) -> tuple[str, str]:
    assert bench.run("sparsify", **CODES, **options).edits == []
    (remark,) = bench.remarks("refused").values()
    return remark.code, remark.sentence


@pytest.mark.parametrize(
    ("sparse", "int8", "code", "said"),
    [
        ({"dtypes": ("fp16", "tf32")}, {}, "no-int8-kernel", "skips zeros in fp16, tf32 alone"),
        ({}, {"saturates": True}, "no-int8-kernel", "does not take all 8 bits"),
        ({}, {"weight_bits": 7}, "no-int8-kernel", "does not take all 8 bits"),
        ({}, {"supported": False}, "target", "no integer kernels are known"),
        ({}, {"min_rows": 512}, "", ""),
        ({"patterns": ()}, {}, "no-sparse-kernel", "takes as long as a dense one"),
    ],
)
def test_targets_that_would_not_multiply_by_the_codes(
    graphs: ModuleType, sparse: dict[str, Any], int8: dict[str, Any], code: str, said: str
) -> None:
    bench = plain(graphs)
    target = bench.context.target
    bench.context.target = replace(
        target, sparse=replace(target.sparse, **sparse), int8=replace(target.int8, **int8)
    )
    if not code:
        assert bench.run("sparsify", **CODES).edits
        return
    assert refused(bench)[0] == code
    assert said in refused(bench)[1]
    if code in ("target", "no-int8-kernel"):
        assert "codes=none gives it zeros alone" in refused(bench)[1]
    if not sparse:
        assert bench.run("sparsify", small=True).edits, "zeros alone"


def test_the_gate_of_targets_stays_as_it_is(graphs: ModuleType) -> None:
    for target in ("x86-avx512-vnni", "generic", "nvidia-t4"):
        assert refused(plain(graphs, target=target))[0] == "no-sparse-kernel"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{ y = Gemm(x, w) }", "unsupported-op"),
        ("{ p = MatMul(x, w) q = MatMul(x, w) y = Add(p, q) }", "shared"),
    ],
)
def test_layers_that_quantize_leaves_float(graphs: ModuleType, text: str, code: str) -> None:
    model = graphs.parse(head("float[n, 64] x", "float[n, 48] y") + text, w=W)
    bench = graphs.Bench(model, FEEDS, target=ORIN)
    found, said = refused(bench)
    assert found == code
    assert "quantize leaves it float" in said
    assert bench.run("sparsify", small=True).edits, "zeros alone"


def test_a_vector_is_no_matrix_to_integers(graphs: ModuleType) -> None:
    model = graphs.parse(head("float[1, 64] x", "float[1, 48] y") + "{ y = MatMul(x, w) }", w=W)
    feeds = [{"x": row[None]} for row in FEEDS[0]["x"]]
    assert refused(graphs.Bench(model, feeds, target=ORIN))[0] == "uneven-shape"


def test_float16_gets_zeros_and_no_codes(graphs: ModuleType) -> None:
    """quantize takes no weights of it, and a grid of 127 steps needs more digits than it has."""
    text = head("float16[n, 64] x", "float16[n, 48] y") + "{ y = MatMul(x, w) }"
    feeds = [{"x": feed["x"].astype(np.float16)} for feed in FEEDS]
    bench = graphs.Bench(graphs.parse(text, w=W.astype(np.float16)), feeds, target=ORIN)
    code, said = refused(bench)
    assert code == "dtype"
    assert "its weight is float16; only float32 is quantized: codes=none" in said
    assert bench.run("sparsify", small=True).edits


def test_without_data_there_is_nothing_to_fit(graphs: ModuleType) -> None:
    model = graphs.parse(PLAIN, w=W, b=B)
    bench = graphs.Bench(model, FEEDS, target=ORIN, calibrated=False)
    assert refused(bench, score="magnitude")[0] == "no-calibration"
