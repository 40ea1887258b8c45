"""Compiles of small models end to end: goals, verdicts, data, replay. No clock decides."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from planish.compiler import choose as choosing
from planish.compiler.quality.scores import Scores
from planish.compiler.reporting.headline import LOSSLESS, headline
from planish.compiler.result import Built, CompileResult
from planish.compiler.workshop import Build, Judged, Workshop
from planish.ir.digest import contents_digest, file_digest
from planish.ir.errors import InputError, TargetError, UsageError
from planish.ir.signature import Signature
from planish.ir.verify import violations
from planish.targets.runtime import open_session

STATIC = "canonicalize,quantize{scheme=static}"
DYNAMIC = "canonicalize,quantize"
Compile = Callable[..., Built]
Clock = Callable[[Callable[[onnx.ModelProto], float]], None]


@pytest.fixture
def clock(kit: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """``clock(seconds)``: from now on a model takes ``seconds(proto)``."""
    return lambda seconds: monkeypatch.setattr(choosing, "time_alternating", kit.made_up(seconds))


@pytest.fixture
def compiled(kit: ModuleType, tmp_path: Path, clock: Clock) -> Compile:
    """``compiled(model, **options)`` into the folder ``out``; int8 takes half as long as float.

    The target has no kernels for weights of few bits: int8 is all there is to choose.
    """
    clock(lambda model: 0.5 if kit.integers(model) else 1.0)
    plain = kit.target()
    integers_only = replace(plain, weight_only=replace(plain.weight_only, bits=()))

    def run(model: Any, output: str = "out", **options: Any) -> Built:
        settings = {"target": integers_only} | options
        built: Built = kit.compiled(model, tmp_path / output, **settings)
        return built

    return run


def saved(model: onnx.ModelProto, folder: Path) -> Path:
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def answers(model: Path | bytes, feeds: list[dict[str, np.ndarray]]) -> np.ndarray:
    session = open_session(model, threads=1)
    return np.concatenate([session.run(feed)[0] for feed in feeds])


def scheme(kit: ModuleType, built: Built) -> str:
    model = onnx.load(built.folder / "model.onnx")
    if not kit.integers(model):
        return "float"
    return "dynamic" if kit.dynamic(model) else "static"


# -- what comes out ----------------------------------------------------------------------


def test_every_field_of_the_result_says_something(
    compiled: Compile, kit: ModuleType, tmp_path: Path
) -> None:
    path = saved(kit.chain(3), tmp_path)
    result = compiled(str(path), command="planish compile", seed=3).result
    model = tmp_path / "out" / "model.onnx"
    empty = [f.name for f in fields(CompileResult) if getattr(result, f.name) in (None, "", (), {})]
    elsewhere = ["not_on_target", "reference_runtime", "shortfall", "session_options"]
    assert empty == [*elsewhere, "engine", "provider", "reference_model"]  # of other runtimes
    assert (result.source, result.target, result.resolved_target) == (
        str(path), kit.TARGET, kit.TARGET,
    )  # fmt: skip
    assert (result.goal, result.command, result.run_on_target) == (
        "latency",
        "planish compile",
        True,
    )
    assert (result.bytes_before, result.bytes_after) == (path.stat().st_size, model.stat().st_size)
    assert result.parameters_before == 3 * (64 * 64 + 64)
    assert result.parameters_after == result.parameters_before
    assert result.settings == {"threads": 1, "seed": 3, "goal": "latency"}
    assert set(result.seconds) == {"canonicalize", "equalize", "quantize", "total"}
    assert 0 < sum(v for k, v in result.seconds.items() if k != "total") <= result.seconds["total"]
    assert result.peak_rss_bytes is not None
    assert 10e6 < result.peak_rss_bytes < 64e9
    assert {"python", "system", "machine", "planish", "onnxruntime", "numpy"} <= set(
        result.environment
    )
    assert all(result.environment.values())
    assert {e.pass_name for e in result.edits} >= {"quantize"}
    assert result.exit_code == 0


def test_digests_are_those_of_what_was_read_and_written(
    compiled: Compile, kit: ModuleType, tmp_path: Path
) -> None:
    path = saved(kit.chain(2), tmp_path)
    result = compiled(str(path)).result
    assert set(result.digests) == {"source", "model", "holdout", "calibration", "target"}
    assert all(len(d) == 32 and int(d, 16) >= 0 for d in result.digests.values())
    assert result.digests["source"] == file_digest(path)
    assert result.digests["model"] == contents_digest(ir.load(tmp_path / "out" / "model.onnx"))
    assert result.digests["holdout"] != result.digests["calibration"]
    other = compiled(str(path), "other", calibration=kit.feeds(6, rows=7)).result.digests
    assert {k for k in other if other[k] != result.digests[k]} >= {"holdout", "calibration"}
    assert other["source"] == result.digests["source"]
    assert other["target"] == result.digests["target"]


def test_samples_are_what_the_written_model_answers(
    compiled: Compile, kit: ModuleType, tmp_path: Path
) -> None:
    path = saved(kit.chain(2), tmp_path)
    result = compiled(str(path)).result
    after = open_session(tmp_path / "out" / "model.onnx", threads=1)
    before = open_session(path, threads=1)
    assert result.samples
    for sample in result.samples:
        assert sample.feeds["x"].shape == (2, 64)
        np.testing.assert_array_equal(sample.outputs["y"], after.run(sample.feeds)[0])
        np.testing.assert_array_equal(sample.original["y"], before.run(sample.feeds)[0])
        apart = np.abs(sample.outputs["y"] - sample.original["y"]).max()
        assert 0.5 * apart <= result.tolerance["y"] <= np.abs(sample.outputs["y"]).max()


def test_it_is_the_written_file_that_answers(
    compiled: Compile, kit: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were the writing to go wrong, the samples would show it."""
    other = kit.chain(2, gains={1: 3.0})

    def wrong(model: ir.Model, path: Path, **_: object) -> None:
        onnx.save(other, path)

    monkeypatch.setattr("planish.compiler.driver.save_model", wrong)
    built = compiled(kit.chain(2), pipeline=STATIC)
    session = open_session(other.SerializeToString(), threads=1)
    for sample in built.result.samples:
        np.testing.assert_array_equal(sample.outputs["y"], session.run(sample.feeds)[0])


