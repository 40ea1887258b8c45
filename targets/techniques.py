"""Which techniques a target has kernels for, and why it refuses the others.

Read off the fields of the target alone: whoever changes a figure in a file changes the answer.
A technique that needs no kernel of its own, only other shapes, is supported everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ..ir.errors import UsageError, near
from .runtimes import backend_name, label
from .schema import FloatSupport, Target

NO_SPARSE = "no-sparse-kernel"
NO_INT8 = "no-int8-kernel"
NO_DYNAMIC = "no-dynamic-kernel"
NO_NBITS = "no-nbits-kernel"
TOO_OLD = "opset"
WIDENED = "widened"
NO_BACKEND = "no-backend"
UNKNOWN = "unknown"

CODES: Mapping[str, str] = MappingProxyType(
    {
        NO_INT8: "nothing multiplies 8-bit integers: the weights would be widened on every run",
        NO_DYNAMIC: "nothing quantizes activations by ranges that are found at run time",
        NO_NBITS: "no kernel multiplies float activations by weights in that many bits",
        "no-fp16-kernel": "float16 is not computed",
        "no-bf16-kernel": "bfloat16 is not computed",
        "no-fp8-kernel": "8-bit floats are not computed",
        "no-fp4-kernel": "4-bit floats are not computed",
        TOO_OLD: "it takes no opset that has the type",
        WIDENED: "stored in that type and computed in float32: the casts come on top",
        NO_SPARSE: "no kernel skips zeros: a sparse weight takes as long as a dense one",
        NO_BACKEND: "nothing in planish writes artifacts for the target's runtime yet",
        UNKNOWN: "the target's file says nothing on it",
    }
)
"""What the codes of refusals mean."""


@dataclass(frozen=True)
class Support:
    """Whether a target can use a technique. code: "" where it can. sentence: what decides."""

    technique: str
    supported: bool
    code: str
    sentence: str


def support(target: Target) -> tuple[Support, ...]:
    """Every technique for one target, in the order of ``TECHNIQUES``."""
    return tuple(decide(technique, target) for technique, decide in _RULES.items())


def one(target: Target, technique: str) -> Support:
    """One technique for one target. Raises UsageError for a technique that does not exist."""
    if technique not in _RULES:
        raise UsageError(f"unknown technique {technique!r}", hint=near(technique, _RULES))
    return _RULES[technique](technique, target)


def compiles(target: Target) -> Support:
    """Whether planish has a backend that writes artifacts for the target's runtime."""
    named = runtime_label(target)
    if has_backend(target):
        return Support("compile", True, "", f"artifacts for {named}")
    sentence = f"planish has no backend for {named} yet"
    return Support("compile", False, NO_BACKEND, sentence)


def has_backend(target: Target) -> bool:
    """Whether artifacts can be made: by a backend of planish, or by one that was added."""
    return backend_name((target.runtime.name, target.runtime.provider)) is not None


def runs_on_cpu(target: Target) -> bool:
    """Whether the runtime is the CPU provider of ONNX Runtime."""
    return (target.runtime.name, target.runtime.provider) == (
        "onnxruntime",
        "CPUExecutionProvider",
    )


def runs_on_tensorrt(target: Target) -> bool:
    """Whether TensorRT builds an engine of the artifact on the target."""
    return target.runtime.name == "tensorrt"


def runs_on_cuda(target: Target) -> bool:
    """Whether the runtime is the CUDA provider of ONNX Runtime."""
    return (target.runtime.name, target.runtime.provider) == (
        "onnxruntime",
        "CUDAExecutionProvider",
    )


def narrows_floats(target: Target) -> bool:
    """Whether the target's backend stores what stays float in half precision by itself."""
    return runs_on_tensorrt(target) or runs_on_cuda(target)


def runtime_label(target: Target) -> str:
    """The runtime as messages name it: "onnxruntime (CPUExecutionProvider)"."""
    return label((target.runtime.name, target.runtime.provider))


