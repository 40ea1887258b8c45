"""What was done in a hunk, where that is something that has a name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import onnx_ir as ir

from ..graph import constant_tensor
from .absorbed import absorbed
from .changes import GraphDiff, Hunk, TensorChange
from .grouping import only_spelled
from .pool import DQ, Q

ROUNDING = frozenset((Q, DQ))
AT_RUN_TIME = frozenset(("DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"))
INTEGER = frozenset(("MatMulInteger", "MatMulIntegerToFloat", "ConvInteger", "QGemm", "QAttention"))
ATTENTION = frozenset(("Attention", "MultiHeadAttention", "GroupQueryAttention", "QAttention"))
FEW_BITS = frozenset(("MatMulNBits", "MatMulBnb4", "GatherBlockQuantized"))
PRODUCTS = frozenset(("MatMul", "Gemm", "Conv"))


@dataclass(frozen=True)
class Pattern:
    """code: for programs. title: in words. subjects: operators that it was done to, with counts."""

    code: str
    title: str
    subjects: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Change:
    """A hunk by operators: gone, new, and those of nodes that both graphs have."""

    diff: GraphDiff
    hunk: Hunk

    @cached_property
    def gone(self) -> Counter[str]:
        """Operators of nodes that only the graph before has."""
        kept = {a for a, _ in self.hunk.changed}
        nodes = self.diff.before.nodes
        return Counter(nodes[n].op_type for n in self.hunk.before if n not in kept)

    @cached_property
    def new(self) -> Counter[str]:
        """Operators of nodes that only the graph after has."""
        kept = {b for _, b in self.hunk.changed}
        nodes = self.diff.after.nodes
        return Counter(nodes[n].op_type for n in self.hunk.after if n not in kept)

    @cached_property
    def same(self) -> Counter[str]:
        """Operators of nodes that both have."""
        return Counter(self.diff.before.nodes[a].op_type for a, _ in self.hunk.changed)

    @cached_property
    def absorbed(self) -> Counter[str]:
        """Activations that are gone since rounding does them."""
        return absorbed(self.diff, self.hunk)

    @property
    def codes(self) -> str:
        """Dtype of the largest constant that came, "" where none did."""
        held = [t.after for t in self.hunk.tensors if t.after is not None]
        return max(held, key=lambda facts: facts.bytes).dtype if held else ""

    @property
    def both(self) -> list[TensorChange]:
        """Constants that are on both sides."""
        return [t for t in self.hunk.tensors if t.before is not None and t.after is not None]

    def subjects(self) -> tuple[tuple[str, int], ...]:
        """The operators that something was done to."""
        counted = (self.gone + self.same) or self.new
        return tuple(counted.most_common())


def pattern_of(diff: GraphDiff, hunk: Hunk) -> Pattern:
    """The first pattern that a hunk is an example of, else its kind."""
    change = Change(diff, hunk)
    for code, find in _PATTERNS.items():
        title = find(change)
        if title:
            return Pattern(code, title, change.subjects())
    return Pattern(hunk.kind, hunk.kind, change.subjects())


def _spelled(change: Change) -> str:
    """Attributes that are left out on one side, and their defaults on the other."""
    pairs, found = change.hunk.changed, change.diff.matching
    if change.gone or change.new or not all(only_spelled(found, a, b) for a, b in pairs):
        return ""
    return "a default spelled out, or no longer"


def _rounded(change: Change) -> str:
    if change.gone - change.absorbed or change.same:
        return ""
    if not change.new or not change.new.keys() <= ROUNDING:
        return ""
    if Q not in change.new:
        return f"values read back from {_grid(change, after=True)}"
    return f"values rounded to {_grid(change, after=True)}{_done_by_rounding(change)}"


def _done_by_rounding(change: Change) -> str:
    return f", {' and '.join(change.absorbed)} done by rounding" if change.absorbed else ""


def _unrounded(change: Change) -> str:
    if change.new or change.same or not change.gone or not change.gone.keys() <= ROUNDING:
        return ""
    return f"values no longer rounded to {_grid(change, after=False)}"


def _grid(change: Change, *, after: bool) -> str:
    """The dtype that Q and DQ have in between."""
    pool = change.diff.after if after else change.diff.before
    for number in change.hunk.after if after else change.hunk.before:
        node = pool.nodes[number]
        values = [node.outputs[0] if node.op_type == Q else node.inputs[0], *node.inputs[2:]]
        known = [v.dtype for v in values if v is not None and v.dtype is not None]
        if known:
            return str(known[0].name)
    return "integers"


def _few_bits(change: Change) -> str:
    found = [n for n in change.hunk.after if change.diff.after.nodes[n].op_type in FEW_BITS]
    if not found or change.same.keys() & FEW_BITS:
        return ""
    bits = change.diff.after.nodes[found[0]].attributes.get("bits")
    return f"weights stored in {bits.as_int() if bits is not None else 4} bits"


def _dynamic(change: Change) -> str:
    if not change.new.keys() & (AT_RUN_TIME | INTEGER) or change.gone.keys() & INTEGER:
        return ""
    return ", ".join(filter(None, (
        "computed in 8-bit integers",
        "inputs rounded at run time" if _rounds_at_run_time(change) else "",
        "attention fused" if change.new.keys() & ATTENTION - change.gone.keys() else "",
    )))  # fmt: skip


def _rounds_at_run_time(change: Change) -> bool:
    """Whether a new node rounds its inputs by ranges of theirs, or reads what one rounded so."""
    pool = change.diff.after
    read = {int(s.of) for n in change.hunk.after for s in pool.sources[n] if s.kind == "node"}
    return any(pool.nodes[n].op_type in AT_RUN_TIME for n in {*change.hunk.after, *read})


def _integer(change: Change) -> str:
    names = [name for name in change.new if name.startswith("QLinear") or name in INTEGER]
    on_codes = change.gone == change.new and not change.same and _makes_codes(change)
    return "computed in 8-bit integers" if (names or on_codes) and change.gone else ""


def _makes_codes(change: Change) -> bool:
    """Whether all of a hunk reads what operators on codes compute: the pool of rounded values."""
    pool = change.diff.after
    first = [pool.sources[n][0] for n in change.hunk.after if pool.sources[n]]
    made = [pool.nodes[int(s.of)].op_type if s.kind == "node" else "" for s in first]
    return bool(made) and all(name.startswith("QLinear") for name in made)


def _stored(change: Change) -> str:
    """Weights behind a DequantizeLinear that was not there."""
    halves = _halves(change)
    if halves:
        return f"weights stored as {halves}"
    left = change.new - Counter({name: change.new[name] for name in ROUNDING})
    if (change.gone + change.same).keys() == {"Gather"} and "Mul" in change.new:
        read = (v for n in change.hunk.after for v in change.diff.after.nodes[n].inputs)
        tables = [t for v in read if (t := constant_tensor(v)) is not None and _is_code(t)]
        return f"weights stored as {tables[0].dtype.name}" if tables else ""
    if left != change.gone - change.absorbed or not (change.same or left):
        return ""
    stored = sorted(_stored_codes(change), key=lambda dtype: dtype.bitwidth)
    return f"weights stored as {stored[0].name}{_done_by_rounding(change)}" if stored else ""


def _halves(change: Change) -> str:
    """Dtype of narrower floats that new nodes cast back to what they were, "" where none do."""
    if "Cast" not in change.new or not (change.same or change.gone):
        return ""
    if change.new - Counter({"Cast": change.new["Cast"]}) != change.gone:
        return ""
    before = {t.before.dtype for t in change.hunk.tensors if t.before is not None}
    nodes = [change.diff.after.nodes[n] for n in change.hunk.after]
    cast = [constant_tensor(node.inputs[0]) for node in nodes if node.op_type == "Cast"]
    held = {tensor.dtype for tensor in cast if tensor is not None}
    narrow = [dtype for dtype in held if dtype.is_floating_point()]
    return narrow[0].name if len(narrow) == len(held) == 1 and before == {"FLOAT"} else ""


def _stored_codes(change: Change) -> Iterator[ir.DataType]:
    """Dtypes of constants that nodes of the hunk read through a new DequantizeLinear."""
    pool, inverse = change.diff.after, change.diff.matching.inverse
    for number in change.hunk.after:
        near = (number, *(int(s.of) for s in pool.sources[number] if s.kind == "node"))
        for other in near:
            node = pool.nodes[other]
            tensor = constant_tensor(node.inputs[0]) if node.op_type == DQ else None
            if tensor is not None and other not in inverse:
                yield tensor.dtype
            elif node.op_type == DQ and number not in inverse and other == number:
                # an embedding: codes are looked up first
                held = (constant_tensor(v) for n in near for v in pool.nodes[n].inputs)
                yield from (t.dtype for t in held if t is not None and _is_code(t))


def _is_code(tensor: ir.TensorProtocol) -> bool:
    return tensor.dtype.is_integer() and tensor.dtype.bitwidth <= 8 and tensor.size > 1


def _factors(change: Change) -> str:
    """A product as two, whose inner size is smaller than that of the one."""
    gone = sum(change.gone[name] for name in PRODUCTS)
    new = sum(change.new[name] for name in PRODUCTS)
    twice = new == 2 * gone and gone and not change.same.keys() & PRODUCTS
    one = change.same.keys() & PRODUCTS and not gone and new == sum(change.same.values())
    return "written as two factors" if twice or one else ""


def _resized(change: Change) -> str:
    if change.gone != change.new:
        return ""
    sizes = [t for t in change.both if t.before and t.after and t.before.shape != t.after.shape]
    sizes = [t for t in sizes if t.before and t.after and len(t.before.shape) == len(t.after.shape)]
    if not sizes:
        return ""
    smaller = all(t.after.bytes <= t.before.bytes for t in sizes if t.before and t.after)
    return "cut smaller" if smaller else "of another size"


def _retyped(change: Change) -> str:
    dtypes = {(t.before.dtype, t.after.dtype) for t in change.both if t.before and t.after}
    moved = [pair for pair in dtypes if pair[0] != pair[1]]
    return f"{moved[0][0]} as {moved[0][1]}" if len(moved) == 1 and not change.gone else ""


def _reweighted(change: Change) -> str:
    if change.gone or change.new or not change.both or change.hunk.details:
        return ""
    return "other weights"


def _fused(change: Change) -> str:
    many = change.gone.total() > 1 and change.new.total() == 1 and not change.same
    if not many:
        names = sorted(change.new.keys() & ATTENTION - change.gone.keys())
        return f"fused into {names[0]}" if names and change.gone.total() > 1 else ""
    return f"fused into {next(iter(change.new))}"


def _folded(change: Change) -> str:
    """What read a node that is gone, or a node that stays, reads a constant now."""
    if change.new:
        return ""
    turned = [pair for pair in _slots(change) if pair[0] == "node"]
    if not turned or any(kind != "constant" for _, kind in turned):
        return ""
    return "computed in advance" if change.gone else "an input is constant now"


def _slots(change: Change) -> Iterator[tuple[str, str]]:
    """Kinds of what nodes that stay read, before and after, where a hunk has to do with it."""
    before, after, pairs = (
        change.diff.before, change.diff.after, change.diff.matching.pairs
    )  # fmt: skip
    gone = set(change.hunk.before) - {a for a, _ in change.hunk.changed}
    readers = {r.node for n in gone for r in before.readers[n] if r.node >= 0}
    for a in (readers | {a for a, _ in change.hunk.changed}) - gone:
        if a not in pairs:
            continue
        for x, y in zip(before.sources[a], after.sources[pairs[a]], strict=False):
            lost = x.kind == "node" and (int(x.of) in gone or y.kind == "constant")
            if lost:
                yield x.kind, y.kind


def _written_out(change: Change) -> str:
    one = change.gone.total() == 1 and change.new.total() > 1 and not change.same
    expanded = one and not change.gone & change.new and not change.new.keys() <= ROUNDING
    return "written out" if expanded else ""


_PATTERNS: dict[str, Callable[[Change], str]] = {
    "spelled": _spelled,
    "rounded": _rounded,
    "unrounded": _unrounded,
    "few-bits": _few_bits,
    "dynamic": _dynamic,
    "integer": _integer,
    "stored": _stored,
    "factors": _factors,
    "resized": _resized,
    "retyped": _retyped,
    "reweighted": _reweighted,
    "fused": _fused,
    "folded": _folded,
    "written-out": _written_out,
}
"""By code, in the order in which they are looked for."""
