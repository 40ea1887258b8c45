"""What tests of a compile share: the module ``kit``."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def kit() -> ModuleType:
    """The module ``kit``: small models, a judge that counts, and timing that is made up."""
    path = Path(__file__).parent / "kit.py"
    spec = importlib.util.spec_from_file_location("planish_test_kit", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["planish_test_kit"] = module
    spec.loader.exec_module(module)
    return module
