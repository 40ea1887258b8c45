"""The least TensorRT that the scripts accept follows from what stands in the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from planish.compiler.backends.tensorrt.versions import least_version
from planish.ir.save import save_model
from planish.targets.loader import load_target

F8 = ml_dtypes.float8_e4m3fn
DATA = {"s": np.float32(0.1), "z": np.zeros((), F8)}
PAIR = "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) v = DequantizeLinear(w, s, z) "
IMAGE = ("float[n, 16, 8, 8] x", "float[n, 16, 8, 8] y")
ROWS = ("float[n, 16] x", "float[n, 16] y")
CONV = (PAIR + "y = Conv(d, v)", {**DATA, "w": np.ones((16, 16, 1, 1), F8)}, *IMAGE)
CAST = (PAIR + "u = Cast<to=1>(v) y = Conv(d, u)", *CONV[1:])
PRODUCT = (PAIR + "y = MatMul(d, v)", {**DATA, "w": np.ones((16, 16), F8)}, *ROWS)
INT8 = {"s": np.float32(0.1), "z": np.int8(0), "w": np.ones((16, 16, 1, 1), np.int8)}


@pytest.mark.parametrize(
    ("written", "target", "version"),
    [
        (CONV, "nvidia-h100", "10.2"),
        (CONV, "nvidia-ada", "10.3"),
        (CONV, "nvidia-b200", "10.8"),
        (CAST, "nvidia-ada", "10.3"),
        (PRODUCT, "nvidia-h100", "10"),
        (PRODUCT, "nvidia-ada", "10"),
        ((CONV[0], INT8, *IMAGE), "nvidia-ada", "10"),
        (("y = Swish(x)", {}, *ROWS), "nvidia-ada", "11.0"),
    ],
)
def test_the_version_is_that_of_what_is_in_the_model(
    build: Any, tmp_path: Path, written: Any, target: str, version: str
) -> None:
    model = build(*written, opset=24 if "Swish" in written[0] else 19)
    save_model(model, tmp_path / "model.onnx")
    assert least_version(tmp_path / "model.onnx", load_target(target)) == version
