"""The nodes that the runtime executed, each with its time and the nodes of the file behind it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import onnx
import onnx_ir as ir

from ...ir.graph import all_nodes
from ...ir.importing.protocheck import all_proto_nodes
from ...targets.census import kernel_census
from .trace import NodeTime, Trace

_ADDED = re.compile(
    r"^Inserted(?:PrecisionFree)?Cast_|(?:/duplicated.*|_token_\d+|_dummy_d?q.*|_pre_d?q.*|_post_d?q.*)$"
)
"""What the runtime adds to the names of values and nodes that it doubles, casts or inserts."""


@dataclass(frozen=True)
class Row:
    """An executed node. op: "(domain:)op". ms: of one run, None where it did not run. sources: the
    file's nodes that it computes. integer: it multiplies integers by a stored weight; None: it
    multiplies by none."""

    name: str
    op: str
    ms: float | None
    sources: tuple[ir.Node, ...]
    integer: bool | None = None


@dataclass(frozen=True)
class Executed:
    """All rows, in the order of the runtime's graph."""

    rows: tuple[Row, ...]
    by_node: Mapping[ir.Node, tuple[Row, ...]] = field(repr=False)

    def of(self, nodes: Iterable[ir.Node]) -> list[Row]:
        """The rows that compute any of the file's nodes, each once."""
        found = {id(row): row for node in nodes for row in self.by_node.get(node, ())}
        return list(found.values())


def executed(graph: onnx.ModelProto, trace: Trace, model: ir.Model) -> Executed:
    """What ran, from the graph that the runtime wrote, its profile, and the file as it stands."""
    nodes = list(all_proto_nodes(graph))
    times = _times(nodes, trace.nodes)
    sources = _Sources(nodes, model)
    integer = {row.output_names: row.integer for row in kernel_census(graph).kernels}
    rows = tuple(
        Row(
            node.name or (node.output[0] if node.output else ""),
            spelled(node),
            times[index],
            sources.of(node),
            integer.get(tuple(name for name in node.output if name)),
        )
        for index, node in enumerate(nodes)
    )
    by_node: defaultdict[ir.Node, list[Row]] = defaultdict(list)
    for row in rows:
        for node in row.sources:
            by_node[node].append(row)
    return Executed(rows, {node: tuple(found) for node, found in by_node.items()})


def spelled(node: onnx.NodeProto) -> str:
    """Operator with its domain, the standard one left out."""
    return f"{node.domain}:{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type


def _times(nodes: Sequence[onnx.NodeProto], found: Collection[NodeTime]) -> list[float | None]:
    """Milliseconds of each node: by name and operator, where bodies repeat a name for the first;
    those without a name by operator, in order of index."""
    names = {node.name for node in nodes if node.name}
    queues: defaultdict[tuple[str, str], list[NodeTime]] = defaultdict(list)
    for time in found:
        queues[time.name if time.name in names else "", time.op].append(time)
    for key, queue in queues.items():
        queue.sort(key=lambda time: time.index, reverse=not key[0])
    return [_taken(queues.get((node.name, node.op_type), []), node.name) for node in nodes]


def _taken(queue: list[NodeTime], name: str) -> float | None:
    """The time of a node, taken out of those of its key: all of a name's, the next without one."""
    if not queue:
        return None
    if not name:
        return queue.pop().ms
    total = sum(time.ms for time in queue)
    queue.clear()
    return total


class _Sources:
    """Which nodes of the file an executed node computes.

    The runtime keeps the names of values between its nodes: what lies, in the file, between the
    values that a node reads and those that it gives, is what it computes. What it doubled or put
    in between is found by name, or belongs to what reads it.
    """

    def __init__(self, nodes: Sequence[onnx.NodeProto], model: ir.Model) -> None:
        self.made = {_ADDED.sub("", name) for node in nodes for name in node.output if name}
        self.names = {node.name for node in nodes if node.name}
        self.readers: defaultdict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in nodes:
            for name in node.input:
                self.readers[name].append(node)
        self.by_name: dict[str, ir.Node] = {}
        self.by_output: dict[str, ir.Node] = {}
        for each in all_nodes(model):
            self.by_name.setdefault(str(each.name or ""), each)
            self.by_output.update((str(v.name), each) for v in each.outputs if v.name)
        self.by_name.pop("", None)

    def of(self, node: onnx.NodeProto) -> tuple[ir.Node, ...]:
        own = tuple(dict.fromkeys(self._between(node))) or self._named(node)
        if own:
            return own
        behind = (reader for name in node.output for reader in self.readers.get(name, ()))
        found = (source for reader in behind for source in self._between(reader))
        return tuple(dict.fromkeys(found))[:1]

    def _between(self, node: onnx.NodeProto) -> Iterator[ir.Node]:
        """From the outputs back to values that the runtime, too, has."""
        given = (_ADDED.sub("", name) for name in node.output)
        starts = [self.by_output[name] for name in given if name in self.by_output]
        todo, seen = list(dict.fromkeys([*starts, *self._named(node)])), set[ir.Node]()
        stop = {_ADDED.sub("", name) for name in node.input}
        while todo:
            each = todo.pop()
            if each in seen:
                continue
            seen.add(each)
            yield each
            for value in each.inputs:
                made = None if value is None else value.producer()
                if value is None or made is None or value.name in stop or value.name in self.made:
                    continue
                if made.name not in self.names or made.name == node.name:
                    todo.append(made)

    def _named(self, node: onnx.NodeProto) -> tuple[ir.Node, ...]:
        name = node.name
        while name:
            if name in self.by_name:
                return (self.by_name[name],)
            shorter = _ADDED.sub("", name)
            if shorter == name:
                break
            name = shorter
        return ()
