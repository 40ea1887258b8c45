"""What the runtime says of models it cannot take, in words of those who made the model."""

from __future__ import annotations

import onnx
import pytest

from planish.ir.errors import TargetError
from planish.targets.runtime import open_session


@pytest.mark.parametrize(
    ("node", "said", "hint"),
    [
        ("y = Fake(x)", "refuses the model: it knows no operator Fake in opset 17", "standard ops"),
        ("y = own.ops.Fake(x)", "refuses the model: it knows no operator own.ops:Fake", "standard"),
        ("y = MatMul(x, x)", "it has no kernel for MatMul with these types", "float32"),
        ("[a] z = Neg(x) [a] y = Neg(z)", "refuses the model: two nodes with same", "a name"),
    ],
)
def test_refusals_in_plain_words(node: str, said: str, hint: str) -> None:
    kind = "bfloat16" if "MatMul" in node else "float"
    model = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17, "own.ops" : 1]>\n'
        f"g ({kind}[2, 2] x) => ({kind}[2, 2] y) {{ {node} }}"
    )
    with pytest.raises(TargetError, match=said) as caught:
        open_session(model.SerializeToString())
    assert hint in caught.value.hint
    assert "invalid model" not in caught.value.what