def _static_int8(technique: str, target: Target) -> Support:
    int8 = target.int8
    if not int8.supported or int8.kernels == "none":
        return _refused(technique, NO_INT8, target)
    said = f"{_PAIRS[int8.kernels]} products, weights in {int8.weight_bits} bits"
    said += ": sums of two products saturate at 16 bits" if int8.saturates else ""
    return Support(technique, True, "", said)


def _dynamic_int8(technique: str, target: Target) -> Support:
    if not target.int8.supported or target.int8.kernels == "none":
        return _refused(technique, NO_INT8, target)
    if not target.int8.dynamic:
        return _refused(technique, NO_DYNAMIC, target)
    return Support(technique, True, "", "activations are quantized by the ranges of each run")


def _weight_only(technique: str, target: Target) -> Support:
    kernel = target.weight_only
    if int(technique.rpartition("int")[2]) not in kernel.bits:
        return _refused(technique, NO_NBITS, target)
    if kernel.opset is not None and kernel.opset > target.runtime.max_opset:
        return _refused(technique, TOO_OLD, target)
    said = "blocks of " + ", ".join(map(str, kernel.blocks)) if kernel.blocks else "per channel"
    if kernel.accuracy_level is not None:
        said += f"; accuracy level {kernel.accuracy_level}"
    return Support(technique, True, "", said)


def _narrow_float(field: str) -> Callable[[str, Target], Support]:
    def decide(technique: str, target: Target) -> Support:
        found: FloatSupport = getattr(target.floats, field)
        if found == "native":
            return Support(technique, True, "", f"{field} is computed as such")
        codes = {"refused": f"no-{technique}-kernel", "widened": WIDENED, "unknown": UNKNOWN}
        return _refused(technique, codes[found], target)

    return decide


def sparse_support(pattern: str, target: Target) -> Support:
    """Whether a target has kernels that skip zeros in a pattern ("2:4")."""
    if target.sparse.patterns is None:
        return _refused(pattern, UNKNOWN, target)
    if pattern not in target.sparse.patterns:
        return _refused(pattern, NO_SPARSE, target)
    rate, whole = target.sparse.rate, target.sparse.end_to_end
    said = "kernels skip the zeros" if rate is None else f"up to {rate:g} times the dense rate"
    if whole is not None:
        said += f", up to {whole:g} times for whole models"
    return Support(pattern, True, "", said)


def _shapes_only(technique: str, target: Target) -> Support:
    said = "needs no kernel of its own, only smaller shapes" + _ROUNDED.get(technique, "").format(
        **vars(target.multiples)
    )
    return Support(technique, True, "", said)


def _refused(technique: str, code: str, target: Target) -> Support:
    return Support(technique, False, code, f"{runtime_label(target)}: {CODES[code]}")


_PAIRS = {"u8s8": "uint8 x int8", "s8s8": "int8 x int8"}
_ROUNDED = {
    "low-rank": ", ranks in multiples of {rank}",
    "prune-heads": ", heads in multiples of {heads}",
    "prune-neurons": ", in multiples of {channels}",
    "prune-channels": ", in multiples of {channels}",
}

_RULES: Mapping[str, Callable[[str, Target], Support]] = MappingProxyType(
    {
        "int8-static": _static_int8,
        "int8-dynamic": _dynamic_int8,
        "weight-only-int8": _weight_only,
        "weight-only-int4": _weight_only,
        "weight-only-int2": _weight_only,
        "fp16": _narrow_float("float16"),
        "bf16": _narrow_float("bfloat16"),
        "fp8": _narrow_float("float8"),
        "fp4": _narrow_float("float4"),
        "2:4": sparse_support,
        "low-rank": _shapes_only,
        "prune-heads": _shapes_only,
        "prune-neurons": _shapes_only,
        "prune-channels": _shapes_only,
    }
)

TECHNIQUES = tuple(_RULES)
"""The names, in the order in which they are shown."""
