"""Why a weight is not packed in blocks of few bits: stable codes and sentences."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from ..ir.facts import FLOAT, QUANTIZED
from ..ir.graph import attribute, constant_tensor, operator
from ..ir.sites import Site
from ..targets.schema import Target
from .sharing import Shared, turns

MIN_SAVING = 1024
"""Bytes; the nodes and names of a packed weight take some hundred themselves."""
PACKABLE = (ir.DataType.FLOAT, ir.DataType.FLOAT16)
"""Of weights and of the activations that meet them."""
TABLE_BLOCK = 16
"""GatherBlockQuantized takes no smaller ones, and powers of two only."""

Reason = tuple[str, str]
"""A code and a sentence."""


def refusal(group: Shared, bits: int, block: int, target: Target) -> Reason | None:
    """The first reason to leave the layers of a weight alone, None where there is none."""
    return next(_reasons(group, bits, block, target), None)


def too_little(saving: int) -> Reason | None:
    """Refuses weights that would hardly shrink."""
    if saving >= MIN_SAVING:
        return None
    return "too-small", f"packing it would save {saving} bytes, fewer than {MIN_SAVING}"


def _reasons(group: Shared, bits: int, block: int, target: Target) -> Iterator[Reason]:
    yield from _no_kernel(group, bits, block, target)
    for site in group.sites:
        yield from _of_site(site)
    yield from _of_tensor(group)
    yield from _of_sharing(group, block)
    width = group.shape[0]
    if group.multiplied and target.weight_only.symmetric and width % block:
        yield "ragged-blocks", f"its {width} inputs are no whole blocks of {block}"
    if group.looked_up and width * bits % 8:
        yield "ragged-rows", f"rows of {width} codes of {bits} bits do not fill whole bytes"


def _no_kernel(group: Shared, bits: int, block: int, target: Target) -> Iterator[Reason]:
    kernel = target.weight_only
    if bits not in kernel.bits or block not in kernel.blocks:
        sentence = f"{target.name} has no kernel for {bits}-bit weights in blocks of {block}"
        yield "no-nbits-kernel", sentence
    if group.looked_up and kernel.tables is False:
        yield "no-nbits-kernel", f"{target.name} looks up no rows of packed tables"
    if group.looked_up and (block < TABLE_BLOCK or block & (block - 1)):
        sentence = f"tables are looked up in blocks of {TABLE_BLOCK} or a larger power of two"
        yield "no-nbits-kernel", sentence


def _of_site(site: Site) -> Iterator[Reason]:
    if QUANTIZED in site.facts:
        yield "already-quantized", "its weight has 8 bits or fewer already"
    if FLOAT not in site.facts:
        yield "not-float", "the layer is not in float any more"
    if site.nested or any(u.nodes[0].graph is not site.nodes[0].graph for u in site.uses):
        yield "subgraph", "it stands inside a branch or a loop; left in float"
    for use in site.uses:
        yield from _of_node(use.nodes[0])
    if any(not _is_turn(node) for use in site.uses for node in use.weight_path):
        yield "not-canonical", "its weight stands behind a reshape or a cast"
    if len({turns(use) for use in site.uses}) > 1:
        yield "not-canonical", "it is applied both as it is stored and transposed"


def _of_node(node: ir.Node) -> Iterator[Reason]:
    op = operator(node)
    if op not in (("", "MatMul"), ("", "Gemm"), ("", "Gather")):
        yield "unsupported-op", f"{node.op_type} has no kernel with packed weights"
    if op == ("", "Gemm") and (attribute(node, "alpha", 1.0), attribute(node, "beta", 1.0)) != (
        1.0,
        1.0,
    ):
        yield (
            "not-canonical",
            "its product is scaled; canonicalize moves the factor into the weight",
        )


def _is_turn(node: ir.Node) -> bool:
    return operator(node) == ("", "Transpose") and tuple(attribute(node, "perm", (1, 0))) == (1, 0)


def _of_tensor(group: Shared) -> Iterator[Reason]:
    for site in group.sites:
        tensor = constant_tensor(site.weight)
        if tensor is None or tensor.dtype not in PACKABLE:
            found = "not constant" if tensor is None else tensor.dtype.name.lower()
            yield "dtype", f"its weight is {found}; only float32 and float16 are packed"
        elif len(tensor.shape) != 2:
            yield "not-canonical", f"its weight is stored with {len(tensor.shape)} axes"


def _of_sharing(group: Shared, block: int) -> Iterator[Reason]:
    weights = {id(site.weight): site.weight for site in group.sites}
    ways = {(id(s.weight), turned) for s, turned in zip(group.sites, group.turned, strict=True)}
    if len(ways) > len(weights):
        yield "not-canonical", "it is a table in one place, and multiplied untransposed in another"
    known = {
        n for site in group.sites for use in site.uses for n in (use.nodes[0], *use.weight_path)
    }
    readers = {use.node for w in weights.values() if w is not None for use in w.uses()}
    if readers - known or any(w.is_graph_output() for w in weights.values() if w is not None):
        yield "shared", "other nodes read its weight, too, and it would be kept twice"
    behind = {o for node in known for o in node.outputs if node.op_type == "Transpose"}
    if any(user.node not in known for o in behind for user in o.uses()):
        yield "shared", "other nodes read its weight transposed, and it would be kept twice"
    if group.looked_up and group.multiplied and group.shape[0] % block:
        width = group.shape[0]
        yield "tied", f"rows of {width} are no whole blocks of {block}, and would be kept twice"
