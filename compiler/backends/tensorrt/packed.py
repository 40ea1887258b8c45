"""Weights that ONNX Runtime reads packed, as standard operators that TensorRT takes for int4.

Source: com.microsoft MatMulNBits (ONNX Runtime's contrib operators): codes of 4 bits less 8 times
their block's scale, the first of two in the lower half of a byte.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from ....ir import nbits
from ....ir.blocked import blocked_weight
from ....ir.errors import TargetError
from ....ir.graph import attribute, constant_array, given, operator
from ....ir.rewriter import Rewriter
from ....targets.schema import Target
from ..backend import Legalised

BITS, MIDDLE = 4, 8
_EXTRA = {3: "zero points", 4: "a group index", 5: "a bias"}


def int4_products(rewriter: Rewriter, target: Target) -> Iterator[Legalised]:
    """Each MatMulNBits becomes MatMul with a weight in blocks; uses of one weight share it.

    Raises TargetError for codes that are not symmetric int4 with scales above 0 in whole blocks.
    """
    made: dict[tuple[ir.Value | None, ...], ir.Value] = {}
    for node in list(rewriter.graph):
        if operator(node) != (nbits.DOMAIN, nbits.MATMUL):
            continue
        if wrong := _wrong(node):
            raise TargetError(
                f"{node.op_type} {node.name!r} has {wrong}; TensorRT takes int4 weights with "
                "scales above 0 and without zero points, in whole blocks",
                where=f"node {node.name!r}",
                hint=f"quantize the float model for {target.name} instead: weight-only packs "
                "weights as the target takes them",
            )
        key = tuple(node.inputs[1:3])
        if key not in made:
            made[key] = _widened(rewriter, node)
        name, read = str(node.outputs[0].name), list(node.inputs)
        product = rewriter.insert(
            "MatMul", [node.inputs[0], made[key]], before=node, name=f"{node.name}_matmul",
            origins=[node],
        )  # fmt: skip
        rewriter.take_over(node.outputs[0], product.outputs[0])
        rewriter.remove(node)
        rewriter.sweep(read)
        sentence = f"{nbits.DOMAIN}:{nbits.MATMUL} is DequantizeLinear of int4 and MatMul"
        yield Legalised(name, "standard-spelling", sentence)


def _widened(rewriter: Rewriter, node: ir.Node) -> ir.Value:
    """The weight [K, N] out of int8 codes in blocks; at the start, where every use may read it."""
    codes, scales = _codes(node), _scales(node)
    assert node.inputs[1] is not None
    hint = str(node.inputs[1].name).removesuffix("_packed")
    first = next(iter(rewriter.graph))
    return blocked_weight(rewriter, first, hint, codes, scales)


def _codes(node: ir.Node) -> np.ndarray:
    """int8 [N, K], from -8 to 7."""
    packed = constant_array(node.inputs[1])
    assert packed is not None
    rows = packed.reshape(len(packed), -1)
    both = np.stack([rows & 15, rows >> 4], axis=-1).reshape(len(rows), -1)
    return np.asarray(both.astype(np.int8) - np.int8(MIDDLE))


def _scales(node: ir.Node) -> np.ndarray:
    """[N, K / block]."""
    scales = constant_array(node.inputs[2])
    assert scales is not None
    return scales.reshape(int(attribute(node, "N")), -1)


def _wrong(node: ir.Node) -> str:
    """What of a node TensorRT has no form for, "" where it has one."""
    bits, inputs, block = (int(attribute(node, n, 0)) for n in ("bits", "K", "block_size"))
    if bits != BITS:
        return f"codes of {bits} bits"
    extra = [said for index, said in _EXTRA.items() if given(node, index) is not None]
    if extra:
        return extra[0]
    if not block or inputs % block:
        return f"{inputs} inputs in blocks of {block}"
    if constant_array(node.inputs[1]) is None:
        return "a weight that is computed"
    scales = constant_array(node.inputs[2])
    if scales is None:
        return "scales that are computed"
    if not np.all(np.isfinite(scales)) or not np.all(scales > 0):
        return f"a scale of {scales.reshape(-1)[np.argmin(scales)]:g}"
    return ""
