"""What a target is: hardware plus runtime as data. Files of this shape are read by ``tomlfile``.

A class target ("x86-avx512-vnni") holds what is true of a whole family; a machine target adds
what is true of one machine; the host is probed. Ratios, never absolute times.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias

from .cost.measured import WIDTHS, Measured
from .runtimes import runtime_names


@dataclass(frozen=True)
class Runtime:
    """The program that runs the artifact, and what it accepts.

    provider: the execution provider of ONNX Runtime, "" for TensorRT, which has none. min_version,
    max_version: inclusive; "1.31" as a maximum includes 1.31.5. max_opset: of the default ONNX
    domain. max_ir_version: of the file.
    """

    name: str
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
    rate of int8 matrix products over float32 ones, large shapes; None: unknown. kernels: the pair
    of signs (activation, weight) that is fast; "none" where nothing multiplies integers.
    dynamic: activations may be quantized by ranges that are found at run time. symmetric: zero
    points of activations must be 0. tables: whether rows of int8 tables may be looked up.
    conv_multiple: what the channels of an integer convolution must be multiples of. min_rows:
    fewest rows of activations of an integer product. None: the runtime makes no such demand.
    session_options: "key=value" entries with which the runtime keeps those kernels.
    """

    supported: bool
    activation_dtype: Literal["uint8", "int8"]
    weight_dtype: Literal["int8"]
    weight_bits: Literal[7, 8]
    saturates: bool
    conv_needs_output_quant: bool
    relu_absorbed_only_at_zero: bool
    kernels: Literal["u8s8", "s8s8", "none"]
    dynamic: bool
    speed_ratio: float | None = None
    session_options: tuple[str, ...] = ()
    symmetric: bool | None = None
    tables: bool | None = None
    conv_multiple: int | None = None
    min_rows: int | None = None


@dataclass(frozen=True)
class Memory:
    """capacity_gb: GB of 1e9 bytes. bandwidth_gbs: GB/s, all cores together. None: unknown."""

    capacity_gb: float | None = None
    bandwidth_gbs: float | None = None


@dataclass(frozen=True)
class Rates:
    """Peak rates of matrix products, dense, the whole device: TFLOPS, or TOPS for integers.

    A multiply and an add count as two. None: unknown, never zero.
    """

    fp32: float | None = None
    tf32: float | None = None
    fp16: float | None = None
    bf16: float | None = None
    fp8: float | None = None
    int8: float | None = None
    int4: float | None = None
    fp4: float | None = None


FloatSupport: TypeAlias = Literal["native", "widened", "refused", "unknown"]
"""widened: stored so and computed in float32. refused: not loaded, or no kernel computes it."""


@dataclass(frozen=True)
class Floats:
    """What the runtime does with floats narrower than float32."""

    float16: FloatSupport
    bfloat16: FloatSupport
    float8: FloatSupport
    float4: FloatSupport


@dataclass(frozen=True)
class WeightOnly:
    """What the runtime's fused kernel for quantized weights and float activations takes.

    bits, blocks: of a weight, none where there is no such kernel. accuracy_level: to ask the
    kernel for (ONNX Runtime: 4 quantizes the activations to int8 by blocks, 0 to 3 compute in
    float32). most_rows: rows of activations up to which 4-bit weights are faster than 8-bit
    dynamic quantization; None: unknown. symmetric: codes have no zero points, scales are above 0
    and blocks are whole. tables: whether rows of packed tables may be looked up. opset: that the
    form of it needs. None: the runtime makes no such demand.
    """

    bits: tuple[int, ...]
    blocks: tuple[int, ...]
    accuracy_level: int | None = None
    most_rows: int | None = None
    symmetric: bool | None = None
    tables: bool | None = None
    opset: int | None = None


