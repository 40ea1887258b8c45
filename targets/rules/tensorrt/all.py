"""All rules of TensorRT, in the order in which they are shown."""

from __future__ import annotations

from ..rule import Rule
from . import codes, fewbits, layers, limits, operators, shapes, sparse, special, types

RULES: tuple[Rule, ...] = (
    *operators.RULES,
    *limits.RULES,
    *special.RULES,
    *types.RULES,
    *codes.RULES,
    *layers.RULES,
    *fewbits.RULES,
    *shapes.RULES,
    *sparse.RULES,
)
