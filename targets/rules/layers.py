"""Products in a graph, and on which grids of codes their operands lie."""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx_ir as ir

from ...ir.graph import attribute, constant_tensor, dims, given, is_constant, operator, producer
from .fusion import TRANSPARENT

IN_FLOAT = "the layer runs in float behind DequantizeLinear"
"""What happens to a layer for which there is no integer kernel, as rules say it."""
PRODUCTS = frozenset({"MatMul", "Gemm", "Conv", "ConvTranspose"})
EIGHT_BITS = frozenset({ir.DataType.INT8, ir.DataType.UINT8})
SIXTEEN_BITS = frozenset({ir.DataType.INT16, ir.DataType.UINT16})
FEW_BITS = frozenset(
    {ir.DataType.INT4, ir.DataType.UINT4, ir.DataType.INT2, ir.DataType.UINT2}
)  # fmt: skip
_DTYPES = frozenset(int(dtype) for dtype in ir.DataType) - {0}
FLOAT8 = frozenset(
    {
        ir.DataType.FLOAT8E4M3FN,
        ir.DataType.FLOAT8E4M3FNUZ,
        ir.DataType.FLOAT8E5M2,
        ir.DataType.FLOAT8E5M2FNUZ,
    }
)


@dataclass(frozen=True)
class Grid:
    """What a DequantizeLinear says of a value.

    dtype: of the codes. sizes: shape of the scale, () also where it is unknown. axis: of the codes,
    from 0. block: codes of one scale along the axis, 0 without blocks. constant: the codes are
    known before any feed. rank: axes of the codes, None when unknown. moved: ops between the node
    and the product, nearest to the product first.
    """

    node: ir.Node
    dtype: ir.DataType
    sizes: tuple[int, ...]
    axis: int
    block: int
    constant: bool
    rank: int | None
    moved: tuple[ir.Node, ...] = ()

    @property
    def per_tensor(self) -> bool:
        """Whether one scale holds for all codes."""
        return math.prod(self.sizes) == 1

    @property
    def turned(self) -> bool:
        """Whether a Transpose stands between the codes and the product."""
        return any(node.op_type == "Transpose" for node in self.moved)

    def axis_of(self, axis: int) -> int | None:
        """Axis of the codes that an axis of the product's operand is; None when unknown."""
        if not self.rank:
            return None
        axis %= self.rank
        for node in self.moved:
            order = _order(node, self.rank)
            if order is None:
                return None
            axis = order[axis]
        return axis


@dataclass(frozen=True)
class Layer:
    """A product with the grids of its two operands, None where one is float."""

    node: ir.Node
    left: Grid | None
    right: Grid | None

    @property
    def static(self) -> bool:
        """Whether both operands are codes, and not both constant."""
        if self.left is None or self.right is None:
            return False
        return not (self.left.constant and self.right.constant)

    @property
    def weight_only(self) -> bool:
        """Whether only a constant weight is codes."""
        grid = self.right if self.left is None else self.left if self.right is None else None
        return grid is not None and grid.constant

    @property
    def weight(self) -> Grid | None:
        """The grid of the constant operand, None where there is none."""
        grids = [g for g in (self.right, self.left) if g is not None and g.constant]
        return grids[0] if grids else None

    @property
    def activations(self) -> tuple[Grid, ...]:
        """The grids of the operands that are not constant."""
        return tuple(g for g in (self.left, self.right) if g is not None and not g.constant)


def layer_of(node: ir.Node) -> Layer | None:
    """The node as a layer; None for anything but a product."""
    domain, op = operator(node)
    if domain or op not in PRODUCTS or len(node.inputs) < 2:
        return None
    return Layer(node, grid_of(node.inputs[0]), grid_of(node.inputs[1]))


def grid_of(value: ir.Value | None) -> Grid | None:
    """The grid of a value, also through ops that only move numbers."""
    moved: list[ir.Node] = []
    node = producer(value)
    while node is not None and node.op_type in TRANSPARENT and not node.domain and node.inputs:
        moved.append(node)
        node = producer(node.inputs[0])
    if node is None or operator(node) != ("", "DequantizeLinear") or len(node.inputs) < 2:
        return None
    return grid_at(node, tuple(moved))


def grid_at(node: ir.Node, moved: tuple[ir.Node, ...] = ()) -> Grid:
    """The grid of a QuantizeLinear or a DequantizeLinear."""
    codes = node.inputs[0] if node.op_type == "DequantizeLinear" else node.outputs[0]
    shape = dims(codes)
    rank = None if shape is None else len(shape)
    axis = integer(node, "axis", 1)
    scales = dims(given(node, 1)) or ()
    return Grid(
        node,
        code_dtype(node),
        tuple(n if isinstance(n, int) else 2 for n in scales),
        axis % rank if rank else axis,
        integer(node, "block_size", 0),
        _known(codes),
        rank,
        moved,
    )


def named(value: ir.Value | None) -> str:
    """The name of a value as messages say it."""
    return "" if value is None else str(value.name)


def integer(node: ir.Node, name: str, default: int) -> int:
    """A whole-number attribute; the default where the file gives none or something else."""
    found = attribute(node, name, default)
    return found if isinstance(found, int) else default


def code_dtype(node: ir.Node) -> ir.DataType:
    """The type of the codes of a QuantizeLinear or a DequantizeLinear."""
    codes = given(node, 0) if node.op_type == "DequantizeLinear" else node.outputs[0]
    zero = given(node, 2)
    for value in (codes, zero):
        tensor = constant_tensor(value)
        found = tensor.dtype if tensor is not None else None if value is None else value.dtype
        if found is not None:
            return found
    named = integer(node, "output_dtype", 0)
    return ir.DataType(named) if named in _DTYPES else ir.DataType.UINT8


def _order(node: ir.Node, rank: int) -> tuple[int, ...] | None:
    """Which axis each axis of a node's output was; None where it is no plain reordering."""
    if node.op_type == "Identity":
        return tuple(range(rank))
    perm = attribute(node, "perm", tuple(reversed(range(rank))))
    fits = node.op_type == "Transpose" and sorted(perm) == list(range(rank))
    return tuple(perm) if fits else None


def _known(codes: ir.Value | None) -> bool:
    """Whether codes are constant, or made of a constant."""
    made = producer(codes, "QuantizeLinear")
    return is_constant(codes) or (made is not None and is_constant(made.inputs[0]))
