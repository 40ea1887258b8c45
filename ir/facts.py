"""Facts: what holds at a site now, read off the graph (also of a model imported so)."""

from __future__ import annotations

from collections.abc import Sequence

from .finding.block import Block
from .finding.layer import Layer
from .graph import producer, single_consumer

FLOAT = "float"
QUANTIZED = "quantized"
FACTORIZED = "factorized"


def layer_facts(layer: Layer) -> frozenset[str]:
    """``quantized`` where the weight has 8 bits or fewer, else ``float``."""
    return frozenset({QUANTIZED if layer.quantized else FLOAT})


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
    """Linear layers (i, j) that multiply by ``A[K, r]`` and at once by ``B[r, N]``, r small.

    Small: r (K + N) < K N, fewer parameters than the product has. The first has no bias, and
    nothing else reads its output. Indices into ``layers``.
    """
    made = {layer.output: i for i, layer in enumerate(layers) if layer.kind == "linear"}
    pairs = [(made[b.input], j) for j, b in enumerate(layers) if b.input in made]
    return [(i, j) for i, j in pairs if _factors(layers[i], layers[j])]


def _factors(first: Layer, second: Layer) -> bool:
    if second.kind != "linear" or first.bias is not None or single_consumer(first.output) is None:
        return False
    (k, r), (_, n) = first.features, second.features
    return k is not None and r is not None and n is not None and r * (k + n) < k * n
