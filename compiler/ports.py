"""What a compile can feed and compare: tensors."""

from __future__ import annotations

import onnx_ir as ir

from ..ir.errors import InputError
from ..ir.signature import Signature

KINDS = {"SEQUENCE": "a sequence", "OPTIONAL": "an optional value", "SPARSE": "a sparse tensor"}


def check_ports(signature: Signature, where: str) -> None:
    """Raise ``InputError`` for the first input or output that is no tensor.

    Nothing could be fed to it or compared there. Inside the graph all types are welcome.
    """
    for side, specs in (("input", signature.inputs), ("output", signature.outputs)):
        for spec in specs:
            if spec.dtype not in ir.DataType.__members__:
                kind = KINDS.get(spec.dtype.partition("(")[0], spec.dtype)
                raise InputError(
                    f"{side} {spec.name!r} is {kind}; planish feeds and compares tensors only",
                    where=where,
                    hint="export the model with tensors at its edge; inside it any type is fine",
                )
