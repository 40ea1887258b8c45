"""The only door for mutation: every change to a graph goes through ``Rewriter``.

It makes names unique, inserts where order holds, records the inverse of each primitive in
an undo journal (rollback is not a copy of the model) and keeps the edit log: each new node
knows the edit that made it and the original nodes it came from. No primitive walks over the
graph, and before it changes something it tells the footprint of the open edit: checks after an
edit are then of the size of the edit, too (see ``sound`` and ``moved``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import onnx_ir as ir

from .digest import contents_digest
from .editing.footprint import Footprint
from .editing.index import Index
from .editing.journal import Action, Journal
from .editing.moved import contents_moved
from .editing.sound import doubts, verify_edit
from .errors import EndlessError, PassError
from .graph import all_graphs, all_nodes, captured_values, subgraphs
from .provenance import EDIT_KEY, ORIGIN_KEY, SCOPE_KEY
from .signature import Signature
from .storage.sealed import read_only, sealed
from .types.shapes import infer_node

MAX_OPERATIONS_PER_EDIT = 1_000_000
"""A rule that matches its own output ends here, not never."""
LAST = float("inf")


@dataclass
class EditRecord:
    """What one open edit has touched so far; node names in order of touching."""

    id: str
    footprint: Footprint
    mark: int
    added: list[ir.Node] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    tensors: list[str] = field(default_factory=list)
    operations: int = 0
    _origins: dict[str, None] = field(default_factory=dict)

    @property
    def origins(self) -> list[str]:
        """Names in the user's model of the nodes that were touched."""
        return list(self._origins)

    def came_from(self, names: Iterable[str]) -> None:
        """Add origins; each counts once."""
        self._origins.update(dict.fromkeys(names))


