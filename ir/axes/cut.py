"""Cut a group: every tensor, target and attribute at once, through the ``Rewriter`` alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..errors import PassError
from ..graph import attribute, constant_array, constant_tensor, opset
from ..rewriter import Rewriter
from ..sites import find_sites
from .find import find_axis_groups
from .groups import AxisGroup, Index, Member
from .labels import CannotCutError
from .repair import Axis, Constant, Cut, Joined, Repair, Scaled, Setting, Uneven
from .repairs import repairs_of
from .size_table import SizeTable


@dataclass(frozen=True, eq=False)
class _Own:
    """A shared vector of which some uses get a copy that is cut."""

    value: ir.Value
    member: Member


def cut_group(
    rewriter: Rewriter,
    group: AxisGroup,
    keep: Sequence[int],
    replace: Mapping[str, np.ndarray] | None = None,
) -> None:
    """Leave only the units ``keep`` of a group (in their order in the group).

    A group that shares an axis with another one that was cut since it was found (concatenated
    channels, the heads and the features of a projection) is found anew by its name.

    replace: new contents of stored tensors by name, already cut, of the dtype they have. Tensors
    keep their names; a shared vector that is cut for some uses only gets a copy. Shapes are
    stated where the cut changes them. Raises PassError where the group cannot be cut, the graph
    is not the one that it was found in any more, or an axis would have nothing left; then
    nothing was changed.
    """
    _check(group, keep)
    kept = np.unique(np.asarray(keep, np.int64))
    if len(kept) == group.units:
        return
    values, owns = _located(rewriter, group) or _located_anew(rewriter, group)
    cut = _cut_of(rewriter.model, values, kept)
    try:
        repairs = [r for node in _around(values, owns) for r in repairs_of(node, cut)]
    except CannotCutError as error:
        raise PassError(error.sentence, where=group.name) from error
    contents = _contents(cut, owns, kept, dict(replace or {}))
    _apply(rewriter, cut, owns, contents)
    for repair in repairs:
        _repair(rewriter, repair)


def _check(group: AxisGroup, keep: Sequence[int]) -> None:
    if not group.cuttable:
        raise PassError(f"not cuttable ({group.code}): {group.sentence}", where=group.name)
    wrong = [unit for unit in keep if not 0 <= unit < group.units]
    if wrong or not len(keep):
        raise PassError(
            f"unit {wrong[0]} does not exist" if wrong else "no unit is kept",
            where=group.name,
            hint=f"the group has the units 0 to {group.units - 1}",
        )


Located = dict[Axis, Member]


def _located_anew(rewriter: Rewriter, group: AxisGroup) -> tuple[Located, list[_Own]]:
    for fresh in _found_anew(rewriter.model, group):
        found = _located(rewriter, fresh)
        if found is not None:
            return found
    raise PassError(
        "the graph is not what it was when the group was found, and has no such group now",
        where=group.name,
        hint="analyse the graph again",
    )


def _found_anew(model: ir.Model, group: AxisGroup) -> Iterator[AxisGroup]:
    """The same units in the graph as it is now, looked for at the layers that make them first."""
    sites, makers = find_sites(model), {m.value for m in group.of_role("produces")}
    near = [g for g in find_axis_groups(model, sites, makers).values() if _alike(g, group)]
    if len(near) == 1:
        yield near[0]
        return
    fresh = find_axis_groups(model, sites).get(group.name)
    if fresh is not None and _alike(fresh, group):
        yield fresh


def _alike(fresh: AxisGroup, group: AxisGroup) -> bool:
    """Whether units are numbered alike in all tensors that the other cuts left alone."""
    if (fresh.kind, fresh.units, fresh.sites) != (group.kind, group.units, group.sites):
        return False
    before = {(m.value, m.axis, m.size): m.index for m in group.members if m.stored}
    pairs = [(before.get((m.value, m.axis, m.size)), m.index) for m in fresh.members if m.stored]
    return all(old is None or np.array_equal(old, new) for old, new in pairs)


def _located(rewriter: Rewriter, group: AxisGroup) -> tuple[Located, list[_Own]] | None:
    """The members' values in the graph; None where it is another one than it was."""
    found: Located = {}
    owns: list[_Own] = []
    for member in group.members:
        value = _value(rewriter, member)
        size = None if value is None or value.shape is None else value.shape[member.axis]
        if value is None or (isinstance(size, int) and size != member.size):
            return None
        if member.uses:
            owns.append(_Own(value, member))
        else:
            found[value, member.axis] = member
    return found, owns


def _value(rewriter: Rewriter, member: Member) -> ir.Value | None:
    if member.stored:
        return rewriter.graph.initializers.get(member.value)
    return rewriter.value(member.value)


def _cut_of(model: ir.Model, values: Located, kept: Index) -> Cut:
    left = {axis: member.kept(kept) for axis, member in values.items()}
    shorter = {axis: k for axis, k in left.items() if len(k) < values[axis].size}
    empty = next((axis[0].name for axis, k in shorter.items() if not len(k)), None)
    if empty is not None:
        raise PassError(f"nothing would be left of {empty!r}")
    sizes = {axis: values[axis].size for axis in shorter}
    return Cut(shorter, sizes, SizeTable(model))


def _around(values: Located, owns: Sequence[_Own]) -> list[ir.Node]:
    found: dict[ir.Node, None] = {}
    for value, _ in values:
        maker = value.producer()
        found.update({maker: None} if maker is not None else {})
        found.update(dict.fromkeys(usage.node for usage in value.uses()))
    for own in owns:
        found.update(dict.fromkeys(node for node, _ in _uses(own)))
    return list(found)


