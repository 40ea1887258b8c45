"""The face of a model: names, order, dtypes and shapes of what goes in and what comes out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from .shown import inline

Dim = int | str | None


@dataclass(frozen=True)
class TensorSpec:
    """One input or output.

    dtype: ``FLOAT``, ``INT64``, …; ``SEQUENCE(FLOAT)`` and ``OPTIONAL(…)`` for what is no tensor,
    ``UNDEFINED`` when the model does not say. shape: one entry an axis: a size, the name of a
    symbolic size, or None where nothing is known; None as a whole when even the rank is unknown.
    """

    name: str
    dtype: str
    shape: tuple[Dim, ...] | None

    @classmethod
    def of(cls, value: ir.Value) -> TensorSpec:
        """Name, dtype and shape of a value, as far as they are known."""
        return cls(value.name or "", type_name(value.type), shape_of(value))

    def __str__(self) -> str:
        return inline(f"{self.name}: {self.dtype}{shape_text(self.shape)}")


@dataclass(frozen=True)
class Signature:
    """What a caller of the model sees. A compiled model keeps it, whatever happens inside."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @classmethod
    def of(cls, model: ir.Model) -> Signature:
        """The inputs that no initializer provides, and the outputs, both in graph order."""
        graph = model.graph
        inputs = [v for v in graph.inputs if v.name not in graph.initializers]
        return cls(
            tuple(TensorSpec.of(v) for v in inputs), tuple(TensorSpec.of(v) for v in graph.outputs)
        )

    def difference(self, other: Signature) -> list[str]:
        """What ``other`` changed, one sentence each; empty when the two are equal."""
        return [
            *_difference("input", self.inputs, other.inputs),
            *_difference("output", self.outputs, other.outputs),
        ]


def type_name(type_: ir.TypeProtocol | None) -> str:
    """``FLOAT`` for a tensor, ``SEQUENCE(FLOAT)`` and the like for the others."""
    if type_ is None:
        return "UNDEFINED"
    if isinstance(type_, ir.SequenceType):
        return f"SEQUENCE({type_name(type_.elem_type)})"
    if isinstance(type_, ir.OptionalType):
        return f"OPTIONAL({type_name(type_.elem_type)})"
    if isinstance(type_, ir.SparseTensorType):
        return f"SPARSE({type_.dtype.name})"
    return type_.dtype.name


def shape_of(value: ir.Value) -> tuple[Dim, ...] | None:
    """The shape as plain integers, names and None."""
    if value.shape is None:
        return None
    return tuple(d if isinstance(d, int) else d.value for d in value.shape)


def shape_text(shape: Sequence[Dim] | None) -> str:
    """``[batch, 3, ?]``, or ``[…]`` when the rank is unknown."""
    if shape is None:
        return "[…]"
    return "[" + ", ".join("?" if d is None else str(d) for d in shape) + "]"


def _difference(
    kind: str, before: Sequence[TensorSpec], after: Sequence[TensorSpec]
) -> Iterator[str]:
    old, new = [s.name for s in before], [s.name for s in after]
    yield from (f"{kind} {name!r} is gone" for name in old if name not in new)
    yield from (f"{kind} {name!r} is new" for name in new if name not in old)
    if old != new and sorted(old) == sorted(new):
        yield f"the {kind}s stand in another order: {', '.join(new)} (was {', '.join(old)})"
    if len(set(new)) < len(new) and len(set(old)) == len(old):
        yield f"an {kind} is listed twice: {', '.join(new)}"
    found = {spec.name: spec for spec in after}
    for spec in before:
        if spec.name in found:
            yield from _changes(kind, spec, found[spec.name])


def _changes(kind: str, old: TensorSpec, new: TensorSpec) -> Iterator[str]:
    if old.dtype != new.dtype:
        yield f"{kind} {old.name!r} changed its dtype from {old.dtype} to {new.dtype}"
    if old.shape != new.shape:
        was, now = shape_text(old.shape), shape_text(new.shape)
        yield f"{kind} {old.name!r} changed its shape from {was} to {now}"
