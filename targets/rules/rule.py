"""What a rule is: a predicate over a model as it stands in its file, and words for a person."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeAlias, TypeVar

import onnx_ir as ir

from ...ir.graph import all_nodes, operator
from ..schema import Target
from ..techniques import runs_on_cpu, runs_on_tensorrt, runtime_label
from .layers import Layer, layer_of

T = TypeVar("T")

Severity: TypeAlias = Literal["error", "slow", "note"]
"""error: the runtime refuses the model, fails on it, or computes something else than it says.
slow: it runs, but not in the kernels that it was written for. note: good to know."""


@dataclass(frozen=True)
class Finding:
    """One place where a rule is broken. node: None for the model itself. value: what was found."""

    node: ir.Node | None
    value: str = ""


@dataclass(frozen=True)
class View:
    """A model and the target that it is checked for."""

    model: ir.Model
    target: Target
    answers: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    def once(self, question: Callable[[View], T]) -> T:
        """What a function finds in this view: several rules may ask, it looks but once."""
        if question not in self.answers:
            self.answers[question] = question(self)
        answer: T = self.answers[question]
        return answer

    @cached_property
    def nodes(self) -> tuple[ir.Node, ...]:
        """All nodes that compute something, those of bodies included."""
        return tuple(node for node in all_nodes(self.model) if node.outputs)

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """All products: matrix products and convolutions."""
        found = (layer_of(node) for node in self.nodes)
        return tuple(layer for layer in found if layer is not None)

    @cached_property
    def static(self) -> tuple[Layer, ...]:
        """Layers of which both operands are dequantized, and not both are constant."""
        return tuple(layer for layer in self.layers if layer.static)

    @cached_property
    def weight_only(self) -> tuple[Layer, ...]:
        """Layers with a dequantized constant weight and a float activation."""
        return tuple(layer for layer in self.layers if layer.weight_only)

    def of(self, *operators: str) -> Iterator[ir.Node]:
        """Nodes of the operators, written "(domain:)op"."""
        wanted = {_pair(text) for text in operators}
        return (node for node in self.nodes if operator(node) in wanted)


def _pair(text: str) -> tuple[str, str]:
    domain, _, kind = text.rpartition(":")
    return domain, kind


Check: TypeAlias = Callable[[View], Iterator[Finding]]
Scope: TypeAlias = Callable[[Target], str]


def everywhere(target: Target) -> str:
    """The scope of a rule for every target."""
    return ""


def on_cpu(target: Target) -> str:
    """Why a rule of ONNX Runtime's CPU provider does not apply to the target, "" where it does."""
    label = runtime_label(target)
    return "" if runs_on_cpu(target) else f"a rule of ONNX Runtime on CPUs, not of {label}"


def off_tensorrt(target: Target) -> str:
    """Why a rule is not asked of TensorRT, which has a stricter one, "" on other runtimes."""
    return "TensorRT has a rule of its own on this" if runs_on_tensorrt(target) else ""


@dataclass(frozen=True)
class Rule:
    """One thing that a runtime does not take, or takes otherwise than one would think.

    applies: what it looks at. reason: what happens there. fix: what to do instead. excused: why it
    does not apply to a target, "" where it does. Limits are those of the target.
    """

    id: str
    applies: str
    check: Check
    reason: str
    fix: str
    severity: Severity
    excused: Scope = everywhere


@dataclass(frozen=True)
class Violation:
    """A rule that a node breaks. node: its name, or its first output where it has none.

    op: "(domain:)op", "" for the model itself. value: what was found there ("block_size 48").
    """

    rule: str
    node: str
    op: str
    reason: str
    fix: str
    severity: Severity
    value: str = ""
