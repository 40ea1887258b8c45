"""Where a node stands for a reader: the dotted path of its module, down to its layer."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

import onnx_ir as ir

from ....ir.diff.hunks import module_of
from ....ir.diff.pool import Pool
from ....ir.finding.naming import common_path
from ....ir.sites import find_sites


def places_before(pool: Pool) -> list[str]:
    """By number: the site of a node, else what names tell, else what its neighbours share."""
    layers = site_names(pool.model)
    return _filled(pool, [layers.get(node) or module_of(node) for node in pool.nodes])


def places_after(
    pool: Pool,
    before: Sequence[str],
    pairs: Mapping[int, int],
    origins: Mapping[int, Sequence[int]],
) -> list[str]:
    """The same of a graph that was made of another one: a node stands where it came from.

    pairs: numbers after -> before; origins: of new nodes, those that they stand for.
    """
    found = []
    for number, node in enumerate(pool.nodes):
        if number in pairs:
            found.append(before[pairs[number]])
            continue
        came = [before[n] for n in origins.get(number, ()) if before[n]]
        found.append(module_of(node) or (common_path(came) or came[0] if came else ""))
    return _filled(pool, found, pairs)


def site_names(model: ir.Model) -> dict[ir.Node, str]:
    """The layer of each node that belongs to one."""
    return {node: site.name for node, site in find_sites(model, nested=True).by_node.items()}


def _filled(pool: Pool, places: list[str], told: Container[int] = ()) -> list[str]:
    """A node without a name stands where those around it do; one in a body, below its owner.

    told: numbers of nodes of which it is known that they stand nowhere, or where they do.
    """
    for number, place in enumerate(places):
        if place or number in told:
            continue
        if pool.owners[number] >= 0:
            places[number] = places[pool.owners[number]]
            continue
        near = [places[int(s.of)] for s in pool.sources[number] if s.kind == "node"]
        near += [places[r.node] for r in pool.readers[number] if r.node >= 0]
        known = [path for path in near if path]
        places[number] = common_path(known) if known else ""
    return places
