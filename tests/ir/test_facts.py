"""Facts are read off the graph: float, quantized, factorized."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from planish.ir.facts import (
    FACTORIZED,
    FLOAT,
    QUANTIZED,
    has_pattern,
    sparse_fact,
    zero_patterns,
)
from planish.ir.load import load_model
from planish.ir.sites import find_sites

Arrays = Mapping[str, Any]


def build(body: str, weights: Arrays) -> ir.Model:
    header = '<ir_version: 10, opset_import: ["": 20]>'
    proto = onnx.parser.parse_model(
        f"{header} g (float[b, s, 16] x) => (float[b, s, n] y) {{ {body} }}"
    )
    used = {name: data for name, data in weights.items() if f'"{name}"' in body}
    tensors = (numpy_helper.from_array(np.asarray(a), n) for n, a in used.items())
    proto.graph.initializer.extend(tensors)
    return load_model(proto).model


def floats(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


TWO = 'h = MatMul (x, "fc.weight_in") y = MatMul (h, "fc.weight_out")'


@pytest.mark.parametrize(
    ("k", "r", "n", "small"),
    [
        (16, 4, 16, True),
        (16, 7, 16, True),
        (16, 8, 16, False),  # 8 (16 + 16) = 16 * 16: nothing saved
        (16, 12, 48, False),  # 12 (16 + 48) = 16 * 48
        (16, 11, 48, True),
        (16, 16, 16, False),
    ],
)
def test_two_factors_of_small_rank(k: int, r: int, n: int, small: bool) -> None:
    assert small == (r * (k + n) < k * n), "the table above says what it means"
    sites = find_sites(build(TWO, {"fc.weight_in": floats(k, r), "fc.weight_out": floats(r, n)}))
    names = ["fc.in", "fc.out"] if small else ["fc.linear1", "fc.linear2"]
    assert [s.name for s in sites] == names
    assert [FACTORIZED in s.facts for s in sites] == [small, small]
    assert all(FLOAT in s.facts for s in sites)


def test_the_bias_of_the_product_belongs_to_the_second_factor() -> None:
    body = 'h = MatMul (x, "fc.weight_in") p = MatMul (h, "fc.weight_out") y = Add (p, "fc.bias")'
    weights = {"fc.weight_in": floats(16, 4), "fc.weight_out": floats(4, 16), "fc.bias": floats(16)}
    sites = find_sites(build(body, weights))
    assert [(s.name, s.bias is not None) for s in sites] == [("fc.in", False), ("fc.out", True)]
    assert all(FACTORIZED in s.facts for s in sites)


@pytest.mark.parametrize(
    "body",
    [
        'a = MatMul (x, "a.weight") h = Relu (a) y = MatMul (h, "b.weight")',
        'a = MatMul (x, "a.weight") h = Add (a, "bias") y = MatMul (h, "b.weight")',
        'h = MatMul (x, "a.weight") c = MatMul (h, "b.weight") d = Concat <axis = 2> (c, h)'
        " y = Relu (d)",
    ],
)
def test_a_bottleneck_with_something_between_is_no_factorization(body: str) -> None:
    weights = {"a.weight": floats(16, 4), "b.weight": floats(4, 16), "bias": floats(4)}
    sites = find_sites(build(body, weights))
    assert {s.name for s in sites.of_kind("linear")} == {"a", "b"}
    assert all(s.facts == {FLOAT} for s in sites)


def test_factors_keep_names_of_their_own() -> None:
    weights = {"down.weight": floats(16, 4), "up.weight": floats(4, 16)}
    body = 'h = MatMul (x, "down.weight") y = MatMul (h, "up.weight")'
    assert {s.name: s.facts for s in find_sites(build(body, weights))} == {
        "down": {FLOAT, FACTORIZED},
        "up": {FLOAT, FACTORIZED},
    }


def test_factors_may_be_quantized_too() -> None:
    body = (
        'wa = DequantizeLinear <axis = 1> ("fc.weight_in", "sa") h = MatMul (x, wa)'
        ' wb = DequantizeLinear <axis = 1> ("fc.weight_out", "sb") y = MatMul (h, wb)'
    )
    weights = {
        "fc.weight_in": np.ones((16, 4), np.int8),
        "fc.weight_out": np.ones((4, 16), np.int8),
        "sa": floats(4),
        "sb": floats(16),
    }
    sites = find_sites(build(body, weights))
    assert [s.facts for s in sites] == [{QUANTIZED, FACTORIZED}] * 2


SHARED = (
    'h = MatMul (x, "q.weight_in") q = MatMul (h, "q.weight_out") k = MatMul (h, "k.weight_out")'
    " y = Add (q, k)"
)


@pytest.mark.parametrize(("rank", "small"), [(10, True), (11, False)])
def test_layers_that_share_a_first_factor(rank: int, small: bool) -> None:
    assert small == (rank * (16 + 32) < 16 * 32)
    weights = {"q.weight_in": floats(16, rank)}
    weights |= dict.fromkeys(("q.weight_out", "k.weight_out"), floats(rank, 16))
    sites = find_sites(build(SHARED, weights))
    assert [FACTORIZED in s.facts for s in sites] == [small] * 3
    if small:
        assert [s.name for s in sites] == ["q.in", "q.out", "k"]


def test_what_else_reads_the_first_factor_makes_it_none() -> None:
    weights = {"q.weight_in": floats(16, 4)}
    weights |= dict.fromkeys(("q.weight_out", "k.weight_out"), floats(4, 16))
    sites = find_sites(build(SHARED.replace("Add (q, k)", "Concat <axis = 2> (q, k, h)"), weights))
    assert all(s.facts == {FLOAT} for s in sites)


def test_factors_count_as_one_layer() -> None:
    body = TWO.replace("fc.", "linear1.").replace("y =", "z =") + " y = MatMul (z, last)"
    weights = {
        "linear1.weight_in": floats(16, 4), "linear1.weight_out": floats(4, 16),
        "last": floats(16, 8),
    }  # fmt: skip
    found = find_sites(build(body.replace("last", '"last"'), weights))
    assert [s.name for s in found] == ["linear1.in", "linear1.out", "linear2"]


@pytest.mark.parametrize(
    ("attributes", "taps", "factorized"),
    [("", 1, True), ("<strides = [2, 2]>", 1, False), ("<pads = [1, 1, 1, 1]>", 1, False),
     ("", 3, False)],
)  # fmt: skip
def test_convolutions_of_small_rank(attributes: str, taps: int, factorized: bool) -> None:
    body = f'h = Conv (x, "c.weight_in") y = Conv {attributes} (h, "c.weight_out")'
    header = '<ir_version: 10, opset_import: ["": 20]>'
    ports = "(float[b, 8, u, v] x) => (float[b, 12, s, t] y)"
    proto = onnx.parser.parse_model(f"{header} g {ports} {{ {body} }}")
    weights = {"c.weight_in": floats(6, 8, 3, 3), "c.weight_out": floats(12, 6, taps, taps)}
    proto.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in weights.items())
    sites = find_sites(load_model(proto).model)
    assert [FACTORIZED in s.facts for s in sites] == [factorized] * 2
    if factorized:
        assert [s.name for s in sites] == ["c.in", "c.out"]


def test_a_float_weight_rounded_in_the_graph_is_quantized() -> None:
    body = 'q = QuantizeLinear ("fc.weight", "s") w = DequantizeLinear (q, "s") y = MatMul (x, w)'
    (site,) = find_sites(build(body, {"fc.weight": floats(16, 8), "s": np.float32(0.1)}))
    assert site.facts == {QUANTIZED}
    assert site.weight is not None
    assert site.weight.name == "fc.weight"


def test_a_block_is_quantized_when_all_its_layers_are() -> None:
    def ffn(up: str, down: str) -> frozenset[str]:
        body = f"{up} h = Relu (u) {down}"
        weights = {
            "up.weight": floats(16, 8),
            "down.weight": floats(8, 16),
            "upq.weight": np.ones((16, 8), np.int8),
            "downq.weight": np.ones((8, 16), np.int8),
            "s": np.float32(0.1),
        }
        (block,) = find_sites(build(body, weights)).of_kind("ffn")
        return block.facts

    up, down = 'u = MatMul (x, "up.weight")', 'y = MatMul (h, "down.weight")'
    upq = 'v = DequantizeLinear ("upq.weight", "s") u = MatMul (x, v)'
    downq = 'w = DequantizeLinear ("downq.weight", "s") y = MatMul (h, w)'
    assert ffn(up, down) == {FLOAT}
    assert ffn(upq, downq) == {QUANTIZED}
    assert ffn(up, downq) == frozenset()


# -- zeros in a pattern ----------------------------------------------------------------


def zeros(shape: tuple[int, ...], axis: int, gone: Sequence[int], period: int = 4) -> np.ndarray:
    """Ones, but for the places ``gone`` of every ``period`` along an axis."""
    made = np.ones(shape, np.float32)
    places = np.arange(shape[axis]) % period
    np.moveaxis(made, axis, 0)[np.isin(places, gone)] = 0
    return made


def patterns_of(body: str, **weights: Any) -> list[str]:
    (site,) = find_sites(build(body, weights))
    return zero_patterns(site.facts)


MATMUL = 'y = MatMul (x, "w")'


@pytest.mark.parametrize(
    ("weight", "expected"),
    [
        (floats(16, 8), []),
        (zeros((16, 8), 0, [0, 3]), ["2:4"]),
        (zeros((16, 8), 0, [1, 2, 3]), ["1:4"]),
        (zeros((16, 8), 0, [0, 1, 2, 3], 8), ["4:8"]),
        (zeros((16, 8), 0, [0, 1, 2, 3, 4, 5], 8), ["2:8"]),
        (zeros((16, 8), 1, [0, 3]), []),  # along the outputs
        (zeros((16, 8), 0, [0]), []),
        (floats(16, 8) * 0, []),  # nothing to keep
    ],
)
def test_a_pattern_is_read_off_the_weight(weight: np.ndarray, expected: list[str]) -> None:
    assert patterns_of(MATMUL, w=weight) == expected


def test_without_whole_groups_there_is_no_pattern() -> None:
    body = 'h = MatMul (x, "v") y = MatMul (h, "w")'
    weights = {"v": floats(16, 14), "w": zeros((14, 8), 0, [0, 3])}
    assert zero_patterns(find_sites(build(body, weights))[1].facts) == []


def test_one_weight_is_enough_to_break_it() -> None:
    weight = zeros((400, 16), 0, [0, 3])
    body = 'h = MatMul (x, "v") y = MatMul (h, "w")'
    assert zero_patterns(find_sites(build(body, {"v": floats(16, 400), "w": weight}))[1].facts)
    weight[399, 15] = 1e-20  # places 1 and 2 of its group are not zero
    sites = find_sites(build(body, {"v": floats(16, 400), "w": weight}))
    assert zero_patterns(sites[1].facts) == []


def test_of_a_transposed_weight_it_goes_along_the_other_axis() -> None:
    gemm = 'f = Reshape (x, "shape") y = Gemm <transB = 1> (f, "w")'
    shape = np.array([-1, 16])
    assert patterns_of(gemm, w=zeros((8, 16), 1, [0, 1]), shape=shape) == ["2:4"]
    assert patterns_of(gemm, w=zeros((8, 16), 0, [0, 1]), shape=shape) == []
    turned = 't = Transpose <perm = [1, 0]> ("w") y = MatMul (x, t)'
    assert patterns_of(turned, w=zeros((8, 16), 1, [0, 1])) == ["2:4"]


def test_of_a_convolution_it_goes_along_the_channels_of_each_tap() -> None:
    body = 'c = Reshape (x, "shape") y = Conv (c, "w")'
    shape = np.array([1, 16, -1])
    assert patterns_of(body, w=zeros((8, 16, 1), 1, [2, 3]), shape=shape) == ["2:4"]
    weight = zeros((8, 16, 2), 1, [2, 3])
    weight[:, :, 1] = zeros((8, 16), 1, [0, 1])  # another two at the other tap
    assert patterns_of(body, w=weight, shape=shape) == ["2:4"]
    assert patterns_of(body, w=zeros((8, 16, 2), 0, [2, 3]), shape=shape) == []


def test_behind_a_quantizer_zeros_are_codes_of_zero() -> None:
    body = 't = DequantizeLinear <axis = 1> ("w", "s", "z") y = MatMul (x, t)'
    scale, codes = floats(8), zeros((16, 8), 0, [0, 1]).astype(np.int8)
    at = np.zeros(8, np.int8)
    assert patterns_of(body, w=codes, s=scale, z=at) == ["2:4"]
    assert patterns_of(body, w=codes, s=scale, z=at + 3) == []


def test_a_sparser_pattern_has_the_others() -> None:
    assert sparse_fact("2:4") == "sparse-2:4"
    facts = {FLOAT, sparse_fact("1:4")}
    assert all(has_pattern(facts, pattern) for pattern in ("1:4", "2:4", "2:8", "4:8"))
    facts = {sparse_fact("2:4")}
    assert has_pattern(facts, "4:8")
    assert not has_pattern(facts, "1:4")
    assert not has_pattern(facts, "2:8")
    assert not has_pattern({FLOAT}, "2:4")
    assert has_pattern({sparse_fact("2:8")}, "2:4")
    assert not has_pattern({sparse_fact("4:8")}, "2:4")
