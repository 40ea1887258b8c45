"""Pairs of graphs for the tests of the diff."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

HEAD = '<ir_version: 10, opset_import: ["" : 20, "com.microsoft" : 1]>'


@pytest.fixture
def net(graphs: ModuleType) -> Callable[..., ir.Model]:
    """``net("h = Relu(x) y = MatMul(h, w)", w=…)`` from x [2, 4] to y [2, 4]; weights that the
    body does not name are left out."""

    def made(body: str, *, face: str = "(float[2, 4] x) => (float[2, 4] y)", **tensors: Any) -> Any:
        read = set(re.findall(r"\w+", body))
        arrays = {name: np.asarray(array) for name, array in tensors.items() if name in read}
        return graphs.parse(f"{HEAD} g {face} {{ {body} }}", **arrays)

    return made


@pytest.fixture
def weight() -> Callable[[int], np.ndarray]:
    """A weight [4, 4] by seed."""
    return lambda seed: np.random.default_rng(seed).normal(size=(4, 4)).astype(np.float32)
