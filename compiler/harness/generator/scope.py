"""A graph under construction: values with a dtype and a symbolic shape, and the nodes so far.

Every operator family adds nodes through ``Scope.emit``. What it may rely on of a value is in
``Wire``; what is chosen once for a whole model is in ``World``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import onnx
from onnx import helper

from .draws import Draws
from .names import Names
from .weights import FLOATS, Array, Role, content

Dim = int | str
Shape = tuple[Dim, ...]
TAME = 64.0
"""What is multiplied or summed over stays below this, so that float16 holds it."""
CLEAR = 1e6
"""Above this a value is moved and selected from, never computed with."""


@dataclass(frozen=True)
class Wire:
    """A value. shape: numbers and symbols.

    exact: no rewrite that reassociates can change it, so it may decide or be rounded. peak: its
    magnitude, roughly. limit: its integers lie in [0, limit). constant: known before any feed.
    """

    name: str
    dtype: str
    shape: Shape
    exact: bool = True
    peak: float = 4.0
    limit: int | None = None
    constant: bool = False

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def floating(self) -> bool:
        """Whether it holds floats."""
        return self.dtype in FLOATS


@dataclass
class World:
    """What all graphs of one model share.

    sizes: of each symbol, in each feed. scoped: nodes tell the module they come from. wide:
    layers are as large as what targets ask for before they compute in integers.
    """

    draws: Draws
    opset: int
    ir_version: int
    names: Names
    sizes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    domains: dict[str, int] = field(default_factory=dict)
    functions: list[onnx.FunctionProto] = field(default_factory=list)
    scoped: bool = False
    wide: bool = False

    def symbol(self, sizes: Sequence[int], name: str = "") -> Dim:
        """A size that may differ between feeds; a number where it does not and has no name."""
        if not name and len(set(sizes)) == 1:
            return sizes[0]
        same = next((n for n, s in self.sizes.items() if s == tuple(sizes)), None)
        name = name or same or f"?{len(self.sizes)}"
        self.sizes[name] = tuple(sizes)
        return name

    def all_sizes(self, dim: Dim) -> tuple[int, ...]:
        """The size in each feed."""
        if isinstance(dim, str):
            return self.sizes[dim]
        return (dim,) * max(map(len, self.sizes.values()), default=2)

    def combine(self, how: Callable[..., int], *dims: Dim) -> Dim:
        """A size computed from others."""
        return self.symbol([how(*sizes) for sizes in zip(*map(self.all_sizes, dims), strict=True)])


class Scope:
    """One graph: the main one, a body (which sees ``outer``), or that of a function."""

    def __init__(self, world: World, outer: Scope | None = None, *, bare: bool = False) -> None:
        self.world, self.draws, self.opset = world, world.draws, world.opset
        self.outer = outer
        self.bare = bare or (outer is not None and world.ir_version < 4)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.sparse: list[onnx.SparseTensorProto] = []
        self.wires: list[Wire] = []
        self.weights: list[Wire] = []

    # -- values that are there -----------------------------------------------------------

    def visible(self) -> list[Wire]:
        """Everything a node here may read, what is nearest last."""
        return [*(self.outer.visible() if self.outer else []), *self.wires]

    def find(self, wanted: Callable[[Wire], bool], wires: Iterable[Wire] = ()) -> Wire | None:
        """A fitting value, rather a late one; None where there is none."""
        found = [w for w in (wires or self.visible()) if wanted(w)]
        if not found:
            return None
        reach = 3 if self.draws.chance(65) else len(found)
        return self.draws.pick(found[-reach:][::-1])

    def activation(self, wanted: Callable[[Wire], bool] = lambda w: True) -> Wire | None:
        """A float value of some rank that can be computed with."""
        return self.find(lambda w: w.floating and w.peak <= CLEAR and w.rank > 0 and wanted(w))

    def sized(self, wire: Wire, axis: int) -> int | None:
        """The size of an axis where it is a number, not 0."""
        size = wire.shape[axis] if -wire.rank <= axis < wire.rank else None
        return size if isinstance(size, int) and size > 0 else None

    def filled(self, wire: Wire) -> bool:
        """Whether it has an element in every feed."""
        return all(min(self.world.all_sizes(d)) > 0 for d in wire.shape)

    def tame(self, wire: Wire) -> Wire:
        """The value itself, or squashed where it has grown."""
        return wire if wire.peak <= TAME else self.one("Tanh", [wire], peak=1.0)

    # -- values that are made -------------------------------------------------------------

    def emit(
        self,
        op_type: str,
        inputs: Sequence[Wire | None],
        outputs: Sequence[Wire | None],
        domain: str = "",
        **attributes: Any,
    ) -> list[Wire]:
        """Add a node. outputs: what they are but for their names; None for one left out."""
        named = [o and replace(o, name=self.world.names.value(op_type.lower())) for o in outputs]
        node = helper.make_node(
            op_type,
            [w.name if w else "" for w in inputs],
            [w.name if w else "" for w in named],
            name=self.world.names.node(op_type),
            domain=domain,
            **{k: v for k, v in attributes.items() if v is not None},
        )
        if self.world.scoped and self.world.names.style == "path":
            scope = self.world.names.scope().strip("/").replace("/", ".")
            node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=f"['', '{scope}']")
        self.nodes.append(node)
        made = [w for w in named if w is not None]
        self.wires += made
        return made

    def one(
        self,
        op_type: str,
        inputs: Sequence[Wire | None],
        shape: Shape | None = None,
        dtype: str | None = None,
        *,
        exact: bool | None = None,
        peak: float | None = None,
        limit: int | None = None,
        domain: str = "",
        **attributes: Any,
    ) -> Wire:
        """Add a node with one output, by default like its first input."""
        given = [w for w in inputs if w is not None]
        made = Wire(
            "",
            given[0].dtype if dtype is None else dtype,
            given[0].shape if shape is None else shape,
            all(w.exact for w in given) if exact is None else exact,
            max(w.peak for w in given) if peak is None else peak,
            limit,
        )
        return self.emit(op_type, inputs, [made], domain, **attributes)[0]

    def weight(self, shape: tuple[int, ...], dtype: str, role: Role = "any") -> Wire:
        """A constant for one purpose: mostly new, at times one that others use, too."""
        from .constants import shared_weight, store, through_nodes

        if self.draws.chance(15):
            found = shared_weight(self, shape, dtype)
            if found is not None:
                return found
        array = content(self.draws, shape, dtype, role)
        made = through_nodes(self, array, "w") if self.draws.chance(8) else None
        made = made or store(self, array, "w")
        self.weights.append(made)
        return made

    def constant(self, values: Any, dtype: str = "int64") -> Wire:
        """A constant that the structure needs: a shape, axes, indices."""
        from .constants import store

        return store(self, np.asarray(values, dtype), "c")

    def ints(self, values: Sequence[int]) -> Wire:
        """A constant int64 vector."""
        return self.constant(np.asarray(values, np.int64).reshape(len(values)))


def wire_of(name: str, array: Array, constant: bool = True) -> Wire:
    """What is known of a stored array."""
    numbers = array.astype(np.float64) if array.dtype.kind in "fiu" else np.zeros(1)
    peak = float(np.abs(numbers).max(initial=0.0))
    low = int(array.min()) if array.dtype.kind in "iu" and array.size else -1
    limit = int(array.max()) + 1 if low >= 0 else None
    return Wire(name, array.dtype.name, array.shape, True, peak, limit, constant)


def typed(wire: Wire, *, nameless: Mapping[str, bool] | None = None) -> onnx.ValueInfoProto:
    """How a graph declares the value. Sizes derived from others have no name."""
    hidden = nameless or {}
    dims = [
        None if isinstance(d, str) and (d[0] == "?" or hidden.get(d)) else d for d in wire.shape
    ]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(wire.dtype))
    return helper.make_tensor_value_info(wire.name, kind, dims)


def elements(shape: Sequence[int]) -> int:
    """How many elements a shape of numbers has."""
    return math.prod(shape)
