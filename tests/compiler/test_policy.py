"""Policy proposes what suits the layers, the data and the target; proposals parse and run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest

from planish.compiler.pipeline import parse
from planish.compiler.policy import MOST_TRIED, Proposed, check_served, propose, untried
from planish.compiler.workload import Workload
from planish.compiler.workshop import instantiate
from planish.ir.errors import TargetError
from planish.ir.load import load_model
from planish.targets.loader import load_target, target_names
from planish.targets.schema import Target
from planish.targets.techniques import TECHNIQUES, one

LINEAR = ("p = MatMul(x, w) y = Add(p, b)", 'float["n", 64] x', 'float["n", 64] y')
LARGE = ("y = MatMul(x, large)", 'float["n", 512] x', 'float["n", 512] y')
CONV = ("y = Conv(x, c)", 'float["n", 32, 8, 8] x', 'float["n", 32, 6, 6] y')
BOTH = (
    "f = Conv(x, c) t = GlobalAveragePool(f) u = Reshape(t, flat) y = MatMul(u, v)",
    'float["n", 32, 8, 8] x',
    'float["n", 64] y',
)
JOINED = (
    "f = Conv<pads=[1,1,1,1]>(x, c) r = Relu(f) g = Conv<pads=[1,1,1,1]>(r, c) y = Add(g, r)",
    'float["n", 32, 8, 8] x',
    'float["n", 32, 8, 8] y',
)
NARROW = ("y = Conv(x, stem)", 'float["n", 3, 8, 8] x', 'float["n", 32, 6, 6] y')
LSTM = ("y = LSTM<hidden_size=16>(x, lw, lr)", "float[t, n, 64] x", "float[t, 1, n, 16] y")
TABLE = ("y = Gather(table, x)", 'int64["n", "s"] x', 'float["n", "s", 64] y')
WORDS = ("e = Gather(table, x) y = MatMul(e, w)", TABLE[1], TABLE[2])
NEITHER = ("y = Relu(x)", 'float["n", 64] x', 'float["n", 64] y')
QUANTIZED = (
    "d = DequantizeLinear(q, s) y = MatMul(x, d)",
    'float["n", 64] x',
    'float["n", 64] y',
)
WEIGHTS = {
    "w": (64, 64),
    "large": (512, 512),
    "v": (32, 64),
    "b": (64,),
    "c": (32, 32, 3, 3),
    "stem": (32, 3, 3, 3),
    "table": (1000, 64),
    "lw": (1, 64, 64),
    "lr": (1, 64, 16),
}


ROWS = 8
"""Rows up to which few-bit weights win on the target of these tests."""
DYNAMIC = "canonicalize,quantize"
STATIC = "canonicalize,quantize{scheme=static}"
EQUALIZED = "canonicalize,equalize,quantize{scheme=static}"
WIDE = "canonicalize,quantize{scheme=static narrow=true}"
RESIDUALS = f"{STATIC},quantize-residuals"
EQUALIZED_RESIDUALS = f"{EQUALIZED},quantize-residuals"
INT4 = "canonicalize,weight-only"
INT8 = "canonicalize,weight-only{bits=8}"
MIXED = "canonicalize,weight-only{layers=false},quantize"


def model(kit: ModuleType, text: tuple[str, str, str]) -> onnx.ModelProto:
    weights: Mapping[str, np.ndarray] = {n: kit.normal(*s) for n, s in WEIGHTS.items()}
    extra = {"flat": np.array([0, -1]), "q": np.ones((64, 64), np.int8), "s": np.float32(0.1)}
    used = {n: a for n, a in {**weights, **extra}.items() if n in text[0].replace("(", " ")}
    return kit.graph(text[0], used, text[1], text[2])  # type: ignore[no-any-return]


def target(most_rows: int | None = ROWS, **changes: Any) -> Target:
    plain = load_target("x86-avx2")
    return replace(plain, weight_only=replace(plain.weight_only, most_rows=most_rows), **changes)


def found(
    kit: ModuleType,
    text: tuple[str, str, str],
    *,
    calibrated: bool = True,
    on: Target | None = None,
    rows: int = 256,
    **options: Any,
) -> Proposed:
    graph = load_model(model(kit, text)).model
    options.setdefault("workloads", [Workload({"n": rows, "s": 1})])
    return propose(graph, on or target(), calibrated=calibrated, **options)


def pipelines(proposed: Proposed) -> list[str]:
    return [p.pipeline for p in proposed.proposals]


def codes(proposed: Proposed) -> dict[str, str]:
    return {a.technique: a.code for a in proposed.aside}


@pytest.mark.parametrize(
    ("text", "with_data", "without"),
    [
        (LINEAR, [STATIC, EQUALIZED, DYNAMIC], [DYNAMIC]),
        (CONV, [STATIC, EQUALIZED], []),
        (JOINED, [RESIDUALS, EQUALIZED_RESIDUALS], []),
        (NARROW, [WIDE, STATIC, f"canonicalize,equalize,{WIDE.split(',')[1]}"], []),
        (BOTH, [STATIC, EQUALIZED, DYNAMIC], [DYNAMIC]),
        (WORDS, [STATIC, EQUALIZED, DYNAMIC], [DYNAMIC]),
        (LSTM, ["canonicalize,quantize-recurrent"], ["canonicalize,quantize-recurrent"]),
        (TABLE, [DYNAMIC, INT4, INT8], [DYNAMIC, INT4, INT8]),
        (NEITHER, [], []),
        (QUANTIZED, [], []),
    ],
)
def test_what_is_proposed_for_speed_with_many_rows(
    kit: ModuleType, text: tuple[str, str, str], with_data: list[str], without: list[str]
) -> None:
    assert pipelines(found(kit, text)) == with_data
    assert pipelines(found(kit, text, calibrated=False)) == without


def test_few_bits_come_first_at_one_row_and_go_at_many(kit: ModuleType) -> None:
    few = found(kit, LINEAR, rows=1)
    assert pipelines(few)[0] == INT4
    assert "100 % of the linear weights meet few rows" in few.proposals[0].reason
    many = found(kit, LINEAR, rows=256)
    assert INT4 not in pipelines(many)
    assert codes(many)["weight-only-int4"] == codes(many)["weight-only-int8"] == "many-rows"
    (sentence,) = untried(many)
    assert sentence.startswith("not tried: weight-only-int8, weight-only-int4 (many-rows: every")
    assert untried(found(kit, NEITHER)) == ()


def test_recurrent_layers_go_through_their_own_pass_behind_all_others(kit: ModuleType) -> None:
    both = (
        "p = MatMul(x, w) a = Add(p, b) y = LSTM<hidden_size=16>(a, lw, lr)", LSTM[1], LSTM[2]
    )  # fmt: skip
    steps = [pipeline.split(",")[-1] for pipeline in pipelines(found(kit, both))]
    assert set(steps) == {"quantize-recurrent"}
    assert pipelines(found(kit, both, calibrated=False))[0] == f"{DYNAMIC},quantize-recurrent"


def test_a_small_layer_behind_convolutions_decides_nothing(kit: ModuleType) -> None:
    """Its rows are few, and so are its weights."""
    assert pipelines(found(kit, BOTH, rows=1))[0] == STATIC


@pytest.mark.parametrize(("rows", "wins"), [(ROWS, True), (ROWS + 1, False)])
def test_the_break_even_is_the_target_s(kit: ModuleType, rows: int, wins: bool) -> None:
    assert (INT4 in pipelines(found(kit, LINEAR, rows=rows))) == wins


@pytest.mark.parametrize(("rows", "tried"), [(1, True), (2, False)])
def test_an_unknown_break_even_is_taken_as_one_row(kit: ModuleType, rows: int, tried: bool) -> None:
    proposed = found(kit, LINEAR, rows=rows, on=target(None))
    assert (INT4 in pipelines(proposed)) == tried


def test_a_mixed_workload_tries_few_bits_first_where_most_runs_gain(kit: ModuleType) -> None:
    def mixed(share: float) -> list[str]:
        each = [Workload({"n": 1}, share), Workload({"n": 512}, 1 - share)]
        return pipelines(found(kit, LINEAR, workloads=each))

    assert mixed(0.9)[0] == INT4
    assert mixed(0.1)[0] == STATIC
    assert INT4 in mixed(0.1)


def test_size_takes_the_fewest_bytes_first_whatever_the_rows(kit: ModuleType) -> None:
    for rows in (1, 4096):
        with_data = found(kit, WORDS, rows=rows, goal="size")
        assert pipelines(with_data)[0] == INT4
        without = found(kit, WORDS, rows=rows, goal="size", calibrated=False)
        assert pipelines(without) == [INT4, MIXED, DYNAMIC, INT8]


def test_4_bit_floats_come_behind_8_bit_ones_for_speed_and_before_them_for_size(
    kit: ModuleType,
) -> None:
    b200 = load_target("nvidia-b200")
    fast = pipelines(found(kit, LINEAR, on=b200, rows=4096))
    float8, float4 = "canonicalize,quantize-float8", "canonicalize,quantize-float4"
    assert fast[:2] == [float8, float4]
    small = pipelines(found(kit, LARGE, on=b200, rows=4096, goal="size"))
    assert small[:3] == ["canonicalize,weight-only{block=128}", float4, float8]
    assert float4 not in pipelines(found(kit, LINEAR, on=b200, rows=4096, calibrated=False))
    assert float4 not in pipelines(found(kit, LINEAR, on=load_target("nvidia-h100"), rows=4096))


def test_tables_that_are_not_looked_up_packed_save_nothing(kit: ModuleType) -> None:
    a100 = load_target("nvidia-a100")
    assert "canonicalize,weight-only{block=128}" in pipelines(
        found(kit, WORDS, on=a100, goal="size")
    )
    alone = found(kit, TABLE, on=a100, goal="size")
    assert pipelines(alone) == []
    (aside,) = [a for a in alone.aside if a.technique == "weight-only-int4"]
    assert (aside.code, aside.sentence) == ("no-site", "the model has no float linear layer")


def test_tables_in_4_bits_are_tried_beside_layers_in_8_where_they_weigh_enough(
    kit: ModuleType,
) -> None:
    for goal in ("size", "balanced"):
        assert MIXED in pipelines(found(kit, WORDS, goal=goal, calibrated=False))
        assert MIXED not in pipelines(found(kit, LINEAR, goal=goal, calibrated=False))
    assert MIXED not in pipelines(found(kit, WORDS, calibrated=False, rows=1))
    none = replace(target(), weight_only=replace(target().weight_only, bits=(8,)))
    assert MIXED not in pipelines(found(kit, WORDS, on=none, goal="size", calibrated=False))


def test_size_counts_what_a_technique_leaves_float(kit: ModuleType) -> None:
    """Nine in ten of the weights are a convolution's: only static int8 makes these smaller."""
    assert pipelines(found(kit, BOTH, goal="size"))[0] == STATIC


