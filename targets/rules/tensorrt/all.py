"""All rules of TensorRT, in the order in which they are shown."""

from __future__ import annotations

from ..rule import Rule
from . import (
    codes,
    fewbits,
    gains,
    layers,
    limits,
    operators,
    scales,
    shapes,
    sparse,
    special,
    types,
)

RULES: tuple[Rule, ...] = (
    *operators.RULES,
    *limits.RULES,
    *special.RULES,
    *types.RULES,
    *codes.RULES,
    *scales.RULES,
    *layers.RULES,
    *gains.RULES,
    *fewbits.RULES,
    *shapes.RULES,
    *sparse.RULES,
)
