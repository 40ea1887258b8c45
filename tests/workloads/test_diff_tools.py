"""What ``planish diff`` says of models that nobody here made: MiniLM after onnxruntime's tools.

The texts in ``diffs/`` are read before they are kept. ``benchmarks/run.py diff-tools`` checks that
of onnxslim's output as well.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.diff_pairs import HERE, known, other_lines, text_of

pytestmark = pytest.mark.torch  # exports the model

SAYS = {
    "onnxruntime-dynamic": "computed in 8-bit integers, inputs rounded at run time: 36 MatMul",
    "onnxruntime-static": "values rounded to INT8: 217 QuantizeLinear, 217 DequantizeLinear",
    "onnxruntime-optimizer": "12 x fused into SkipLayerNormalization: 2 Add, LayerNormalization",
    "onnxslim": "6 x computed in advance: 2 Concat, Slice -> 2 Concat",
}
SCREEN = 24
"""Lines."""


@pytest.mark.parametrize("name", HERE)
def test_the_text_of_a_pair(name: str, task: Callable[[str], Any], tmp_path: Path) -> None:
    model = task("minilm").model
    after = HERE[name](model, tmp_path / f"{name}.onnx")
    assert other_lines(name, text_of(model, after)) == []


@pytest.mark.parametrize("name", SAYS)
def test_the_first_screen_says_what_was_done(name: str) -> None:
    screen = "\n".join(known(name).splitlines()[:SCREEN])
    assert SAYS[name] in screen
    assert "nodes are the same" in screen