def test_parameters_are_counted_before_and_after(compiled: Compile, kit: ModuleType) -> None:
    """A folded normalisation is gone from the model handed over, and only from that."""
    names = ("scale", "shift", "mean", "var")
    weights = {
        "conv.weight": kit.normal(32, 16, 3, 3),
        **{n: 1 + kit.normal(32) ** 2 for n in names},
    }
    model = kit.graph(
        'c = Conv(x, "conv.weight") y = BatchNormalization(c, scale, shift, mean, var)',
        weights,
        'float["n", 16, 6, 6] x',
        'float["n", 32, 4, 4] y',
    )
    data = [{"x": kit.normal(4, 16, 6, 6, seed=i)} for i in range(6)]
    result = compiled(model, calibration=data, pipeline="canonicalize").result
    assert result.parameters_before == 32 * 16 * 9 + 4 * 32
    assert result.parameters_after == 32 * 16 * 9 + 32


def test_the_written_model_has_the_signature_and_is_well_formed(
    compiled: Compile, kit: ModuleType
) -> None:
    source = kit.chain(2)
    built = compiled(source)
    written = ir.load(built.folder / "model.onnx")
    signature = Signature.of(ir.from_proto(source))
    assert Signature.of(written) == signature
    assert violations(written, signature) == []


def test_every_layer_has_a_kernel_and_none_surprises(compiled: Compile, kit: ModuleType) -> None:
    built = compiled(kit.chain(3), pipeline=f"{STATIC[:-1]} exclude=block1}}")
    kernels = {k.site: k for k in built.result.kernels.sites}
    assert [kernels[f"block{i}"].integer for i in range(3)] == [True, False, True]
    assert kernels["block1"].reason == "left float on request"
    assert built.result.kernels.surprises == ()


def test_held_out_data_are_compared_with_calibrated_ranges(
    compiled: Compile, kit: ModuleType
) -> None:
    beyond = [{"x": 10 * feed["x"]} for feed in kit.feeds(2)]
    options = {"pipeline": STATIC, "max_drift": "sqnr=-100"}
    inside = compiled(kit.chain(1), **options).result.quality.coverage
    outside = compiled(kit.chain(1), "wide", holdout=beyond, **options).result.quality.coverage
    assert set(inside) == set(outside) == {"x"}
    assert inside["x"] < 0.01
    assert outside["x"] > 0.5


def test_a_compile_is_the_same_the_second_time(compiled: Compile, kit: ModuleType) -> None:
    built = [compiled(kit.chain(3), name) for name in ("one", "two")]
    first, second = ((b.folder / "model.onnx").read_bytes() for b in built)
    assert first == second
    assert built[0].result.plan == built[1].result.plan
    assert built[0].result.edits == built[1].result.edits


# -- goals and verdicts ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("static", "dynamic", "chosen"), [(0.4, 0.5, "static"), (0.5, 0.4, "dynamic")]
)
def test_the_faster_scheme_is_chosen_by_measuring(
    compiled: Compile, kit: ModuleType, clock: Clock, static: float, dynamic: float, chosen: str
) -> None:
    def seconds(model: onnx.ModelProto) -> float:
        if not kit.integers(model):
            return 1.0
        return dynamic if kit.dynamic(model) else static

    clock(seconds)
    built = compiled(kit.chain(2))
    assert scheme(kit, built) == chosen
    assert built.result.speed.verdict == "faster"
    assert built.result.speed.ratio == pytest.approx(2.5)
    assert [t.chosen for t in built.result.trials].count(True) == 1
    (trial,) = [t for t in built.result.trials if t.chosen]
    assert trial.pipeline == built.result.plan.pipeline
    assert trial.speedup == pytest.approx(2.5)


