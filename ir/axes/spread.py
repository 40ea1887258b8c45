"""Send labels from one axis to all that have to be cut with it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import onnx_ir as ir

from ..finding.stored import stored
from ..graph import operator
from .groups import NONE, Index
from .labels import CannotCutError, Labels, name_of
from .relations import Contract, Fold, Inner, Key, Relations, Same, Use, value_of
from .size_table import SizeTable
from .tables import SHAPE_ONLY, relations_of

MAX_OPTIONS = 64
"""Ways to go on from one start; exports need a handful."""


class Spreader:
    """Relations of one graph's nodes, worked out when first met."""

    def __init__(self, model: ir.Model, table: SizeTable) -> None:
        self.graph = model.graph
        self.table = table
        self._relations: dict[ir.Node, Relations] = {}

    def relations(self, node: ir.Node) -> Relations:
        """What the tables say of a node."""
        if node not in self._relations:
            self._relations[node] = relations_of(node, self.table)
        return self._relations[node]

    def outcomes(self, start: Key, size: int) -> Iterator[Labels | CannotCutError]:
        """Every way to cut the positions of an axis, finest units first; reasons where none."""
        labels = Labels(size)
        labels.put(start, np.arange(size))
        waiting, tried = [labels], 0
        while waiting and tried < MAX_OPTIONS:
            state = waiting.pop()
            tried += 1
            try:
                options = self._run(state)
            except CannotCutError as error:
                error.labels = state
                yield error
                continue
            if options:
                waiting += reversed(options)
            else:
                yield state

    def _run(self, labels: Labels) -> list[Labels]:
        """Spread until nothing is left to do, or several ways are open: copies, one for each."""
        while True:
            while labels.pending:
                self._visit(labels, labels.pending.popleft())
            open_ = {fold: _options(fold, labels) for fold in labels.folds}
            if not open_:
                return []
            fold, axes = min(open_.items(), key=lambda item: len(item[1]) > 1)
            if len(axes) > 1:
                return _every_choice(fold, axes, labels)
            _choose(fold, axes[0], labels)

    def _visit(self, labels: Labels, key: Key) -> None:
        holder, vector = key[0], labels.by_key[key]
        value = value_of(holder)
        if value is not None:
            self._check(value, key, vector)
        for node in self.nodes(holder):
            if operator(node) not in SHAPE_ONLY:
                self._pass(labels, node, key)

    def _check(self, value: ir.Value, key: Key, vector: Index) -> None:
        if value.is_graph_output() or value.is_graph_input():
            what = "output" if value.is_graph_output() else "input"
            raise CannotCutError("signature", f"the axis reaches the {what} {value.name!r}")
        size = self.table.length(value, key[1])
        if size is not None:
            _fits(vector, size, key)

    def nodes(self, holder: object) -> Iterator[ir.Node]:
        """The nodes that touch what a key belongs to."""
        if isinstance(holder, (Use, Inner)):
            yield holder.node
            return
        assert isinstance(holder, ir.Value)
        maker = holder.producer()
        if maker is not None:
            yield maker
        yield from dict.fromkeys(usage.node for usage in holder.uses())

    def _pass(self, labels: Labels, node: ir.Node, key: Key) -> None:
        if node.graph is not self.graph:
            raise CannotCutError("control-flow", f"{node.op_type} {node.name!r} in a body reads it")
        found = self.relations(node)
        if key in found.stops or key not in found.by_key:
            raise CannotCutError(*found.stops.get(key, found.otherwise))
        if key in found.marks:
            labels.marks.add(found.marks[key])
        for relation in found.by_key[key]:
            if isinstance(relation, Same):
                _same(relation, key, labels)
            elif isinstance(relation, Contract):
                _contract(relation, key, labels, node)
            else:
                _fold(relation, labels)


