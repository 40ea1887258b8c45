"""To which targets TensorRT's rules apply. Their declared data decide, never their names."""

from __future__ import annotations

from collections.abc import Callable

from ...schema import Target
from ...techniques import runtime_label
from ...tensorrt.table import DOMAIN, LATEST, Version, table, version

RUNTIME = "tensorrt"


def on_tensorrt(target: Target) -> str:
    """Why a rule of TensorRT does not apply to the target, "" where it does."""
    if target.runtime.name == RUNTIME:
        return ""
    return f"a rule of TensorRT, not of {runtime_label(target)}"


def where(holds: Callable[[Target], bool], otherwise: str) -> Callable[[Target], str]:
    """The scope of a rule for TensorRT targets of which something holds."""

    def excused(target: Target) -> str:
        return on_tensorrt(target) or ("" if holds(target) else otherwise)

    return excused


def oldest(target: Target) -> Version:
    """The oldest TensorRT that a model for the target must build with."""
    return version(target.runtime.min_version)


def newest(target: Target) -> Version:
    """The newest TensorRT that the target knows of."""
    return version(target.runtime.max_version)


def capability(target: Target) -> int | None:
    """The least compute capability of the target ("sm80" is 80), None where it names none."""
    named = [f[2:] for f in target.features if f.startswith("sm") and f[2:].isdecimal()]
    return max(map(int, named), default=None)


def spoken(found: Version) -> str:
    """A version as messages say it."""
    return ".".join(map(str, found))


def runs(target: Target, op: str) -> bool:
    """Whether TensorRT on the target has kernels for an operator of its own domain."""
    found, here = table().operators.get((DOMAIN, op)), capability(target)
    if on_tensorrt(target) or found is None or not found.supported or found.since > newest(target):
        return False
    low, high = found.capability or (0, LATEST[0])
    return here is not None and low <= here <= high