def test_balanced_keeps_both_kinds(kit: ModuleType) -> None:
    many = pipelines(found(kit, LINEAR, goal="balanced"))
    assert many[0] == STATIC
    assert INT4 in many
    assert pipelines(found(kit, LINEAR, goal="balanced", rows=1))[0] == INT4


def test_so_many_are_tried_and_no_more(kit: ModuleType) -> None:
    proposed = found(kit, LINEAR, rows=1)
    assert len(proposed.proposals) == MOST_TRIED
    (late,) = [a for a in proposed.aside if a.by == "limit"]
    assert late.pipeline == INT8
    assert f"{MOST_TRIED} likelier" in late.sentence
    assert "--passes" in late.sentence
    (first,) = found(kit, LINEAR, rows=1, most=1).proposals
    assert first.pipeline == INT4


def test_every_technique_is_proposed_or_set_aside_with_a_code(kit: ModuleType) -> None:
    for calibrated in (True, False):
        proposed = found(kit, LINEAR, calibrated=calibrated)
        named = {p.technique for p in proposed.proposals} | set(codes(proposed))
        assert named == set(TECHNIQUES)
        assert all(a.code and a.sentence for a in proposed.aside)
    assert codes(proposed)["int8-static"] == "no-calibration"
    assert codes(proposed)["weight-only-int2"] == "on-request"
    assert codes(proposed)["low-rank"] == "on-request"
    assert codes(proposed)["2:4"] == "no-sparse-kernel"


