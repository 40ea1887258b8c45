"""From a request to what a compile works with: model, data, baseline, instruments."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from planish.compiler.instruments import Bisect, RegionCheck, Reproducer, Snapshots, VerifyEach
from planish.compiler.intake import TIMING_FEEDS
from planish.compiler.policy import propose
from planish.compiler.prepare import Prepared, prepare
from planish.compiler.progress import Silent
from planish.ir.errors import InputError, UsageError
from planish.ir.graph import opset
from planish.ir.storage.filesize import model_bytes
from planish.targets.runtime import open_session


class Told(Silent):
    """Remembers notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def prepared(kit: ModuleType, source: Any, folder: Path, **changes: Any) -> Prepared:
    return prepare(kit.request(source, folder, **changes), folder / "scratch", Silent())


# -- data --------------------------------------------------------------------------------


def test_a_fifth_of_the_data_is_held_out_by_seed(kit: ModuleType, tmp_path: Path) -> None:
    data = kit.feeds(10)
    made = [
        prepared(kit, kit.chain(1), tmp_path / str(s), calibration=data, seed=s) for s in (0, 0, 7)
    ]
    for each in made:
        assert each.calibration is not None
        assert (len(each.calibration), len(each.holdout)) == (8, 2)
        kept = {feed["x"].tobytes() for feed in each.calibration}
        held = {feed["x"].tobytes() for feed in each.holdout}
        assert kept | held == {feed["x"].tobytes() for feed in data}
        assert each.workshop.context.feeds is each.calibration
        assert each.workshop.judge.holdout is each.holdout
        assert each.workshop.context.calibrated
    first, again, other = (each.holdout.digest for each in made)
    assert first == again != other


def test_held_out_data_of_its_own_are_taken_whole(kit: ModuleType, tmp_path: Path) -> None:
    each = prepared(kit, kit.chain(1), tmp_path, calibration=kit.feeds(3), holdout=kit.feeds(2))
    assert each.calibration is not None
    assert (len(each.calibration), len(each.holdout)) == (3, 2)


def test_without_data_feeds_are_generated_and_nothing_is_calibrated(
    kit: ModuleType, tmp_path: Path
) -> None:
    each = prepared(kit, kit.chain(1), tmp_path, calibration=None)
    assert each.calibration is None
    assert each.holdout.synthetic
    assert not each.workshop.context.calibrated
    assert each.workshop.context.feeds is each.holdout
    again = prepared(kit, kit.chain(1), tmp_path / "again", calibration=None)
    assert again.holdout.digest == each.holdout.digest


def test_generated_indices_stay_inside_their_table(kit: ModuleType, tmp_path: Path) -> None:
    model = kit.graph(
        'e = Gather("table", ids) y = MatMul(e, "w")',
        {"table": kit.normal(5, 64), "w": kit.normal(64, 64)},
        'int64["batch", "seq"] ids',
        'float["batch", "seq", 64] y',
    )
    each = prepared(kit, model, tmp_path, calibration=None)
    drawn = np.concatenate([feed["ids"].reshape(-1) for feed in each.holdout])
    assert drawn.min() >= 0
    assert drawn.max() == 4


def test_only_the_first_held_out_feeds_are_timed(kit: ModuleType, tmp_path: Path) -> None:
    many, few = kit.feeds(TIMING_FEEDS + 3, rows=2), kit.feeds(2)
    for held, count in ((many, TIMING_FEEDS), (few, 2)):
        each = prepared(kit, kit.chain(1), tmp_path / str(count), holdout=held)
        assert each.timing_feeds is not None
        assert len(each.timing_feeds) == count
        for timed, given in zip(each.timing_feeds, held, strict=False):
            np.testing.assert_array_equal(timed["x"], given["x"])


def test_a_workload_sets_the_shapes_of_generated_feeds(kit: ModuleType, tmp_path: Path) -> None:
    wanted = ["batch=1*0.75", "batch=32*0.25"]
    each = prepared(kit, kit.chain(1), tmp_path, calibration=None, workload=wanted)
    assert each.timing_feeds is not None
    assert [len(feed["x"]) for feed in each.timing_feeds] == [1] * 6 + [32] * 2
    assert [(dict(w.bindings), w.weight) for w in each.workloads] == [
        ({"batch": 1}, 0.75),
        ({"batch": 32}, 0.25),
    ]


def test_data_are_timed_as_they_are_whatever_the_workload(kit: ModuleType, tmp_path: Path) -> None:
    held = kit.feeds(2, rows=3)
    each = prepared(kit, kit.chain(1), tmp_path, holdout=held, workload="batch=7")
    assert each.timing_feeds is not None
    assert {len(feed["x"]) for feed in each.timing_feeds} == {3}
    assert [dict(w.bindings) for w in each.workloads] == [{"batch": 7}]


