"""The only door for mutation: every change to a graph goes through ``Rewriter``.

It makes names unique, inserts where order holds, records the inverse of each primitive in
an undo journal (rollback is not a copy of the model) and keeps the edit log: each new node
knows the edit that made it and the original nodes it came from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from .errors import PassError
from .graph import all_graphs, all_nodes
from .provenance import EDIT_KEY, ORIGIN_KEY, SCOPE_KEY
from .shapes import infer_node

MAX_OPERATIONS_PER_EDIT = 1_000_000
"""A rule that matches its own output ends here, not never."""


@dataclass
class EditRecord:
    """What one open edit has touched so far; node names in order of touching."""

    id: str
    added: list[ir.Node] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    origins: list[str] = field(default_factory=list)
    tensors: list[str] = field(default_factory=list)
    operations: int = 0


class Rewriter:
    """Edits one model in place; ``checkpoint`` and ``rollback`` undo by journal."""

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self.graph = model.graph
        self._journal: list[Callable[[], None]] = []
        self._values: set[str] = set()
        self._nodes: set[str] = set()
        self._edit: EditRecord | None = None
        self._edits = 0
        self._collect_names()

    # -- transactions ------------------------------------------------------------------

    def checkpoint(self) -> int:
        """A mark that ``rollback`` returns to."""
        return len(self._journal)

    def rollback(self, mark: int) -> None:
        """Undo every primitive since ``mark``, newest first."""
        while len(self._journal) > mark:
            self._journal.pop()()

    @contextmanager
    def edit(self, name: str) -> Iterator[EditRecord]:
        """Open an edit; an exception inside undoes all of it and goes on.

        name: what the edit's id starts with, such as ``quantize/encoder.query``.
        """
        if self._edit is not None:
            raise PassError("edits do not nest", where=name)
        mark = self.checkpoint()
        self._edits += 1
        self._record(self._uncount)
        self._edit = EditRecord(f"{self._edits:04d}-{name}")
        try:
            yield self._edit
        except BaseException:
            self.rollback(mark)
            raise
        finally:
            self._edit = None

    # -- building ----------------------------------------------------------------------

    def value_name(self, hint: str) -> str:
        """A value name that nothing in the model has, starting with ``hint``."""
        return self._name(hint, self._values)

    def initializer(
        self,
        hint: str,
        data: np.ndarray | ir.TensorProtocol,
        *,
        graph: ir.Graph | None = None,
    ) -> ir.Value:
        """Register a constant; its name is ``hint`` or ``hint_N`` where that is taken.

        graph: whose constant it is (a subgraph sees those of the graphs around it), by default
        the main graph's.
        """
        home = self.graph if graph is None else graph
        name = self.value_name(hint)
        tensor = _tensor(data)
        value = ir.Value(
            name=name,
            shape=ir.Shape(tensor.shape.numpy()),
            type=ir.TensorType(tensor.dtype),
            const_value=tensor,
        )
        home.initializers.add(value)
        self._record(lambda: _forget_initializer(home, name))
        return value

    def insert(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        *,
        before: ir.Node | None = None,
        after: ir.Node | None = None,
        domain: str = "",
        attributes: Mapping[str, Any] | None = None,
        outputs: int = 1,
        name: str = "",
        origins: Iterable[ir.Node] = (),
    ) -> ir.Node:
        """Create a node and put it before or after an anchor node (else at the graph's end).

        name: hint for the node and its outputs. origins: the nodes it came from.
        """
        hint = name or op_type.lower()
        node = ir.node(
            op_type,
            inputs,
            dict(attributes or {}),
            domain=domain,
            num_outputs=outputs,
            name=self._name(hint, self._nodes),
        )
        for output in node.outputs:
            output.name = self.value_name(hint)
        self._stamp(node, list(origins))
        self._place(node, before, after)
        infer_node(node, self.model)
        if self._edit is not None:
            self._edit.added.append(node)
        return node

    # -- changing ----------------------------------------------------------------------

    def set_tensor(self, value: ir.Value, data: np.ndarray | ir.TensorProtocol) -> None:
        """Give an initializer new contents of the same shape and dtype; tensors are immutable."""
        old = value.const_value
        tensor = _tensor(data)
        if old is None or not value.is_initializer():
            raise PassError("only an initializer can be given a tensor", where=str(value.name))
        if tuple(tensor.shape) != tuple(old.shape) or tensor.dtype != old.dtype:
            raise PassError(
                f"a tensor {tensor.dtype.name}{list(tensor.shape)} cannot stand for "
                f"{old.dtype.name}{list(old.shape)}",
                where=str(value.name),
                hint="add a new initializer and replace its uses",
            )
        value.const_value = tensor
        self._record(lambda: setattr(value, "const_value", old))
        if self._edit is not None:
            self._edit.tensors.append(str(value.name))

    def set_input(self, node: ir.Node, index: int, value: ir.Value | None) -> None:
        """Replace one input of a node; shapes downstream are the caller's to keep or refresh."""
        old = node.inputs[index]
        node.replace_input_with(index, value)
        self._record(lambda: node.replace_input_with(index, old))
        self._touch(node)

    def set_attribute(self, node: ir.Node, name: str, value: Any) -> None:
        """Set one attribute of a node (a plain Python value)."""
        old = node.attributes.get(name)
        node.attributes[name] = ir.convenience.convert_attribute(name, value)

        def undo() -> None:
            if old is None:
                del node.attributes[name]
            else:
                node.attributes[name] = old

        self._record(undo)
        self._touch(node)

    def replace_uses(
        self, old: ir.Value, new: ir.Value, *, only: Iterable[ir.Node] | None = None
    ) -> None:
        """Make the users of ``old`` (all, or the nodes ``only``) read ``new`` instead.

        A graph output keeps its name: ``new`` takes it over, through an Identity where it
        is an input, a constant or an output already. With ``only`` outputs are left alone.
        """
        chosen = None if only is None else set(only)
        for user, index in list(old.uses()):
            if chosen is None or user in chosen:
                self.set_input(user, index, new)
        if chosen is None and old.is_graph_output():
            self._replace_output(old, new)

    def take_over(self, old: ir.Value, new: ir.Value) -> None:
        """Make every user of ``old`` read ``new``, and give ``new`` the name of ``old``.

        Names of edges then stay what the user knows; ``old`` is left without users.
        """
        self.replace_uses(old, new)
        if new.is_graph_output() or new.is_graph_input() or new.is_initializer():
            return
        kept, given = str(old.name), str(new.name)
        spare = self.value_name(f"{kept}_before")
        old.name, new.name = spare, kept

        def undo() -> None:
            new.name, old.name = given, kept

        self._record(undo)

    def remove(self, nodes: ir.Node | Iterable[ir.Node]) -> None:
        """Take out nodes whose outputs nothing uses any more (given in any order)."""
        todo = [nodes] if isinstance(nodes, ir.Node) else list(nodes)
        for node in reversed(_by_position(todo)):
            self._remove(node)

    def sweep(self, values: Iterable[ir.Value | None]) -> None:
        """Remove what became dead: producers and initializers of these values, recursively."""
        for value in values:
            if value is None or value.uses() or value.is_graph_output():
                continue
            node = value.producer()
            if node is not None:
                dead = not any(o.uses() or o.is_graph_output() for o in node.outputs)
                if not dead or node.graph is None:  # a value read twice is met twice
                    continue
                inputs = list(node.inputs)
                self._remove(node)
                self.sweep(inputs)
            elif value.is_initializer() and not value.is_graph_input() and value.graph is not None:
                self._drop_initializer(value)

    def require_opset(self, domain: str, version: int) -> None:
        """Declare that the model imports ``domain`` at ``version`` (only where absent)."""
        imports = self.model.opset_imports
        if domain in imports:
            return
        imports[domain] = version

        def undo() -> None:
            del imports[domain]

        self._record(undo)

    def set_type(self, value: ir.Value, dtype: ir.DataType, shape: ir.Shape | None) -> None:
        """State the dtype and shape of a value."""
        old = (value.type, value.shape)
        value.type, value.shape = ir.TensorType(dtype), shape

        def undo() -> None:
            value.type, value.shape = old

        self._record(undo)

    # -- inside ------------------------------------------------------------------------

    def _collect_names(self) -> None:
        for graph in all_graphs(self.model):
            self._values.update(str(v.name) for v in graph.inputs)
            self._values.update(str(name) for name in graph.initializers)
        for node in all_nodes(self.model):
            self._nodes.add(node.name or "")
            self._values.update(str(o.name) for o in node.outputs)

    def _name(self, hint: str, taken: set[str]) -> str:
        """A free name; rollback frees it again, so that a replay finds the same names."""
        name = _unique(hint, taken)
        self._record(lambda: taken.discard(name))
        return name

    def _uncount(self) -> None:
        self._edits -= 1

    def _record(self, undo: Callable[[], None]) -> None:
        self._journal.append(undo)
        if self._edit is None:
            return
        self._edit.operations += 1
        if self._edit.operations > MAX_OPERATIONS_PER_EDIT:
            raise PassError(
                f"more than {MAX_OPERATIONS_PER_EDIT} operations in one edit",
                where=self._edit.id,
                hint="a rule probably matches its own output",
            )

    def _touch(self, node: ir.Node) -> None:
        if self._edit is not None and node not in self._edit.added:
            origin = node.metadata_props.get(ORIGIN_KEY)
            if origin and origin not in self._edit.origins:
                self._edit.origins.append(origin)

    def _stamp(self, node: ir.Node, origins: list[ir.Node]) -> None:
        names = [n.metadata_props[ORIGIN_KEY] for n in origins if ORIGIN_KEY in n.metadata_props]
        merged = list(dict.fromkeys(part for name in names for part in name.split("|")))
        if merged:
            node.metadata_props[ORIGIN_KEY] = "|".join(merged)
        scopes = [n.metadata_props[SCOPE_KEY] for n in origins if SCOPE_KEY in n.metadata_props]
        if scopes:
            node.metadata_props[SCOPE_KEY] = scopes[0]
        if self._edit is not None:
            node.metadata_props[EDIT_KEY] = self._edit.id
            self._edit.origins.extend(n for n in merged if n not in self._edit.origins)

    def _place(self, node: ir.Node, before: ir.Node | None, after: ir.Node | None) -> None:
        anchor = before if before is not None else after
        graph = self.graph if anchor is None else anchor.graph
        if not isinstance(graph, ir.Graph):
            raise PassError("the anchor node is not in a graph", where=str(node.name))
        if before is not None:
            graph.insert_before(before, node)
        elif after is not None:
            graph.insert_after(after, node)
        else:
            graph.append(node)
        self._record(lambda: _detach(graph, node))

    def _remove(self, node: ir.Node) -> None:
        graph = node.graph
        if not isinstance(graph, ir.Graph):
            raise PassError("the node is not in a graph", where=str(node.name))
        used = [o.name for o in node.outputs if o.uses() or o.is_graph_output()]
        if used:
            raise PassError(f"outputs {used} are still used", where=f"removing {node.name}")
        follower, inputs = _next_node(graph, node), list(node.inputs)
        self._touch(node)
        if self._edit is not None:
            self._edit.removed.append(str(node.name))
        _detach(graph, node)

        def undo() -> None:
            for index, value in enumerate(inputs):
                node.replace_input_with(index, value)
            if follower is None:
                graph.append(node)
            else:
                graph.insert_before(follower, node)

        self._record(undo)

    def _drop_initializer(self, value: ir.Value) -> None:
        name, graph = str(value.name), value.graph
        if not isinstance(graph, ir.Graph):
            return
        order = list(graph.initializers.values())
        graph.initializers.pop(name)

        def undo() -> None:
            graph.initializers.clear()
            for item in order:
                graph.initializers.add(item)

        self._record(undo)

    def _replace_output(self, old: ir.Value, new: ir.Value) -> None:
        graph = old.graph
        assert isinstance(graph, ir.Graph)
        outer = new.graph is not graph  # a body computes what it returns
        if outer or new.is_graph_input() or new.is_initializer() or new.is_graph_output():
            last = next(reversed(graph), None)
            name = f"{old.name}_identity"
            new = self.insert("Identity", [new], after=last, name=name).outputs[0]
        kept, spare = str(old.name), self.value_name(f"{old.name}_before")
        shape, new_name = old.shape, str(new.name)
        places = [i for i, output in enumerate(graph.outputs) if output is old]
        old.name, new.name = spare, kept
        for place in places:
            graph.outputs[place] = new
        found = new.shape, new.type
        new.shape, new.type = shape, new.type or old.type

        def undo() -> None:
            for place in places:
                graph.outputs[place] = old
            new.name = new_name
            new.shape, new.type = found
            old.name = kept

        self._record(undo)


def _tensor(data: np.ndarray | ir.TensorProtocol) -> ir.TensorProtocol:
    # ascontiguousarray would give a number the shape [1]
    if isinstance(data, (np.ndarray, np.generic)):
        return ir.tensor(np.asarray(data, order="C"))
    return data


def _unique(hint: str, taken: set[str]) -> str:
    name, count = hint, 0
    while name in taken or not name:
        count += 1
        name = f"{hint}_{count}"
    taken.add(name)
    return name


def _forget_initializer(graph: ir.Graph, name: str) -> None:
    graph.initializers.pop(name, None)


def _detach(graph: ir.Graph, node: ir.Node) -> None:
    for index in range(len(node.inputs)):
        node.replace_input_with(index, None)
    graph.remove(node)


def _next_node(graph: ir.Graph, node: ir.Node) -> ir.Node | None:
    links = iter(_after(graph, node))
    return next(links, None)


def _after(graph: ir.Graph, node: ir.Node) -> Iterator[ir.Node]:
    found = False
    for other in graph:
        if found:
            yield other
            return
        found = other is node


def _by_position(nodes: Sequence[ir.Node]) -> list[ir.Node]:
    """Nodes in graph order, so that a consumer can be removed before its producer."""
    if len(nodes) < 2:
        return list(nodes)
    wanted = set(nodes)
    return [n for graph in {n.graph: None for n in nodes} if graph for n in graph if n in wanted]
