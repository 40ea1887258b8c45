"""Cut a case: keep some of its nodes, what they read becoming inputs with recorded values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto, helper

from ...ir.types.inference import infer
from .case import Case
from .execute import run_all

Recorded = tuple[Mapping[str, Any], ...]
_NOT_FETCHED = frozenset(
    getattr(onnx.TensorProto, name)
    for name in dir(onnx.TensorProto)
    if name.startswith(("BFLOAT", "FLOAT8", "FLOAT4", "INT4", "UINT4", "INT2", "UINT2", "COMPLEX"))
)
"""Element types that the runtime does not hand out as arrays."""


@dataclass(frozen=True)
class Types:
    """What is known of every value of the main graph, by name."""

    infos: Mapping[str, ValueInfoProto]

    @classmethod
    def of(cls, model: ModelProto) -> Types:
        """As far as they can be inferred."""
        try:
            graph = infer(model, strict=False).graph
        except Exception:  # what cannot be inferred is not known
            graph = GraphProto.FromString(model.graph.SerializeToString())
        infos = [*graph.value_info, *graph.input, *graph.output]
        for dim in (d for info in infos for d in info.type.tensor_type.shape.dim):
            if dim.dim_param.startswith("unk__"):  # inference's own name for not knowing
                dim.ClearField("dim_param")
        return cls({i.name: i for i in infos if i.type.WhichOneof("value")})


def node_count(case: Case) -> int:
    """Nodes of the main graph."""
    return len(case.model.graph.node)


def copied(case: Case, change: Callable[[ModelProto], None]) -> Case:
    """The case with a changed copy of its model, without stored outputs."""
    model = ModelProto()
    model.CopyFrom(case.model)
    change(model)
    return replace(case, model=model, expected=None)


def reads(node: NodeProto) -> list[str]:
    """Names that a node reads, those captured by its bodies too."""
    found = [name for name in node.input if name]
    for body in bodies(node):
        own = {v.name for v in body.input} | {t.name for t in body.initializer}
        own |= {o for n in body.node for o in n.output}
        inner = [name for n in body.node for name in reads(n)] + [o.name for o in body.output]
        found += [name for name in inner if name not in own]
    return found


def bodies(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs among a node's attributes."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def recorded(case: Case) -> Recorded | None:
    """The value of everything that the main graph computes, for each feed; None if it cannot."""
    if not case.feeds:
        return ()
    types = Types.of(case.model).infos
    names = [n for node in case.model.graph.node for n in node.output if n]
    wanted = [n for n in names if n not in types or _fetchable(types[n])]

    def widen(model: ModelProto) -> None:
        present = {o.name for o in model.graph.output}
        model.graph.output.extend(ValueInfoProto(name=n) for n in wanted if n not in present)

    wide = copied(case, widen)
    try:
        runs = run_all(wide.model.SerializeToString(), case.feeds)
    except Exception:
        return None
    return tuple({**feed, **run} for feed, run in zip(case.feeds, runs, strict=True))


def induced(
    case: Case, kept: frozenset[int], values: Recorded, known: Types | None = None
) -> Case | None:
    """The chosen nodes as a model of their own; None where what they read was not recorded.

    Outputs: those of the whole that are still computed, and what no chosen node reads. known: the
    types of the whole, where somebody inferred them.
    """
    graph = case.model.graph
    nodes = [node for index, node in enumerate(graph.node) if index in kept]
    made = {name for node in nodes for name in node.output if name}
    read = {name for node in nodes for name in reads(node)}
    stored = {t.name for t in graph.initializer} | {s.values.name for s in graph.sparse_initializer}
    types = (known or Types.of(case.model)).infos
    listed = {i.name for i in graph.input}
    open_ = [i.name for i in graph.input if i.name in read]
    open_ += sorted(name for name in read - made - stored if name not in listed)
    inputs = [_described(name, types, values) for name in open_]
    ends = [o.name for o in graph.output if o.name in made]
    ends += [n for node in nodes for n in node.output if n and n not in read and n not in ends]
    outputs = [_described(name, types, values) for name in ends]
    if not ends or any(info is None for info in (*inputs, *outputs)):
        return None
    feeds = [{n: v[n] for n in open_ if n in v} for v in values]
    if any(n not in feed and n not in stored for feed in feeds for n in open_):
        return None

    def change(model: ModelProto) -> None:
        _refill(model.graph.node, nodes)
        _refill(model.graph.input, inputs)
        _refill(model.graph.output, outputs)
        prune(model, read)

    return replace(copied(case, change), feeds=tuple(feeds))


def with_outputs(case: Case, names: Iterable[str]) -> Case:
    """The case with these outputs only, and without what nothing needs any more."""
    wanted = set(names)

    def change(model: ModelProto) -> None:
        graph = model.graph
        _refill(graph.output, [o for o in graph.output if o.name in wanted])
        needed, nodes = set(wanted), []
        for node in reversed(graph.node):
            if needed.intersection(node.output):
                nodes.append(node)
                needed.update(reads(node))
        _refill(graph.node, list(reversed(nodes)))
        _refill(graph.input, [i for i in graph.input if i.name in needed])
        prune(model, needed)

    cut = copied(case, change)
    left = {i.name for i in cut.model.graph.input}
    feeds = tuple({n: v for n, v in feed.items() if n in left} for feed in case.feeds)
    return replace(cut, feeds=feeds)


def bypassed(case: Case, index: int) -> Iterator[Case]:
    """The case without one node: who read its first output reads one of its inputs instead."""
    node = case.model.graph.node[index]
    ends = {o.name for o in case.model.graph.output}
    for source in dict.fromkeys(name for name in node.input if name):
        if not node.output or ends.intersection(node.output):
            return

        def change(model: ModelProto, source: str = source) -> None:
            del model.graph.node[index]
            for reader in model.graph.node:
                rename_reads(reader, node.output[0], source)

        yield with_outputs(copied(case, change), ends)


def rename_reads(node: NodeProto, old: str, new: str) -> None:
    """Make a node, and its bodies, read ``new`` instead of ``old``."""
    for place, name in enumerate(node.input):
        if name == old:
            node.input[place] = new
    for body in bodies(node):
        for inner in body.node:
            rename_reads(inner, old, new)


def prune(model: ModelProto, read: Iterable[str]) -> None:
    """Drop initializers, descriptions and annotations of what is not there any more."""
    graph, needed = model.graph, set(read)
    ends = {o.name for o in graph.output}
    made = {name for node in graph.node for name in node.output}
    _refill(graph.initializer, [t for t in graph.initializer if t.name in needed | ends])
    sparse = [s for s in graph.sparse_initializer if s.values.name in needed | ends]
    _refill(graph.sparse_initializer, sparse)
    _refill(graph.value_info, [v for v in graph.value_info if v.name in made - ends])
    del graph.quantization_annotation[:]


def _described(
    name: str, types: Mapping[str, ValueInfoProto], values: Recorded
) -> ValueInfoProto | None:
    """The type of a value, as inferred, else as recorded; None where neither is known.

    Of a case that nobody runs it may be guessed: float32, of any shape.
    """
    if name in types:
        return types[name]
    if not values:
        return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
    array = values[0].get(name) if values else None
    if not isinstance(array, np.ndarray):
        return None
    kind = np.dtype(object) if array.dtype.kind in "OSU" else array.dtype
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(kind), array.shape)


def _fetchable(info: ValueInfoProto) -> bool:
    return info.type.tensor_type.elem_type not in _NOT_FETCHED


def _refill(field: Any, items: Iterable[Any]) -> None:
    """Replace what a repeated field of a message holds."""
    held = [type(item).FromString(item.SerializeToString()) for item in items]
    del field[:]
    field.extend(held)
