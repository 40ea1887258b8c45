"""Multiply by the reciprocal instead of dividing by a stored number."""

import numpy as np

import planish
from planish.ir.graph import constant_array, is_constant
from planish.passes.api import Semantics


def division(op, x, c):
    return op.Div(x, c)


def by_a_stored_number(x, c):
    if not is_constant(c):
        return "the divisor is computed"
    if x.dtype is None or not x.dtype.is_floating_point():
        return "whole numbers have no reciprocal"
    with np.errstate(all="ignore"):
        if not np.isfinite(1 / constant_array(c)).all():
            return "its reciprocal is too large, or there is none"
    return None


@planish.rewrite_pass(
    "div-to-mul", division, check=by_a_stored_number, semantics=Semantics.REASSOCIATES
)
def div_to_mul(op, x, c):
    """Multiply by the reciprocal instead of dividing by a stored number.

    What it does: Div(x, c) becomes Mul(x, 1 / c).
    When it applies: where c is stored, and x holds floats.
    What it costs: nothing.
    Guarantee: equal in real arithmetic; the reciprocal is rounded.
    Example: ``canonicalize,div-to-mul``
    """
    return op.Mul(x, op.initializer(1 / constant_array(c), "reciprocal"))
