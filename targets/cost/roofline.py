"""Time from rates and bandwidth alone, where nothing was measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..schema import Target
from .kernels import Work

_INT8_LEVEL = 4
Bound = Literal["compute", "memory", "overhead", ""]


@dataclass(frozen=True)
class Roof:
    """Milliseconds, and what bounds them."""

    ms: float
    bound: Bound


def roofline(work: Work, target: Target, threads: int) -> Roof | None:
    """The longer of computing at the peak rate and moving every byte once; None: no figures.

    threads: 0 means all cores. Rates are those of the whole device, so fewer threads than cores
    have their share; the bandwidth is everybody's.
    """
    share = _share(target, threads)
    rate, width = _rate(target, _numbers(work, target)), target.memory.bandwidth_gbs
    compute = None if rate is None else 1e3 * work.flops / (rate * share * 1e12)
    memory = None if width is None else 1e3 * work.moved / (width * 1e9)
    if work.parts[0].table.startswith(("streams.", "node")):
        compute = 0.0 if memory is not None else None
    if compute is None or (memory is None and not work.flops):
        return None
    if memory is None or compute >= memory:
        return Roof(compute, "compute")
    return Roof(memory, "memory")


def _share(target: Target, threads: int) -> float:
    if not threads or not target.cores or target.device != "cpu":
        return 1.0
    return min(1.0, threads / target.cores)


def _numbers(work: Work, target: Target) -> str:
    """What it computes with; packed weights meet 8-bit activations at one accuracy level alone."""
    packed = work.parts[0].table.startswith("products.nbits")
    if not packed or target.weight_only.accuracy_level == _INT8_LEVEL:
        return work.numbers
    return "fp16" if target.floats.float16 == "native" else "fp32"


def _rate(target: Target, numbers: str) -> float | None:
    """TFLOPS; of int8 by the class's ratio over float32 where it is not known itself."""
    known: float | None = getattr(target.rates, numbers)
    if known is not None or numbers != "int8":
        return known
    base, ratio = target.rates.fp32, target.int8.speed_ratio
    return None if base is None or ratio is None else base * ratio
