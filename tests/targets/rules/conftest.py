"""What the tests of the rules share."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def forms() -> ModuleType:
    """The module ``forms``: small quantized graphs, and what the runtime makes of them."""
    path = Path(__file__).with_name("forms.py")
    spec = importlib.util.spec_from_file_location("rule_forms", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["rule_forms"] = module
    spec.loader.exec_module(module)
    return module
