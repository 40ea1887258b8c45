"""Suites of models that nobody here wrote, and folders of a user's own.

Cases are made when they are asked for: importing this package loads no model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from ..case import Case, Suite
from .builders import builder_cases
from .constants import constant_cases
from .folder import folder_cases
from .light import light_cases
from .node_cases import node_cases
from .stored import stored_cases

_ALL = (
    Suite("onnx-node", "one operator or a few each, from the onnx package", node_cases),
    Suite("onnx-node-constants", "the same with data that is constant", constant_cases),
    Suite("onnx-models", "small models with stored outputs, from the onnx package", stored_cases),
    Suite("onnx-light", "nine convolutional networks with seeded weights", light_cases),
    Suite("onnxscript", "transformers and rotary embeddings as torch exports them", builder_cases),
)
SUITES: Mapping[str, Suite] = MappingProxyType({suite.name: suite for suite in _ALL})
"""By name, the quickest first."""


def folder_suite(path: Path) -> Suite:
    """Every ``*.onnx`` below a folder, with generated feeds.

    Raises UsageError, when the cases are asked for, where there is no model.
    """

    def cases() -> Iterator[Case]:
        return folder_cases(path)

    return Suite(str(path), f"the models below {path}", cases)
