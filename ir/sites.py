"""Sites: the named places of a graph where a technique can apply.

``find_sites`` finds the layers and blocks, and gives them the names their authors know. A site
keeps its name when a pass rewrites it, since new nodes inherit scopes and origins.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import overload

import onnx_ir as ir

from .errors import UsageError, near
from .facts import FACTORIZED, block_facts, factorized_pairs, layer_facts
from .finding.attention import find_attention
from .finding.block import Block, BlockKind
from .finding.feed_forward import find_feed_forward
from .finding.layer import Layer, LayerKind
from .finding.layers import find_layer
from .finding.site_names import site_names
from .graph import all_nodes

Kind = LayerKind | BlockKind


@dataclass(frozen=True, eq=False)
class Use:
    """One application of a site's weight: the nodes (operator first) and their surroundings."""

    nodes: tuple[ir.Node, ...]
    weight_path: tuple[ir.Node, ...]
    bias: ir.Value | None
    input: ir.Value
    output: ir.Value


@dataclass(frozen=True, eq=False, repr=False)
class Site:
    """A named place where a technique can apply.

    kind: ``linear``, ``conv``, ``embedding``, ``attention`` or ``ffn``. nodes: the operator that
    applies the weight, then what belongs to it (the Add of the bias, the dequantization of an
    integer product); of a block the nodes between its layers, the Softmax, Attention or
    nonlinear one first. weight, bias: the stored constants themselves. weight_path: nodes
    between the weight and its operator (Transpose, DequantizeLinear, …), empty in canonical
    float form. input, output: the activations that enter and leave, those of the layers around
    for a block; the float ones where the layer is quantized; the indices of an embedding.
    uses: every use of a shared weight, the first one described by the fields above.
    parent: the block in which a layer has a role. roles: of a block, the names of its layers (q,
    k, v, o; up, gate, down). segments: of a packed layer, the columns [start, stop) of each
    role. facts: what holds now, see ``facts``. ties: other sites that apply the same stored
    tensor in another way (an embedding and its head). nested: inside a subgraph, as of a branch.
    """

    name: str
    kind: Kind
    nodes: tuple[ir.Node, ...]
    weight: ir.Value | None
    bias: ir.Value | None
    input: ir.Value | None
    output: ir.Value | None
    parent: str | None = None
    roles: Mapping[str, str] = field(default_factory=dict)
    facts: frozenset[str] = frozenset()
    uses: tuple[Use, ...] = ()
    weight_path: tuple[ir.Node, ...] = ()
    segments: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    ties: tuple[str, ...] = ()
    nested: bool = False

    def __repr__(self) -> str:
        return f"Site({self.kind} {self.name!r})"


@dataclass(frozen=True, eq=False, repr=False)
class Sites(Sequence[Site]):
    """The sites of one graph in graph order."""

    items: tuple[Site, ...]

    def __repr__(self) -> str:
        return f"Sites({list(self.by_name)})"

    @overload
    def __getitem__(self, index: int) -> Site: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Site, ...]: ...
    def __getitem__(self, index: int | slice) -> Site | tuple[Site, ...]:
        return self.items[index]

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Site]:
        return iter(self.items)

    @cached_property
    def by_name(self) -> Mapping[str, Site]:
        """Sites by their names, which are unique."""
        return {site.name: site for site in self.items}

    @cached_property
    def by_node(self) -> Mapping[ir.Node, Site]:
        """The layer to which a node belongs."""
        layers = [site for site in self.items if site.uses]
        return {node: site for site in layers for use in site.uses for node in use.nodes}

    def of_kind(self, *kinds: Kind) -> list[Site]:
        """The sites of these kinds, in graph order."""
        return [site for site in self.items if site.kind in kinds]

    def select(self, pattern: str) -> list[Site]:
        """The sites a selector means, in graph order.

        A name means the site and, where it is a path or a block, everything below it; ``*``,
        ``?`` and ``[…]`` match as in file names. UsageError where it matches nothing.
        """
        found = [site for site in self.items if _matches(site, pattern)]
        if found:
            return found
        paths = {name.rsplit(".", i)[0] for name in self.by_name for i in range(1, 9)}
        raise UsageError(
            f"no site matches {pattern!r}",
            where="the selector of sites",
            hint=near(pattern, {*self.by_name, *paths}) if self.items else "the model has no sites",
        )


