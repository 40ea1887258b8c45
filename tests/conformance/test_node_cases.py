"""The node cases of the onnx package: lossless passes keep their promises, and no case is lost.

All run, as they come and, a fixed share of them, with constants; `make conformance` runs all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx
import pytest

from planish.compiler.harness.case import Case
from planish.compiler.harness.check import check
from planish.compiler.harness.lossless import chained
from planish.compiler.harness.suites import SUITES
from planish.compiler.harness.suites.constants import CONSTANTS, variants
from planish.compiler.harness.suites.exclusions import NO_LOCALE, excluded, survey, why_not
from planish.compiler.harness.suites.node_cases import (
    NODE_CASES,
    all_node_cases,
    node_cases,
    op_types,
)
from planish.compiler.harness.suites.renew import LISTS
from planish.targets.runtime import runtime_version

PARTS = 8
EVERY = 3
"""Of the variants with constants these tests run one in so many, and one of each operator."""


@pytest.mark.parametrize("part", range(PARTS))
def test_lossless_passes_keep_every_promise_on_node_cases(part: int) -> None:
    assert not broken(list(node_cases())[part::PARTS])


@pytest.mark.parametrize("part", range(PARTS))
def test_lossless_passes_keep_every_promise_where_data_is_constant(part: int) -> None:
    assert not broken(list(share(SUITES["onnx-node-constants"].cases()))[part::PARTS])


def broken(cases: Iterable[Case]) -> list[str]:
    """What every failing or skipped case says."""
    said = []
    for case in cases:
        outcome = check(chained(), case)
        said += [f"{case.name}: {failure}" for failure in outcome.failures]
        said += [f"{case.name} was skipped: {outcome.skipped}"] if outcome.skipped else []
    return said


def share(cases: Iterable[Case]) -> Iterator[Case]:
    """One in EVERY, and the first of each operator in each kind of variant."""
    seen: set[tuple[str, str]] = set()
    for number, case in enumerate(cases):
        kind = "constant" if case.name.endswith("-constant") else "fed"
        new = {(kind, op) for op in op_types(case.model)} - seen
        seen |= new
        if new or number % EVERY == 0:
            yield case


def test_the_share_holds_every_operator() -> None:
    cases = list(SUITES["onnx-node-constants"].cases())
    chosen = list(share(cases))
    assert operators(chosen) == operators(cases)
    assert len(chosen) < len(cases) / 2


def operators(cases: Iterable[Case]) -> set[str]:
    return {op for case in cases for op in op_types(case.model)}


@pytest.mark.parametrize("file", LISTS)
def test_the_list_of_what_is_left_out_is_exact(file: str) -> None:
    listed, (_, cases) = dict(excluded(file).reasons), LISTS[file]
    found = survey(cases())
    for name in [n for n, reason in listed.items() if reason == NO_LOCALE]:
        found.setdefault(name, NO_LOCALE)  # where the machine has it, the case would run
    wrong = [
        f"{name}: {reason}, and is not listed"
        for name, reason in found.items()
        if name not in listed
    ]
    wrong += [f"{name} is listed, and runs: {listed[name]}" for name in listed if name not in found]
    wrong += [
        f"{name}: {found[name]}, is listed under: {reason}"
        for name, reason in listed.items()
        if found.get(name, reason) != reason
    ]
    assert not wrong, "\n".join([*wrong, advice(file)])


def advice(file: str) -> str:
    made = excluded(file)
    return (
        f"{file} was made with onnx {made.onnx} and onnxruntime {made.onnxruntime}; here are "
        f"{onnx.__version__} and {runtime_version()}. With other versions, or once a new reason "
        "was found good: `python -m planish.compiler.harness.suites.renew`, and read the "
        "difference before it is committed."
    )


def test_no_case_leaves_silently() -> None:
    """All cases that the onnx package makes are run or listed, and nothing else is listed."""
    every, listed = set(all_node_cases()), set(excluded(NODE_CASES).reasons)
    run = {case.name for case in node_cases()}
    assert listed < every
    assert run == every - listed
    assert len(run) > 1350


def test_every_variant_with_constants_is_run_or_listed() -> None:
    listed = set(excluded(CONSTANTS).reasons)
    every = [variant.name for case in node_cases() for variant in variants(case)]
    run = [case.name for case in SUITES["onnx-node-constants"].cases()]
    assert len(set(every)) == len(every)
    assert sorted(run) == sorted(set(every) - listed)


def test_a_case_that_does_not_run_or_is_random_is_found_out() -> None:
    good = next(iter(node_cases()))
    assert why_not(good) is None
    unknown = with_op(good.model, "Unheard")
    assert why_not(Case("unknown", unknown, good.feeds)) == "the runtime does not know the operator"
    noise = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]> g () => (float[8] y) '
        "{ y = RandomNormal <shape = [8]> () }"
    )
    assert "different bits" in str(why_not(Case("noise", noise, ({},))))


def with_op(model: onnx.ModelProto, op_type: str) -> onnx.ModelProto:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    changed.graph.node[0].op_type = op_type
    return changed
