"""The node cases of the onnx package: nearly 1,900 models of one operator or a few, with data.

They are made in memory by ``onnx.backend.test.case.node``. What the runtime cannot run, or does
not compute twice alike, stands with its reason in ``excluded_node_cases.toml``; the tests hold
that list against what the runtime does, both ways.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import onnx

from ....ir.errors import UsageError
from ..case import Case
from .exclusions import excluded
from .wheels import feedable, module, seeded

NODE_CASES = "excluded_node_cases.toml"


def node_cases() -> Iterator[Case]:
    """All cases but the excluded ones; outputs of the original are the reference."""
    out = excluded(NODE_CASES)
    return (case for name, case in all_node_cases().items() if name not in out.reasons)


@functools.cache
def all_node_cases() -> Mapping[str, Case]:
    """Every case by name, the excluded ones too; made once, in about four seconds."""
    cases: dict[str, Case] = {}
    for test in _collected():
        names = [i.name for i in test.model.graph.input]
        feeds = tuple(
            dict(zip(names, map(feedable, inputs), strict=True)) for inputs, _ in test.data_sets
        )
        if test.name in cases:
            raise UsageError(f"the onnx package has two node cases called {test.name!r}")
        cases[test.name] = Case(test.name, test.model, feeds)
    return cases


def _collected() -> list[Any]:
    node = module("onnx.backend.test.case.node", "pip install onnx pillow")
    with seeded():
        collected: list[Any] = node.collect_testcases(None)
    return collected


def op_types(model: onnx.ModelProto) -> frozenset[str]:
    """The operators of the main graph, with their domain where it is not the standard one."""
    return frozenset(f"{n.domain}.{n.op_type}".lstrip(".") for n in model.graph.node)


def opset(model: onnx.ModelProto) -> int:
    """The version of the standard operators that a model asks for."""
    return max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)