def find_sites(model: ir.Model, *, nested: bool = False) -> Sites:
    """All sites of the main graph; with ``nested`` also those inside subgraphs (branches)."""
    nodes = list(all_nodes(model) if nested else model.graph)
    position = {node: i for i, node in enumerate(nodes)}
    layers = [layer for layer in map(find_layer, nodes) if layer is not None]
    blocks = sorted(_blocks(nodes, layers), key=lambda block: position[block.nodes[0]])
    groups, pairs = _shared(layers), factorized_pairs(layers)
    names, titles = site_names(layers, groups, pairs, blocks)
    facts = _facts(layers, pairs)
    parents = _parents(blocks, titles)
    main, tied = model.graph, _ties(layers, groups)
    found = [_block_site(main, b, t, names, facts) for b, t in zip(blocks, titles, strict=True)]
    for group in groups:
        held = next((parents[i] for i in group if i in parents), None)
        members, i = [layers[i] for i in group], group[0]
        ties = tuple(names[j] for j in tied[i])
        found.append(_layer_site(main, members, names[i], facts[i], held, group, ties))
    return Sites(tuple(sorted(found, key=lambda site: position[site.nodes[0]])))


def _blocks(nodes: Sequence[ir.Node], layers: Sequence[Layer]) -> list[Block]:
    """A layer has a role in at most one feed-forward block, attention comes first."""
    linear = [i for i, layer in enumerate(layers) if layer.kind == "linear"]
    made = {layers[i].output: i for i in linear}
    read = {layers[i].node: i for i in linear}
    attention = find_attention(nodes, layers, made, read)
    taken = {i for block in attention for i in block.roles.values()}
    return attention + find_feed_forward(layers, linear, made, taken)


def _shared(layers: Sequence[Layer]) -> list[list[int]]:
    """Layers grouped by the stored tensor that they apply, in graph order."""
    groups: dict[tuple[str, int], list[int]] = {}
    for i, layer in enumerate(layers):
        groups.setdefault((layer.kind, id(layer.weight.value)), []).append(i)
    return list(groups.values())


def _ties(layers: Sequence[Layer], groups: Sequence[Sequence[int]]) -> dict[int, list[int]]:
    """For the first layer of each group, those of the groups that share its tensor otherwise."""
    heads: dict[int, list[int]] = {}
    for group in groups:
        heads.setdefault(id(layers[group[0]].weight.value), []).append(group[0])
    return {i: [j for j in same if j != i] for same in heads.values() for i in same}


def _facts(layers: Sequence[Layer], pairs: Sequence[tuple[int, int]]) -> list[frozenset[str]]:
    factors = {i for pair in pairs for i in pair}
    return [
        layer_facts(layer) | ({FACTORIZED} if i in factors else set())
        for i, layer in enumerate(layers)
    ]


def _parents(blocks: Sequence[Block], titles: Sequence[str]) -> dict[int, tuple[str, Block]]:
    """By layer, the first block in which it has a role."""
    found: dict[int, tuple[str, Block]] = {}
    for block, title in zip(blocks, titles, strict=True):
        for index in block.roles.values():
            found.setdefault(index, (title, block))
    return found


def _own_segments(block: Block, group: Sequence[int]) -> dict[str, tuple[int, int]]:
    return {role: s for role, s in block.segments.items() if block.roles.get(role) in group}


def _layer_site(
    main: ir.Graph,
    members: Sequence[Layer],
    name: str,
    facts: frozenset[str],
    held: tuple[str, Block] | None,
    indices: Sequence[int],
    ties: tuple[str, ...],
) -> Site:
    first = members[0]
    uses = tuple(Use(m.nodes, m.weight.path, m.bias, m.input, m.output) for m in members)
    return Site(
        name=name,
        kind=first.kind,
        nodes=first.nodes,
        weight=first.weight.value,
        bias=first.bias,
        input=first.input,
        output=first.output,
        parent=None if held is None else held[0],
        facts=facts,
        uses=uses,
        weight_path=first.weight.path,
        segments={} if held is None else _own_segments(held[1], indices),
        ties=ties,
        nested=first.node.graph is not main,
    )


def _block_site(
    main: ir.Graph, block: Block, title: str, names: Sequence[str], facts: Sequence[frozenset[str]]
) -> Site:
    return Site(
        name=title,
        kind=block.kind,
        nodes=block.nodes,
        weight=block.weight,
        bias=block.bias,
        input=block.input,
        output=block.output,
        roles={role: names[i] for role, i in block.roles.items()},
        facts=block_facts(block, [facts[i] for i in block.roles.values()]),
        segments=block.segments if block.weight is not None else {},
        nested=block.nodes[0].graph is not main,
    )


def _matches(site: Site, pattern: str) -> bool:
    if pattern in (site.name, site.parent) or site.name.startswith(pattern + "."):
        return True
    return fnmatch.fnmatchcase(site.name, pattern)
