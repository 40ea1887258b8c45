"""Which techniques a target has kernels for: a matrix with reasons, read off its figures."""

from __future__ import annotations

from dataclasses import replace

import pytest

from planish.ir.errors import TargetError, UsageError
from planish.targets.loader import backend_of, load_target, require_backend, target_names
from planish.targets.techniques import CODES, TECHNIQUES, compiles, one, sparse_support, support

FREE = ("low-rank", "prune-heads", "prune-neurons", "prune-channels")
X86 = {
    "fp16": "widened", "bf16": "no-bf16-kernel", "fp8": "no-fp8-kernel", "fp4": "no-fp4-kernel",
    "2:4": "no-sparse-kernel",
}  # fmt: skip
ARM = {**X86, "fp16": "unknown", "weight-only-int2": "no-nbits-kernel"}
TENSORRT = {
    "int8-dynamic": "no-dynamic-kernel", "weight-only-int8": "no-nbits-kernel",
    "weight-only-int2": "no-nbits-kernel",
}  # fmt: skip
ADA = {**TENSORRT, "fp4": "no-fp4-kernel"}
AMPERE = {**ADA, "fp8": "no-fp8-kernel"}
NOTHING_IN_FEW_BITS = {f"weight-only-int{bits}": "no-nbits-kernel" for bits in (8, 4, 2)}
REFUSED = {
    "generic": X86,
    "x86-avx2": X86,
    "x86-avx512-vnni": X86,
    "x86-amx": X86,
    "arm-neon-dotprod": ARM,
    "arm-i8mm": ARM,
    "nvidia-turing": {
        **AMPERE, "weight-only-int4": "no-nbits-kernel", "bf16": "no-bf16-kernel",
        "2:4": "no-sparse-kernel",
    },
    "nvidia-ampere": AMPERE,
    "nvidia-ada": ADA,
    "nvidia-hopper": ADA,
    "nvidia-blackwell": TENSORRT,
    "nvidia-onnxruntime-cuda": {
        "int8-static": "no-int8-kernel", "int8-dynamic": "no-int8-kernel",
        "weight-only-int2": "no-nbits-kernel", "fp8": "widened", "fp4": "unknown",
        "2:4": "no-sparse-kernel",
    },
    "apple-coreml": {
        "int8-static": "no-int8-kernel", "int8-dynamic": "no-int8-kernel", **NOTHING_IN_FEW_BITS,
        "bf16": "unknown", "fp8": "unknown", "fp4": "unknown", "2:4": "unknown",
    },
    "qualcomm-hexagon": {
        "int8-dynamic": "no-dynamic-kernel", **NOTHING_IN_FEW_BITS,
        "bf16": "unknown", "fp8": "unknown", "fp4": "unknown", "2:4": "unknown",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_class_refuses_and_why(name: str) -> None:
    rows = support(load_target(name))
    assert {row.technique: row.code for row in rows if not row.supported} == REFUSED[name]
    assert all(row.code == "" for row in rows if row.supported)
    for row in rows:
        if not row.supported:
            assert CODES[row.code] in row.sentence


@pytest.mark.parametrize("name", [n for n in target_names() if load_target(n).kind != "class"])
def test_a_machine_refuses_what_its_class_refuses(name: str) -> None:
    target = load_target(name)
    base = load_target(str(target.extends))
    codes = {row.technique: row.code for row in support(target)}
    assert codes == {row.technique: row.code for row in support(base)}
    assert not any(codes[technique] for technique in FREE)
    assert tuple(codes) == TECHNIQUES


def test_the_answer_follows_from_the_figures_and_never_from_the_name() -> None:
    ampere, avx2 = load_target("nvidia-ampere"), load_target("x86-avx2")
    assert support(replace(ampere, name="x")) == support(ampere)
    dense = replace(ampere, sparse=replace(ampere.sparse, patterns=()))
    assert one(dense, "2:4").code == "no-sparse-kernel"
    assert one(ampere, "2:4").sentence.endswith("the dense rate, up to 1.2 times for whole models")
    unread = replace(ampere, sparse=replace(ampere.sparse, patterns=None))
    assert one(unread, "2:4").code == "unknown"
    newer = replace(avx2, floats=replace(avx2.floats, bfloat16="native"))
    assert (one(avx2, "bf16").supported, one(newer, "bf16").supported) == (False, True)
    fewer = replace(avx2, weight_only=replace(avx2.weight_only, bits=(4,)))
    assert [one(fewer, f"weight-only-int{b}").supported for b in (8, 4, 2)] == [False, True, False]
    none = replace(avx2, int8=replace(avx2.int8, kernels="none"))
    assert one(none, "int8-static").code == one(none, "int8-dynamic").code == "no-int8-kernel"


def test_what_saturates_is_said() -> None:
    assert "saturate at 16 bits" in one(load_target("x86-avx2"), "int8-static").sentence
    assert "saturate" not in one(load_target("x86-avx512-vnni"), "int8-static").sentence


def test_an_unknown_technique_suggests_near_ones() -> None:
    with pytest.raises(UsageError, match="unknown technique 'int8-statc'") as caught:
        one(load_target("generic"), "int8-statc")
    assert "'int8-static'" in caught.value.hint


def test_without_a_backend_nothing_is_compiled() -> None:
    for name in ("apple-coreml", "qualcomm-hexagon"):
        target = load_target(name)
        assert backend_of(target) is None
        assert (compiles(target).supported, compiles(target).code) == (False, "no-backend")
        with pytest.raises(TargetError, match="planish has no backend for") as caught:
            require_backend(target)
        assert "planish plan" in caught.value.hint
        assert "x86-avx2" in caught.value.hint
    for name in ("host", "generic", "raspberry-pi-5", "nvidia-a100", "nvidia-onnxruntime-cuda"):
        require_backend(load_target(name))


@pytest.mark.parametrize(
    ("name", "dtypes"),
    [
        ("nvidia-a100", ("tf32", "fp16", "bf16", "int8")),
        ("jetson-agx-orin", ("tf32", "fp16", "bf16", "int8")),
        ("l4", ("tf32", "fp16", "bf16", "fp8", "int8")),
        ("nvidia-h100", ("tf32", "fp16", "bf16", "fp8", "int8")),
    ],
)
def test_what_kernels_for_zeros_take(name: str, dtypes: tuple[str, ...]) -> None:
    sparse = load_target(name).sparse
    assert (sparse.patterns, sparse.dtypes) == (("2:4",), dtypes)
    assert (sparse.inputs, sparse.outputs, sparse.min_size) == (16, 8, 256)
    assert sparse_support("4:8", load_target(name)).code == "no-sparse-kernel"
