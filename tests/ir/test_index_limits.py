"""How large integers may be, read off the tables that they index."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir
import pytest

from planish.ir.finding.index_limits import index_limits

HEADER = '<ir_version: 10, opset_import: ["": 20]>'


def limits(inputs: str, body: str) -> dict[str, int]:
    return index_limits(ir.from_onnx_text(f"{HEADER} g ({inputs}) => (float[n] y) {{ {body} }}"))


def test_the_smallest_table_on_the_way_decides() -> None:
    body = """
        a = Gather (words, ids)
        shape = Constant <value_ints = [-1]> ()
        flat = Reshape (ids, shape)
        as_int = Cast <to = 7> (flat)
        b = Gather <axis = 1> (few, as_int)
        y = Identity (b)
    """
    inputs = "int32[n, s] ids, float[50, 4] words, float[4, 7] few"
    assert limits(inputs, body) == {"ids": 7}


@pytest.mark.parametrize(
    "body",
    [
        "y = Gather (table, ids)",  # rows unknown
        "f = Cast <to = 1> (ids)\n y = Add (f, f)",
        "y = Gather (ids, k)",  # the input is the table
    ],
)
def test_an_input_that_indexes_nothing_known_has_no_limit(body: str) -> None:
    inputs = "int64[n] ids, float[r, 4] table, int64[1] k"
    assert "ids" not in limits(inputs, body)


def test_the_depth_of_a_one_hot() -> None:
    body = """
        depth = Constant <value_int = 5> ()
        values = Constant <value_floats = [0.0, 1.0]> ()
        y = OneHot (ids, depth, values)
    """
    assert limits("int64[n] ids", body) == {"ids": 5}


def test_fused_embeddings(data: Path) -> None:
    folder = data / "onnx_structural"
    bert = ir.load(folder / "contrib_transformers/bert_toy_optimized.onnx")
    assert index_limits(bert) == {"input_ids": 99, "token_type_ids": 16}
    gpt = ir.load(folder / "genai/tiny_gpt2_fp16_past.onnx")
    assert index_limits(gpt) == {"input_ids": 1000, "position_ids": 512}
