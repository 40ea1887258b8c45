"""What a model holds and does: parameters, bytes and operations, in all and for each site."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from ..graph import all_graphs, all_nodes, attribute, constant_tensor, producer
from ..sites import Site, Sites
from ..types.bound import Shapes
from .flops import total_flops

_SCALE_POSITIONS: dict[str, tuple[int, ...]] = {
    "QuantizeLinear": (1, 2),
    "DequantizeLinear": (1, 2),
    "MatMulInteger": (2, 3),
    "ConvInteger": (2, 3),
    "QLinearMatMul": (1, 2, 4, 5, 6, 7),
    "QLinearConv": (1, 2, 4, 5, 6, 7),
    "QGemm": (1, 2, 4, 5, 7, 8),
    "DynamicQuantizeMatMul": (2, 3),
    "MatMulIntegerToFloat": (2, 3, 4, 5),
    "MatMulNBits": (2, 3, 4),
    "MatMulBnb4": (2,),
    "GatherBlockQuantized": (2, 3),
    "QAttention": (3, 4, 6, 7),
    "DynamicQuantizeLSTM": (8, 9, 10, 11),
}
"""Inputs that say how integers stand for numbers, and are no parameters themselves."""
_CODES = frozenset(d for d in ir.DataType if d.is_integer() and d.bitwidth <= 8)


@dataclass(frozen=True)
class SiteRow:
    """One line of the table of ``inspect``.

    shape: of the stored weight. parameters: weight and bias. bytes: all constants that the site
    reads, scales included. flops: for one run on the bound shapes, None where unknown; of a
    block only what happens between its layers. nested: inside the body of an If, Loop or Scan.
    """

    name: str
    kind: str
    parent: str | None
    operator: str
    shape: tuple[int, ...]
    dtype: str
    parameters: int
    bytes: int
    flops: int | None
    facts: tuple[str, ...]
    uses: int
    nested: bool = False

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {**vars(self), "shape": list(self.shape), "facts": list(self.facts)}


@dataclass(frozen=True)
class Totals:
    """The whole model. unknown: operators whose operations could not be counted, sorted."""

    nodes: int
    parameters: int
    bytes: dict[str, int]
    flops: int
    unknown: tuple[str, ...]


@dataclass(frozen=True)
class Rest:
    """What belongs to no site: parameters and bytes of the constants that no site reads, and the
    operations of one run that are not those of sites; None where one of them is unknown."""

    parameters: int
    bytes: int
    flops: int | None


def parameters(model: ir.Model) -> int:
    """Numbers that were trained: elements of float tensors and of integers that stand for them.

    Single numbers, scales, zero points, indices and shapes do not count; a shared tensor does
    once.
    """
    return sum(value_parameters(v) for v in _constants(model))


def weight_bytes(model: ir.Model) -> dict[str, int]:
    """Bytes of all stored constants by dtype name, those inside subgraphs included."""
    sizes: Counter[str] = Counter()
    for value in _constants(model):
        tensor = value.const_value
        if tensor is not None:
            sizes[tensor.dtype.name] += tensor.nbytes
    return dict(sorted(sizes.items()))


def totals(model: ir.Model, shapes: Shapes) -> Totals:
    """Everything counted once; ``flops`` of what is known, the rest in ``unknown``."""
    nodes = list(model.graph)
    counts = [(node, total_flops([node], shapes)) for node in nodes]
    return Totals(
        nodes=sum(1 for _ in all_nodes(model)),
        parameters=parameters(model),
        bytes=weight_bytes(model),
        flops=sum(count for _, count in counts if count is not None),
        unknown=tuple(sorted({node.op_type for node, count in counts if count is None})),
    )


def rest(model: ir.Model, sites: Sites, shapes: Shapes) -> Rest:
    """What of a model's ``totals`` belongs to none of its sites; shapes from ``bound_shapes``."""
    held = {id(tensor) for site in sites for tensor in _tensors(site)}
    free = [value for value in _constants(model) if id(value.const_value) not in held]
    stored = [value.const_value.nbytes for value in free if value.const_value is not None]
    every = total_flops(model.graph, shapes)
    counts = [site_flops(site, shapes) for site in sites]
    # An If counts as one of its branches, where its sites are those of both.
    known = every is not None and None not in counts and not any(site.nested for site in sites)
    flops = (every or 0) - sum(count or 0 for count in counts) if known else None
    return Rest(sum(map(value_parameters, free)), sum(stored), flops)


