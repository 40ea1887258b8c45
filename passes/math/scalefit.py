"""The scales that serve given codes best on real inputs: least squares, all blocks together.

Source: the weighted least squares of NNCF's scale estimation, here with the whole Gram matrix.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .blockcodes import BlockCodes, Doubles, centred, column_parts
from .blockwise import usable

# Blocks whose codes are (almost) all zero have no scale of their own: the old one stays.
_RIDGE = 1e-6


def refit_scales(
    weight: NDArray[Any], gram: Doubles, coded: BlockCodes, signed: bool = True
) -> BlockCodes:
    """The same codes with the scales of least tr(D^T gram D), D the change of the weight.

    signed: whether scales may be negative; else those that would be keep their old one.

    weight [K, N], gram float64 [K, K], positive definite. With c_g the codes of block g (less
    zero points) and w a column, the scales s solve sum_h (c_g^T gram c_h) s_h = c_g^T gram w.
    """
    scale = np.empty(coded.scale.shape)
    for part in column_parts(*weight.shape):
        c = centred(coded, part).astype(np.float64)
        normal, right = _normal_equations(c, weight[:, part].astype(np.float64), gram, coded.block)
        scale[:, part] = _solved(normal, right, coded.scale[:, part].T.astype(np.float64)).T
    if not signed:
        scale = np.where(scale > 0, scale, coded.scale)
    return replace(coded, scale=usable(scale))


def _normal_equations(c: Doubles, w: Doubles, gram: Doubles, block: int) -> tuple[Doubles, Doubles]:
    """Matrices [N, blocks, blocks] and right sides [N, blocks] of all columns."""
    starts = np.arange(0, len(c), block)
    normal = np.empty((c.shape[1], len(starts), len(starts)))
    for index, start in enumerate(starts):
        rows = slice(start, start + block)
        product = gram[:, rows] @ c[rows]
        normal[:, :, index] = np.add.reduceat(c * product, starts, axis=0).T
    return normal, np.add.reduceat(c * (gram @ w), starts, axis=0).T


def _solved(normal: Doubles, right: Doubles, old: Doubles) -> Doubles:
    """Solutions [N, blocks], drawn slightly towards the old scales."""
    weight = np.diagonal(normal, axis1=1, axis2=2)
    ridge = _RIDGE * weight + np.where(weight > 0, 0, 1)
    residual = right - np.einsum("ngh,nh->ng", normal, old)
    blocks = np.arange(right.shape[1])
    normal[:, blocks, blocks] += ridge
    return np.asarray(old + np.linalg.solve(normal, residual[..., None])[..., 0])
