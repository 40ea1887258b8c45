"""Builds start from the imported graph each time; the fewest sites that suffice are given back."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from planish.compiler.giving_back import loss_per_saving
from planish.compiler.pipeline import parse
from planish.compiler.workshop import instantiate
from planish.ir.digest import contents_digest, file_digest
from planish.ir.errors import UsageError, VerifyError
from planish.ir.provenance import Edit
from planish.ir.rewriter import Rewriter
from planish.ir.verify import violations
from planish.targets.runtime import open_session

STATIC = "canonicalize,quantize{scheme=static}"
LAYERS = 5


# -- give back ---------------------------------------------------------------------------


@pytest.mark.parametrize("allowed", range(LAYERS + 1))
def test_as_few_sites_as_suffice_are_given_back(
    kit: ModuleType, tmp_path: Path, allowed: int
) -> None:
    """Against a walk that gives back one site after another, which needs no cleverness."""
    shop = kit.workshop(kit.chain(LAYERS), tmp_path, allowed=allowed)
    order = loss_per_saving(shop.build(STATIC).edits)
    assert len(order) == LAYERS
    walk = (
        count
        for count in range(LAYERS + 1)
        if kit.integers(onnx.load(_build(shop, order[:count]))) <= allowed
    )
    fewest = next(walk)
    held = shop.hold(STATIC)
    expected = sorted(site for _, site in order[:fewest])
    assert held.quality.verdict == "within-budget"
    assert list(held.build.given_back.get("quantize", ())) == expected
    assert kit.integers(held.build.model and onnx.load(held.build.path)) == LAYERS - fewest
    assert len(shop.judge.asked) <= 2 + 2 * int(np.ceil(np.log2(LAYERS + 1)))


def _build(shop: object, pairs: list[tuple[str, str]]) -> Path:
    back = {"quantize": tuple(site for _, site in pairs)}
    path: Path = shop.build(STATIC, back).path  # type: ignore[attr-defined]
    return path


def test_a_pass_that_spoils_it_for_another_is_given_back_as_a_whole(
    kit: ModuleType, tmp_path: Path
) -> None:
    """Three layers of rank 96, factorized without a loss, make six that cannot all be integers.

    Layer by layer the integers would go, which lose something: half of them, and float factors
    stay. Without the factors all three layers are integers, and the model is smaller.
    """
    weights = {
        f"w{i}": kit.normal(256, 96, seed=i) @ kit.normal(96, 256, seed=9 + i) / 1000
        for i in range(3)
    }
    body = "a = MatMul(x, w0) b = MatMul(a, w1) y = MatMul(b, w2)"
    model = kit.graph(body, weights, 'float["batch", 256] x', 'float["batch", 256] y')
    shop = kit.workshop(model, tmp_path, allowed=3, given=kit.feeds(width=256))
    text = "canonicalize,low-rank{rank=96 method=svd gain=size},quantize{scheme=static}"
    whole = shop.build(text)
    assert kit.integers(onnx.load(whole.path)) == 6
    assert loss_per_saving(whole.edits)[0][0] == "quantize"
    held = shop.hold(text)
    assert held.build.given_back == {"low-rank": tuple(e.site for e in whole.edits[:3])}
    assert kit.integers(onnx.load(held.build.path)) == 3


def test_where_nothing_suffices_all_sites_are_given_back(kit: ModuleType, tmp_path: Path) -> None:
    shop = kit.workshop(kit.chain(3), tmp_path, allowed=-1)
    held = shop.hold(STATIC)
    assert held.quality.verdict == "over-budget"
    assert held.build.given_back == {"quantize": ("block0", "block1", "block2")}
    assert kit.integers(onnx.load(held.build.path)) == 0
    codes = {r.site: r.code for r in held.build.remarks if r.kind == "refused"}
    assert codes == dict.fromkeys(("block0", "block1", "block2"), "given-back")


def test_a_pipeline_that_holds_is_built_once(kit: ModuleType, tmp_path: Path) -> None:
    shop = kit.workshop(kit.chain(3), tmp_path, allowed=3)
    assert shop.hold(STATIC).build.given_back == {}
    assert shop.judge.asked == [3]


def test_a_pipeline_without_loss_has_nothing_to_give_back(kit: ModuleType, tmp_path: Path) -> None:
    shop = kit.workshop(kit.chain(3), tmp_path, allowed=-1)
    held = shop.hold("canonicalize")
    assert held.quality.verdict == "over-budget"
    assert held.build.given_back == {}
    assert len(shop.judge.asked) == 1


def test_the_costliest_for_its_bytes_goes_first_and_names_break_ties() -> None:
    def edit(site: str, loss: float | None, saving: int) -> Edit:
        return Edit("e", "quantize", site, "static", loss=loss, saving=saving)

    edits = [
        edit("b", 0.2, 200),
        edit("a", 0.2, 200),
        edit("small", 0.1, 10),
        edit("exact", None, 999),
        edit("harmless", 0.0, 999),
        edit("large", 0.3, 1000),
        edit("grows", 1e-9, 0),
    ]
    order = [site for _, site in loss_per_saving(edits)]
    assert order == ["small", "a", "b", "large", "grows"]


def test_an_edit_that_promises_no_loss_is_not_given_back(kit: ModuleType, tmp_path: Path) -> None:
    """Equalizing only reassociates: what rounding its check saw is no loss that it declares."""
    shop = kit.workshop(kit.chain(3, gains={0: 8.0}), tmp_path)
    build = shop.build("canonicalize,equalize")
    equalized = [e for e in build.edits if e.pass_name == "equalize"]
    assert equalized
    assert [e.loss for e in equalized] == [None] * len(equalized)
    assert loss_per_saving(build.edits) == []


# -- builds ------------------------------------------------------------------------------


def test_every_build_starts_from_the_imported_graph(kit: ModuleType, tmp_path: Path) -> None:
    shop = kit.workshop(kit.chain(3), tmp_path)
    imported = contents_digest(shop.rewriter.model)
    texts = [STATIC, "canonicalize", STATIC, "canonicalize,quantize", STATIC]
    builds = [shop.build(text) for text in texts]
    files = [file_digest(build.path) for build in builds]
    assert files[0] == files[2] == files[4]
    assert len(set(files)) == 3
    assert [build.edits for build in (builds[0], builds[2])] == [builds[4].edits] * 2
    assert [build.remarks for build in (builds[0], builds[2])] == [builds[4].remarks] * 2
    assert contents_digest(shop.build_untouched().model) == imported


def test_a_build_given_sites_back_equals_one_that_excludes_them(
    kit: ModuleType, tmp_path: Path
) -> None:
    shop = kit.workshop(kit.chain(3), tmp_path)
    given = shop.build(STATIC, {"quantize": ("block1",)})
    excluded = shop.build("canonicalize,quantize{scheme=static exclude=block1}")
    assert file_digest(given.path) == file_digest(excluded.path)
    selected = shop.build("canonicalize,quantize@block0|block2{scheme=static}")
    assert file_digest(given.path) == file_digest(selected.path)


def test_a_build_is_a_copy_that_later_builds_leave_alone(kit: ModuleType, tmp_path: Path) -> None:
    shop = kit.workshop(kit.chain(2), tmp_path)
    build = shop.build(STATIC)
    before, size = contents_digest(build.model), build.bytes
    shop.build("canonicalize")
    assert contents_digest(build.model) == before
    assert violations(build.model) == []
    assert build.bytes == size == build.path.stat().st_size
    assert contents_digest(ir.load(build.path)) == before


def test_legalised_layers_are_remarks(kit: ModuleType, tmp_path: Path) -> None:
    build = kit.workshop(kit.chain(2), tmp_path).build(STATIC)
    notes = [r for r in build.remarks if r.pass_name == "legalise"]
    assert [r.kind for r in notes] == ["note", "note"]
    assert {r.code for r in notes} <= {"int32-bias", "bias-apart"}


def test_a_graph_that_legalising_broke_is_never_written(
    kit: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaking(rewriter: Rewriter) -> list[object]:
        rewriter.insert("Neg", [rewriter.graph.outputs[0]], before=rewriter.graph[0])
        return []

    shop = kit.workshop(kit.chain(1), tmp_path)
    monkeypatch.setattr("planish.compiler.backends.onnxruntime_cpu.legalise", breaking)
    with pytest.raises(VerifyError, match="the finished graph"):
        shop.build("canonicalize")
    assert not list(tmp_path.rglob("*.onnx"))


def test_losses_are_measured_once_and_said_each_time(
    kit: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = kit.workshop(kit.chain(3), tmp_path)
    first = shop.build(STATIC)

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("a known loss was measured again")

    monkeypatch.setattr("planish.compiler.manager.reference", forbidden)
    again = shop.build(STATIC, {"quantize": ("block0",)})
    known = {e.site: e.loss for e in first.edits if e.loss is not None}
    assert len(known) == 3
    assert {e.site: e.loss for e in again.edits if e.loss is not None} == {
        site: loss for site, loss in known.items() if site != "block0"
    }


def test_judged_builds_run_as_they_were_written(kit: ModuleType, tmp_path: Path) -> None:
    shop = kit.workshop(kit.chain(2), tmp_path)
    judged = shop.judged(shop.build(STATIC))
    (feed, *_) = kit.feeds()
    fresh = open_session(judged.build.path).run(feed)[0]
    np.testing.assert_array_equal(judged.session.run(feed)[0], fresh)
    assert judged.quality.verdict == "within-budget"
    assert judged.quality.drift["y"]["sqnr_db"] > 20


# -- pipelines ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("canonicalize,quantise", "quantize"),
        ("quantize{schem=static}", "scheme"),
        ("quantize{scheme=statik}", "static"),
        ("quantize{bias_correction=maybe}", "true or false"),
        ("quantize,quantize", "float"),
        ("quantize,low-rank", "no site can be float any more when low-rank runs"),
        ("weight-only,low-rank{ratio=0.5}", "no site can be float"),
    ],
)
def test_a_wrong_pipeline_is_refused_with_a_near_name(text: str, part: str) -> None:
    with pytest.raises(UsageError, match=part):
        instantiate(parse(text))


def test_factors_are_float_until_they_are_quantized() -> None:
    for text in ("low-rank,quantize", "quantize{exclude=head},low-rank", "low-rank,low-rank"):
        assert len(instantiate(parse(text))) == 2
