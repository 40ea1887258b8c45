"""Layers that apply one stored weight: decided, packed and rebuilt together, stored once.

A linear layer used several times, an embedding and the head tied to it, and the same pair where
an exporter stored the table a second time, transposed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from ..ir.graph import attribute, constant_array, constant_tensor, rank
from ..ir.sites import Site, Use
from .api import Observed

COMPARED = 1 << 30
"""Bytes of a table up to which it is looked for in the weights of heads."""


@dataclass(frozen=True, eq=False)
class Applied:
    """One use of a weight, with the names that its values had before the pass.

    product: whether it multiplies by the weight; a lookup takes rows of it. observed: the
    activation to look at, None where there is none or its rank is unknown.
    """

    use: Use
    product: bool
    input: str
    output: str
    observed: Observed | None

    @property
    def node(self) -> ir.Node:
        """The operator that applies the weight."""
        return self.use.nodes[0]


@dataclass(frozen=True, eq=False)
class Shared:
    """Sites of one weight. turned: whether each site's tensor is stored as [outputs, inputs]."""

    sites: tuple[Site, ...]
    turned: tuple[bool, ...]

    @property
    def lead(self) -> Site:
        """The first in graph order, which speaks for all."""
        return self.sites[0]

    @property
    def looked_up(self) -> bool:
        """Whether rows of it are looked up."""
        return any(site.kind == "embedding" for site in self.sites)

    @property
    def multiplied(self) -> bool:
        """Whether a layer multiplies by it."""
        return any(site.kind == "linear" for site in self.sites)

    @property
    def shape(self) -> tuple[int, int]:
        """(inputs, outputs) as a linear layer has them; of a table (width, rows)."""
        tensor = constant_tensor(self.lead.weight)
        assert tensor is not None
        first, last = tensor.shape.numpy()
        return (last, first) if self.turned[0] else (first, last)

    def applied(self) -> tuple[Applied, ...]:
        """Every use, as it is now."""
        return tuple(
            _applied(use, site.kind == "linear") for site in self.sites for use in site.uses
        )

    def matrix(self) -> np.ndarray:
        """The weight in its own dtype, [inputs, outputs], not copied."""
        array = constant_array(self.lead.weight)
        assert array is not None
        return array.T if self.turned[0] else array

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the weight as it is stored."""
        tensor = constant_tensor(self.lead.weight)
        assert tensor is not None
        return np.dtype(tensor.dtype.numpy())

    def stored(self, matrix: np.ndarray) -> dict[str, np.ndarray]:
        """A matrix [inputs, outputs] as the contents of every tensor that holds the weight."""
        return {
            str(site.weight.name): matrix.T if turned else matrix
            for site, turned in zip(self.sites, self.turned, strict=True)
            if site.weight is not None
        }

    def stored_bytes(self) -> int:
        """Of all tensors that hold it."""
        tensors = {id(site.weight): constant_tensor(site.weight) for site in self.sites}
        return sum(tensor.nbytes for tensor in tensors.values() if tensor is not None)


def _applied(use: Use, product: bool) -> Applied:
    known = rank(use.input)
    observed = (str(use.input.name), known - 1) if product and known else None
    return Applied(use, product, str(use.input.name), str(use.output.name), observed)


def sharing(sites: Iterable[Site]) -> Iterator[Shared]:
    """The layers by the weight that they apply, in the order of their first sites."""
    found: dict[int, list[Site]] = {}
    for site in sites:
        if site.kind in ("linear", "embedding"):
            found.setdefault(id(site.weight), []).append(site)
    groups = [Shared(tuple(same), tuple(map(is_turned, same))) for same in found.values()]
    copies = _copies(groups)
    for group in groups:
        if group in copies.values():
            continue
        twin = copies.get(group)
        yield group if twin is None else _together(group, twin)


def is_turned(site: Site) -> bool:
    """Whether its weight is stored as [outputs, inputs]; a table's rows are its outputs."""
    return (site.kind == "embedding") ^ turns(site.uses[0])


def turns(use: Use) -> bool:
    """Whether a layer reads its weight transposed."""
    across = bool(attribute(use.nodes[0], "transB", 0))
    return across ^ (sum(node.op_type == "Transpose" for node in use.weight_path) % 2 == 1)


def _together(table: Shared, head: Shared) -> Shared:
    return Shared((*table.sites, *head.sites), (*table.turned, *head.turned))


def _copies(groups: Iterable[Shared]) -> dict[Shared, Shared]:
    """Heads whose weight is a table's once more, by the table's group.

    Only tensors of one size are read, and no very large ones: both are held to be compared.
    """
    tables = [g for g in groups if not g.multiplied and _is_matrix(g)]
    heads = [g for g in groups if not g.looked_up and _is_matrix(g)]
    found: dict[Shared, Shared] = {}
    for table in tables:
        for head in heads:
            if head in found.values() or head.shape != table.shape or not _same_dtype(table, head):
                continue
            if table.stored_bytes() <= COMPARED and np.array_equal(table.matrix(), head.matrix()):
                found[table] = head
                break
    return found


def _is_matrix(group: Shared) -> bool:
    tensor = constant_tensor(group.lead.weight)
    return tensor is not None and len(tensor.shape) == 2 and tensor.dtype.is_floating_point()


def _same_dtype(one: Shared, other: Shared) -> bool:
    first, second = constant_tensor(one.lead.weight), constant_tensor(other.lead.weight)
    return first is not None and second is not None and first.dtype == second.dtype