def _same(relation: Same, key: Key, labels: Labels) -> None:
    vector, index = labels.by_key[key], relation.index
    if index is None:
        labels.put(relation.b if key == relation.a else relation.a, vector)
        return
    if key == relation.a:
        _fits(vector, relation.size, key)
        labels.put(relation.b, np.where(index == NONE, NONE, vector[index]))
    if key == relation.b:
        labels.put(relation.a, _scattered(relation, vector, labels))


def _scattered(relation: Same, vector: Index, labels: Labels) -> Index:
    """Labels of ``a`` from those of ``b``; copies of one position are joined."""
    found = np.full(relation.size, NONE, np.int64)
    assert relation.index is not None
    _fits(vector, len(relation.index), relation.b)
    held = (relation.index != NONE) & (vector != NONE)
    places, ids = relation.index[held], vector[held]
    found[places] = ids
    labels.join(found[places], ids)
    return found


def _contract(relation: Contract, key: Key, labels: Labels, node: ir.Node) -> None:
    values = [value_of(side[0]) for side in relation.keys]
    if all(stored(value) is None for value in values):
        text = f"{node.op_type} {node.name!r} sums over the axis, of two activations"
        raise CannotCutError("contraction", text)
    labels.put(relation.b if key == relation.a else relation.a, labels.by_key[key])


def _fold(fold: Fold, labels: Labels) -> None:
    held = [axis for axis, (key, _) in enumerate(fold.parts) if key in labels.by_key]
    if len(held) > 1:
        raise CannotCutError("unsupported", f"two axes that make {name_of(fold.flat)} would be cut")
    if held:
        _choose(fold, held[0], labels)
    else:
        labels.folds[fold] = None


def _options(fold: Fold, labels: Labels) -> list[int]:
    """The parts along which the labels of a flat axis could be cut, outer first."""
    held = [axis for axis, (key, _) in enumerate(fold.parts) if key in labels.by_key]
    if held:
        return held[:1]
    flat = labels.by_key[fold.flat]
    _fits(flat, math.prod(fold.shape), fold.flat)
    array = labels.find(flat).reshape(fold.shape)
    told = [axis for axis in range(array.ndim) if _only(array, axis)]
    return told[:1] or list(range(array.ndim))


def _only(array: Index, axis: int) -> bool:
    """Whether an array tells positions of one axis apart, and of no other."""
    rows = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
    return bool((rows == rows[:, :1]).all())


def _every_choice(fold: Fold, axes: Sequence[int], labels: Labels) -> list[Labels]:
    """A state for each axis along which a fold can be cut; CannotCutError where there is none."""
    found: list[Labels] = []
    errors: list[CannotCutError] = []
    for axis in axes:
        try:
            found.append(_chosen(fold, axis, labels))
        except CannotCutError as error:
            errors.append(error)
    if not found:
        raise errors[0]
    return found


def _chosen(fold: Fold, axis: int, labels: Labels) -> Labels:
    other = labels.copy()
    other.forked = True
    _choose(fold, axis, other)
    return other


def _choose(fold: Fold, axis: int, labels: Labels) -> None:
    """Cut a flat axis along one of its parts: all positions of a slice get one label."""
    (key, size), flat = fold.parts[axis], labels.by_key.get(fold.flat)
    labels.folds.pop(fold, None)
    if flat is not None:
        _fits(flat, math.prod(fold.shape), fold.flat)
        rows = np.moveaxis(flat.reshape(fold.shape), axis, 0).reshape(size, -1)
        labels.put(key, labels.join_rows(rows))
    held = labels.by_key[key]
    _fits(held, size, key)
    classes = labels.find(held)
    if (classes == classes[0]).all():
        raise CannotCutError("single", f"all positions of an axis of {name_of(key)} go together")
    shape = [size if i == axis else 1 for i in range(len(fold.parts))]
    labels.put(fold.flat, np.broadcast_to(held.reshape(shape), fold.shape).reshape(-1))


def _fits(labels: Index, size: int, key: Key) -> None:
    if labels.shape != (size,):
        raise CannotCutError("data-dependent", f"two sizes of one axis of {name_of(key)}")
