from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from planish.compiler.harness.case import Case
from planish.passes import registry

LIARS = Path(__file__).with_name("liars.py")


@pytest.fixture
def liars(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Passes that break one promise each, known by their names during the test."""
    spec = importlib.util.spec_from_file_location("liars", LIARS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "liars", module)
    spec.loader.exec_module(module)
    yield module
    for name in module.LIARS:
        registry._REGISTRY.pop(name, None)


@pytest.fixture
def make_case() -> Callable[..., Case]:
    return case_of


def case_of(text: str, *feeds: dict[str, Any], name: str = "a case", **tensors: Any) -> Case:
    """A case from ONNX text, weights and feeds."""
    made = [ir.tensor(np.asarray(array), name=n) for n, array in tensors.items()]
    model = ir.to_proto(ir.from_onnx_text(text, initializers=made))
    assert isinstance(model, onnx.ModelProto)
    return Case(name, model, feeds)