def test_what_the_target_refuses_is_set_aside_in_its_words(kit: ModuleType) -> None:
    plain = target()
    none = replace(plain, int8=replace(plain.int8, supported=False))
    proposed = found(kit, LINEAR, on=none)
    for name in ("int8-static", "int8-dynamic", "2:4"):
        refused = one(none, name)
        (aside,) = [a for a in proposed.aside if a.technique == name]
        assert (aside.by, aside.code) == ("target", refused.code)
        assert aside.sentence == refused.sentence


def test_integers_that_are_no_faster_serve_size_alone(kit: ModuleType) -> None:
    plain = target()
    slow = replace(plain, int8=replace(plain.int8, speed_ratio=0.9))
    assert codes(found(kit, LINEAR, on=slow))["int8-static"] == "no-faster"
    assert STATIC in pipelines(found(kit, LINEAR, on=slow, goal="size"))


def test_the_block_is_one_that_the_kernels_take(kit: ModuleType) -> None:
    plain = target()
    wide = replace(plain, weight_only=replace(plain.weight_only, blocks=(64, 128)))
    assert pipelines(found(kit, LINEAR, on=wide, rows=1))[0] == (
        "canonicalize,weight-only{block=64}"
    )


def nothing() -> Target:
    plain = target()
    int8 = replace(plain.int8, supported=False)
    return replace(plain, int8=int8, weight_only=replace(plain.weight_only, bits=()))


@pytest.mark.parametrize("goal", ["latency", "size", "balanced"])
def test_a_goal_that_no_technique_can_serve(goal: Any) -> None:
    with pytest.raises(TargetError, match=f"no technique can serve the goal '{goal}'") as caught:
        check_served(nothing(), goal)
    for name in ("int8-static", "int8-dynamic", "weight-only-int4"):
        assert name in caught.value.what
        assert one(nothing(), name).code in caught.value.what
    check_served(target(), goal)


def test_a_compile_for_size_on_such_a_target_ends_before_any_work(
    kit: ModuleType, tmp_path: Path
) -> None:
    with pytest.raises(TargetError, match="no technique can serve"):
        kit.compiled(kit.chain(1), tmp_path / "out", target=nothing(), goal="size")
    assert kit.everything(tmp_path) == []
    built = kit.compiled(kit.chain(1), tmp_path / "out", target=nothing(), goal="latency")
    assert built.result.lossless


@pytest.mark.parametrize("name", target_names())
@pytest.mark.parametrize("goal", ["latency", "size", "balanced"])
def test_every_proposal_is_a_pipeline_with_a_reason(kit: ModuleType, name: str, goal: Any) -> None:
    for proposal in found(kit, BOTH, on=load_target(name), goal=goal, rows=1).proposals:
        pipeline = parse(proposal.pipeline)
        assert str(pipeline) == proposal.pipeline
        assert instantiate(pipeline)
        assert proposal.reason