@pytest.mark.parametrize(
    ("goal", "seconds", "chosen", "verdict", "code"),
    [
        ("latency", 1.0, "float", "no-gain", 8),
        ("latency", 1.5, "float", "no-gain", 8),
        ("size", 1.0, "dynamic", "no-gain", 0),
        ("size", 1.5, "dynamic", "slower", 0),
        ("balanced", 0.8, "dynamic", "faster", 0),
        ("balanced", 1.0, "dynamic", "no-gain", 0),
        ("balanced", 1.5, "float", "no-gain", 8),
    ],
)
def test_what_is_handed_over_where_int8_is_not_faster(
    compiled: Compile,
    kit: ModuleType,
    clock: Clock,
    goal: str,
    seconds: float,
    chosen: str,
    verdict: str,
    code: int,
) -> None:
    clock(lambda model: seconds if kit.integers(model) else 1.0)
    result = (built := compiled(kit.chain(2), goal=goal, calibration=False)).result
    assert scheme(kit, built) == chosen
    assert (result.speed.verdict, result.exit_code) == (verdict, code)
    assert result.lossless is (chosen == "float")
    assert (LOSSLESS in headline(result)) is (chosen == "float")
    assert [t.chosen for t in result.trials] == [chosen == "float", chosen != "float"]
    if chosen == "float":
        assert {k.reason for k in result.kernels.sites} == {
            "quantization did not pay on this model"
        }


def test_what_was_forgone_is_said(compiled: Compile, kit: ModuleType, clock: Clock) -> None:
    clock(lambda model: 1.25 if kit.integers(model) else 1.0)
    result = compiled(kit.chain(2), goal="balanced").result
    (note,) = result.notes
    best = min(trial.bytes for trial in result.trials)
    assert f"{result.bytes_before / best:.1f}x smaller but runs at 0.80x" in note
    assert "--goal size" in note


def test_a_pipeline_that_comes_to_the_same_graph_is_no_other_candidate(
    compiled: Compile, kit: ModuleType, clock: Clock
) -> None:
    clock(lambda model: 0.5 if kit.integers(model) else 1.0)
    trials = compiled(kit.chain(1)).result.trials  # one layer: no scale to move
    assert [t.pipeline for t in trials] == [
        "canonicalize", "canonicalize,quantize{scheme=static}", "canonicalize,quantize",
    ]  # fmt: skip
    assert [t.chosen for t in trials].count(True) == 1


def test_layers_of_the_lossless_model_say_why_no_candidate_took_them(
    compiled: Compile, kit: ModuleType, clock: Clock
) -> None:
    model = kit.graph(
        'a = MatMul(x, "large") y = MatMul(a, "small")',
        {"large": kit.normal(64, 64), "small": kit.normal(64, 8)},
        'float["batch", 64] x',
        'float["batch", 8] y',
    )
    clock(lambda proto: 2.0 if kit.integers(proto) else 1.0)
    reasons = [site.reason for site in compiled(model).result.kernels.sites]
    assert reasons[0] == "quantization did not pay on this model"
    assert reasons[1] == "a 64x8 product is smaller than 64 on a side"


def test_what_a_lossless_choice_forgoes_is_said_too(
    compiled: Compile, kit: ModuleType, clock: Clock
) -> None:
    model = kit.graph(
        'p = MatMul(x, "w") r = Add(p, x) y = LayerNormalization(r, "s")',
        {"w": kit.normal(64, 64), "s": np.ones(64, np.float32)},
        'float["batch", 64] x',
        'float["batch", 64] y',
    )

    def seconds(proto: onnx.ModelProto) -> float:
        if kit.integers(proto):
            return 2.0
        return 0.99 if any(n.op_type == "Sum" for n in proto.graph.node) else 1.0

    clock(seconds)
    result = compiled(model).result
    assert result.plan.spellings == ("sum-before-norm",)
    assert result.speed.verdict == "no-gain"
    (note,) = result.notes
    assert "x smaller but runs at 0.5" in note


def test_where_even_the_canonical_form_is_slower_the_graph_stays_as_it_was(
    compiled: Compile, kit: ModuleType, clock: Clock
) -> None:
    model = kit.graph(
        'a = Identity(x) y = MatMul(a, "w")',
        {"w": kit.normal(8, 8)},
        'float["batch", 8] x',
        'float["batch", 8] y',
    )
    small = kit.feeds(width=8)
    clock(lambda proto: 1.0 if any(n.op_type == "Identity" for n in proto.graph.node) else 1.5)
    built = compiled(model, calibration=small)
    written = onnx.load(built.folder / "model.onnx")
    assert [n.op_type for n in written.graph.node] == ["Identity", "MatMul"]
    assert (built.result.speed.verdict, built.result.exit_code) == ("no-gain", 8)
    again = compiled(model, "again", calibration=small, plan=built.folder)
    assert file_digest(again.folder / "model.onnx") == file_digest(built.folder / "model.onnx")


