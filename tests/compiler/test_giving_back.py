"""Which sites are given back first, and which are left alone although no bound asks for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest

from planish.compiler.driver import compile_model
from planish.compiler.giving_back import grouped, loss_per_saving, out_of_proportion
from planish.ir.provenance import Edit


def edit(
    site: str, output: float | None, operations: int = 10, saving: int = 10, loss: float = 0.1
) -> Edit:
    return Edit(
        site, "quantize", site, "int8", loss=loss, saving=saving, output_loss=output,
        operations=operations,
    )  # fmt: skip


def sites(pairs: object) -> list[str]:
    return [site for _, site in pairs]  # type: ignore[attr-defined]


def test_what_counts_is_the_loss_at_the_outputs() -> None:
    edits = [edit("a", 1e-3, loss=0.9), edit("b", 4e-3, loss=0.1), edit("c", 2e-3, loss=0.5)]
    assert sites(loss_per_saving(edits)) == ["b", "c", "a"]


def test_a_site_of_more_operations_or_more_bytes_stays_longer() -> None:
    edits = [edit("few", 1e-3, 1, 1), edit("work", 1e-3, 90, 1), edit("bytes", 1e-3, 9, 98)]
    assert sites(loss_per_saving(edits)) == ["few", "work", "bytes"]


def test_without_it_the_loss_of_the_region_for_each_byte_counts() -> None:
    edits = [edit("a", None, loss=0.2, saving=10), edit("b", 5.0, loss=0.1, saving=1)]
    assert sites(loss_per_saving(edits)) == ["b", "a"]
    assert out_of_proportion(edits) == {}


def test_an_edit_of_the_whole_graph_counts_in_full() -> None:
    whole = Edit("t", "tensorrt", "graph", "float16", loss=2e-3, saving=100)
    edits = [whole, edit("a", 1e-3), edit("b", 1e-3)]
    assert loss_per_saving(edits)[-1] == ("tensorrt", "graph")
    assert out_of_proportion([whole, *(edit(f"l{i}", 1e-3) for i in range(9))]) == {}


def test_few_sites_with_most_of_the_loss_are_out_of_proportion() -> None:
    """One of twenty has 0.1 of 0.119: 17 times its share. Of the rest none stands out."""
    edits = [edit("bad", 0.1), *(edit(f"l{i}", 1e-3) for i in range(19))]
    found = out_of_proportion(edits)
    assert sites(found) == ["bad"]
    (sentence,) = found.values()
    assert "84.0 % of its loss" in sentence
    assert "5.0 % of what it brings" in sentence


def test_shares_are_of_what_is_left() -> None:
    """The second is 1/30 of the whole loss, and 30 times its share of what is behind the first."""
    edits = [edit("bad", 1.0), edit("next", 0.03), *(edit(f"l{i}", 5e-5) for i in range(38))]
    found = out_of_proportion(edits)
    assert sites(found) == ["bad", "next"]
    sentence = found["quantize", "next"]
    assert "94.0 % of its loss at the outputs here, among the 39 sites" in sentence
    assert "for 2.6 % of what it brings" in sentence


def test_passes_are_not_weighed_against_each_other() -> None:
    """Zeros cost more than few bits in every layer: that is no reason to leave all of them."""
    zeros = [replace(edit(f"l{i}", 0.05), pass_name="sparsify") for i in range(9)]
    bits = [edit(f"l{i}", 1e-4) for i in range(9)]
    assert out_of_proportion([*zeros, *bits]) == {}
    bad = replace(edit("bad", 5.0), pass_name="sparsify")
    assert out_of_proportion([bad, *zeros, *bits]).keys() == {("sparsify", "bad")}


def test_a_quiet_model_is_left_alone() -> None:
    edits = [edit("bad", 9e-4), *(edit(f"l{i}", 1e-6) for i in range(19))]
    assert out_of_proportion(edits) == {}


def test_an_output_that_is_not_finite_any_more_comes_first() -> None:
    edits = [edit("bad", float("inf")), *(edit(f"l{i}", 1e-3) for i in range(19))]
    assert sites(out_of_proportion(edits)) == ["bad"]
    assert edits[0].to_json()["output_loss"] is None


def test_grouping_is_by_pass() -> None:
    assert grouped([("q", "b"), ("p", "x"), ("q", "a")]) == {"q": ("a", "b"), "p": ("x",)}


PIPELINE = "canonicalize,quantize{scheme=static}"


def made(model: onnx.ModelProto, kit: ModuleType, folder: Path, target: str, **options: Any) -> Any:
    return compile_model(
        model, target, output=folder, calibration=kit.feeds(), threads=1, pipeline=PIPELINE,
        **options,
    ).result  # fmt: skip


@pytest.mark.parametrize("bound", [{}, {"max_drift": "sqnr=0"}])
def test_a_layer_that_int8_ruins_stays_in_half_precision(
    kit: ModuleType, tmp_path: Path, bound: dict[str, str]
) -> None:
    """Three channels in front of layer 4 are 300 times larger: its other inputs are lost."""
    model = kit.chain(9, gains={3: 300.0})
    result = made(model, kit, tmp_path / "out", "nvidia-a100", **bound)
    assert all(e.output_loss is not None and e.operations for e in result.edits if e.site != "graph"
               and e.loss is not None)  # fmt: skip
    if bound:
        assert result.plan.given_back == {}
        return
    assert result.plan.given_back == {"quantize": ("block4",)}
    (remark,) = (r for r in result.remarks if r.code == "given-back")
    assert "of its loss at the outputs" in remark.sentence
    assert any("costs more accuracy than it brings" in note for note in result.notes)
    again = compile_model(
        model, "nvidia-a100", output=tmp_path / "again", calibration=kit.feeds(), threads=1,
        plan=tmp_path / "out" / "manifest.json",
    )  # fmt: skip
    assert again.result.plan.given_back == result.plan.given_back
    first, second = (onnx.load(tmp_path / f / "model.onnx") for f in ("out", "again"))
    assert first.SerializeToString() == second.SerializeToString()


def test_where_time_is_measured_nothing_is_weighed(kit: ModuleType, tmp_path: Path) -> None:
    result = made(kit.chain(3), kit, tmp_path / "out", "generic", max_drift="sqnr=0")
    assert all(e.output_loss is None for e in result.edits)
    assert np.isfinite([e.loss for e in result.edits if e.loss is not None]).all()
