"""Names for all layers and blocks of a graph at once: unique, and the same in every compile.

What the graph says (``naming``) comes first. A block is called after the path its layers share.
What is left gets a structural name: ``block2.attention.q``, ``conv4``.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence

from .block import Block
from .layer import Layer
from .naming import common_path, layer_name, node_path, parameter_path, parent_path, scope_path

_KIND = {
    "attention": re.compile(r"att|mha", re.IGNORECASE),
    "ffn": re.compile(r"ffn|mlp|^ff|^fc|feed_?forward|intermediate", re.IGNORECASE),
}
"""What the last part of a path contains when it means the block itself."""


def site_names(
    layers: Sequence[Layer],
    groups: Sequence[Sequence[int]],
    pairs: Collection[tuple[int, int]],
    blocks: Sequence[Block],
) -> tuple[list[str], list[str]]:
    """Names of the layers and of the blocks.

    groups: indices of the layers that share one weight and hence a name. pairs: the two factors
    of one layer, told apart as ``.in`` and ``.out``, and counted as one. blocks: in graph order.
    """
    first = {i: group[0] for group in groups for i in group}
    known = _resolve(layers, _known(layers, groups), {(first[i], first[j]) for i, j in pairs})
    titles = _titles(blocks, {i: known[j] for i, j in first.items() if j in known})
    taken = {*known.values(), *titles}
    roles = _roles(blocks)
    count: Counter[str] = Counter()
    halves = {i for i, j in pairs if known.get(first[i], "").endswith(".in")}
    for group in groups:
        kind, index = layers[group[0]].kind, group[0]
        count[kind] += not halves & set(group)
        if index in known:
            continue
        block, role = next((roles[i] for i in group if i in roles), (None, ""))
        wanted = f"{kind}{count[kind]}" if block is None else f"{titles[block]}.{role}"
        known[index] = _free(wanted, taken)
    return [known[first[i]] for i in range(len(layers))], titles


def _known(layers: Sequence[Layer], groups: Sequence[Sequence[int]]) -> dict[int, str]:
    """What the graph calls the first layer of each group, where it calls it anything."""
    owners = Counter(id(layers[group[0]].weight.value) for group in groups)
    names = {}
    for group in groups:
        layer = layers[group[0]]
        alone = layer.kind == "embedding" or owners[id(layer.weight.value)] == 1
        name = layer_name(layer.nodes, layer.weight.value, layer.bias, alone=alone)
        if name is not None:
            names[group[0]] = name
    return names


def _resolve(
    layers: Sequence[Layer], names: Mapping[int, str], pairs: Collection[tuple[int, int]]
) -> dict[int, str]:
    """Tell layers of the same name apart: factors, an embedding and its tied head, calls."""
    same = defaultdict(list)
    for index, name in names.items():
        same[name].append(index)
    taken, result = set(same), dict(names)
    for name, indices in same.items():
        if len(indices) == 1:
            continue
        if tuple(indices) in pairs:
            result.update(zip(indices, (f"{name}.in", f"{name}.out"), strict=True))
            continue
        tables = [i for i in indices if layers[i].kind == "embedding"]
        for number, index in enumerate(i for i in indices if i not in tables[:1]):
            result[index] = _free(f"{name}.{layers[index].kind}{number + 1}", taken)
    return result


def _titles(blocks: Sequence[Block], names: Mapping[int, str]) -> list[str]:
    """Names of the blocks; a block that nothing names is numbered."""
    taken, titles, number, open_for_ffn = set(names.values()), list[str](), 0, False
    for block in blocks:
        starts = block.kind == "attention" or not open_for_ffn
        number, open_for_ffn = number + starts, block.kind == "attention"
        title = _title(block, names) or f"block{number}.{block.kind}"
        titles.append(_free(f"{title}.{block.kind}" if title in names.values() else title, taken))
    return titles


def _title(block: Block, names: Mapping[int, str]) -> str | None:
    members = {names[i] for i in block.roles.values() if i in names}
    own = parameter_path(block.weight)
    path = common_path(members | ({own} if own else set()))
    if path in members:
        path = parent_path(path)
    path = path or scope_path(block.nodes[0]) or node_path(block.nodes[0]) or ""
    if not path:
        return None
    means_it = _KIND[block.kind].search(path.rpartition(".")[2])
    return path if means_it else f"{path}.{block.kind}"


def _roles(blocks: Sequence[Block]) -> dict[int, tuple[int, str]]:
    """By layer, the first block it has roles in, and those roles: ``q``, ``qkv``, ``up``."""
    found: dict[int, tuple[int, str]] = {}
    for number, block in enumerate(blocks):
        for role, index in block.roles.items():
            held = found.setdefault(index, (number, ""))
            if held[0] == number:
                found[index] = number, held[1] + role
    return found


def _free(name: str, taken: set[str]) -> str:
    free, number = name, 1
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    taken.add(free)
    return free