def test_where_nothing_pays_a_users_own_file_is_handed_over_byte_for_byte(
    compiled: Compile, kit: ModuleType, clock: Clock, tmp_path: Path
) -> None:
    model = kit.graph(
        'a = Identity(x) y = MatMul(a, "w")',
        {"w": kit.normal(8, 8)},
        'float["batch", 8] x',
        'float["batch", 8] y',
    )
    model.graph.node[0].doc_string = "import drops this"
    own = tmp_path / "own.onnx"
    onnx.save(model, own)
    clock(lambda proto: 1.0)
    built = compiled(own, calibration=kit.feeds(width=8))
    assert (built.folder / "model.onnx").read_bytes() == own.read_bytes()
    again = compiled(own, "again", calibration=kit.feeds(width=8), plan=built.folder)
    assert (again.folder / "model.onnx").read_bytes() == own.read_bytes()
    onnx.save(model, own, save_as_external_data=True, location="own.data", size_threshold=0)
    beside = compiled(own, "beside", calibration=kit.feeds(width=8))
    assert (beside.result.speed.verdict, beside.result.exit_code) == ("no-gain", 8)
    assert not (beside.folder / "own.data").exists()


@pytest.mark.parametrize(
    ("seconds", "verdict", "code"), [(0.5, "faster", 0), (1.0, "no-gain", 8), (1.5, "slower", 6)]
)
def test_a_pipeline_that_was_asked_for_is_done_whatever_it_measures(
    compiled: Compile, kit: ModuleType, clock: Clock, seconds: float, verdict: str, code: int
) -> None:
    clock(lambda model: seconds if kit.integers(model) else 1.0)
    built = compiled(kit.chain(2), pipeline=STATIC)
    assert scheme(kit, built) == "static"
    assert built.result.plan.pipeline == STATIC
    assert (built.result.speed.verdict, built.result.exit_code) == (verdict, code)
    assert headline(built.result).startswith(verdict)
    assert LOSSLESS not in headline(built.result)
    beside, asked = built.result.trials
    assert (beside.lossless, beside.chosen, asked.chosen) == (True, False, True)
    assert asked.speedup == pytest.approx(1.0 / seconds)


@pytest.mark.parametrize(("tidy", "told"), [(0.8, "(2.50-2.50; 1.25x without loss)"), (1.0, "")])
def test_what_comes_without_loss_is_told_apart_from_what_was_asked_for(
    compiled: Compile, kit: ModuleType, clock: Clock, tidy: float, told: str
) -> None:
    model = kit.chain(2)
    model.graph.node[0].input[0] = "same"
    model.graph.node.insert(0, onnx.helper.make_node("Identity", ["x"], ["same"]))

    def seconds(model: onnx.ModelProto) -> float:
        untouched = any(node.op_type == "Identity" for node in model.graph.node)
        return 0.4 if kit.integers(model) else 1.0 if untouched else tidy

    clock(seconds)
    first_line = headline(compiled(model, pipeline=STATIC).result)
    assert ("without loss" in first_line) is bool(told)
    assert told in first_line


def test_a_model_too_small_to_gain(compiled: Compile, kit: ModuleType, tmp_path: Path) -> None:
    body = "p = MatMul(x, first) r = Relu(p) y = MatMul(r, second)"
    weights = {"first": kit.normal(8, 8), "second": kit.normal(8, 4)}
    model = kit.graph(body, weights, 'float["batch", 8] x', 'float["batch", 4] y')
    path = saved(model, tmp_path)
    built = compiled(str(path), calibration=kit.feeds(width=8))
    assert (built.result.speed.verdict, built.result.exit_code) == ("no-gain", 8)
    assert built.result.quality.verdict == "within-budget"
    assert headline(built.result).startswith("no-gain (the file is your own, byte for byte)")
    fresh = [{"x": kit.normal(16, 8, seed=999)}]
    np.testing.assert_array_equal(answers(built.folder / "model.onnx", fresh), answers(path, fresh))
    reasons = {r.code for r in built.result.remarks if r.kind == "refused"}
    assert reasons <= {"too-small", "no-gain"}


CONVOLUTION = """
    <ir_version: 8, opset_import: ["" : 17]>
    agraph (float[N, 4, 8, 8] x{declared}) => (float[N, 4, 8, 8] y)
    <float[4, 4, 3, 3] w> {{
        c = Conv<pads = [1, 1, 1, 1]>(x, w)
        y = Relu(c)
    }}
"""


