"""The difference of two graphs whose nodes are matched: what changed together becomes a hunk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import takewhile

import onnx_ir as ir

from ..finding.naming import common_path, node_path, parameter_path, scope_path
from ..fingerprint import model_fingerprint
from ..graph import constant_tensor
from ..signature import Signature, shape_of, shape_text, type_name
from ..storage.absent import unknown_weights
from ..storage.tensors import tensor_digest, tensor_face
from .attributes import attribute_changes
from .changes import GraphDiff, Hunk, HunkKind, ValueChange, stored
from .constants import changes, stores
from .exchanged import settle_exchanged
from .grouping import Item, groups
from .lineage import Lineage
from .match import Matching, match
from .pool import Pool
from .wiring import wiring

STEPS = 3
"""How far from a node without a name one with a name may be to lend it its module."""


def diff_models(
    before: ir.Model,
    after: ir.Model,
    lineage: Callable[[Pool, Pool], Lineage | None] = lambda before, after: None,
) -> GraphDiff:
    """What is different between two models as import leaves them.

    lineage: asked for what is known of the nodes of both, None where nothing is.
    """
    unknown = _unknown(before), _unknown(after)
    faces = frozenset(face for names in unknown for face in names.values())
    pools = Pool.of(before, faces), Pool.of(after, faces)
    told = lineage(*pools) or Lineage()
    found = match(*pools, told.pairs)
    settle_exchanged(found)
    face = (*Signature.of(before).difference(Signature.of(after)), *_turned_outputs(found))
    opsets = tuple(_opsets(before, after))
    if model_fingerprint(before, tensor_digest) == model_fingerprint(after, tensor_digest):
        return GraphDiff(found, (), equal=True)
    hunks = _inherited(found, [_hunk(found, items, told) for items in groups(found, told)])
    ordered = sorted(hunks, key=lambda hunk: _place(found, hunk))
    return GraphDiff(
        found, tuple(ordered), tuple(_values(found)), face, opsets, tuple(stores(found, hunks)),
        unknown=(tuple(unknown[0]), tuple(unknown[1])),
    )  # fmt: skip


def _unknown(model: ir.Model) -> dict[str, str]:
    """Dtype and shape of the constants of which nothing else is known, by name."""
    held = stored(model)
    return {name: tensor_face(held[name]) for name in unknown_weights(model)}


# -- one hunk ------------------------------------------------------------------------------


def _hunk(found: Matching, items: Sequence[Item], told: Lineage) -> Hunk:
    pairs = sorted((n, found.pairs[n]) for sign, n in items if sign == "~")
    before = sorted({n for sign, n in items if sign != "+"})
    after = sorted({n for sign, n in items if sign == "+"} | {b for _, b in pairs})
    kind = _kind(found, before, after, pairs)
    edits = _edits(before, after, [a for a, _ in pairs], told)
    tensors = tuple(changes(found, before, after, pairs))
    return Hunk(
        kind, tuple(before), tuple(after), tuple(pairs), _module(found, before, after),
        tuple(_details(found, pairs)), tensors, edits,
    )  # fmt: skip


def _edits(
    before: Sequence[int], after: Sequence[int], changed: Sequence[int], told: Lineage
) -> tuple[str, ...]:
    """The edits that made a hunk. One that touched nothing but nodes that stay, and whose own new
    nodes stand elsewhere, only read what these compute: it counts where there is no other."""
    sure = {told.made.get(b, "") for b in after}
    sure.update(edit for a in {*before} - {*changed} for edit in told.touched.get(a, ()))
    more = {edit for a in changed for edit in told.touched.get(a, ())} - sure
    sure |= more - set(told.made.values())
    return tuple(sorted(filter(None, sure))) or tuple(sorted(more))


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
    body = _body(found.before, before) if before else _body(found.after, after)
    return body or _outside(found, before, after)


def _body(pool: Pool, numbers: Sequence[int]) -> str:
    """``if > then_branch``: the body that all these nodes stand in, "" for the main graph."""
    paths = [_bodies(pool, number) for number in numbers]
    shared = takewhile(lambda parts: len({*parts}) == 1, zip(*paths, strict=False))
    return " > ".join(parts[0] for parts in shared)


def _bodies(pool: Pool, number: int) -> list[str]:
    """The nodes whose bodies a node stands in, each with the name of the body, outermost first."""
    found = list[str]()
    while (owner := pool.owners[number]) >= 0:
        held = pool.nodes[owner]
        body = pool.places[number].rpartition("/")[2].split(".")[1]
        found.insert(0, f"{held.name or held.op_type} > {body}")
        number = owner
    return found


def _outside(found: Matching, before: Sequence[int], after: Sequence[int]) -> str:
    return _around(found.before, before) if before else _around(found.after, after)


def _around(pool: Pool, numbers: Sequence[int]) -> str:
    """The module of the nearest node that is named after one, within three steps."""
    near, seen = list(numbers), set(numbers)
    for _ in range(STEPS):
        near = [n for n in _neighbours(pool, near) if n not in seen]
        seen.update(near)
        path = next(filter(None, (module_of(pool.nodes[n]) for n in near)), "")
        if path:
            return path
    return ""


def _neighbours(pool: Pool, numbers: Sequence[int]) -> Iterator[int]:
    for number in numbers:
        yield from (int(s.of) for s in pool.sources[number] if s.kind == "node")
    for number in numbers:
        yield from (r.node for r in pool.readers[number] if r.node >= 0)


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
        one = found.before.nodes[a]
        yield from (f"{one.op_type}: {told}" for told in attribute_changes(found, a, b))
        sources = found.before.sources[a], found.after.sources[b]
        if len(sources[0]) != len(sources[1]):
            yield f"{one.op_type}: {len(sources[0])} inputs -> {len(sources[1])}"
        yield from (f"{one.op_type}: {told}" for told in wiring(found, a, b))


def _values(found: Matching) -> Iterator[ValueChange]:
    for a, b in found.pairs.items():
        one, other = found.before.nodes[a], found.after.nodes[b]
        for x, y in zip(one.outputs, other.outputs, strict=False):
            faces = _face(x), _face(y)
            if x.shape is not None and y.shape is not None and faces[0] != faces[1]:
                yield ValueChange(str(x.name), *faces)


def _face(value: ir.Value) -> str:
    return f"{type_name(value.type)}{shape_text(shape_of(value))}"


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


def _opsets(before: ir.Model, after: ir.Model) -> Iterator[str]:
    """Changed versions one by one; domains that came or went together."""
    old, new = before.opset_imports, after.opset_imports
    for domain in old.keys() & new.keys():
        if old[domain] != new[domain]:
            yield f"opset {domain or 'ai.onnx'}: {old[domain]} -> {new[domain]}"
    for word, one, other in (("also imports", new, old), ("no longer imports", old, new)):
        alone = [f"{domain} {version}" for domain, version in one.items() if domain not in other]
        if alone:
            yield f"{word} {', '.join(sorted(alone))}"
