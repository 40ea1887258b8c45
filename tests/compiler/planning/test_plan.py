"""A plan for every target: what would be done where, refused why; nothing is changed."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import pytest

import planish
from planish.compiler.memory import Estimate, estimate
from planish.compiler.planning.outlook import Planned
from planish.compiler.planning.plan import plan_model
from planish.compiler.policy import GOALS, check_served
from planish.ir.errors import InputError, TargetError, UsageError
from planish.targets.loader import load_target, target_names
from planish.targets.schema import Memory, Rates, Target
from planish.targets.techniques import TECHNIQUES, compiles

Plan = Callable[..., Planned]
INT4 = "canonicalize,weight-only"
STATIC = "canonicalize,quantize{scheme=static}"
WIDE = 'y = MatMul(x, "w")'
PORTS = ('float["n", 512] x', 'float["n", 512] y')


@pytest.fixture
def path(kit: ModuleType, tmp_path: Path) -> Path:
    """Three linear layers of 64 x 64 in a file."""
    onnx.save(kit.chain(3), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def known(name: str = "x86-avx2", **rates: float) -> Target:
    """A target of which rates are known: time can be predicted."""
    plain = load_target(name)
    return replace(plain, name="known", cores=1, memory=Memory(64, 50.0), rates=Rates(**rates))


def served(name: str, goal: Any) -> bool:
    """Whether some technique that planish has can serve the goal there."""
    try:
        check_served(load_target(name), goal)
    except TargetError:
        return False
    return True


EACH = list(zip(target_names(), itertools.cycle(GOALS), strict=False))


@pytest.mark.parametrize(("name", "goal"), [each for each in EACH if served(*each)])
def test_every_target_can_be_planned_for(path: Path, kit: ModuleType, name: str, goal: Any) -> None:
    before = kit.everything(path.parent), path.read_bytes()
    plan = plan_model(path, name, goal=goal, workload="batch=1", calibration=kit.feeds())
    target = load_target(name)
    assert plan.compilable == compiles(target).supported
    assert plan.compilable or "no backend" in plan.why_not
    named = {o.technique for o in plan.outlooks} | {a.technique for a in plan.aside}
    assert named - {""} == set(TECHNIQUES)
    for outlook in plan.outlooks:
        assert outlook.reason
        assert [bool(s.done) != bool(s.code and s.sentence) for s in outlook.sites] == [True] * 3
        assert outlook.size.before == path.stat().st_size
        assert (outlook.time.ratio is None) == (outlook.time.basis == "unknown")
        assert outlook.time.ratio or outlook.time.note
    assert (kit.everything(path.parent), path.read_bytes()) == before


RESIDUAL = """
    c = Conv<pads = [1, 1, 1, 1]>(x, "first", "first.bias")
    r = Relu(c)
    d = Conv<pads = [1, 1, 1, 1]>(r, "second", "second.bias")
    y = Add(r, d)
