"""What a target is: hardware plus runtime as data. Files of this shape are read by ``tomlfile``.

A class target ("x86-avx512-vnni") holds what is true of a whole family; a machine target adds
what is true of one machine; the host is probed. Ratios, never absolute times.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, Literal, NamedTuple


@dataclass(frozen=True)
class Runtime:
    """The program that runs the artifact, and what it accepts.

    provider: the runtime's execution provider. min_version, max_version: inclusive; "1.31" as a
    maximum includes 1.31.5. max_opset: of the default ONNX domain. max_ir_version: of the file.
    """

    name: Literal["onnxruntime"]
    provider: str
    min_version: str
    max_opset: int
    max_ir_version: int
    max_version: str | None = None


@dataclass(frozen=True)
class Int8:
    """How 8-bit integer layers must look to run in integer kernels.

    weight_bits: bits of the int8 weight that may be used; 7 where ``saturates``, which says that
    the sum of two u8 x s8 products is kept in 16 bits. conv_needs_output_quant: a convolution is
    an integer one only with a quantized output. relu_absorbed_only_at_zero: a Relu disappears
    into the quantization behind it only when the zero point is the type's minimum. speed_ratio:
    rate of int8 matrix products over float32 ones, large shapes; None: unknown.
    """

    supported: bool
    activation_dtype: Literal["uint8", "int8"]
    weight_dtype: Literal["int8"]
    weight_bits: Literal[7, 8]
    saturates: bool
    conv_needs_output_quant: bool
    relu_absorbed_only_at_zero: bool
    speed_ratio: float | None = None


class Figure(NamedTuple):
    """One field of a target with the place it comes from ("" where the file gives none)."""

    path: str
    value: Any
    source: str


@dataclass(frozen=True)
class Target:
    """Hardware and runtime that a model is compiled for.

    features: CPU flags that must all be present, spelled as in /proc/cpuinfo. min_gemm: smallest
    K and N of a matrix product, min_conv_channels: fewest input and output channels of a
    convolution (per group), for which int8 pays. sources: where figures come from, by field path
    ("int8.weight_bits"). resolved: for the host, the class target that it was found to be.
    """

    name: str
    summary: str
    kind: Literal["class", "machine", "host"]
    arch: Literal["x86_64", "aarch64", "any"]
    features: tuple[str, ...]
    min_gemm: int
    min_conv_channels: int
    runtime: Runtime
    int8: Int8
    extends: str | None = None
    resolved: str | None = None
    sources: Mapping[str, str] = field(default_factory=dict, hash=False)

    def figures(self) -> tuple[Figure, ...]:
        """Every field that is a fact about hardware or runtime, with its source."""
        return tuple(
            Figure(path, value, self.sources.get(path, ""))
            for path, value in _leaves(self)
            if path not in _NAMING and value is not None
        )

    def to_json(self) -> dict[str, Any]:
        """Every field by name, in types that JSON has."""
        return {**asdict(self), "features": list(self.features), "sources": dict(self.sources)}


_NAMING = frozenset({"name", "summary", "kind", "extends", "resolved", "sources"})

_VERSION = re.compile(r"\d+(\.\d+)*")


def _at_least_one(value: Any) -> bool:
    return bool(value >= 1)


def _is_version(value: Any) -> bool:
    return _VERSION.fullmatch(value) is not None


# Limits that a type cannot say, by field path: (check, what the value must be).
LIMITS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "kind": (lambda value: value != "host", "'class' or 'machine': the host is probed"),
    "name": (lambda value: re.fullmatch(r"[a-z0-9][a-z0-9.-]*", value) is not None,
             "lower-case letters, digits, dots and hyphens"),
    "min_gemm": (_at_least_one, "at least 1"),
    "min_conv_channels": (_at_least_one, "at least 1"),
    "runtime.min_version": (_is_version, "a version such as '1.31'"),
    "runtime.max_version": (_is_version, "a version such as '1.31'"),
    "runtime.max_opset": (lambda value: value >= 7, "7 or more"),
    "runtime.max_ir_version": (lambda value: value >= 3, "3 or more"),
    "int8.speed_ratio": (lambda value: value > 0, "above 0"),
}  # fmt: skip


def _leaves(table: Any, prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for item in fields(table):
        value = getattr(table, item.name)
        if is_dataclass(value):
            rows += _leaves(value, f"{prefix}{item.name}.")
        else:
            rows.append((prefix + item.name, value))
    return rows
