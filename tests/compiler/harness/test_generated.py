"""The generator is dense in what breaks passes, and no pass breaks on what it makes."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest

from planish.compiler.harness.case import Case
from planish.compiler.harness.check import check
from planish.compiler.harness.execute import run_all
from planish.compiler.harness.generator import generated, models
from planish.compiler.harness.subject import Subject
from planish.ir.errors import PlanishError, UsageError
from planish.ir.load import load_model
from planish.ir.sites import find_sites

SEED, COUNT = 1, 300
TARGET = "x86-avx512-vnni"
RARE = 0.02
SITES = {"linear": 0.3, "conv": 0.1, "embedding": 0.05, "attention": 0.04, "ffn": 0.03}
"""Share of cases with a site of a kind, at the least."""
PASSES = {
    "canonicalize": (45, 0.5), "canonicalize{rules=exact}": (15, 0.4),
    "canonicalize,equalize": (25, 0.5), "canonicalize,quantize": (25, 0.5),
    "canonicalize,quantize{scheme=static}": (20, 0.5), "quantize": (15, 0.05),
}  # fmt: skip
"""By pipeline, how many graphs, and how many of those are edited at the least."""


@pytest.fixture(scope="module")
def features() -> ModuleType:
    """The module ``features``: what a case holds, told from the model alone."""
    path = Path(__file__).with_name("features.py")
    spec = importlib.util.spec_from_file_location("planish_test_features", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return list(generated(COUNT, SEED))


# -- the generator ---------------------------------------------------------------------


def test_everything_occurs_in_one_case_of_fifty(cases: list[Case], features: ModuleType) -> None:
    counts = {
        name: sum(bool(has(case)) for case in cases) for name, has in features.FEATURES.items()
    }
    rare = {name: count for name, count in counts.items() if count < RARE * COUNT}
    assert not rare


def test_nearly_every_case_is_valid_and_runs(cases: list[Case]) -> None:
    reasons = [reason for case in cases if (reason := problem(case))]
    assert len(reasons) <= 0.03 * COUNT, reasons


def problem(case: Case) -> str:
    """Why a case is of no use; empty for a good one."""
    try:
        onnx.checker.check_model(case.model)
        run_all(case.model.SerializeToString(), case.feeds)
    except (onnx.checker.ValidationError, PlanishError) as error:
        return f"{case.name}: {error}"
    return ""


def test_sites_of_every_kind_are_common(cases: list[Case]) -> None:
    found: Counter[str] = Counter()
    for case in cases:
        sites = find_sites(load_model(case.model).model, nested=True)
        found.update({site.kind for site in sites})
    shares = {kind: found[kind] / COUNT for kind in SITES}
    assert all(shares[kind] >= least for kind, least in SITES.items()), shares


def test_outputs_are_numbers(cases: list[Case]) -> None:
    """Where weights and feeds are finite, so is what is computed: differences would not show."""
    found: Counter[bool] = Counter()
    for case in cases[:60]:
        for outputs in run_all(case.model.SerializeToString(), case.feeds[:1]):
            for value in outputs.values():
                if isinstance(value, np.ndarray) and value.dtype.kind == "f":
                    found[bool(np.isfinite(value).all())] += 1
    assert found[False] <= 0.02 * found[True]


def test_a_case_depends_on_the_seed_and_its_number_alone(cases: list[Case]) -> None:
    for index in (0, 7, 123):
        (alone,) = generated(1, SEED, start=index)
        assert alone.name == cases[index].name == f"generated-{index}"
        assert alone.model.SerializeToString() == cases[index].model.SerializeToString()
        for one, other in zip(alone.feeds, cases[index].feeds, strict=True):
            assert list(one) == list(other)
            assert all(one[name].tobytes() == other[name].tobytes() for name in one)
    (unlike,) = generated(1, SEED + 1)
    assert unlike.model != cases[0].model


def test_a_profile_says_what_graphs_are_made_of() -> None:
    for case in generated(40, steps=4, opsets=(13, 13), families=("pointwise",)):
        assert case.model.opset_import[0].version == 13
        assert not any(n.op_type in ("MatMul", "Conv", "If") for n in case.model.graph.node)
    with pytest.raises(UsageError, match="families"):
        next(generated(1, famlies=("layers",)))
    with pytest.raises(UsageError, match="layers"):
        next(generated(1, families=("layer",)))


def test_hypothesis_draws_the_same_graphs_and_makes_them_small() -> None:
    import hypothesis

    seen: list[str] = []

    @hypothesis.settings(max_examples=25, deadline=None, database=None, derandomize=True)
    @hypothesis.given(models(steps=4))
    def run(case: Case) -> None:
        seen.append(problem(case))

    run()
    assert len(seen) >= 25
    assert sum(map(bool, seen)) <= 1
    quick = hypothesis.settings(max_examples=200, deadline=None, database=None, derandomize=True)
    small = hypothesis.find(models(families=("layers",)), has_linear_layer, settings=quick)
    assert len(small.model.graph.node) <= 4


def has_linear_layer(case: Case) -> bool:
    return any(node.op_type == "MatMul" for node in case.model.graph.node)


def test_without_hypothesis_models_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    with pytest.raises(UsageError, match="Hypothesis") as caught:
        models()
    assert "planish[test]" in caught.value.hint
    assert next(generated(1)).model.graph.node


# -- the passes ------------------------------------------------------------------------


@pytest.mark.parametrize("pipeline", PASSES)
def test_no_pass_breaks_a_generated_graph(pipeline: str) -> None:
    count, least = PASSES[pipeline]
    start = 1000 * list(PASSES).index(pipeline)
    subject = Subject(pipeline, TARGET)
    outcomes = {case.name: check(subject, case) for case in generated(count, SEED, start=start)}
    assert {name: o.failures for name, o in outcomes.items() if o.failures} == {}
    assert sum(bool(o.skipped) for o in outcomes.values()) <= 0.05 * count
    assert sum(o.edits > 0 for o in outcomes.values()) >= least * count