def test_without_a_workload_the_held_out_shapes_are_it(kit: ModuleType, tmp_path: Path) -> None:
    held = [*kit.feeds(3, rows=5), *kit.feeds(1, rows=2)]
    each = prepared(kit, kit.chain(1), tmp_path, holdout=held)
    assert [(dict(w.bindings), w.weight) for w in each.workloads] == [
        ({"batch": 5}, 0.75),
        ({"batch": 2}, 0.25),
    ]


def test_a_workload_with_an_axis_that_the_model_lacks(kit: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no input has an axis 'bach'") as caught:
        prepared(kit, kit.chain(1), tmp_path, workload="bach=7")
    assert "batch" in caught.value.hint


def test_data_for_another_model_are_refused(kit: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'x'"):
        prepared(kit, kit.chain(1), tmp_path, calibration=[{"y": kit.normal(4, 64)}])
    with pytest.raises(InputError, match="'x'"):
        prepared(kit, kit.chain(1), tmp_path, holdout=[{"x": kit.normal(4, 63)}])


# -- masks -------------------------------------------------------------------------------


def masked(kit: ModuleType) -> onnx.ModelProto:
    body = """
        keep = Cast<to=1>(mask) flipped = Sub(one, keep) far = Mul(flipped, lowest)
        row = Unsqueeze(far, axis) scores = MatMul(x, turned) sums = Add(scores, row)
        weights = Softmax<axis=-1>(sums) mixed = MatMul(weights, x) y = MatMul(mixed, w)
    """
    weights = {
        "one": np.float32(1), "lowest": np.float32(-1e9), "axis": np.array([1]),
        "w": kit.normal(64, 64),
    }  # fmt: skip
    body = "turned = Transpose<perm=[0, 2, 1]>(x)" + body
    ports = 'float["b", "s", 64] x, int64["b", "s"] mask'
    return kit.graph(body, weights, ports, 'float["b", "s", 64] y')  # type: ignore[no-any-return]


def sentences(kit: ModuleType, value: int = 0) -> list[dict[str, np.ndarray]]:
    mask = (np.arange(6) < np.array([[6], [3], [2]])).astype(np.int64)
    return [{"x": kit.normal(3, 6, 64, seed=i), "mask": np.maximum(mask, value)} for i in range(6)]


def test_the_token_mask_is_found_and_told(kit: ModuleType, tmp_path: Path) -> None:
    each = prepared(kit, masked(kit), tmp_path, calibration=sentences(kit))
    masking = each.workshop.context.masking
    assert masking is not None
    assert (masking.input, masking.dims) == ("mask", ("b", "s"))
    assert each.workshop.judge.mask == "mask"
    assert "token-mask-found" in {r.code for r in each.remarks}


def test_a_mask_that_is_named_must_be_one(kit: ModuleType, tmp_path: Path) -> None:
    data = sentences(kit)
    named = prepared(kit, masked(kit), tmp_path, calibration=data, token_mask="mask")
    assert named.workshop.judge.mask == "mask"
    with pytest.raises(UsageError, match="mask"):
        prepared(kit, masked(kit), tmp_path / "b", calibration=data, token_mask="msk")


# -- model and baseline ------------------------------------------------------------------


def test_the_baseline_is_the_users_file_untouched(kit: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(kit.chain(2), path)
    before = path.read_bytes()
    each = prepared(kit, str(path), tmp_path)
    (feed,) = kit.feeds(1)
    np.testing.assert_array_equal(
        each.workshop.judge.original.run(feed)[0], open_session(path, threads=1).run(feed)[0]
    )
    assert kit.proto_of(each.workshop.judge.original) == onnx.load(path)
    assert path.read_bytes() == before
    assert each.bytes_before == len(before)
    assert each.parameters_before == 2 * (64 * 64 + 64)


def test_external_weights_count_as_bytes_also_those_of_branches(
    kit: ModuleType, tmp_path: Path
) -> None:
    branch = """
        y = If(flag) <
            then_branch = t () => (float[64] a) { a = Add(w, w) },
            else_branch = e () => (float[64] d) { d = Neg(w) } >
    """
    model = kit.graph(branch, {"w": kit.normal(64)}, "bool flag", "float[64] y")
    inner = onnx.numpy_helper.from_array(kit.normal(4096), "inner")
    model.graph.node[0].attribute[0].g.initializer.append(inner)
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=1024)
    data = tmp_path / "weights.bin"  # of the branch alone: the other tensor is too small for it
    assert data.stat().st_size >= 4096 * 4
    assert model_bytes(path) == path.stat().st_size + data.stat().st_size


def test_kinds_of_outputs_are_those_of_the_imported_graph(kit: ModuleType, tmp_path: Path) -> None:
    """Lowering gives the name of an output to another value; the gate must not notice."""
    model = kit.graph(
        'p = MatMul(x, "w") logits = Add(p, "b")',
        {"w": kit.normal(64, 64), "b": kit.normal(64)},
        'float["batch", 64] x',
        'float["batch", 64] logits',
    )
    each = prepared(kit, model, tmp_path)
    built = each.workshop.build("canonicalize,quantize{scheme=static}")
    assert any(n.op_type == "Gemm" for n in built.model.graph)
    assert each.workshop.judged(built).quality.gate == "top1 >= 99 %"


@pytest.mark.parametrize(("given", "expected"), [(9, 13), (12, 13), (13, 13), (20, 20)])
def test_opsets_are_raised_only_as_far_as_needed(
    kit: ModuleType, tmp_path: Path, given: int, expected: int
) -> None:
    model = kit.graph(
        'y = MatMul(x, "w")',
        {"w": kit.normal(64, 64)},
        'float["n", 64] x',
        'float["n", 64] y',
        given,
    )
    each = prepared(kit, model, tmp_path)
    assert opset(each.workshop.rewriter.model) == expected
    codes = [r.code for r in each.remarks]
    assert ("opset-raised" in codes) is (given < 13)
    sentences = [r.sentence for r in each.remarks if r.code == "opset-raised"]
    assert all("so that layers can be quantized" in s for s in sentences)  # none may be at the end


def test_an_opset_that_cannot_be_raised_stays_and_is_told(
    kit: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(model: ir.Model, version: int) -> ir.Model:
        raise InputError(f"opset {opset(model)} cannot be raised to {version}: no adapter for Odd")

    monkeypatch.setattr("planish.compiler.intake.raised", refuse)
    model = kit.graph(
        'y = MatMul(x, "w")', {"w": kit.normal(64, 64)}, 'float["n", 64] x', 'float["n", 64] y', 9
    )
    each = prepared(kit, model, tmp_path)
    (remark,) = [r for r in each.remarks if r.code == "opset-kept"]
    assert "Odd" in remark.sentence
    shop = each.workshop
    proposed = propose(shop.rewriter.model, kit.target(), calibrated=True)
    assert not any("quantize" in proposal.pipeline for proposal in proposed.proposals)
    assert {a.code for a in proposed.aside if a.technique.startswith("int8")} == {"opset"}
    assert shop.judged(shop.build("canonicalize")).quality.verdict == "within-budget"


def test_the_cost_is_estimated_before_it_is_paid(kit: ModuleType, tmp_path: Path) -> None:
    told = Told()
    prepare(kit.request(kit.chain(2), tmp_path), tmp_path / "scratch", told)
    assert any("of weights: about" in note and "may be used" in note for note in told.notes)


# -- instruments and options -------------------------------------------------------------


def test_instruments_follow_the_request(kit: ModuleType, tmp_path: Path) -> None:
    plain = prepared(kit, kit.chain(1), tmp_path / "a").workshop.instruments
    kinds = [type(i) for i in plain]
    assert {VerifyEach, RegionCheck, Reproducer} <= set(kinds)
    assert not {Snapshots, Bisect} & set(kinds)
    more = prepared(
        kit, kit.chain(1), tmp_path / "b", snapshots=tmp_path / "s", bisect_limit=0
    ).workshop.instruments
    assert {Snapshots, Bisect} <= {type(i) for i in more}


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"max_drift": "cosine"}, UsageError),
        ({"max_drop": "-1", "evaluate": len}, UsageError),
        ({"evaluate": "no-such-file.py:metric"}, InputError),
        ({"evaluate": "metric"}, UsageError),
    ],
)
def test_options_are_read_before_the_model(
    kit: ModuleType, tmp_path: Path, changes: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        prepared(kit, "no-such-model.onnx", tmp_path, **changes)


def test_a_model_that_refuses_generated_feeds_asks_for_data(
    kit: ModuleType, tmp_path: Path
) -> None:
    """Only row counts that 7 divides can be reshaped; generated ones have another."""
    model = kit.graph(
        'flat = Reshape(x, "shape") y = MatMul(flat, "w")',
        {"shape": np.array([-1, 7], np.int64), "w": np.eye(7, dtype=np.float32)},
        'float["batch", 1] x',
        'float["rows", 7] y',
    )
    with pytest.raises(InputError, match="no data was given") as caught:
        prepared(kit, model, tmp_path, calibration=None)
    assert "--calibration" in caught.value.hint
