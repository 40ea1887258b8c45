"""Which input tells real tokens from padding, and a warning where nobody knows."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from planish.compiler.data.feeds import load_feeds
from planish.compiler.data.feedset import FeedSet
from planish.compiler.data.tokenmask import TokenMask, padding_suspected, token_mask
from planish.ir.errors import InputError, PlanishError, UsageError
from planish.ir.signature import Signature

INPUTS = "int64[b, s] ids, int64[b, s] mask, bool[b, s] other, float[b, s] level, int64[b] length"
HEADER = '<ir_version: 10, opset_import: ["": 23]>'
BODY = """
    table = Constant <value = float[3, 2] {0.1, 0.2, 0.3, 0.4, 0.5, 0.6}> ()
    x = Gather (table, ids)
    axis = Constant <value_ints = [1]> ()
    yes = Cast <to = 9> (mask)
    row = Unsqueeze (yes, axis)
"""
ONE = "y = Attention <q_num_heads = 1, kv_num_heads = 1> (x, x, x, row)"
TWO = """
    second = Unsqueeze (other, axis)
    u = Attention <q_num_heads = 1, kv_num_heads = 1> (x, x, x, row)
    y = Attention <q_num_heads = 1, kv_num_heads = 1> (u, u, u, second)
"""
NONE = "z = Gather (table, mask)\n y = Add (x, z)"


def model(body: str) -> ir.Model:
    return ir.from_onnx_text(f"{HEADER} g ({INPUTS}) => (float[b, s, 2] y) {{ {BODY}{body} }}")


PADDED = [[7, 8, 9, 4, 5], [7, 8, 9, 0, 0], [7, 8, 0, 0, 0], [4, 0, 0, 0, 0]]
WHOLE = [[7, 8, 9, 4, 5], [7, 8, 9, 4, 6], [7, 8, 1, 2, 3], [4, 3, 9, 8, 2]]


def feeds(built: ir.Model, ids: list[list[int]], **changes: Any) -> FeedSet:
    array = np.array(ids)
    feed = {
        "ids": array,
        "mask": (array > 0).astype(np.int64),
        "other": np.ones(array.shape, bool),
        "level": np.zeros(array.shape, np.float32),
        "length": np.full(len(array), array.shape[1]),
    }
    return load_feeds([feed | changes], Signature.of(built))


def find(body: str, ids: list[list[int]], explicit: str | None = None, **changes: Any) -> TokenMask:
    built = model(body)
    return token_mask(built, Signature.of(built), feeds(built, ids, **changes), explicit)


def test_the_one_mask_of_the_graph_is_found_and_said() -> None:
    found = find(ONE, PADDED)
    assert found.name == "mask"
    assert [(r.kind, r.site, r.code) for r in found.remarks] == [
        ("note", "mask", "token-mask-found")
    ]


def test_an_input_with_other_values_is_no_mask() -> None:
    # As positions are that bias attention by distance: the same operators, another meaning.
    found = find(ONE, WHOLE, mask=np.arange(20).reshape(4, 5))
    assert found == TokenMask(None)


def test_padding_without_a_mask_is_a_warning() -> None:
    found = find(NONE, PADDED)
    assert found.name is None
    assert [(r.kind, r.site, r.code) for r in found.remarks] == [
        ("missed", "ids", "padding-counts")
    ]
    assert find(NONE, WHOLE) == TokenMask(None)


def test_several_masks_are_left_to_the_user() -> None:
    found = find(TWO, PADDED)
    assert found.name is None
    assert found.remarks[0].code == "several-token-masks"
    assert "'mask' and 'other'" in found.remarks[0].sentence
    assert find(TWO, WHOLE) == TokenMask(None)  # all ones: nothing to choose
    ones = np.ones((4, 5), np.int64)
    assert find(TWO, PADDED, mask=ones).remarks[0].code == "padding-counts"
    assert find(TWO, PADDED, "other") == TokenMask("other")


def test_an_explicit_mask_is_taken_whatever_the_graph_does_with_it() -> None:
    assert find(NONE, PADDED, "mask") == TokenMask("mask")


@pytest.mark.parametrize(
    ("name", "kind", "what", "hint"),
    [
        ("maks", UsageError, "no input 'maks'", "'mask'"),
        ("level", UsageError, "level: FLOAT[b, s], not integers or booleans", "mask"),
        ("length", UsageError, "length: INT64[b], not integers", "ids"),
        ("ids", InputError, "'ids' holds other values than 0 and 1", "1 for a real token"),
    ],
)
def test_an_explicit_mask_that_cannot_be_one(
    name: str, kind: type[PlanishError], what: str, hint: str
) -> None:
    with pytest.raises(kind) as caught:
        find(ONE, PADDED, name)
    assert what in caught.value.what
    assert hint in caught.value.hint


def suspect(*rows: list[int], name: str = "ids", dtype: Any = np.int64) -> str | None:
    return padding_suspected([{"x": np.zeros((3, 4)), name: np.array(rows, dtype)}])


def test_rows_that_end_alike_look_padded() -> None:
    assert suspect([5, 6, 0, 0], [5, 0, 0, 0], [5, 6, 7, 8]) == "ids"
    assert suspect([0, 0, 5, 6], [0, 0, 0, 5], [5, 6, 7, 8]) == "ids"  # padded in front
    assert suspect([5, 6, -1, -1], [5, 6, -1, -1], dtype=np.int32) == "ids"  # all to full length
    separate = [{"ids": np.array([[5, 6, 9, 9]])}, {"ids": np.array([[5, 7, 8, 9, 9]])}]
    assert padding_suspected(separate) == "ids"


@pytest.mark.parametrize(
    "rows",
    [
        ([5, 6, 7, 8], [1, 2, 3, 4]),
        ([5, 6, 7, 7], [1, 2, 3, 4]),  # one row alone
        ([5, 6, 7, 7], [1, 2, 3, 3]),  # each with a value of its own
        ([2, 2, 2, 2], [2, 2, 2, 2]),  # constant
        ([1, 1, 0, 0], [1, 0, 0, 0]),  # a mask
        ([0, 0, 1, 1], [0, 0, 0, 1]),  # token types
        ([7, 7], [8, 7]),
        *([[[5, 6, 0, 0]] * 2 + [[i, i + 1, i + 2, i + 3] for i in range(9, 40)]]),  # too few
    ],
)
def test_rows_that_do_not(rows: list[list[int]]) -> None:
    assert suspect(*rows) is None


def test_only_integer_matrices_count() -> None:
    rows = [[5, 6, 0, 0], [5, 0, 0, 0]]
    assert padding_suspected([{"x": np.array(rows, np.float32), "y": np.array([rows])}]) is None
    assert padding_suspected([]) is None
