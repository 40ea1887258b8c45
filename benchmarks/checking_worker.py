"""Quantizes an ONNX model with NVIDIA Model Optimizer; run by ``checking.py`` in its environment.

python checking_worker.py MODEL FEED.npz MODE DTYPE OUTPUT
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

METHODS = {"int8": "max", "fp8": "max", "int4": "rtn_dq"}


def main(model: str, feed: str, mode: str, dtype: str, output: str) -> None:
    """Write the quantized model to ``output``."""
    from modelopt.onnx import quantization  # type: ignore[import-not-found]

    with np.load(feed) as arrays:
        data = dict(arrays)
    quantization.quantize(
        model,
        quantize_mode=mode,
        calibration_data=data,
        calibration_method=METHODS[mode],
        calibration_eps=["cpu"],
        high_precision_dtype=dtype,
        output_path=output,
    )
    if not Path(output).is_file():
        raise SystemExit(f"nothing was written to {output}")


if __name__ == "__main__":
    main(*sys.argv[1:])