@pytest.mark.parametrize("declared", ["", ", float[4, 4, 3, 3] w"])
def test_a_model_is_not_timed_against_itself(
    compiled: Compile, kit: ModuleType, clock: Clock, tmp_path: Path, declared: str
) -> None:
    """Whatever the clock says: one of two equal files is always the faster one.

    Weights that are inputs, too, keep the runtime from what it does with constants: a file where
    import alone has mended that is another one, and may well be faster.
    """
    clock(lambda model: 1.0 if len(model.graph.input) > 1 else 0.5)
    model = ir.from_onnx_text(CONVOLUTION.format(declared=declared))
    weight = next(v for n in model.graph for v in n.inputs if v is not None and v.name == "w")
    weight.const_value = ir.tensor(kit.normal(4, 4, 3, 3), name="w")
    model.graph.register_initializer(weight)
    path = saved(ir.to_proto(model), tmp_path)
    built = compiled(str(path), pipeline="canonicalize", calibration=False)
    same = path.read_bytes() == (built.folder / "model.onnx").read_bytes()
    result = built.result
    assert result.edits == ()
    assert same is (not declared)
    if same:
        assert headline(result).startswith("no-gain (the file is your own, byte for byte), ")
        assert (result.speed.ratio, result.exit_code) == (None, 8)
    else:
        assert (result.speed.verdict, result.exit_code) == ("faster", 0)


