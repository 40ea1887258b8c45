"""Targets that are not this machine: what may be called measured, and what is said instead."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from planish.compiler.driver import compile_model
from planish.compiler.elsewhere import not_the_target, predicted_speed, sums_of
from planish.compiler.reporting import summary
from planish.compiler.reporting.headline import headline
from planish.compiler.reporting.report import render_report
from planish.compiler.result import PredictedSpeed, Speed
from planish.compiler.workload import Workload
from planish.ir.load import load_model
from planish.targets.cost.measured import Measured
from planish.targets.host import Machine
from planish.targets.loader import load_target
from planish.targets.schema import Memory, Rates

AVX2 = "fma avx2"
VNNI = f"{AVX2} avx512f avx512bw avx512dq avx512vl avx512_vnni"


def machine(features: str = VNNI, arch: str = "x86_64", cpu: str = "Imaginary CPU") -> Machine:
    return Machine(arch, frozenset(features.split()), cpu)


@pytest.mark.parametrize(
    ("target", "here", "why"),
    [
        ("x86-avx2", machine(AVX2), ""),
        ("x86-avx2", machine(), "uint8 x int8 in 32 bits, not uint8 x int8 in 16 bits"),
        ("x86-avx512-vnni", machine(), ""),
        ("x86-avx512-vnni", machine(AVX2), "lacks avx512"),
        ("x86-avx512-vnni", machine(f"{VNNI} amx_tile amx_int8"), "is x86-amx"),
        ("arm-neon-dotprod", machine("asimd asimddp i8mm", "aarch64"), "is arm-i8mm"),
        ("nvidia-a100", machine(), "by the kit in the artifact"),
        ("generic", machine(), ""),
        ("generic", machine(AVX2), ""),
        ("amd-epyc-zen4", machine(), "(Imaginary CPU) is not known to be one"),
        ("arm-i8mm", machine(), "for aarch64"),
        ("arm-neon-dotprod", machine("asimd asimddp", "aarch64"), ""),
    ],
)
def test_features_alone_do_not_make_a_machine_the_target(
    target: str, here: Machine, why: str
) -> None:
    found = not_the_target(load_target(target), here)
    assert (why in found) if why else found == ""


def test_the_host_and_a_users_own_machine_are_taken_at_their_word() -> None:
    assert not_the_target(load_target("host")) == ""
    own = replace(load_target("x86-avx512-vnni"), name="mine", kind="machine")
    assert not_the_target(own, machine()) == ""
    assert "16 bits" in not_the_target(
        replace(load_target("x86-avx2"), name="mine", kind="machine"), machine()
    )


def test_a_machine_of_the_catalogue_is_known_by_its_probe() -> None:
    found = replace(
        load_target("amd-epyc-zen4"),
        measured=Measured("2026-01-01", "onnxruntime", "Imaginary CPU"),
    )
    assert not_the_target(found, machine()) == ""
    assert "on Imaginary CPU" in not_the_target(found, machine(cpu="Another CPU"))


# -- a whole compile -------------------------------------------------------------------


@pytest.fixture(scope="module")
def elsewhere(kit: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A small net compiled for a machine that adds in 16 bits and has other features, too."""
    target = replace(load_target("x86-avx2"), name="far-away", features=("avx9000",))
    return compile_model(
        kit.chain(3), target, output=tmp_path_factory.mktemp("far") / "out",
        calibration=kit.feeds(), pipeline="canonicalize,quantize{scheme=static}", threads=1,
    )  # fmt: skip


def test_a_compile_for_elsewhere_says_so_everywhere(elsewhere: Any) -> None:
    result, folder = elsewhere.result, elsewhere.folder
    assert (result.speed.verdict, result.exit_code) == ("not-measured", 11)
    assert "lacks avx9000" in result.not_on_target
    assert result.reference_runtime.startswith("onnxruntime 1.")
    first = headline(result)
    card, report = ((folder / name).read_text() for name in ("README.md", "report.md"))
    for text in (first, card, report, (folder / "manifest.json").read_text()):
        assert "not run on" in text.lower().replace("_", " ")
        assert "avx9000" in text
        assert "CPUExecutionProvider" in text
    assert "Exit code 11" in report
    assert "measured on the machine" not in card


def test_where_quality_fails_that_is_the_status(elsewhere: Any) -> None:
    over = replace(
        elsewhere.result, quality=replace(elsewhere.result.quality, verdict="over-budget")
    )
    assert over.exit_code == 5


def test_without_rates_nothing_is_predicted_and_that_is_said(elsewhere: Any) -> None:
    predicted = elsewhere.result.speed.predicted
    assert (predicted.ratio, predicted.basis) == (None, "unknown")
    (row,) = summary.latency_rows(elsewhere.result)
    assert "predicted, not measured" in row.name
    assert "no rates" in row.change