@dataclass(frozen=True)
class Sparse:
    """Weights with zeros in a pattern that kernels skip.

    patterns: ("2:4",), none where nothing skips them; None: unknown. dtypes: of the products that
    do, as ``Rates`` names them. rate: peak over the dense one. inputs, outputs: what K and N are
    multiples of. min_size: smallest K (of a convolution times its taps) and N of a product that
    gains. end_to_end: how much faster whole models became, at most, where somebody said.
    """

    patterns: tuple[str, ...] | None = None
    dtypes: tuple[str, ...] | None = None
    rate: float | None = None
    inputs: int | None = None
    outputs: int | None = None
    min_size: int | None = None
    end_to_end: float | None = None


@dataclass(frozen=True)
class Multiples:
    """What the ranks of factors, the channels and the kept heads of a layer are rounded to."""

    rank: int
    channels: int
    heads: int


HOST = "host"
"""The name under which the machine that compiles is probed; no file may have it."""


class Figure(NamedTuple):
    """One field of a target with the place it comes from ("" where the file gives none)."""

    path: str
    value: Any
    source: str


@dataclass(frozen=True)
class Target:
    """Hardware and runtime that a model is compiled for.

    arch: instruction set of what computes. features: what must all be present: CPU flags as in
    /proc/cpuinfo, or the least compute capability of a GPU ("sm80"). min_gemm: smallest K and N of
    a matrix product, min_conv_channels: fewest input and output channels of a convolution (per
    group), for which int8 pays. cores: physical ones that compute. clock_ghz: sustained by all.
    sources: where figures come from, by field path ("int8.weight_bits"). aliases: further names.
    notes: sentences on what no figure says. measured: tables of times that a probe wrote, which
    say themselves when and how. resolved: for the host, the class it was found to be.
    """

    name: str
    summary: str
    kind: Literal["class", "machine", "host"]
    arch: Literal["any", "x86_64", "aarch64", "cuda", "hexagon"]
    features: tuple[str, ...]
    min_gemm: int
    min_conv_channels: int
    runtime: Runtime
    int8: Int8
    floats: Floats
    weight_only: WeightOnly
    multiples: Multiples
    device: Literal["cpu", "gpu", "npu"] = "cpu"
    cores: int | None = None
    clock_ghz: float | None = None
    memory: Memory = Memory()
    rates: Rates = Rates()
    sparse: Sparse = Sparse()
    measured: Measured | None = None
    aliases: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    extends: str | None = None
    resolved: str | None = None
    sources: Mapping[str, str] = field(default_factory=dict, hash=False)

    def figures(self) -> tuple[Figure, ...]:
        """Every field that is a fact about hardware or runtime, with its source; tables last."""
        figures = (
            Figure(path, value, self.sources.get(path, ""))
            for path, value in _leaves(self)
            if path not in NAMING and value is not None
        )
        return tuple(sorted(figures, key=lambda figure: "." in figure.path))

    def to_json(self) -> dict[str, Any]:
        """Every field by name, in types that JSON has."""
        plain: dict[str, Any] = _plain({**asdict(self), "sources": dict(self.sources)})
        return plain


NAMING = frozenset(
    {"name", "summary", "kind", "aliases", "notes", "extends", "resolved", "sources", "measured"}
)
"""Fields that are no figures: names, sentences, and tables that say how they were measured."""

_NAME = re.compile(r"[a-z0-9][a-z0-9.-]*")
_OPTION = re.compile(r"[^=\s]+=[^=\s]+")
_PATTERN = re.compile(r"\d+:\d+")
_VERSION = re.compile(r"\d+(\.\d+)*")
_RATED = frozenset(item.name for item in fields(Rates))


def _at_least_one(value: Any) -> bool:
    return bool(value >= 1)


def _above_zero(value: Any) -> bool:
    return bool(0 < value < math.inf)


def _blocks(value: Any) -> bool:
    return all(block >= 2 and block & (block - 1) == 0 for block in value)


def _distinct(value: Any) -> bool:
    return len(set(value)) == len(value)


def _is_version(value: Any) -> bool:
    return _VERSION.fullmatch(value) is not None


def _are_rows(width: int, rows: Any) -> bool:
    return all(len(row) == width and min(row) > 0 for row in rows)


