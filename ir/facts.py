"""Facts: what holds at a site now, read off the graph (also of a model imported so)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from math import prod
from types import MappingProxyType

from .finding.block import Block
from .finding.layer import Layer
from .finding.pattern import follows, patterns
from .finding.stored import effective_dims
from .graph import attribute, consumers, producer

FLOAT = "float"
QUANTIZED = "quantized"
FACTORIZED = "factorized"
PRUNED = "pruned"
"""Said of a pipeline only: a graph does not show what it has lost."""
SPARSE = "sparse-N:M"
"""Said of a pipeline; a site has it with numbers, as ``sparse_fact`` writes it."""
ENDS: Mapping[str, frozenset[str]] = MappingProxyType({QUANTIZED: frozenset({FLOAT})})
"""Facts that no longer hold where another one does; factors of a float layer are in float, too."""


def layer_facts(layer: Layer) -> frozenset[str]:
    """``quantized`` where the weight has 8 bits or fewer, else ``float``; ``sparse-2:4`` and its
    like where zeros stand in a pattern."""
    zeros = frozenset(map(sparse_fact, patterns(layer)))
    return frozenset({QUANTIZED if layer.quantized else FLOAT}) | zeros


def sparse_fact(pattern: str) -> str:
    """``sparse-2:4`` of "2:4": of every 4 weights in a row, at most 2 are not zero."""
    return SPARSE.replace("N:M", pattern)


def zero_patterns(facts: Collection[str]) -> list[str]:
    """The patterns of zeros among facts: "2:4" of ``sparse-2:4``."""
    prefix = SPARSE.removesuffix("N:M")
    return sorted(fact.removeprefix(prefix) for fact in facts if fact.startswith(prefix))


def has_pattern(facts: Collection[str], pattern: str) -> bool:
    """Whether facts say that zeros stand in a pattern, by itself or by a sparser one."""
    return any(follows(pattern, known) for known in zero_patterns(facts))


def block_facts(block: Block, members: Sequence[frozenset[str]]) -> frozenset[str]:
    """What holds for all layers of a block; without layers, for its first node."""
    if members:
        return frozenset.intersection(frozenset({FLOAT, QUANTIZED}), *members)
    node = block.nodes[0]
    quantized = node.op_type.startswith("Q") or any(
        producer(value, "DequantizeLinear") is not None for value in node.inputs
    )
    return frozenset({QUANTIZED if quantized else FLOAT})


def factorized_pairs(layers: Sequence[Layer]) -> list[tuple[int, int]]:
    """Layers (i, j) that multiply by ``A[K, r]`` and at once by ``B[r, N]``, r small.

    Small: r (K + N) < K N, fewer parameters than the product has. The first has no bias, and
    nothing but such layers reads its output: several, where they share it, with N the sum of
    theirs. Of convolutions K are the inputs times the taps of the first, and the second is 1x1; or
    one, with taps along other axes than the first, and N are the outputs times its taps.
    Indices into ``layers``.
    """
    made = {layer.output: i for i, layer in enumerate(layers) if layer.kind in _PRODUCTS}
    readers: dict[int, list[int]] = {}
    for j, layer in enumerate(layers):
        if layer.input in made and layer.kind == layers[made[layer.input]].kind:
            readers.setdefault(made[layer.input], []).append(j)
    return [
        (i, j)
        for i, found in readers.items()
        if _factors(layers[i], [layers[j] for j in found])
        for j in found
    ]


_PRODUCTS = ("linear", "conv")


def _factors(first: Layer, seconds: Sequence[Layer]) -> bool:
    read = consumers(first.output)
    if first.bias is not None or first.output.is_graph_output() or len(read) != len(seconds):
        return False
    sizes = [_sizes(first), *map(_sizes, seconds)]
    known = [(k, n) for k, n in sizes if k is not None and n is not None]
    if len(known) < len(sizes):
        return False
    (k, r), wide = known[0], sum(n for _, n in known[1:])
    if len(seconds) == 1 and _crossed(first, seconds[0]):
        wide = known[1][0] // r * known[1][1]
    elif any(not _pointwise(layer) for layer in seconds):
        return False
    return r * (k + wide) < k * wide


def _crossed(first: Layer, second: Layer) -> bool:
    """Whether two convolutions have their taps along different axes, each several along one."""
    if first.kind != "conv":
        return False
    taps = [(effective_dims(layer.weight) or ())[2:] for layer in (first, second)]
    lines = [[tap == 1 for tap in of_one] for of_one in taps]
    return sorted(lines) == [[False, True], [True, False]]


def _sizes(layer: Layer) -> tuple[int | None, int | None]:
    """Inputs, of a convolution times its taps, and outputs; None where unknown or grouped."""
    if layer.kind == "linear":
        return layer.features
    shape = effective_dims(layer.weight) or ()
    sizes = [size for size in shape if isinstance(size, int)]
    plain = layer.node.op_type != "ConvTranspose" and attribute(layer.node, "group", 1) == 1
    if not plain or len(sizes) < 3 or len(sizes) < len(shape):
        return None, None
    return prod(sizes[1:]), sizes[0]


def _pointwise(layer: Layer) -> bool:
    """Whether a layer looks at one place at a time, and at each."""
    if layer.kind == "linear":
        return True
    taps = (effective_dims(layer.weight) or ())[2:]
    moved = [*attribute(layer.node, "pads", ())]
    steps = [*attribute(layer.node, "strides", ())]
    return set(taps) == {1} and not any(moved) and all(step == 1 for step in steps)
