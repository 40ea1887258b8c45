"""What suites take from installed packages: modules, folders, and numpy's global randomness."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from ....ir.errors import UsageError

SEED = 20


def module(name: str, install: str) -> ModuleType:
    """The module of that name. Raises UsageError that says what to install where it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.split(".")[0]
        raise UsageError(
            f"this suite comes with {package}, which cannot be used here: {error}", hint=install
        ) from error


def data_folder(*parts: str) -> Path:
    """A folder of test data inside the onnx package."""
    package = module("onnx.backend.test", "pip install onnx")
    folder = Path(str(package.__path__[0]), "data", *parts)
    if not folder.is_dir():
        raise UsageError(
            f"this onnx package ({onnx.__version__}) lacks the folder {'/'.join(parts)}",
            where=str(folder.parent),
            hint="install onnx from PyPI",
        )
    return folder


@contextmanager
def seeded(seed: int = SEED) -> Iterator[None]:
    """numpy's global generator at a seed, its warnings silenced, and both as before afterwards."""
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        with warnings.catch_warnings(action="ignore"), np.errstate(all="ignore"):
            yield
    finally:
        np.random.set_state(state)


def feedable(data: Any) -> Any:
    """A stored input or output as a feed: protos, scalars and nested lists become arrays."""
    if data is None:
        return None
    if isinstance(data, onnx.TensorProto):
        return numpy_helper.to_array(data)
    if isinstance(data, onnx.SequenceProto):
        return [feedable(x) for x in numpy_helper.to_list(data)]
    if isinstance(data, onnx.OptionalProto):
        return feedable(numpy_helper.to_optional(data))
    if isinstance(data, (list, tuple)):
        return [feedable(x) for x in data]
    return np.asarray(data)
