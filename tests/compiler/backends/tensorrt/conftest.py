"""Small graphs in ONNX's text form, and what ONNX Runtime computes with typed models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from planish.compiler.backends.tensorrt.emission import ENTRIES
from planish.ir.load import load_model
from planish.ir.save import to_bytes
from planish.targets.runtime import open_session

Arrays = Mapping[str, np.ndarray]
Build = Callable[..., ir.Model]
Run = Callable[..., list[np.ndarray]]


@pytest.fixture
def build() -> Build:
    """A model of a body in text, its ports and its initializers by name."""

    def make(
        body: str, tensors: Mapping[str, Any], inputs: str, outputs: str, opset: int = 19
    ) -> ir.Model:
        header = f'<ir_version: 9, opset_import: ["": {opset}, "com.microsoft": 1]>'
        proto = onnx.parser.parse_model(f"{header} g ({inputs}) => ({outputs}) {{ {body} }}")
        for name, array in tensors.items():
            proto.graph.initializer.append(_proto(name, np.asarray(array)))
        return load_model(proto).model

    return make


def _proto(name: str, array: np.ndarray) -> onnx.TensorProto:
    if array.dtype != ml_dtypes.float8_e4m3fn:
        return onnx.numpy_helper.from_array(array, name)
    kind = onnx.TensorProto.FLOAT8E4M3FN
    return onnx.helper.make_tensor(name, kind, array.shape, array.tobytes(), raw=True)


@pytest.fixture
def run() -> Run:
    """Outputs of a model in memory, its Q/DQ left as they are."""

    def outputs(model: ir.Model, feeds: Arrays, optimize: Any = "none") -> list[np.ndarray]:
        session = open_session(to_bytes(model), optimize=optimize, entries=ENTRIES)
        return session.run(feeds)

    return outputs
