"""8-bit floats of the kind E4M3: scales and rounding.

Source: Micikevicius et al., FP8 Formats for Deep Learning, 2022; ONNX, QuantizeLinear to
FLOAT8E4M3FN with saturation: y = round_half_even(clip(x / scale, -448, 448)).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...ir.errors import InputError

E4M3 = ir.DataType.FLOAT8E4M3FN.numpy()
NAME = E4M3.name
LARGEST = 448.0
_SMALLEST_SCALE = float(np.finfo(np.float32).tiny)


def absmax_scale(peak: float) -> np.float32:
    """The scale that maps ``peak`` to 448; 1 for a peak of 0. Raises InputError where it is not
    finite."""
    if not np.isfinite(peak):
        raise InputError(
            f"a range to quantize is not finite: {peak!r}",
            hint="look for NaN or infinite values in the calibration data or the model",
        )
    return np.float32(max(abs(peak) / LARGEST, _SMALLEST_SCALE)) if peak else np.float32(1.0)


def round_to_float8(x: NDArray[Any], scale: np.float32) -> NDArray[Any]:
    """E4M3 codes of x / scale, the same shape; what is beyond 448 saturates."""
    steps = np.asarray(x, np.float32) / scale
    codes: NDArray[Any] = np.clip(steps, -LARGEST, LARGEST).astype(E4M3)
    return codes
