"""Which nodes of two matched graphs changed, and which of them changed together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import onnx_ir as ir

from ..storage.absent import is_unknown
from ..storage.tensors import tensor_digest
from .attributes import same_but_for_defaults
from .lineage import Lineage
from .match import Matching
from .pool import Pool, Q, Reader, Source

_SIZES = (ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL)

CLIPPED = frozenset(("Relu", "Clip"))
"""Activations that rounding can do: codes that start at zero, or end where they do."""
MANY = 3
"""Readers of a node beyond which it goes with the first alone: a mask ties no layers together,
what queries, keys and values read does tie them."""

Item = tuple[str, int]
"""A node that changed: ("-", number before), ("+", number after) or ("~", number before)."""
Bounds = tuple[set[tuple[int, int]], set[tuple[int, int]]]
"""(node, output) before and after: values that both graphs compute, by other nodes."""


def groups(found: Matching, told: Lineage) -> list[list[Item]]:
    """Nodes that are gone, new or changed, those that hang together in one list.

    Nodes that are the same but for a default that is spelled out tie nothing together.
    """
    gone, new = found.left()
    different = [a for a, b in found.pairs.items() if differs(found, a, b)]
    spelled = [a for a in different if only_spelled(found, a, found.pairs[a])]
    changed = sorted({*different} - {*spelled})
    items = [*(("-", a) for a in gone), *(("+", b) for b in new), *(("~", a) for a in changed)]
    beside: dict[Item, list[Item]] = {item: [] for item in items}
    for one, other in (*_links(found, told, beside), *_descended(found, told)):
        if one in beside and other in beside:
            beside[one].append(other)
            beside[other].append(one)
    return [*_components(beside), *([("~", a)] for a in spelled)]


def differs(found: Matching, a: int, b: int) -> bool:
    """Whether a node that both graphs have has other attributes, constants or inputs."""
    if found.before.labels[a] != found.after.labels[b]:
        return True
    pairs = list(zip(found.before.sources[a], found.after.sources[b], strict=True))
    if any(rewired(found, x, y) for x, y in pairs):
        return True
    return found.partly and any(_other_values(found, a, b, i) for i in range(len(pairs)))


def only_spelled(found: Matching, a: int, b: int) -> bool:
    """Whether nothing about a node changed but that a default is spelled out, or is not."""
    pairs = list(zip(found.before.sources[a], found.after.sources[b], strict=False))
    wired = not any(rewired(found, x, y) for x, y in pairs)
    if not wired or not same_but_for_defaults(found, a, b):
        return False
    return not (found.partly and any(_other_values(found, a, b, i) for i in range(len(pairs))))


def rewired(found: Matching, x: Source, y: Source) -> bool:
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


def _other_values(found: Matching, a: int, b: int, slot: int) -> bool:
    """Whether two constants that labels do not tell apart are known to differ."""
    tensors = found.before.constant(a, slot), found.after.constant(b, slot)
    if tensors[0] is None or tensors[1] is None or any(map(is_unknown, tensors)):
        return False
    return tensor_digest(tensors[0]) != tensor_digest(tensors[1])


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


# -- what hangs together ---------------------------------------------------------------------


def _links(
    found: Matching, told: Lineage, items: Mapping[Item, object]
) -> Iterator[tuple[Item, Item]]:
    """Changed nodes that feed each other, and new ones in the place of those that are gone.

    A node that changed goes with the new ones that it reads, not with those that read it: along
    a chain of changed layers each is a hunk. So are stretches of a chain where the value between
    them is one that both graphs compute.
    """
    twins = dict(_twins(found))
    bounds = _bounds(found, twins)
    yield from ((("-", a), ("+", b)) for a, b in twins.items())
    yield from _chains("-", found.before, found.pairs, bounds[0], told)
    yield from _chains("+", found.after, found.inverse, bounds[1], told)
    for a, b in found.pairs.items():
        for x, y in zip(found.before.sources[a], found.after.sources[b], strict=False):
            yield from _replaced(found, a, b, x, y, items)
        # What new readers make of other dtypes, or of a node that moved, belongs to it.
        if ("~", a) in items and (_outputs_differ(found, a, b) or _moved(found, a, b)):
            yield from (((("~", a)), ("+", r.node)) for r in found.after.readers[b])
    yield from ((("-", a), ("+", b)) for (a, _), (b, _) in _outputs(found))


def _chains(
    sign: str, pool: Pool, known: Mapping[int, int], bounds: set[tuple[int, int]], told: Lineage
) -> Iterator[tuple[Item, Item]]:
    """New nodes that feed each other, or gone ones."""
    for number, sources in enumerate(pool.sources):
        if number in known:
            continue
        for source in sources:
            other = int(source.of) if source.kind == "node" else -1
            if other < 0 or other in known or (other, source.output) in bounds:
                continue
            if _shared_size(pool, other, source.output) or not _kin(sign, number, other, told):
                continue
            readers = pool.readers[other]
            many = pool.folds(other) or len({r.node for r in readers}) > MANY
            if not many or _first(readers, number, known):
                yield (sign, number), (sign, other)


def _bounds(found: Matching, twins: Mapping[int, int]) -> Bounds:
    """Values that a gone node computes in the one graph and a new node in the other: what stays
    and reads the one there reads the other here."""
    old, new = set[tuple[int, int]](), set[tuple[int, int]]()
    pairs = [
        (x, y)
        for a, b in found.pairs.items()
        for x, y in zip(found.before.sources[a], found.after.sources[b], strict=False)
    ]
    values = [
        ((int(x.of), x.output), (int(y.of), y.output))
        for x, y in pairs
        if x.kind == y.kind == "node"
    ]
    values += [((a, 0), (b, 0)) for a, b in twins.items()]
    for one, other in (*values, *_outputs(found)):
        if one[0] not in found.pairs and other[0] not in found.inverse:
            old.add(one)
            new.add(other)
    return old, new


def _twins(found: Matching) -> Iterator[tuple[int, int]]:
    """Gone nodes and their integer twins: ``MatMul`` and ``QLinearMatMul`` where what reads the
    one reads the other."""
    twins, seen = set[int](), set[int]()
    integer = any(node.op_type.startswith("QLinear") for node in found.after.nodes)
    todo = [*found.pairs.items()] if integer else []
    while todo:
        a, b = todo.pop()
        for one, other in _beside(found, a, b):
            free = one not in found.pairs and other not in found.inverse
            if free and one not in twins and other not in seen and _is_twin(found, one, other):
                twins.add(one)
                seen.add(other)
                todo.append((one, other))
                yield one, other


def _beside(found: Matching, a: int, b: int) -> Iterator[tuple[int, int]]:
    """What two nodes read, input by input, as seen through Q and DQ; of twins the values alone."""
    before, after = found.before, found.after
    theirs, op = after.seen[b], after.nodes[b].op_type
    if op.startswith("QLinear"):
        first = 2 if op == "QLinearConcat" else 0  # the scale and zero point of its output
        theirs = tuple(after.through(s) for s in after.sources[b][first::3])
        a = _inside(found, a, op)
    for x, y in zip(before.seen[a], theirs, strict=False):
        if x.kind == y.kind == "node":
            origin = int(y.of)
            if after.nodes[origin].op_type == Q and after.sources[origin][0].kind == "node":
                origin = int(after.sources[origin][0].of)
            yield int(x.of), origin


def _is_twin(found: Matching, a: int, b: int) -> bool:
    name = found.after.nodes[b].op_type
    if found.before.labels[a] == found.after.labels[b]:  # a pool computes on codes what it did
        return True
    return name == f"QLinear{found.before.nodes[_inside(found, a, name)].op_type}"


def _inside(found: Matching, a: int, twin: str) -> int:
    """What an activation reads that is gone, as what rounds the output of its twin does it."""
    node, sources = found.before.nodes[a], found.before.sources[a]
    if node.op_type not in CLIPPED or twin == f"QLinear{node.op_type}":
        return a
    source = sources[0]
    inner = int(source.of) if source.kind == "node" else a
    return inner if inner not in found.pairs else a


def _first(readers: Sequence[Reader], number: int, known: Mapping[int, int]) -> bool:
    """Whether a node is the first new one that reads this."""
    return number == next((r.node for r in readers if r.node >= 0 and r.node not in known), -1)


def _shared_size(pool: Pool, number: int, index: int) -> bool:
    """Whether an output is a size or a condition that several nodes read: it ties none of them."""
    dtype = pool.nodes[number].outputs[index].dtype
    return dtype in _SIZES and sum(r.output == index for r in pool.readers[number]) > 1


def _kin(sign: str, one: int, other: int, told: Lineage) -> bool:
    """Whether neighbours belong together: of new ones those that one edit made, those that came
    from a common node, or both from none."""
    if sign == "-" or (told.made.get(one) and told.made.get(one) == told.made.get(other)):
        return True
    mine, theirs = (set(told.origins.get(n, ())) for n in (one, other))
    return not (mine or theirs) or not mine.isdisjoint(theirs)


def _replaced(
    found: Matching, a: int, b: int, x: Source, y: Source, items: Mapping[Item, object]
) -> Iterator[tuple[Item, Item]]:
    """What an input comes from, where that is gone or new on either side."""
    gone: Item | None = (
        ("-", int(x.of)) if x.kind == "node" and int(x.of) not in found.pairs else None
    )
    new: Item | None = (
        ("+", int(y.of)) if y.kind == "node" and int(y.of) not in found.inverse else None
    )
    if gone is not None and new is not None:
        yield gone, new
    elif gone is not None:
        yield ("~", a), gone
    elif new is not None and not _only_rounded(found, x, y):
        readers = (r.node for r in found.after.readers[new[1]] if r.node in found.inverse)
        changed = (n for n in readers if ("~", found.inverse[n]) in items)
        if not found.after.folds(new[1]) or b == next(changed, -1):
            yield ("~", a), new


def _only_rounded(found: Matching, x: Source, y: Source) -> bool:
    """Whether an input is what it was, but for a pair of Q and DQ around it."""
    seen = found.after.through(y)
    if x.kind != "node" or seen.kind != "node":
        return x.kind == "input" and seen == x
    return found.pairs.get(int(x.of)) == seen.of and x.output == seen.output


def _moved(found: Matching, a: int, b: int) -> bool:
    """Whether it is the same node, but reads something else that both graphs have."""
    pairs = zip(found.before.sources[a], found.after.sources[b], strict=False)
    return found.before.labels[a] == found.after.labels[b] and any(
        rewired(found, x, y) for x, y in pairs
    )


def _outputs_differ(found: Matching, a: int, b: int) -> bool:
    """Whether the outputs of a node have other dtypes now."""
    pairs = zip(found.before.nodes[a].outputs, found.after.nodes[b].outputs, strict=False)
    return any(x.dtype != y.dtype for x, y in pairs if x.dtype is not None and y.dtype is not None)


def _outputs(found: Matching) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """(node, output) that makes an output of the model on one side, and on the other."""
    after = {str(v.name): v for v in found.after.model.graph.outputs}
    for value in found.before.model.graph.outputs:
        other = after.get(str(value.name))
        makers = value.producer(), None if other is None else other.producer()
        if other is not None and makers[0] is not None and makers[1] is not None:
            a, b = found.before.number[makers[0]], found.after.number[makers[1]]
            yield (a, value.index() or 0), (b, other.index() or 0)


def _descended(found: Matching, told: Lineage) -> Iterator[tuple[Item, Item]]:
    """New nodes, with those that they came from."""
    for b, origins in told.origins.items():
        item = ("+", b) if b not in found.inverse else ("~", found.inverse[b])
        yield from ((item, ("-", a)) for a in origins)
