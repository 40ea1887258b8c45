from __future__ import annotations

import pytest

from planish.compiler.ports import check_ports
from planish.ir.errors import InputError
from planish.ir.signature import Signature, TensorSpec

TENSOR = TensorSpec("x", "FLOAT", (None, 3))


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [
        ("SEQUENCE(FLOAT)", "a sequence"),
        ("OPTIONAL(SEQUENCE(INT64))", "an optional value"),
        ("SPARSE(FLOAT)", "a sparse tensor"),
    ],
)
def test_what_is_no_tensor_is_named(dtype: str, kind: str) -> None:
    odd = TensorSpec("odd", dtype, None)
    with pytest.raises(InputError, match=f"input 'odd' is {kind}; planish feeds"):
        check_ports(Signature((TENSOR, odd), (TENSOR,)), "m.onnx")
    with pytest.raises(InputError, match=f"output 'odd' is {kind}"):
        check_ports(Signature((TENSOR,), (TENSOR, odd)), "m.onnx")


def test_tensors_of_any_kind_pass() -> None:
    specs = tuple(TensorSpec(d, d, None) for d in ("STRING", "BFLOAT16", "INT4", "UNDEFINED"))
    check_ports(Signature(specs, specs), "m.onnx")
