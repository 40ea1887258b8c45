"""The difference of two graphs whose nodes are matched: what changed together becomes a hunk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from ..finding.naming import common_path, node_path, parameter_path, scope_path
from ..fingerprint import model_fingerprint
from ..graph import constant_array, constant_tensor
from ..signature import Signature, shape_of, shape_text, type_name
from ..storage.absent import is_absent
from ..storage.tensors import tensor_digest
from .changes import (
    GraphDiff,
    Hunk,
    HunkKind,
    TensorChange,
    TensorFacts,
    ValueChange,
    stored,
)
from .lineage import Lineage
from .match import Matching, match
from .pool import Pool, Source

_SIZES = (ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL)

Item = tuple[str, int]
"""A node that changed: ("-", number before), ("+", number after) or ("~", number before)."""


def diff_models(
    before: ir.Model,
    after: ir.Model,
    lineage: Callable[[Pool, Pool], Lineage | None] = lambda before, after: None,
) -> GraphDiff:
    """What is different between two models as import leaves them.

    lineage: asked for what is known of the nodes of both, None where nothing is.
    """
    pools = Pool.of(before), Pool.of(after)
    told = lineage(*pools) or Lineage()
    found = match(*pools, told.pairs)
    face = (*Signature.of(before).difference(Signature.of(after)), *_turned_outputs(found))
    opsets = tuple(_opsets(before, after))
    if model_fingerprint(before, tensor_digest) == model_fingerprint(after, tensor_digest):
        return GraphDiff(found, (), equal=True)
    hunks = _inherited(found, [_hunk(found, items, told) for items in _groups(found, told)])
    ordered = sorted(hunks, key=lambda hunk: _place(found, hunk))
    stores = tuple(_stores(found, hunks))
    return GraphDiff(found, tuple(ordered), tuple(_values(found)), face, opsets, stores)


# -- which nodes changed, and which together -----------------------------------------------


def _groups(found: Matching, told: Lineage) -> list[list[Item]]:
    """Nodes that are gone, new or changed, those that hang together in one list."""
    gone, new = found.left()
    changed = [a for a, b in found.pairs.items() if differs(found, a, b)]
    items = [*(("-", a) for a in gone), *(("+", b) for b in new), *(("~", a) for a in changed)]
    beside: dict[Item, list[Item]] = {item: [] for item in items}
    for one, other in (*_links(found, told), *_descended(found, told)):
        if one in beside and other in beside:
            beside[one].append(other)
            beside[other].append(one)
    return list(_components(beside))


def _components(beside: Mapping[Item, Sequence[Item]]) -> Iterator[list[Item]]:
    """Items that hang together, each once."""
    seen = set[Item]()
    for item in beside:
        found, todo = list[Item](), [item]
        while todo:
            if (one := todo.pop()) not in seen:
                seen.add(one)
                found.append(one)
                todo += beside[one]
        if found:
            yield found


def differs(found: Matching, a: int, b: int) -> bool:
    """Whether a node that both graphs have has other attributes, constants or inputs."""
    if found.before.labels[a] != found.after.labels[b]:
        return True
    pairs = zip(found.before.sources[a], found.after.sources[b], strict=True)
    return any(_rewired(found, x, y) for x, y in pairs)


def _rewired(found: Matching, x: Source, y: Source) -> bool:
    """Whether an input comes from another node that both graphs have, or from none of them.

    What comes from a new node in the place of one that is gone is told by their hunk.
    """
    if x.kind in ("node", "body") and x.kind == y.kind:
        mapped = found.pairs.get(int(x.of))
        if mapped is None or int(y.of) not in found.inverse:
            return False
        return mapped != y.of or x.output != y.output
    if "constant" in (x.kind, y.kind):  # a label tells of constants
        return False
    gone = x.kind == "node" and int(x.of) not in found.pairs
    new = y.kind == "node" and int(y.of) not in found.inverse
    return x != y and not gone and not new


def _links(found: Matching, told: Lineage) -> Iterator[tuple[Item, Item]]:
    """Changed nodes that feed each other, and new ones in the place of those that are gone.

    A node that changed goes with the new ones that it reads, not with those that read it: along
    a chain of changed layers each is a hunk.
    """
    for sign, pool, known in (("-", found.before, found.pairs), ("+", found.after, found.inverse)):
        for number, sources in enumerate(pool.sources):
            if number in known:
                continue
            for source in sources:
                other = int(source.of) if source.kind == "node" else -1
                if other < 0 or other in known or _shared_size(pool, other, source.output):
                    continue
                if _kin(sign, number, other, told):
                    yield (sign, number), (sign, other)
    for a, b in found.pairs.items():
        for x, y in zip(found.before.sources[a], found.after.sources[b], strict=False):
            yield from _replaced(found, a, x, y)
        if _outputs_differ(found, a, b):  # what new readers make of it belongs to it
            yield from (((("~", a)), ("+", r.node)) for r in found.after.readers[b])
    yield from _outputs(found)


def _shared_size(pool: Pool, number: int, index: int) -> bool:
    """Whether an output is a size or a condition that several nodes read: it ties none of them."""
    dtype = pool.nodes[number].outputs[index].dtype
    return dtype in _SIZES and sum(r.output == index for r in pool.readers[number]) > 1


def _kin(sign: str, one: int, other: int, told: Lineage) -> bool:
    """Whether neighbours belong together: of new ones those that came from a common node, or
    both from none."""
    mine, theirs = (set(told.origins.get(n, ())) for n in (one, other))
    return sign == "-" or not (mine or theirs) or not mine.isdisjoint(theirs)


def _replaced(found: Matching, a: int, x: Source, y: Source) -> Iterator[tuple[Item, Item]]:
    gone: Item | None = (
        ("-", int(x.of)) if x.kind == "node" and int(x.of) not in found.pairs else None
    )
    new: Item | None = (
        ("+", int(y.of)) if y.kind == "node" and int(y.of) not in found.inverse else None
    )
    if gone is not None and new is not None:
        yield gone, new
    elif gone is not None or new is not None:
        yield from ((("~", a), item) for item in (gone, new) if item is not None)


def _outputs(found: Matching) -> Iterator[tuple[Item, Item]]:
    """What makes an output of the model on one side, and on the other."""
    after = {str(v.name): v for v in found.after.model.graph.outputs}
    for value in found.before.model.graph.outputs:
        other = after.get(str(value.name))
        makers = value.producer(), None if other is None else other.producer()
        if makers[0] is not None and makers[1] is not None:
            a, b = found.before.number[makers[0]], found.after.number[makers[1]]
            yield ("-", a), ("+", b)


def _turned_outputs(found: Matching) -> Iterator[str]:
    """Outputs of the model that another node computes, where both nodes are on both sides."""
    after = {str(v.name): v for v in found.after.model.graph.outputs}
    for value in found.before.model.graph.outputs:
        other = after.get(str(value.name))
        makers = value.producer(), None if other is None else other.producer()
        if other is None or makers[0] is None or makers[1] is None:
            continue
        a, b = found.before.number[makers[0]], found.after.number[makers[1]]
        known = a in found.pairs and b in found.inverse
        if known and (found.pairs[a] != b or value.index() != other.index()):
            yield f"output {str(value.name)!r} is computed by another node"


def _descended(found: Matching, told: Lineage) -> Iterator[tuple[Item, Item]]:
    """New nodes, with those that they came from."""
    for b, origins in told.origins.items():
        item = ("+", b) if b not in found.inverse else ("~", found.inverse[b])
        yield from ((item, ("-", a)) for a in origins)


# -- one hunk ------------------------------------------------------------------------------


def _hunk(found: Matching, items: Sequence[Item], told: Lineage) -> Hunk:
    pairs = sorted((n, found.pairs[n]) for sign, n in items if sign == "~")
    before = sorted({n for sign, n in items if sign != "+"})
    after = sorted({n for sign, n in items if sign == "+"} | {b for _, b in pairs})
    kind = _kind(found, before, after, pairs)
    edits = {told.made.get(b, "") for b in after}
    edits.update(edit for a in before for edit in told.touched.get(a, ()))
    tensors = tuple(_tensors(found, before, after, pairs))
    return Hunk(
        kind, tuple(before), tuple(after), tuple(pairs), _module(found, before, after),
        tuple(_details(found, pairs)), tensors, tuple(sorted(filter(None, edits))),
    )  # fmt: skip


def _inherited(found: Matching, hunks: list[Hunk]) -> list[Hunk]:
    """What went without a record went since nothing reads it any more: by the edits that took
    away its readers."""
    place = {n: i for i, hunk in enumerate(hunks) for n in hunk.before}
    for _ in range(len(hunks)):
        changed = False
        for i, hunk in enumerate(hunks):
            if hunk.edits or hunk.kind != "removed":
                continue
            readers = {place.get(r.node) for n in hunk.before for r in found.before.readers[n]}
            edits = {e for j in readers - {None, i} for e in hunks[j].edits}  # type: ignore[index]
            if edits:
                hunks[i], changed = replace(hunk, edits=tuple(sorted(edits))), True
        if not changed:
            break
    return hunks


def _kind(
    found: Matching, before: Sequence[int], after: Sequence[int], pairs: Sequence[tuple[int, int]]
) -> HunkKind:
    if len(pairs) == len(before) == len(after):
        alike = all(found.before.labels[a] == found.after.labels[b] for a, b in pairs)
        return "moved" if alike else "modified"
    if not after:
        return "removed"
    return "replaced" if before else "added"


def _module(found: Matching, before: Sequence[int], after: Sequence[int]) -> str:
    for pool, numbers in ((found.before, before), (found.after, after)):
        paths = [path for n in numbers if (path := module_of(pool.nodes[n]))]
        if paths:
            return common_path(paths) or paths[0]
    return ""


def module_of(node: ir.Node) -> str:
    """The module that a node belongs to, as far as the names of its weights or its own tell."""
    named = [parameter_path(v) for v in node.inputs if constant_tensor(v) is not None]
    found = next(filter(None, (*named, scope_path(node), node_path(node))), None)
    return found or ""


def _place(found: Matching, hunk: Hunk) -> tuple[float, int]:
    """In the order of the graph before; what is new stands behind what it reads."""
    if hunk.before:
        return float(hunk.before[0]), -1
    first = hunk.after[0]
    behind = [
        found.inverse[int(s.of)]
        for s in found.after.sources[first]
        if s.kind == "node" and int(s.of) in found.inverse
    ]
    return max(behind, default=-1) + 0.5, first


def _details(found: Matching, pairs: Iterable[tuple[int, int]]) -> Iterator[str]:
    for a, b in pairs:
        one, other = found.before.nodes[a], found.after.nodes[b]
        for name in dict.fromkeys([*one.attributes, *other.attributes]):
            x, y = (_attribute(node, name) for node in (one, other))
            if x != y:
                yield f"{one.op_type}: {name}: {x} -> {y}"
        sources = found.before.sources[a], found.after.sources[b]
        if len(sources[0]) != len(sources[1]):
            yield f"{one.op_type}: {len(sources[0])} inputs -> {len(sources[1])}"
        for slot, (p, q) in enumerate(zip(*sources, strict=False)):
            if _rewired(found, p, q):
                yield f"{one.op_type}: input {slot} comes from elsewhere"


def _attribute(node: ir.Node, name: str) -> str:
    held = node.attributes.get(name)
    if held is None:
        return "absent"
    if held.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS):
        return "a body"
    if held.type == ir.AttributeType.TENSOR:
        return f"tensor {tensor_digest(held.value)[:8]}"
    value = held.value
    return str(list(value) if isinstance(value, (tuple, list)) else value)


# -- tensors and values --------------------------------------------------------------------


def _tensors(
    found: Matching, before: Sequence[int], after: Sequence[int], pairs: Sequence[tuple[int, int]]
) -> Iterator[TensorChange]:
    """Constants that only one side of the hunk reads, those of one slot of one node together."""
    old, new = _read(found.before, before), _read(found.after, after)
    partners = dict(pairs)
    kept = {digest for digest, *_ in old} & {digest for digest, *_ in new}
    taken = set[tuple[int, int]]()
    theirs = {(n, slot): value for _, n, slot, value in new}
    for digest, number, slot, value in old:
        if digest in kept:
            continue
        place = (partners.get(number, -1), slot)
        other = theirs.get(place)
        taken |= {place} if other is not None else set()
        name = found.before.nodes[number].op_type
        yield TensorChange(name, slot, facts(value), facts(other), _error(value, other))
    for digest, number, slot, value in new:
        if digest not in kept and (number, slot) not in taken:
            yield TensorChange(found.after.nodes[number].op_type, slot, None, facts(value))


def _read(pool: Pool, numbers: Sequence[int]) -> list[tuple[str, int, int, ir.Value]]:
    found = dict[str, tuple[str, int, int, ir.Value]]()
    for number in numbers:
        for slot, source in enumerate(pool.sources[number]):
            value = pool.nodes[number].inputs[slot]
            if source.kind == "constant" and value is not None:
                found.setdefault(str(source.of), (str(source.of), number, slot, value))
    return list(found.values())


def facts(value: ir.Value | None) -> TensorFacts | None:
    """Of a constant."""
    tensor = constant_tensor(value)
    if value is None or tensor is None:
        return None
    shape = tuple(int(d) for d in tensor.shape.numpy())
    return TensorFacts(
        str(value.name), tensor.dtype.name, shape, tensor.nbytes, tensor_digest(tensor)
    )


def _error(one: ir.Value | None, other: ir.Value | None) -> float | None:
    if is_absent(constant_tensor(one)) or is_absent(constant_tensor(other)):
        return None
    x, y = constant_array(one), constant_array(other)
    if x is None or y is None or x.shape != y.shape or "f" not in (x.dtype.kind + y.dtype.kind):
        return None
    if x.dtype.kind != "f" or y.dtype.kind != "f":
        return None
    wide = x.astype(np.float64)
    size = float(np.linalg.norm(wide))
    return float(np.linalg.norm(y.astype(np.float64) - wide)) / size if size else None


def _values(found: Matching) -> Iterator[ValueChange]:
    for a, b in found.pairs.items():
        one, other = found.before.nodes[a], found.after.nodes[b]
        for x, y in zip(one.outputs, other.outputs, strict=False):
            faces = _face(x), _face(y)
            if x.shape is not None and y.shape is not None and faces[0] != faces[1]:
                yield ValueChange(str(x.name), *faces)


def _outputs_differ(found: Matching, a: int, b: int) -> bool:
    """Whether the outputs of a node have other dtypes now."""
    pairs = zip(found.before.nodes[a].outputs, found.after.nodes[b].outputs, strict=False)
    return any(x.dtype != y.dtype for x, y in pairs if x.dtype is not None and y.dtype is not None)


def _face(value: ir.Value) -> str:
    return f"{type_name(value.type)}{shape_text(shape_of(value))}"


def _stores(found: Matching, hunks: Sequence[Hunk]) -> Iterator[str]:
    """Constants that are stored more or less often, where no hunk tells of it."""
    told = {f.digest for h in hunks for t in h.tensors for f in (t.before, t.after) if f}
    counts, names = list[Counter[str]](), dict[str, str]()
    for pool in (found.before, found.after):
        held = stored(pool.model)
        counts.append(Counter(tensor_digest(tensor) for tensor in held.values()))
        names |= {tensor_digest(tensor): name for name, tensor in held.items()}
    for digest, name in names.items():
        x, y = counts[0][digest], counts[1][digest]
        if x != y and digest not in told:
            yield f"{name} is stored {x} times -> {y} times"


def _opsets(before: ir.Model, after: ir.Model) -> Iterator[str]:
    old, new = before.opset_imports, after.opset_imports
    for domain in dict.fromkeys([*old, *new]):
        x, y = old.get(domain, "absent"), new.get(domain, "absent")
        if x != y:
            yield f"opset {domain or 'ai.onnx'}: {x} -> {y}"