"""


@pytest.mark.parametrize(
    ("name", "pipeline"),
    [
        ("nvidia-a100", "canonicalize,quantize{scheme=static}"),
        ("nvidia-h100", "canonicalize,quantize-float8"),
        ("nvidia-a100", "canonicalize"),
        ("nvidia-l4-onnxruntime", "canonicalize"),
    ],
)
def test_what_is_planned_is_what_a_compile_predicts(
    tmp_path: Path, kit: ModuleType, name: str, pipeline: str
) -> None:
    """Half precision of what stays float, and additions in 8 bits, belong to it."""
    weights = {"first": kit.normal(64, 32, 3, 3), "second": kit.normal(64, 64, 3, 3)}
    weights |= {"first.bias": kit.normal(64), "second.bias": kit.normal(64)}
    ports = ("float[2, 32, 14, 14] x", "float[2, 64, 14, 14] y")
    onnx.save(kit.graph(RESIDUAL, weights, *ports), tmp_path / "model.onnx")
    asked: Any = {
        "pipeline": pipeline,
        "calibration": [{"x": kit.normal(2, 32, 14, 14, seed=seed)} for seed in range(8)],
    }
    path = tmp_path / "model.onnx"
    (outlook,) = planish.plan(path, name, **asked).outlooks
    out = tmp_path / "out"
    made = planish.compile(path, name, output=out, max_drift="cosine=0.1", **asked).manifest
    predicted = made["speed"]["predicted"]
    assert (outlook.time.before, outlook.time.after) == pytest.approx(
        (predicted["before"], predicted["after"])
    )
    assert predicted["after"] < 0.8 * predicted["before"]
    assert outlook.size.after == pytest.approx((out / "model.onnx").stat().st_size, rel=0.02)


@pytest.mark.parametrize(("name", "goal"), [each for each in EACH if not served(*each)])
def test_or_no_technique_can_serve_it(path: Path, name: str, goal: Any) -> None:
    with pytest.raises(TargetError, match="no technique can serve the goal"):
        plan_model(path, name, goal=goal)
    plan = plan_model(path, name, goal=goal, pipeline="canonicalize")  # unless it is asked for
    assert plan.chosen.size.basis == "lowered"


def test_the_fewest_bytes_come_first_for_size(path: Path) -> None:
    plan = plan_model(path, "x86-avx2", goal="size")
    sizes = [outlook.size.after for outlook in plan.outlooks]
    assert plan.chosen.pipeline == INT4
    assert sizes == sorted(sizes)
    assert plan.chosen.size.after < plan.chosen.size.before / 4
    assert {s.bits for s in plan.chosen.sites} == {4}


def test_few_rows_and_many_rows_give_different_plans(path: Path) -> None:
    target = load_target("x86-avx2")
    target = replace(target, weight_only=replace(target.weight_only, most_rows=8))
    assert plan_model(path, target, workload="batch=1").chosen.pipeline == INT4
    many = plan_model(path, target, workload="batch=256")
    assert INT4 not in [o.pipeline for o in many.outlooks]
    assert {a.code for a in many.aside if a.technique == "weight-only-int4"} == {"many-rows"}


def test_time_is_predicted_where_rates_are_known(path: Path, kit: ModuleType) -> None:
    """Int8 of ten times the rate is faster; twice the rows take twice the time."""
    fast = known(fp32=0.001, int8=0.01)
    options: Any = {"calibration": kit.feeds(), "threads": 1, "pipeline": STATIC}
    plan = plan_model(path, fast, workload="batch=4096", **options)
    time = plan.chosen.time
    assert time.basis == "estimated"
    assert time.ratio is not None
    assert 2 < time.ratio < 10
    assert not time.ranks
    twice = plan_model(path, fast, workload="batch=8192", **options)
    assert twice.chosen.time.after == pytest.approx(2 * (time.after or 0), rel=0.05)


def test_rates_alone_leave_the_order_to_the_break_evens(path: Path, kit: ModuleType) -> None:
    plan = plan_model(path, known(fp32=1.0, int8=2.0), calibration=kit.feeds())
    assert plan.chosen.technique == "int8-static"


def test_without_rates_time_is_unknown_and_break_evens_are_said(path: Path) -> None:
    target = load_target("x86-avx512-vnni")
    bare = replace(target, memory=Memory(), rates=Rates(), measured=None)
    time = plan_model(path, bare).chosen.time
    assert (time.before, time.after, time.basis) == (None, None, "unknown")
    assert f"{target.int8.speed_ratio:g}x as fast" in time.note


def test_workloads_weigh_in_the_time(path: Path) -> None:
    def milliseconds(*workload: str) -> float:
        fast = known(fp32=0.001, int8=0.002)
        time = plan_model(path, fast, workload=list(workload), pipeline="canonicalize").chosen.time
        assert time.before is not None
        return time.before

    few, many = milliseconds("batch=64"), milliseconds("batch=4096")
    both = milliseconds("batch=64*0.75", "batch=4096*0.25")
    assert both == pytest.approx(0.75 * few + 0.25 * many)


def test_a_pipeline_of_one_s_own(path: Path) -> None:
    plan = plan_model(path, "generic", pipeline="canonicalize,quantize{exclude=block0}")
    (outlook,) = plan.outlooks
    assert plan.given
    assert (outlook.sites[0].done, outlook.sites[0].code) == ("", "excluded")
    assert [bool(s.done) for s in outlook.sites] == [False, True, True]
    with pytest.raises(UsageError, match="there is no pass 'quantise'"):
        plan_model(path, "generic", pipeline="quantise")


def test_a_model_without_layers_gets_the_lossless_pipeline(kit: ModuleType) -> None:
    bare = kit.graph("y = Relu(x)", {}, 'float["n", 4] x', 'float["n", 4] y')
    plan = plan_model(bare, "x86-avx2")
    assert plan.chosen.pipeline == "canonicalize"
    assert plan.chosen.sites == ()
    assert {a.code for a in plan.aside if a.by == "model"} == {"no-site"}


def test_a_pipeline_that_takes_no_site_is_set_aside(kit: ModuleType) -> None:
    """Too small for integers; large enough to be packed."""
    narrow = kit.graph(
        'y = MatMul(x, "w")', {"w": kit.normal(2048, 16)}, 'float["n", 2048] x', 'float["n", 16] y'
    )
    plan = plan_model(narrow, "x86-avx2", goal="size")
    assert [o.technique for o in plan.outlooks] == ["weight-only-int4", "weight-only-int8"]
    (idle,) = [a for a in plan.aside if a.code == "no-site-taken"]
    assert idle.pipeline == "canonicalize,quantize"


def test_a_model_too_large_to_run_is_planned_by_its_savings(
    kit: ModuleType, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def short(*arguments: Any) -> Estimate:
        found = estimate(*arguments)
        return replace(found, whole=found.limit + 1)

    onnx.save(kit.graph(WIDE, {"w": kit.normal(512, 512)}, *PORTS), path)
    full = plan_model(path, "x86-avx2", goal="size")
    monkeypatch.setattr("planish.compiler.planning.plan.estimate", short)
    plan = plan_model(path, "x86-avx2", goal="size")
    assert (full.chosen.size.basis, plan.chosen.size.basis) == ("lowered", "savings")
    assert plan.chosen.size.after == pytest.approx(full.chosen.size.after, rel=0.02)
    assert [s.done for s in plan.chosen.sites] == [s.done for s in full.chosen.sites]
    assert plan.chosen.time.ratio is None
    assert not plan.executable
    assert "memory" in plan.why_not
    with pytest.raises(InputError, match="data cannot be used"):
        plan_model(path, "x86-avx2", calibration={"x": kit.normal(4, 512)})


def test_what_cannot_be_asked(path: Path) -> None:
    goal: Any = "sped"
    with pytest.raises(UsageError, match="no goal 'sped'") as caught:
        plan_model(path, "generic", goal=goal)
    assert "latency" in caught.value.hint or "size" in caught.value.hint
    with pytest.raises(UsageError, match="no input has an axis 'bach'"):
        plan_model(path, "generic", workload="bach=1")
    with pytest.raises(UsageError, match="threads"):
        plan_model(path, "generic", threads=-1)


def test_the_document_has_everything(path: Path) -> None:
    plan = planish.plan(path, "x86-avx2", workload=["batch=1*0.9", "batch=8*0.1"])
    document = json.loads(json.dumps(plan.to_json()))
    assert document["schema"] == "planish-outlook/1"
    assert document["workloads"][0] == {"axes": {"batch": 1}, "weight": 0.9}
    assert document["chosen"] == document["outlooks"][0]["pipeline"]
    for outlook in document["outlooks"]:
        assert len(outlook["sites"]) == 3
        assert set(outlook["size"]) == {"before", "after", "basis"}
        assert set(outlook["time"]) == {"before", "after", "basis", "note", "ranks", "ratio"}
    assert {"technique", "by", "code", "sentence", "pipeline"} == set(document["aside"][0])