class Rewriter:
    """Edits one model in place; ``checkpoint`` and ``rollback`` undo by journal."""

    def __init__(self, model: ir.Model, *, max_operations: int | None = None) -> None:
        self.model = model
        self.graph = model.graph
        self.max_operations = max_operations or MAX_OPERATIONS_PER_EDIT
        self._journal = Journal()
        self._index = Index(model)
        self._edit: EditRecord | None = None
        self._edits = 0
        stored = [v for graph in all_graphs(model) for v in graph.initializers.values()]
        self._ranks: dict[ir.Value, float] = {value: rank for rank, value in enumerate(stored)}
        self._next_rank = count(len(stored))
        self._untidy: dict[ir.Graph, None] = {}

    # -- transactions ------------------------------------------------------------------

    def checkpoint(self) -> int:
        """A mark that ``rollback`` returns to."""
        return len(self._journal)

    def rollback(self, mark: int) -> None:
        """Undo every primitive since ``mark``, newest first."""
        self.undo(mark)
        self.tidy()

    def undo(self, mark: int) -> None:
        """As ``rollback``, in the time that the primitives took: initializers that come back
        stand last until ``tidy``."""
        self._journal.back(mark)

    def tidy(self) -> None:
        """Put the initializers into the order that they had before what was undone."""
        for graph in self._untidy:
            stored = graph.initializers.data
            held = sorted(stored.items(), key=lambda item: self._ranks.get(item[1], LAST))
            stored.clear()
            stored.update(held)
        self._untidy.clear()

    @contextmanager
    def edit(self, name: str) -> Iterator[EditRecord]:
        """Open an edit; an exception inside undoes all of it and goes on.

        name: what the edit's id starts with, such as ``quantize/encoder.query``.
        """
        if self._edit is not None:
            raise PassError("edits do not nest", where=name)
        mark = self.checkpoint()
        self._count(1)
        self._record(partial(self._count, -1), partial(self._count, 1))
        self._edit = EditRecord(f"{self._edits:04d}-{name}", Footprint(self.model), mark)
        try:
            yield self._edit
        except BaseException:
            self.rollback(mark)
            raise
        finally:
            self._edit = None

    # -- what the last edit did --------------------------------------------------------

    def moved(self, record: EditRecord) -> bool:
        """Whether the contents digest is another one than before the edit, the last one made.

        Found out from what the edit touched; where that does not settle it, by the digests.
        """
        known = None if any(True for _ in self.doubts(record)) else contents_moved(record.footprint)
        if known is not None:
            return known
        after = contents_digest(self.model)
        return after != self._journal.peek(record.mark, lambda: contents_digest(self.model))

    def verify(self, record: EditRecord, signature: Signature | None = None) -> None:
        """Raise ``VerifyError`` where the edit, the last one made, broke a structural rule."""
        verify_edit(record.footprint, self._index, signature, where=record.id)

    def doubts(self, record: EditRecord, signature: Signature | None = None) -> Iterator[str]:
        """Why a look at what the edit touched does not settle that the graph is sound."""
        return doubts(record.footprint, self._index, signature)

    def value(self, name: str) -> ir.Value | None:
        """The input or computed value of the main graph that has this name, None without one."""
        found = self._index.values.get(name)
        if found is None or found.name != name or found.graph is not self.graph:
            return None
        return found if found.producer() is not None or found.is_graph_input() else None

    # -- building ----------------------------------------------------------------------

    def value_name(self, hint: str) -> str:
        """A value name that nothing in the model has, starting with ``hint``."""
        return self._name(hint, of_node=False)

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
        if self._edit is not None:
            self._edit.footprint.weight(value)
        rank = next(self._next_rank)
        self._bind(name, value)
        self._do(partial(self._store, home, value, rank), partial(self._unstore, home, value))
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
            name=self._name(hint, of_node=True),
        )
        for output in node.outputs:
            output.name = self.value_name(hint)
            self._bind(output.name, output)
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
        if self._edit is not None:
            self._edit.footprint.weight(value)
        self._do(partial(_set_const, value, tensor), partial(_set_const, value, old))
        if self._edit is not None:
            self._edit.tensors.append(str(value.name))

    def reshape_tensor(self, value: ir.Value, data: np.ndarray | ir.TensorProtocol) -> None:
        """Give an initializer new contents of the same dtype and any shape, under its name.

        What reads it must be made to fit: targets and shapes downstream are the caller's.
        """
        old, tensor = value.const_value, _tensor(data)
        if old is None or not value.is_initializer() or value.is_graph_input():
            raise PassError("only an initializer can be given a tensor", where=str(value.name))
        if tensor.dtype != old.dtype:
            raise PassError(f"{tensor.dtype.name} for {old.dtype.name}", where=str(value.name))
        if self._edit is not None:
            self._edit.footprint.weight(value)
        self._do(partial(_set_const, value, tensor), partial(_set_const, value, old))
        self._retype(value, ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy()))
        if self._edit is not None:
            self._edit.tensors.append(str(value.name))

    def set_input(self, node: ir.Node, index: int, value: ir.Value | None) -> None:
        """Replace one input of a node; shapes downstream are the caller's to keep or refresh."""
        old = node.inputs[index]
        if self._edit is not None:
            self._edit.footprint.node(node)
        read = node.replace_input_with
        self._do(partial(read, index, value), partial(read, index, old))
        self._touch(node)

    def set_attribute(self, node: ir.Node, name: str, value: Any) -> None:
        """Set one attribute of a node (a plain Python value)."""
        old, new = node.attributes.get(name), ir.convenience.convert_attribute(name, value)
        if self._edit is not None:
            self._edit.footprint.whole_node(node, new)
        self._do(partial(_set, node, name, new), partial(_set, node, name, old))
        self._hold(node)
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

    def hand_out(self, old: ir.Value, new: ir.Value) -> None:
        """Let the graph give ``new`` in the place of its output ``old``, under that name.

        What reads ``old`` goes on doing so."""
        if not old.is_graph_output():
            raise PassError("only an output can be replaced", where=str(old.name))
        self._replace_output(old, new)

    def take_over(self, old: ir.Value, new: ir.Value) -> None:
        """Make every user of ``old`` read ``new``, and give ``new`` the name of ``old``.

        Names of edges then stay what the user knows; ``old`` is left without users.
        """
        self.replace_uses(old, new)
        if new.is_graph_output() or new.is_graph_input() or new.is_initializer():
            return
        kept = str(old.name)
        self._rename(old, self.value_name(f"{kept}_before"))
        self._rename(new, kept)

    def remove(self, nodes: ir.Node | Iterable[ir.Node]) -> None:
        """Take out nodes whose outputs nothing uses any more (given in any order)."""
        todo = [nodes] if isinstance(nodes, ir.Node) else list(nodes)
        for node in reversed(self._by_position(todo)):
            self._remove(node)

    def sweep(self, values: Iterable[ir.Value | None]) -> None:
        """Remove what became dead: producers and initializers of these values, recursively."""
        pending = list(reversed(list(values)))
        while pending:
            value = pending.pop()
            if value is None or value.uses() or value.is_graph_output():
                continue
            node = value.producer()
            if node is not None:
                dead = not any(o.uses() or o.is_graph_output() for o in node.outputs)
                if not dead or node.graph is None:  # a value read twice is met twice
                    continue
                pending.extend(reversed(node.inputs))
                self._remove(node)
            elif value.is_initializer() and not value.is_graph_input() and value.graph is not None:
                self._drop_initializer(value)

    def require_opset(self, domain: str, version: int) -> None:
        """Declare that the model imports ``domain`` at ``version`` (only where absent)."""
        imports = self.model.opset_imports
        if domain in imports:
            return
        self._do(partial(imports.__setitem__, domain, version), partial(imports.pop, domain))

    def set_type(self, value: ir.Value, dtype: ir.DataType, shape: ir.Shape | None) -> None:
        """State the dtype and shape of a value."""
        self._retype(value, ir.TensorType(dtype), shape)

    # -- inside ------------------------------------------------------------------------

    def _name(self, hint: str, *, of_node: bool) -> str:
        """A free name; rollback frees it again, so that a replay finds the same names."""
        index, start = self._index, self._index.counted(hint, of_node=of_node)
        name, end = index.free_name(hint, of_node=of_node)
        self._do(
            partial(index.take, name, hint, end, of_node=of_node),
            partial(index.give_back, name, hint, start, of_node=of_node),
        )
        return name

    def _bind(self, name: str, value: ir.Value) -> None:
        """Tell the index whose name it is."""
        values = self._index.values
        bind = values.__setitem__
        self._do(partial(bind, name, value), partial(bind, name, values.get(name)))

    def _rename(self, value: ir.Value, name: str) -> None:
        if self._edit is not None:
            self._edit.footprint.name(value)
        old = str(value.name)
        self._do(partial(_set_name, value, name), partial(_set_name, value, old))
        self._bind(name, value)
        if value.is_initializer() and isinstance(value.graph, ir.Graph):
            rank = partial(self._rank, value.graph, value)  # a new name puts it last
            self._do(
                partial(rank, next(self._next_rank)), partial(rank, self._ranks.get(value, LAST))
            )

    def _retype(
        self, value: ir.Value, type_: ir.TypeProtocol | None, shape: ir.Shape | None
    ) -> None:
        if self._edit is not None:
            self._edit.footprint.value(value)
        old = (value.type, value.shape)
        self._do(partial(_set_type, value, type_, shape), partial(_set_type, value, *old))

    def _count(self, step: int) -> None:
        self._edits += step

    def _do(self, action: Action, undo: Action) -> None:
        action()
        self._record(undo, action)

    def _record(self, undo: Action, redo: Action) -> None:
        self._journal.record(undo, redo)
        if self._edit is None:
            return
        self._edit.operations += 1
        if self._edit.operations > self.max_operations:
            raise EndlessError(
                f"more than {self.max_operations} operations in one edit",
                where=self._edit.id,
                hint="a rule probably matches its own output",
            )

    def _touch(self, node: ir.Node) -> None:
        if self._edit is None or self._edit.footprint.nodes.get(node) is None:
            return  # the edit itself has added it
        origin = node.metadata_props.get(ORIGIN_KEY)
        if origin:
            self._edit.came_from([origin])

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
            self._edit.came_from(merged)

    def _place(self, node: ir.Node, before: ir.Node | None, after: ir.Node | None) -> None:
        anchor = before if before is not None else after
        graph = self.graph if anchor is None else anchor.graph
        if not isinstance(graph, ir.Graph):
            raise PassError("the anchor node is not in a graph", where=str(node.name))
        if self._edit is not None:
            self._edit.footprint.whole_node(node)
        inputs = tuple(node.inputs)
        put = partial(self._attach, graph, node, inputs, before, after)
        self._do(put, partial(self._detach, graph, node))
        name, known = node.name or "", self._index.nodes
        self._do(partial(known.__setitem__, name, node), partial(known.__setitem__, name, None))
        self._hold(node)

    def _hold(self, node: ir.Node) -> None:
        """Let the index know the names in the subgraphs of a node."""
        index, names = self._index, self._index.hold(node)
        if names:
            self._record(partial(index.forget, names), partial(index.hold, node))

    def _attach(
        self,
        graph: ir.Graph,
        node: ir.Node,
        inputs: Sequence[ir.Value | None],
        before: ir.Node | None,
        after: ir.Node | None = None,
    ) -> None:
        for index, value in enumerate(inputs):
            if node.inputs[index] is not value:
                node.replace_input_with(index, value)
        if before is not None:
            graph.insert_before(before, node)
        elif after is not None:
            graph.insert_after(after, node)
        else:
            graph.append(node)
        self._index.inserted(graph, node, before, after)

    def _detach(self, graph: ir.Graph, node: ir.Node) -> None:
        for index in range(len(node.inputs)):
            node.replace_input_with(index, None)
        graph.remove(node)
        self._index.removed(graph, node)

    def _remove(self, node: ir.Node) -> None:
        graph = node.graph
        if not isinstance(graph, ir.Graph):
            raise PassError("the node is not in a graph", where=str(node.name))
        used = [o.name for o in node.outputs if o.uses() or o.is_graph_output()]
        if used:
            raise PassError(f"outputs {used} are still used", where=f"removing {node.name}")
        if self._edit is not None:
            self._edit.footprint.whole_node(node)
            self._edit.removed.append(str(node.name))
        self._touch(node)
        for inner, index in _captures(node):
            self.set_input(inner, index, None)
        follower, inputs = self._index.order(graph).follower(node), tuple(node.inputs)
        self._do(
            partial(self._detach, graph, node),
            partial(self._attach, graph, node, inputs, follower),
        )

    def _drop_initializer(self, value: ir.Value) -> None:
        graph, rank = value.graph, self._ranks.get(value, LAST)
        if not isinstance(graph, ir.Graph):
            return
        if self._edit is not None:
            self._edit.footprint.weight(value)
        self._do(partial(self._unstore, graph, value), partial(self._store, graph, value, rank))

    def _store(self, graph: ir.Graph, value: ir.Value, rank: float) -> None:
        graph.initializers.add(value)
        self._rank(graph, value, rank)

    def _rank(self, graph: ir.Graph, value: ir.Value, rank: float) -> None:
        self._ranks[value] = rank
        self._untidy[graph] = None

    def _unstore(self, graph: ir.Graph, value: ir.Value) -> None:
        graph.initializers.pop(str(value.name), None)
        self._ranks.pop(value, None)

    def _replace_output(self, old: ir.Value, new: ir.Value) -> None:
        graph = old.graph
        assert isinstance(graph, ir.Graph)
        outer = new.graph is not graph  # a body computes what it returns
        if outer or new.is_graph_input() or new.is_initializer() or new.is_graph_output():
            last = next(reversed(graph), None)
            name = f"{old.name}_identity"
            new = self.insert("Identity", [new], after=last, name=name).outputs[0]
        if self._edit is not None:
            self._edit.footprint.output_list(graph)
        kept = str(old.name)
        self._rename(old, self.value_name(f"{kept}_before"))
        self._rename(new, kept)
        for place in [i for i, output in enumerate(graph.outputs) if output is old]:
            put = graph.outputs.__setitem__
            self._do(partial(put, place, new), partial(put, place, old))
        self._retype(new, new.type or old.type, old.shape)

    def _by_position(self, nodes: Iterable[ir.Node]) -> list[ir.Node]:
        """Nodes in graph order, so that a consumer can be removed before its producer."""
        found: dict[ir.Graph, list[ir.Node]] = {}
        for node in dict.fromkeys(nodes):
            if isinstance(node.graph, ir.Graph):
                found.setdefault(node.graph, []).append(node)
        return [
            node
            for graph, members in found.items()
            for node in sorted(members, key=self._index.order(graph).number)
        ]


def _set(node: ir.Node, name: str, attribute: ir.Attr | None) -> None:
    if attribute is None:
        del node.attributes[name]
    else:
        node.attributes[name] = attribute


def _set_const(value: ir.Value, tensor: ir.TensorProtocol) -> None:
    value.const_value = tensor


def _set_name(value: ir.Value, name: str) -> None:
    value.name = name


def _set_type(value: ir.Value, type_: ir.TypeProtocol | None, shape: ir.Shape | None) -> None:
    value.type, value.shape = type_, shape


def _captures(node: ir.Node) -> list[tuple[ir.Node, int]]:
    """Where the subgraphs of a node read values from outside."""
    outer = set(captured_values(node))
    inner = [n for held in subgraphs(node) for n in all_nodes(held)] if outer else []
    return [(n, i) for n in inner for i, v in enumerate(n.inputs) if v in outer]


def _tensor(data: np.ndarray | ir.TensorProtocol) -> ir.TensorProtocol:
    # ascontiguousarray would give a number the shape [1]
    if isinstance(data, (np.ndarray, np.generic)):
        return ir.tensor(read_only(np.asarray(data, order="C")))
    return sealed(data)