def _uses(own: _Own) -> list[tuple[ir.Node, int]]:
    wanted = set(own.member.uses)
    return [(u.node, u.idx) for u in own.value.uses() if (str(u.node.name), u.idx) in wanted]


Contents = dict[ir.Value | _Own, np.ndarray]


def _contents(
    cut: Cut, owns: Sequence[_Own], kept: Index, replace: Mapping[str, np.ndarray]
) -> Contents:
    """What stored tensors hold after the cut."""
    found: Contents = {}
    for value, axes in _by_value(cut).items():
        if value.is_initializer():
            found[value] = _content(value, axes, replace)
    for own in owns:
        found[own] = _content(own.value, {own.member.axis: own.member.kept(kept)}, replace)
    names = {str(key.value.name if isinstance(key, _Own) else key.name) for key in found}
    strange = sorted(set(replace) - names)
    if strange:
        raise PassError(f"{strange[0]!r} is not a tensor that is cut")
    return found


def _by_value(cut: Cut) -> dict[ir.Value, dict[int, Index]]:
    found: dict[ir.Value, dict[int, Index]] = {}
    for (value, axis), positions in cut.kept.items():
        found.setdefault(value, {})[axis] = positions
    return found


def _content(
    value: ir.Value, axes: Mapping[int, Index], replace: Mapping[str, np.ndarray]
) -> np.ndarray:
    tensor, given = constant_tensor(value), replace.get(str(value.name))
    assert tensor is not None
    shape = tuple(len(axes[i]) if i in axes else n for i, n in enumerate(tensor.shape.numpy()))
    if given is None:
        return _taken(value, axes)
    if given.shape != shape or given.dtype != tensor.dtype.numpy():
        raise PassError(
            f"{given.dtype}{list(given.shape)} was given for {tensor.dtype}{list(shape)}",
            where=str(value.name),
        )
    return given


def _taken(value: ir.Value, axes: Mapping[int, Index]) -> np.ndarray:
    data = constant_array(value)
    assert data is not None
    for axis, positions in axes.items():
        data = np.take(data, positions, axis)
    return data


def _apply(rewriter: Rewriter, cut: Cut, owns: Sequence[_Own], contents: Contents) -> None:
    for value, axes in _by_value(cut).items():
        if value in contents:
            rewriter.reshape_tensor(value, contents[value])
        else:
            _restate(rewriter, value, axes)
    for own in owns:
        copy = rewriter.initializer(str(own.value.name), contents[own])
        for node, index in _uses(own):
            rewriter.set_input(node, index, copy)
        rewriter.sweep([own.value])


def _restate(rewriter: Rewriter, value: ir.Value, axes: Mapping[int, Index]) -> None:
    """State the new shape of an activation; what was not known stays so."""
    if value.shape is None or value.dtype is None:
        return
    shape = [
        (len(axes[i]) if isinstance(size, int) else None) if i in axes else size
        for i, size in enumerate(value.shape)
    ]
    rewriter.set_type(value, value.dtype, ir.Shape(shape))


def _repair(rewriter: Rewriter, repair: Repair) -> None:
    if isinstance(repair, Setting):
        rewriter.set_attribute(repair.node, repair.name, repair.value)
        return
    if isinstance(repair, Uneven):
        _split_unevenly(rewriter, repair)
        return
    old = repair.node.inputs[repair.index]
    assert old is not None
    if isinstance(repair, Constant):
        new = rewriter.initializer(str(old.name), repair.data)
    else:
        new = _joined(rewriter, repair, old)
    rewriter.set_input(repair.node, repair.index, new)
    rewriter.sweep([old])


def _split_unevenly(rewriter: Rewriter, repair: Uneven) -> None:
    node = repair.node
    if opset(rewriter.model) < 13:
        rewriter.set_attribute(node, "split", list(repair.sizes))
        return
    new = rewriter.insert(
        "Split",
        [node.inputs[0], rewriter.initializer("split", np.array(repair.sizes, np.int64))],
        before=node,
        attributes={"axis": attribute(node, "axis", 0)},
        outputs=len(node.outputs),
        origins=[node],
    )
    for old, output in zip(node.outputs, new.outputs, strict=True):
        if old.dtype is not None:
            rewriter.set_type(output, old.dtype, old.shape)
        rewriter.take_over(old, output)
    rewriter.remove(node)


def _joined(rewriter: Rewriter, repair: Joined, old: ir.Value) -> ir.Value:
    join = old.producer()
    assert join is not None
    inputs = [
        _number(rewriter, repair.parts[i], repair.node) if i in repair.parts else value
        for i, value in enumerate(join.inputs)
    ]
    attributes = {"axis": 0}
    made = rewriter.insert(
        "Concat", inputs, before=repair.node, attributes=attributes, origins=[join]
    )
    return made.outputs[0]


def _number(rewriter: Rewriter, part: np.ndarray | Scaled, before: ir.Node) -> ir.Value:
    """A vector of numbers for a shape."""
    if isinstance(part, np.ndarray):
        return rewriter.initializer("size", part)
    factor = rewriter.initializer("factor", part.factor)
    inputs = [factor if i == part.index else v for i, v in enumerate(part.node.inputs)]
    product = rewriter.insert("Mul", inputs, before=before, origins=[part.node]).outputs[0]
    ends = rewriter.initializer("vector", np.array([-1], np.int64))
    return rewriter.insert("Reshape", [product, ends], before=before).outputs[0]
