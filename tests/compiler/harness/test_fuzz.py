"""Fuzzing: what is tried, that it goes on where it stopped, and that sharing changes nothing."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from planish.compiler.harness import fuzz
from planish.compiler.harness.check import check
from planish.compiler.harness.fuzzlog import FILE, Done, Log
from planish.compiler.harness.generator import TOWERS, generated
from planish.compiler.harness.memory import Memory
from planish.compiler.harness.plans import PLANS, Plan
from planish.compiler.harness.subject import Subject
from planish.compiler.pipeline import parse
from planish.ir.errors import InputError, UsageError
from planish.ir.load import load_model
from planish.ir.sites import find_sites
from planish.passes.api import registered

SOME: dict[str, tuple[int, ...]] = {
    "": (0, 1, 2, 3),
    "transformer": (4, 6),
    "convnet": (4, 7),
    "recurrent": (0, 1, 2, 3, 4, 5, 6, 7),
}
"""By what they begin with, numbers of graphs of seed 11 on which each pass finds something."""
CHANNELS = "canonicalize,prune-channels{ratio=0.5 multiples=false residual=true}"
FOUND = (
    (664, "convnet", CHANNELS, "x86-avx512-vnni"),
    (1034, "convnet", CHANNELS, "x86-avx512-vnni"),
    (899, "transformer", "canonicalize,quantize-mxfp8", "nvidia-blackwell"),
    (2107, "transformer", "canonicalize", "nvidia-blackwell"),
    (919, "", "weight-only", "x86-avx512-vnni"),
    (923, "", "weight-only", "x86-avx512-vnni"),
    (1537, "", "weight-only", "x86-avx512-vnni"),
    (2362, "", "canonicalize", "x86-avx512-vnni"),
    (2599, "", "canonicalize", "x86-avx512-vnni"),
    (2948, "convnet", "canonicalize", "x86-avx512-vnni"),
    (6030, "transformer", "canonicalize,sparsify{small=true}", "nvidia-ampere"),
    (6051, "", "canonicalize,equalize", "x86-avx512-vnni"),
)
"""Graphs of seed 0 that broke a pass once."""


def test_every_pass_of_ours_is_fuzzed() -> None:
    tried = {step.name for plan in PLANS for step in parse(plan.pipeline)}
    assert tried == {name for name, cls in registered().items() if ours(cls)}


def ours(cls: type) -> bool:
    return cls.__module__.startswith("planish.passes.")


@pytest.mark.parametrize(("number", "tower", "pipeline", "target"), FOUND)
def test_what_broke_a_pass_once_breaks_it_no_more(
    number: int, tower: str, pipeline: str, target: str
) -> None:
    (case,) = generated(1, 0, start=number, tower=tower)
    outcome = check(Subject(pipeline, target), case)
    assert outcome.failures == ()
    assert outcome.edits
    assert not outcome.skipped


def test_pipelines_share_what_they_have_in_common_and_show_the_same() -> None:
    lines = ("canonicalize,prune-neurons{multiples=false}", "canonicalize,low-rank{gain=size}")
    edits = 0
    for case in generated(3, 3, tower="transformer"):
        memory = Memory()
        for line in lines:
            subject = Subject(line, "x86-avx512-vnni")
            shared, alone = check(subject, case, memory), check(subject, case)
            assert shared == alone == check(subject, case, Memory(twice=False))
            assert shared.by_step == alone.by_step
            edits += alone.by_step.get(str(parse(line)[1]), 0)
    assert edits


def test_it_goes_on_where_it_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan, keep = "canonicalize{rules=exact}", ["--keep", str(tmp_path)]
    assert fuzz.main([plan, "--count", "3", *keep]) == 0
    assert fuzz.main([plan, "--count", "5", *keep]) == 0
    assert "numbers 0 to 4: 5 graphs" in capsys.readouterr().out
    log = Log.read(tmp_path, 0, 0)
    done = log.of(Plan(plan))
    assert (done.seen, done.failing) == (5, 0)
    assert done.edits[plan] > 0
    assert Log.read(tmp_path, 1, 0).of(Plan(plan)) == Done()
    assert json.loads((tmp_path / FILE).read_text())
    (tmp_path / FILE).write_text("[1]")
    with pytest.raises(InputError, match="record of fuzzing"):
        fuzz.main([plan, *keep])


def test_a_pass_that_edited_nothing_was_not_tried() -> None:
    plan = Plan("canonicalize,quantize")
    edited = {"canonicalize": 7}
    assert fuzz.untried(plan, Done(seen=1000, edits=edited)) == ["quantize"]
    assert fuzz.untried(plan, Done(seen=1000, edits=edited | {"quantize": 1})) == []
    assert fuzz.untried(plan, Done(seen=5)) == []


@pytest.mark.parametrize("tower", TOWERS)
def test_a_tower_stands_in_nearly_every_graph(tower: str) -> None:
    kinds = {"transformer": "attention", "convnet": "conv", "recurrent": "LSTM"}
    found = 0
    for case in generated(25, 2, tower=tower):
        model = load_model(case.model).model
        seen = {site.kind for site in find_sites(model)} | {n.op_type for n in model.graph}
        found += kinds[tower] in seen
    assert found >= 15
    with pytest.raises(UsageError, match=tower):
        next(generated(1, tower=tower[:-1]))


@pytest.mark.parametrize("tower", ["", *TOWERS])
def test_no_pass_of_ours_breaks_what_it_was_made_for(tower: str) -> None:
    """Every pipeline that is fuzzed, on a few graphs that ``make fuzz`` begins with elsewhere."""
    plans = [plan for plan in PLANS if plan.tower == tower]
    edited, broken = Counter[str](), list[str]()
    for case in (c for n in SOME[tower] for c in generated(1, 11, start=n, tower=tower)):
        memory = Memory()
        for plan in plans:
            outcome = check(plan.subject(), case, memory)
            edited.update({step.partition("{")[0]: n for step, n in outcome.by_step.items()})
            broken += [f"{plan.pipeline}: {failure}" for failure in outcome.failures]
    assert broken == []
    meant = {parse(plan.pipeline)[-1].name for plan in plans if tower}
    assert not [name for name in meant if not edited[name]]
