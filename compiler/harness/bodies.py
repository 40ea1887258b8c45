"""Make the bodies of If, Loop and Scan smaller, or put a branch in the place of its If."""

from __future__ import annotations

from collections.abc import Iterator

from onnx import GraphProto, ModelProto

from .case import Case
from .cuts import bodies, copied, reads, rename_reads, with_outputs

Path = tuple[tuple[int, int], ...]
"""From the main graph inwards: the position of a node, and which of its bodies."""


def smaller_bodies(case: Case) -> Iterator[Case]:
    """An If replaced by one of its branches; a body without one of its nodes."""
    for index, node in enumerate(case.model.graph.node):
        if node.op_type == "If":
            for branch in range(len(list(bodies(node)))):
                yield _inlined(case, index, branch)
    for path, graph in _bodies(case.model.graph):
        for place in reversed(range(len(graph.node))):
            for source in (None, *dict.fromkeys(name for name in graph.node[place].input if name)):
                yield _without(case, path, place, source)


def _bodies(graph: GraphProto, path: Path = ()) -> Iterator[tuple[Path, GraphProto]]:
    for index, node in enumerate(graph.node):
        for which, body in enumerate(bodies(node)):
            here = (*path, (index, which))
            yield here, body
            yield from _bodies(body, here)


def _inlined(case: Case, index: int, branch: int) -> Case:
    def change(model: ModelProto) -> None:
        graph = model.graph
        node = graph.node[index]
        body = GraphProto()
        body.CopyFrom(list(bodies(node))[branch])
        outer = dict(zip((o.name for o in body.output), node.output, strict=False))
        for inner in body.node:
            for place, name in enumerate(inner.output):
                inner.output[place] = outer.get(name, name)
            for old, new in outer.items():
                rename_reads(inner, old, new)
        later = [type(n).FromString(n.SerializeToString()) for n in graph.node[index + 1 :]]
        del graph.node[index:]
        graph.node.extend([*body.node, *later])
        graph.initializer.extend(body.initializer)

    return with_outputs(copied(case, change), [o.name for o in case.model.graph.output])


def _without(case: Case, path: Path, place: int, source: str | None) -> Case:
    """A body without one node; readers read ``source`` instead (None: it has none left)."""

    def change(model: ModelProto) -> None:
        graph = model.graph
        for index, which in path:
            graph = list(bodies(graph.node[index]))[which]
        gone = list(graph.node[place].output)
        del graph.node[place]
        if source and gone:
            for node in graph.node:
                rename_reads(node, gone[0], source)
            for output in graph.output:
                output.name = source if output.name == gone[0] else output.name
        read = {name for node in graph.node for name in reads(node)}
        read |= {o.name for o in graph.output}
        for position in reversed(range(len(graph.initializer))):
            if graph.initializer[position].name not in read:
                del graph.initializer[position]

    return copied(case, change)