def test_with_rates_the_speed_is_predicted_and_never_a_verdict(
    kit: ModuleType, tmp_path: Path
) -> None:
    """Twice the work takes twice the time where a target has rates for it."""
    known = replace(
        load_target("x86-avx2"), name="far-away", cores=1, memory=Memory(64, 100),
        rates=Rates(fp32=0.1, int8=0.2),
    )  # fmt: skip
    half, whole = (load_model(kit.chain(layers, rows='"batch"')).model for layers in (8, 16))
    found = predicted_speed(whole, half, known, (Workload({"batch": 512}),), 1)
    assert found.basis == "estimated"
    assert found.ratio == pytest.approx(2.0, rel=0.1)


def test_a_prediction_is_called_one(made: ModuleType) -> None:
    speed = Speed("not-measured", predicted=PredictedSpeed(3.0, 1.5, 2.0, "estimated", "by rates"))
    result = made.result(speed=speed, run_on_target=False, not_on_target="it is far away")
    assert headline(result).startswith("not-measured: predicted 2.00x (estimated), ")
    assert headline(result).endswith("not run on the target host (it is far away)")
    assert "2.00x (estimated)" in render_report(result)
    assert "**predicted** (estimated): by rates" in render_report(result)


def test_tables_of_another_machine_do_not_make_it_this_one() -> None:
    """A server is probed, and compiled for on a laptop."""
    tables = Measured("2026-11-21", "onnxruntime 1.31.1", "Some Server CPU")
    server = replace(load_target("x86-avx512-vnni"), name="server", kind="machine", measured=tables)
    assert not_the_target(server, machine(cpu="Some Server CPU")) == ""
    assert "measured on Some Server CPU" in not_the_target(server, machine(cpu="My Laptop"))


# -- sums in 16 bits -------------------------------------------------------------------


def test_what_planish_quantized_is_proven_and_said(elsewhere: Any) -> None:
    (note,) = [n for n in elsewhere.result.notes if "16-bit" in n]
    assert note.startswith("no 16-bit sum of two products can saturate on far-away: proven")
    assert "all 3 integer layers" in note
    safe = {r.site for r in elsewhere.result.remarks if r.code == "pair-safe"}
    assert safe == {e.site for e in elsewhere.result.edits if e.pass_name == "quantize"}


def test_layers_that_came_quantized_for_another_machine_are_named(kit: ModuleType) -> None:
    codes = np.full((64, 64), 1, np.int8)
    codes[10:12, 7] = 100
    tensors = {"w": codes, "s": np.float32(0.01), "z": np.uint8(128), "wz": np.int8(0)}
    body = (
        "q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) "
        "v = DequantizeLinear(w, s, wz) y = MatMul(d, v)"
    )
    model = load_model(kit.graph(body, tensors, "float[n, 64] x", "float[n, 64] y")).model
    found = sums_of(model, load_target("x86-avx2"))
    assert "can saturate on x86-avx2 in 1 of 1 integer layers" in found.sentence
    (remark,) = found.remarks
    assert remark.code == "pair-may-saturate"
    assert "51000" in remark.sentence
    assert sums_of(model, load_target("x86-avx512-vnni")) == sums_of(
        load_model(kit.chain(1)).model, load_target("x86-avx2")
    )


@pytest.mark.parametrize(
    ("between", "operand", "said"),
    [
        ("u = Transpose <perm = [1, 0]> (v)", "d, u", "can saturate on x86-avx2 in 1 of 1"),
        ("r = Reshape(d, shape)", "r, v", "can saturate on x86-avx2 in 1 of 1"),
        ("u = Reshape(v, shape)", "d, u", "the int8 weights of"),
    ],
    ids=["turned weight", "reshaped activation", "reshaped weight"],
)
def test_nothing_is_proven_of_what_stands_behind_other_nodes(
    kit: ModuleType, between: str, operand: str, said: str
) -> None:
    codes = np.full((64, 64), 127, np.int8)
    tensors = {
        "w": codes, "s": np.float32(0.01), "z": np.uint8(128), "wz": np.int8(0),
        "shape": np.array([-1, 64]),
    }  # fmt: skip
    body = (
        f"q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) "
        f"v = DequantizeLinear(w, s, wz) {between} [product] y = MatMul({operand})"
    )
    used = {name: tensor for name, tensor in tensors.items() if name != "shape" or name in between}
    model = load_model(kit.graph(body, used, "float[n, 64] x", "float[n, 64] y")).model
    assert said in sums_of(model, load_target("x86-avx2")).sentence