def test_a_target_that_cannot_run_here_is_not_measured(
    compiled: Compile, kit: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("timed on the wrong machine")

    monkeypatch.setattr(choosing, "time_alternating", never)
    elsewhere = replace(kit.target(), name="elsewhere", features=("avx9000",))
    result = compiled(kit.chain(2), target=elsewhere).result
    assert (result.speed.verdict, result.exit_code, result.run_on_target) == (
        "not-measured",
        11,
        False,
    )
    assert "avx9000" in result.speed.reason
    assert any("not run on the target" in note for note in result.notes)
    assert "not run on the target elsewhere" in headline(result)
    assert result.quality.verdict == "within-budget"
    assert not result.lossless
    assert {t.speedup for t in result.trials} == {None}


# -- quality -----------------------------------------------------------------------------


WILD = {0: 1000.0, 1: 1000.0}


def test_a_model_that_int8_ruins_gets_sites_back_until_the_gate_holds(
    compiled: Compile, kit: ModuleType, tmp_path: Path
) -> None:
    path = saved(kit.chain(4, gains=WILD), tmp_path)
    built = compiled(str(path), pipeline=STATIC)
    given = built.result.plan.given_back["quantize"]
    assert built.result.quality.verdict == "within-budget"
    assert built.result.shortfall == f"quantize gave back {len(given)} of 4"
    assert 0 < len(given) < 4
    fresh = [{"x": kit.normal(64, 64, seed=999)}]
    exact, moved = answers(path, fresh), answers(built.folder / "model.onnx", fresh)
    assert 10 * np.log10((exact**2).sum() / ((moved - exact) ** 2).sum()) > 19
    ruined = compiled(str(path), "blind", pipeline=STATIC, max_drift="sqnr=-100")
    lost = answers(ruined.folder / "model.onnx", fresh)
    assert 10 * np.log10((exact**2).sum() / ((lost - exact) ** 2).sum()) < 19
    floats = {k.site for k in built.result.kernels.sites if not k.integer}
    assert floats == set(given)
    said = f"{len(given)} sites were given back to float to hold the quality bound, sqnr >= 20 dB"
    assert [said in note for note in built.result.notes].count(True) == 1


def test_wild_channels_that_a_residual_uses_too_end_honestly(
    compiled: Compile, kit: ModuleType, tmp_path: Path
) -> None:
    """Nothing can absorb a scale here. The verdict must say what fresh data show."""
    gain = np.ones(64, np.float32)
    gain[:3] = 1000.0
    weights = {
        "up.weight": kit.normal(64, 64, seed=1, scale=0.1) / gain[:, None],
        "down.weight": kit.normal(64, 64, seed=2, scale=0.1) * gain,
        "head.weight": kit.normal(64, 64, seed=3, scale=0.1) / gain[:, None],
    }
    body = """
        u = MatMul(x, "up.weight") r = Relu(u) d = MatMul(r, "down.weight") h = Add(x, d)
        y = MatMul(h, "head.weight")
    """
    path = saved(kit.graph(body, weights, 'float["n", 64] x', 'float["n", 64] y'), tmp_path)
    data = [{"x": gain * kit.normal(32, 64, seed=i)} for i in range(8)]
    built = compiled(str(path), calibration=data)
    fresh = [{"x": gain * kit.normal(256, 64, seed=999)}]
    exact, moved = answers(path, fresh), answers(built.folder / "model.onnx", fresh)
    noise = float(((moved - exact) ** 2).sum())
    kept = 10 * np.log10(float((exact**2).sum()) / max(noise, 1e-300))
    if built.result.quality.verdict == "within-budget":
        assert kept > 19
        assert any(not k.integer for k in built.result.kernels.sites)
    else:
        assert (built.result.quality.verdict, built.result.exit_code) == ("over-budget", 5)
    blind = compiled(str(path), "blind", calibration=data, pipeline=STATIC, max_drift="sqnr=-100")
    lost = answers(blind.folder / "model.onnx", fresh)
    assert 10 * np.log10((exact**2).sum() / ((lost - exact) ** 2).sum()) < 19


class Worse:
    """A metric that finds every model but the first one it sees worse."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, run: Any) -> float:
        self.asked += 1
        return 1.0 if self.asked == 1 else 0.0


@pytest.mark.parametrize("pipeline", [STATIC, None])
def test_where_giving_back_does_not_help_the_verdict_is_over_budget(
    compiled: Compile, kit: ModuleType, pipeline: str | None
) -> None:
    result = compiled(kit.chain(2), evaluate=Worse(), max_drop=0.5, pipeline=pipeline).result
    assert (result.quality.verdict, result.exit_code) == ("over-budget", 5)
    assert result.lossless
    assert "over-budget" in headline(result)


def metric(kit: ModuleType, of: Callable[[np.ndarray], Any]) -> Callable[[Any], Any]:
    x = kit.normal(100, 64, seed=5)
    return lambda run: of(np.asarray(run({"x": x})[0]))


@pytest.mark.parametrize(
    ("of", "interval"),
    [
        (lambda y: float(np.abs(y).mean()), False),
        (lambda y: np.abs(y).mean(axis=1), True),
        (lambda y: Scores(np.abs(y).mean(axis=1)), True),
    ],
)
def test_every_form_of_metric_reaches_the_result(
    compiled: Compile, kit: ModuleType, of: Callable[[np.ndarray], Any], interval: bool
) -> None:
    result = compiled(kit.chain(2), evaluate=metric(kit, of), max_drop="10%").result
    assert result.quality.verdict == "within-budget"
    assert result.quality.gate == "drop <= 10%"
    assert (result.quality.rows[0].low is not None) is interval
    assert any("without an interval" in note for note in result.notes) is not interval
    assert result.exit_code == 0


def test_an_undecided_metric_has_its_own_exit_code(compiled: Compile, kit: ModuleType) -> None:
    random = np.random.default_rng(0)
    noise = [np.zeros(30), *(random.normal(size=30) for _ in range(50))]

    def unsure(run: Any) -> np.ndarray:
        drawn = noise.pop(0)
        centred: np.ndarray = drawn - drawn.mean()
        return centred

    result = compiled(kit.chain(2), pipeline=STATIC, evaluate=unsure, max_drop=0.05).result
    assert (result.quality.verdict, result.exit_code) == ("undecided", 7)
    assert result.quality.samples_needed is not None


# -- data --------------------------------------------------------------------------------


def test_without_data_ranges_are_dynamic_and_nothing_is_verified(
    compiled: Compile, kit: ModuleType
) -> None:
    built = compiled(kit.chain(2), calibration=False)
    assert scheme(kit, built) == "dynamic"
    assert built.result.quality.verdict == "unverified"
    assert (built.result.exit_code, built.result.speed.verdict) == (0, "faster")
    assert "calibration" not in built.result.digests


def test_without_data_static_ranges_are_refused(compiled: Compile, kit: ModuleType) -> None:
    result = compiled(kit.chain(2), calibration=False, pipeline=STATIC).result
    codes = {r.site: r.code for r in result.remarks if r.kind == "refused"}
    assert codes == {"block0": "no-calibration", "block1": "no-calibration"}
    assert result.lossless


def test_held_out_data_alone_verify_but_do_not_calibrate(
    compiled: Compile, kit: ModuleType
) -> None:
    built = compiled(kit.chain(2), calibration=False, holdout=kit.feeds(2))
    assert scheme(kit, built) == "dynamic"
    assert built.result.quality.verdict == "within-budget"
    assert built.result.quality.samples == 16


def test_a_model_of_fixed_batch_size(compiled: Compile, kit: ModuleType) -> None:
    """Nothing may cut its feeds to fewer samples, whatever is measured on a few of them."""
    built = compiled(kit.chain(2, rows="32"), calibration=kit.feeds(rows=32))
    assert built.result.quality.verdict == "within-budget"
    assert {s.feeds["x"].shape for s in built.result.samples} == {(32, 64)}


def test_an_old_opset_is_raised_and_said(compiled: Compile, kit: ModuleType) -> None:
    weights = {"w": kit.normal(64, 64), "b": kit.normal(64)}
    model = kit.graph(
        "y = Gemm(x, w, b)", weights, 'float["batch", 64] x', 'float["batch", 64] y', opset=9
    )
    built = compiled(model)
    assert scheme(kit, built) != "float"
    assert built.result.quality.verdict == "within-budget"
    (remark,) = [r for r in built.result.remarks if r.code == "opset-raised"]
    assert "from 9 to 13" in remark.sentence


GEMMS = "a = Gemm<transB=1, alpha=0.3>(v, w, b) r = Relu(a) y0 = Gemm<transB=1>(r, u)"


@pytest.mark.parametrize(
    ("body", "dtype", "out"),
    [
        (f"v = Identity(x) {GEMMS} y = Relu(y0)", np.float16, "float16"),
        (f"v = Cast<to=10>(x) {GEMMS} y = Cast<to=1>(y0)", np.float16, "float"),
        (f"v = Identity(x) {GEMMS} y = Relu(y0)", np.float64, "double"),
        (f"v = Identity(x) {GEMMS} y = ArgMax<axis=1>(y0)", np.float32, "int64"),
        (
            f"v = Identity(x) {GEMMS} q = QuantizeLinear(y0, s, z) y = DequantizeLinear(q, s, z)",
            np.float32,
            "float",
        ),
    ],
)
def test_reassociating_is_no_failure_where_few_bits_or_roundings_show_it(
    compiled: Compile, kit: ModuleType, body: str, dtype: Any, out: str
) -> None:
    weights = {"w": kit.normal(64, 64), "u": kit.normal(16384, 64, seed=4), "b": kit.normal(64)}
    weights = {name: array.astype(dtype) for name, array in weights.items()}
    weights |= {"s": np.float32(0.05), "z": np.uint8(128)}
    entry = {np.float16: "float16", np.float64: "double"}.get(dtype, "float")
    entry = "float" if "Cast" in body else entry
    model = kit.graph(body, weights, f'{entry}["n", 64] x', f'{out}["n", "m"] y')
    given = np.float32 if entry == "float" else dtype
    data = [{"x": kit.normal(64, 64, seed=i).astype(given)} for i in range(6)]
    result = compiled(model, calibration=data, pipeline="canonicalize").result
    assert result.quality.verdict == "within-budget"
    assert {e.setting for e in result.edits} >= {"gemm-to-matmul"}


def test_a_convolutional_net(compiled: Compile, kit: ModuleType) -> None:
    body = """
        c = Conv<pads=[1, 1, 1, 1]>(x, "stem.weight", "stem.bias") r = Relu(c)
        m = MaxPool<kernel_shape=[2, 2], strides=[2, 2]>(r)
        d = Conv<pads=[1, 1, 1, 1]>(m, "body.weight", "body.bias") s = Relu(d)
        a = GlobalAveragePool(s) f = Flatten(a) logits = Gemm(f, "head.weight", "head.bias")
    """
    shapes = {"stem.weight": (32, 16, 3, 3), "stem.bias": (32,), "body.weight": (32, 32, 3, 3),
              "body.bias": (32,), "head.weight": (32, 10), "head.bias": (10,)}  # fmt: skip
    weights = {n: kit.normal(*s, seed=i, scale=0.1) for i, (n, s) in enumerate(shapes.items())}
    model = kit.graph(body, weights, 'float["n", 16, 8, 8] x', 'float["n", 10] logits')
    data = [{"x": kit.normal(16, 16, 8, 8, seed=i)} for i in range(8)]
    result = compiled(model, calibration=data, max_drift="sqnr=15").result
    kernels = {k.site: (k.integer, k.reason) for k in result.kernels.sites}
    assert kernels["stem"] == kernels["body"] == (True, "")
    assert not kernels["head"][0]
    assert "smaller than" in kernels["head"][1]
    assert result.kernels.surprises == ()
    half = compiled(
        model, "half", calibration=data, max_drift="sqnr=15",
        pipeline=f"{STATIC[:-1]} exclude=body}}",
    ).result  # fmt: skip
    assert {k.site: k.integer for k in half.kernels.sites} == {
        "stem": True, "body": False, "head": False,
    }  # fmt: skip
    assert half.kernels.surprises == ()


# -- replay ------------------------------------------------------------------------------


def test_a_plan_replays_to_the_same_bytes_whatever_the_clock_says(
    compiled: Compile, kit: ModuleType, tmp_path: Path, clock: Clock
) -> None:
    """With sites given back and a spelling kept."""
    path = saved(kit.chain(4, gains=WILD, rows='"batch", 4'), tmp_path)
    data = [{"x": kit.normal(8, 4, 64, seed=i)} for i in range(6)]

    def seconds(model: onnx.ModelProto) -> float:
        ops = {node.op_type for node in model.graph.node}
        return 0.3 if "MatMulIntegerToFloat" in ops else 0.5 if kit.integers(model) else 1.0

    clock(seconds)
    first = compiled(str(path), calibration=data, pipeline=STATIC)
    plan = first.result.plan
    assert plan.given_back["quantize"]
    assert plan.spellings == ("integer-bias",)
    clock(lambda model: 1 / seconds(model))
    stored = json.loads((first.folder / "manifest.json").read_text())["plan"]
    for name, given in (("a", first.folder), ("b", first.folder / "manifest.json"), ("c", stored)):
        again = compiled(str(path), name, calibration=data, plan=given)
        assert file_digest(again.folder / "model.onnx") == file_digest(first.folder / "model.onnx")
        assert again.result.plan == plan
        assert again.result.digests == first.result.digests
        assert again.result.speed.verdict == "slower"
        assert again.result.exit_code == 6


def test_a_plan_for_another_model_says_what_does_not_fit(
    compiled: Compile, kit: ModuleType
) -> None:
    plan = {
        "pipeline": STATIC,
        "given_back": {"quantize": ["block1", "block9"]},
        "spellings": ["fused-attention"],
    }
    result = compiled(kit.chain(2), plan=plan).result
    assert result.plan.spellings == ()
    assert any("fused-attention" in note for note in result.notes)
    assert any("block9" in note and "block1" not in note for note in result.notes)
    assert {k.site: k.integer for k in result.kernels.sites} == {"block0": True, "block1": False}


# -- tools for people who write passes ---------------------------------------------------


def test_a_bisect_limit_applies_the_first_edits_only(compiled: Compile, kit: ModuleType) -> None:
    model = kit.chain(3)
    every = [(e.pass_name, e.site) for e in compiled(model, "all", pipeline=STATIC).result.edits]
    assert len(every) == 3
    counts = []
    for limit in range(12):
        result = compiled(model, f"out{limit}", pipeline=STATIC, bisect_limit=limit).result
        found = [(e.pass_name, e.site) for e in result.edits]
        assert found == every[: len(found)]
        counts.append(len(found))
    assert counts[0] == 0
    assert counts[-1] == 3
    assert set(np.diff(counts)) == {0, 1}


def test_a_bisect_limit_holds_for_every_candidate_alike(compiled: Compile, kit: ModuleType) -> None:
    """The limit under which a pipeline makes one edit when it is all that is built."""

    def edits(limit: int, **options: Any) -> int:
        return len(compiled(kit.chain(3), bisect_limit=limit, force=True, **options).result.edits)

    limit = next(n for n in range(12) if edits(n, pipeline=DYNAMIC, calibration=False) == 1)
    assert edits(limit, calibration=False) == 1


def test_snapshots_hold_the_model_after_each_pass_that_changed_it(
    compiled: Compile, kit: ModuleType, tmp_path: Path
) -> None:
    model = kit.graph(
        'a = Identity(x) y = MatMul(a, "block.weight")',
        {"block.weight": kit.normal(64, 64)},
        'float["batch", 64] x',
        'float["batch", 64] y',
    )
    compiled(model, pipeline=STATIC, snapshots=tmp_path / "snapshots")
    names = sorted(path.name for path in (tmp_path / "snapshots").iterdir())
    assert names == ["001-canonicalize.onnx", "002-quantize.onnx"]
    first, second = (onnx.load(tmp_path / "snapshots" / name) for name in names)
    assert [n.op_type for n in first.graph.node] == ["MatMul"]
    assert kit.integers(first) == 0
    assert kit.integers(second) == 1


# -- refused before any work -------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"goal": "latenzy"}, "latency"),
        ({"pipeline": STATIC, "plan": {"pipeline": STATIC}}, "exclude each other"),
        ({"pipeline": "canonicalise"}, "canonicalize"),
        ({"pipeline": "quantize{schema=static}"}, "scheme"),
        ({"pipeline": ""}, "name of a pass"),
        ({"plan": {"pipeline": "quantize{scheme=statik}"}}, "static"),
        ({"plan": {"pipeline": STATIC, "spellings": ["integer-bais"]}}, "integer-bias"),
        ({"max_drop": 0.5}, "nothing measures it"),
        ({"max_drop": "0.5%"}, "--evaluate"),
        ({"threads": -1}, "threads"),
        ({"snapshots": Path(__file__)}, "which is a file"),
    ],
)
def test_a_wrong_request_is_refused_before_the_model_is_looked_for(
    compiled: Compile, tmp_path: Path, options: dict[str, Any], part: str
) -> None:
    with pytest.raises(UsageError) as caught:
        compiled("no-such-model.onnx", **options)
    assert part in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "options", [{"max_drift": "cosin=0.9"}, {"evaluate": len, "max_drop": "much"}]
)
def test_wrong_bounds_are_refused_and_leave_nothing(
    compiled: Compile, kit: ModuleType, tmp_path: Path, options: dict[str, Any]
) -> None:
    with pytest.raises(UsageError):
        compiled("no-such-model.onnx", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_plan_that_is_none_is_bad_input(compiled: Compile, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="pipeline"):
        compiled("no-such-model.onnx", plan={})
    assert list(tmp_path.iterdir()) == []


def test_what_the_runtime_refuses_after_canonicalization_is_handed_over_untouched(
    compiled: Compile, kit: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = Workshop.judged

    def picky(self: Workshop, build: Build) -> Judged:
        if build.pipeline:
            raise TargetError("no kernel for it", hint="none")
        return judged(self, build)

    monkeypatch.setattr(Workshop, "judged", picky)
    built = compiled(kit.chain(1))
    assert built.result.exit_code == 8
    assert built.result.lossless
    assert any("canonicalize was given up: no kernel for it" in note for note in built.result.notes)
    with pytest.raises(TargetError, match="no kernel for it"):
        compiled(kit.chain(1), "asked", pipeline="canonicalize")