def _is_runtime(value: Any) -> bool:
    return value in runtime_names()


# Limits that a type cannot say, by field path: (check, what the value must be).
LIMITS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "kind": (lambda value: value != "host", "'class' or 'machine': the host is probed"),
    "name": (lambda value: _NAME.fullmatch(value) is not None,
             "lower-case letters, digits, dots and hyphens"),
    "min_gemm": (_at_least_one, "at least 1"),
    "min_conv_channels": (_at_least_one, "at least 1"),
    "runtime.name": (_is_runtime, "a runtime that a backend serves"),
    "runtime.min_version": (_is_version, "a version such as '1.31'"),
    "runtime.max_version": (_is_version, "a version such as '1.31'"),
    "runtime.max_opset": (lambda value: value >= 7, "7 or more"),
    "runtime.max_ir_version": (lambda value: value >= 3, "3 or more"),
    "int8.speed_ratio": (_above_zero, "above 0"),
    "int8.conv_multiple": (_at_least_one, "at least 1"),
    "int8.min_rows": (_at_least_one, "at least 1"),
    "int8.session_options": (lambda value: all(_OPTION.fullmatch(o) for o in value),
                             "texts such as 'session.qdqisint8allowed=1'"),
    "cores": (_at_least_one, "at least 1"),
    "clock_ghz": (_above_zero, "above 0"),
    **{f"memory.{item.name}": (_above_zero, "above 0") for item in fields(Memory)},
    **{f"rates.{item.name}": (_above_zero, "above 0: leave out what is unknown")
       for item in fields(Rates)},
    "weight_only.bits": (lambda value: set(value) <= {2, 3, 4, 5, 6, 7, 8} and _distinct(value),
                         "whole numbers from 2 to 8, each once"),
    "weight_only.blocks": (lambda value: _blocks(value) and _distinct(value),
                           "powers of two, each once"),
    "weight_only.accuracy_level": (lambda value: 0 <= value <= 4, "from 0 to 4"),
    "weight_only.most_rows": (lambda value: value >= 0, "0 or more"),
    "weight_only.opset": (lambda value: value >= 7, "7 or more"),
    "sparse.patterns": (lambda value: all(_PATTERN.fullmatch(p) for p in value),
                        "texts such as '2:4'"),
    "sparse.rate": (lambda value: 1 <= value < math.inf, "at least 1"),
    "sparse.dtypes": (lambda value: set(value) <= _RATED and _distinct(value),
                      f"of {', '.join(sorted(_RATED))}, each once"),
    "sparse.inputs": (_at_least_one, "at least 1"),
    "sparse.outputs": (_at_least_one, "at least 1"),
    "sparse.min_size": (_at_least_one, "at least 1"),
    "sparse.end_to_end": (_at_least_one, "at least 1"),
    **{f"multiples.{item.name}": (_at_least_one, "at least 1") for item in fields(Multiples)},
    "aliases": (lambda value: all(_NAME.fullmatch(a) for a in value) and _distinct(value),
                "lower-case letters, digits, dots and hyphens, each once"),
    **{f"measured.{path}": (partial(_are_rows, width), f"rows of {width} numbers above 0")
       for path, width in WIDTHS.items()},
    "measured.correction": (lambda rows: all(len(r) == 3 and min(r) >= 0 < r[2] for r in rows),
                            "rows of 3 numbers, none below 0 and the last above it"),
}  # fmt: skip

HINTS: Mapping[str, Callable[[], str]] = {
    "runtime.name": lambda: f"backends serve {', '.join(runtime_names())}",
}
"""What helps where a value is refused, by field path."""


def _plain(value: Any) -> Any:
    """Tuples as lists, also inside of others."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def _leaves(table: Any, prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for item in fields(table):
        value = getattr(table, item.name)
        if item.name != "measured" and is_dataclass(value):
            rows += _leaves(value, f"{prefix}{item.name}.")
        else:
            rows.append((prefix + item.name, value))
    return rows
