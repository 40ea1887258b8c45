"""Time from rates alone: packed weights are multiplied in what the target's kernel computes in."""

from __future__ import annotations

from dataclasses import replace

import pytest

from planish.targets.cost.kernels import Work
from planish.targets.cost.roofline import roofline
from planish.targets.cost.sizes import Part
from planish.targets.loader import load_target
from planish.targets.schema import Memory, Rates

SIZES = (4096, 1024, 1024)
FLOPS = 2 * 4096 * 1024 * 1024


def work(table: str, numbers: str) -> Work:
    return Work((Part(f"products.{table}", SIZES),), False, FLOPS, numbers, 0, 1)


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("nvidia-a100-onnxruntime", 312.0),  # float16
        ("nvidia-a100", 312.0),
        ("x86-avx512-vnni", 8.0),  # accuracy level 4: int8
    ],
)
def test_packed_weights_run_at_the_rate_of_their_kernel(name: str, rate: float) -> None:
    target = load_target(name)
    if target.kind == "class":
        rates, memory = Rates(fp32=2.0, fp16=4.0, int8=8.0), Memory(bandwidth_gbs=100.0)
        target = replace(target, rates=rates, memory=memory)
    found = roofline(work("nbits4", "int8"), target, 0)
    assert found is not None
    assert found.ms == pytest.approx(FLOPS / (rate * 1e9))
    plain = roofline(work("float32", "fp32"), target, 0)
    assert plain is not None
    assert plain.ms == pytest.approx(FLOPS / ((target.rates.fp32 or 0.0) * 1e9))


def test_without_float16_they_run_in_float32() -> None:
    target = load_target("nvidia-a100-onnxruntime")
    wide = replace(target, floats=replace(target.floats, float16="widened"))
    found = roofline(work("nbits8", "int8"), wide, 0)
    assert found is not None
    assert found.ms == pytest.approx(FLOPS / (19.5 * 1e9))
