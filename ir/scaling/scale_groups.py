"""Groups of layers that read one activation, whose channels can be scaled in front and back.

The activation is divided by a scale per channel in the constants in front of it (``absorb``), and
the weights that read it are multiplied by that scale: the function stays the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ..facts import FLOAT
from ..graph import attribute, constant_tensor, dims
from ..sites import Site
from .absorb import Absorber, ObstacleError, Scaled, find_absorber


@dataclass(frozen=True, eq=False)
class ScaleGroup:
    """Layers of one kind, all readers of ``x`` along its channel ``axis`` (from the front).

    readers: their weights. absorber: what is in front. The first layer names the group.
    """

    x: ir.Value
    axis: int
    sites: tuple[Site, ...]
    readers: tuple[Scaled, ...]
    absorber: Absorber

    @property
    def name(self) -> str:
        """The name of the first site, which stands for the group."""
        return self.sites[0].name

    @property
    def convolves(self) -> bool:
        """Whether the readers are convolutions rather than linear layers."""
        return self.sites[0].kind == "conv"

    @property
    def scaled(self) -> tuple[Scaled, ...]:
        """Every constant that changes."""
        return (*self.readers, *self.absorber.scaled)


def float_readers(sites: Iterable[Site]) -> dict[ir.Value, list[Site]]:
    """Float layers of the main graph by the activation that they read, in graph order."""
    found: dict[ir.Value, list[Site]] = {}
    for site in sites:
        if site.kind not in ("linear", "conv") or site.nested or FLOAT not in site.facts:
            continue
        for use in site.uses:
            members = found.setdefault(use.input, [])
            if site not in members:
                members.append(site)
    return found


def scale_group(sites: Sequence[Site]) -> ScaleGroup:
    """The group of all float layers that read one activation.

    Raises ObstacleError where its channels cannot be scaled.
    """
    for site in sites:
        _check_site(site)
    kinds = {site.kind for site in sites}
    if len(kinds) > 1:
        raise ObstacleError("mixed", "a convolution and a linear layer read the same activation")
    x = sites[0].input
    assert x is not None
    axis = 1 if "conv" in kinds else -1
    absorber = find_absorber(x, axis, [site.nodes[0] for site in sites])
    for scaled in absorber.scaled:
        _check_constant(scaled)
    rank = len(dims(x) or ())
    return ScaleGroup(x, axis % rank, tuple(sites), tuple(map(_reads, sites)), absorber)


def joined(groups: Sequence[ScaleGroup]) -> list[list[ScaleGroup]]:
    """The groups parted so that no constant belongs to two parts; order is kept."""
    parts: list[tuple[set[tuple[ir.Node, int]], list[int]]] = []
    for number, group in enumerate(groups):
        keys, members = {(s.node, s.index) for s in group.scaled}, [number]
        for part in [p for p in parts if p[0] & keys]:
            parts.remove(part)
            keys, members = keys | part[0], part[1] + members
        parts.append((keys, members))
    ordered = sorted(sorted(members) for _, members in parts)
    return [[groups[i] for i in members] for members in ordered]


def boundary(groups: Sequence[ScaleGroup]) -> tuple[tuple[ir.Value, ...], tuple[ir.Value, ...]]:
    """Inputs and outputs of the region that the groups change inside and not outside."""
    passed = {value for group in groups for value in group.absorber.passed}
    outputs = dict.fromkeys(
        value for group in groups for site in group.sites for value in _results(site, passed)
    )
    read = [v for g in groups for v in (g.absorber.source, *g.absorber.sides)]
    inputs = dict.fromkeys(v for v in read if v not in passed and v not in outputs)
    return tuple(inputs), tuple(outputs)


def contraction(groups: Sequence[ScaleGroup]) -> int:
    """Products that are summed for one element on the way through the region."""
    weights = {id(s.value): s.value for g in groups for s in (*g.readers, g.absorber.main)}
    return max(1, sum(_depth(value) for value in weights.values()))


def _results(site: Site, passed: set[ir.Value]) -> list[ir.Value]:
    """What a reader computes, unless another group's scale goes through it."""
    first = site.nodes[0].outputs[0]
    assert site.output is not None
    return [] if first in passed or site.output in passed else [site.output]


def _depth(value: ir.Value) -> int:
    shape = _sizes(value)
    if len(shape) < 2:
        return 0
    return shape[0] if len(shape) == 2 else int(np.prod(shape[1:]))


def _check_site(site: Site) -> None:
    node = site.nodes[0]
    if (node.domain, node.op_type) not in (("", "MatMul"), ("", "Conv")) or site.weight_path:
        raise ObstacleError(
            "unsupported-op", f"{site.name} is a {node.op_type} in no canonical form"
        )
    if len(site.uses) > 1:
        raise ObstacleError("shared", f"the weight of {site.name} is applied in several places")
    _check_constant(Scaled(node, 1, np.zeros(1, np.int64)))


def _check_constant(scaled: Scaled) -> None:
    tensor, name = constant_tensor(scaled.value), scaled.value.name
    if tensor is None or tensor.dtype != ir.DataType.FLOAT:
        kind = "not constant" if tensor is None else tensor.dtype.name.lower()
        raise ObstacleError("dtype", f"{name!r} is {kind}; only constant float32 is scaled")
    matrix = tensor.size > max(_sizes(scaled.value), default=1)
    if matrix and len(scaled.value.uses()) > 1:  # un-sharing a vector costs next to nothing
        raise ObstacleError("shared", f"other nodes use the weight {name!r}, too")


def _reads(site: Site) -> Scaled:
    """The weight of a reader with the channels of its rows, or of its filters' inputs."""
    node = site.nodes[0]
    shape = _sizes(node.inputs[1])
    if site.kind == "linear":
        return Scaled(node, 1, np.arange(shape[0])[:, None])
    groups = int(attribute(node, "group", 1))
    own = np.arange(groups * shape[1]).reshape(groups, 1, shape[1])
    rows = np.broadcast_to(own, (groups, shape[0] // groups, shape[1]))
    return Scaled(node, 1, rows.reshape(*shape[:2], *[1] * (len(shape) - 2)))


def _sizes(constant: ir.Value | None) -> list[int]:
    return [size for size in dims(constant) or () if isinstance(size, int)]