def site_table(sites: Sites, shapes: Shapes) -> list[SiteRow]:
    """One row a site, in graph order; shapes from ``bound_shapes``."""
    return [_row(site, shapes) for site in sites]


def site_flops(site: Site, shapes: Shapes) -> int | None:
    """Operations of a site in one run, over all its uses; None where unknown."""
    return total_flops(_nodes(site), shapes)


def site_bytes(site: Site) -> int:
    """Bytes of the constants that a site reads, each once."""
    return sum(tensor.nbytes for tensor in _tensors(site))


def _row(site: Site, shapes: Shapes) -> SiteRow:
    tensor = constant_tensor(site.weight)
    return SiteRow(
        name=site.name,
        kind=site.kind,
        parent=site.parent,
        operator=site.nodes[0].op_type,
        shape=() if tensor is None else tuple(tensor.shape.numpy()),
        dtype="" if tensor is None else tensor.dtype.name,
        parameters=sum(value_parameters(v) for v in (site.weight, site.bias) if v is not None),
        bytes=site_bytes(site),
        flops=site_flops(site, shapes),
        facts=tuple(sorted(site.facts)),
        uses=max(1, len(site.uses)),
        nested=site.nested,
    )


def _nodes(site: Site) -> Sequence[ir.Node]:
    return [n for use in site.uses for n in use.nodes] if site.uses else site.nodes


def _tensors(site: Site) -> Iterable[ir.TensorProtocol]:
    """The constants of the nodes of a layer and of those its weight and bias pass through."""
    nodes = [n for use in site.uses for n in (*use.weight_path, *use.nodes)] or list(site.nodes)
    read = [v for node in nodes for v in node.inputs if v is not None]
    found = {id(t): t for v in [*read, site.bias] if (t := constant_tensor(v)) is not None}
    return found.values()


def _constants(model: ir.Model) -> Iterable[ir.Value]:
    for graph in all_graphs(model):
        yield from graph.initializers.values()


def value_parameters(value: ir.Value) -> int:
    """Numbers that were trained among the elements of a stored constant; see ``parameters``."""
    tensor = value.const_value
    if tensor is None or tensor.size <= 1 or not value.uses():
        return 0
    if all(_as_scale(node, index) for node, index in value.uses()):
        return 0
    for node, index in value.uses():
        if node.op_type == "MatMulNBits" and index == 1:
            return int(attribute(node, "K")) * int(attribute(node, "N"))
        if node.op_type == "GatherBlockQuantized" and index == 0:
            packed = (
                8 // int(attribute(node, "bits", 4)) if tensor.dtype == ir.DataType.UINT8 else 1
            )
            return tensor.size * packed
    return tensor.size if _stands_for_numbers(value, tensor) else 0


def _as_scale(node: ir.Node, index: int) -> bool:
    """Whether the input says how integers stand for numbers, maybe row by row (Gather)."""
    if index in _SCALE_POSITIONS.get(node.op_type, ()):
        return True
    if node.op_type == "Gather" and index == 0:
        uses = node.outputs[0].uses()
        return bool(uses) and all(_as_scale(reader, i) for reader, i in uses)
    return node.op_type == "Mul" and _widened(node.inputs[1 - index])


def _widened(value: ir.Value | None) -> bool:
    """The scale of a dynamic quantization, or codes that a Cast makes numbers of."""
    node = producer(value)
    if node is None or node.op_type == "DynamicQuantizeLinear":
        return node is not None and node.outputs[1] is value
    source = node.inputs[0] if node.op_type == "Cast" else None
    return source is not None and source.dtype in _CODES


def _stands_for_numbers(value: ir.Value, tensor: ir.TensorProtocol) -> bool:
    if tensor.dtype.is_floating_point() or tensor.dtype in _CODES:
        return True
    biases = (("DequantizeLinear", 0), ("QLinearConv", 8), ("QGemm", 6))
    return tensor.dtype == ir.DataType.INT32 and any(
        (node.op_type, index) in biases for node, index in value.uses()
    )
