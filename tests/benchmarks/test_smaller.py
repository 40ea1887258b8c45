"""Whether smaller artifacts are checked against their plans, and losses added up as said."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

import planish
from benchmarks import data, scaling, smaller, smaller_tasks
from benchmarks.minilm import Score
from benchmarks.shapes import as_planned

CUTS = "score=magnitude refit=false multiples=false"
PIPELINES = {
    "cut": f"prune-neurons{{ratio=0.5 {CUTS}}},prune-heads{{ratio=0.5 scope=layer {CUTS}}}",
    "factored": "low-rank{total=0.7 method=svd gain=size share=qkv}",
}
SIZES = {"batch": 2, "tokens": 5}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("smaller") / "model.onnx"
    onnx.save(scaling.transformer(1), path)
    return path


@pytest.fixture(scope="module", params=PIPELINES)
def artifact(request: pytest.FixtureRequest, original: Path) -> planish.Artifact:
    return planish.compile(
        original, "x86-avx512-vnni", pipeline=f"canonicalize,{PIPELINES[request.param]}",
        threads=1, progress=False,
    )  # fmt: skip


def test_an_artifact_has_the_shapes_of_its_plan(original: Path, artifact: planish.Artifact) -> None:
    found = as_planned("a", original, artifact, SIZES)
    assert (found.met, found.note) == (True, "")
    assert "parameters -" in found.value
    assert "operations -" in found.value


def test_one_that_has_others_is_told(original: Path, artifact: planish.Artifact) -> None:
    manifest: dict[str, Any] = copy.deepcopy(dict(artifact.manifest))
    details = next(e["details"] for e in manifest["edits"] if e["loss"] is not None)
    if "rank" in details:
        details["rank"] //= 2
    for group in details.get("groups", {}).values():
        group["kept"] = 1
    found = as_planned("a", original, planish.Artifact(artifact.path, manifest), SIZES)
    assert found.met is False
    assert "there and not planned" in found.note
    assert "parameters were planned" in found.note


def test_a_gather_that_stands_for_a_cut_is_told(
    original: Path, artifact: planish.Artifact, tmp_path: Path
) -> None:
    model = onnx.load(artifact.path / "model.onnx")
    output = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["picked" if name == output else name for name in node.output]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0, 1]), "first"))
    picking = onnx.helper.make_node("Gather", ["picked", "first"], [output], axis=-1)
    model.graph.node.append(picking)
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    onnx.save(model, tmp_path / "model.onnx")
    moved = planish.Artifact(tmp_path, artifact.manifest)
    assert as_planned("a", original, moved, SIZES).note == "1 more Gather"


def test_an_artifact_without_any_cut_is_told(original: Path, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(original.read_bytes())
    found = as_planned("a", original, planish.Artifact(tmp_path, {"edits": []}), SIZES)
    assert (found.met, found.note) == (False, "all products are as they were")


def test_what_judges_is_not_what_calibrates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "calibration_pool", lambda: [str(i) for i in range(700)])
    draw = data.calibration_draw(1)
    rest = data.calibration_draw(1, data.HELD_OUT_SENTENCES, data.CALIBRATION_SENTENCES)
    assert (len(draw), len(set(draw) | set(rest))) == (512, 512 + 128)
    assert set(draw) != set(data.calibration_draw(0))


# -- scores ------------------------------------------------------------------------------


def test_perplexity_is_that_of_all_tokens() -> None:
    losses = np.array([1.0, 2.0, 9.0, 3.0, 0.5])
    found = SimpleNamespace(
        per_sample=losses, slices={"stories": np.array([True, True, False, True, True])}
    )
    rows = smaller_tasks.by_story(found, [1, 3])
    np.testing.assert_array_equal(rows, [[1.0, 1], [5.5, 3]])
    assert smaller_tasks.perplexity(rows) == pytest.approx(np.exp(6.5 / 4))


def test_worse_is_in_percent_of_before_with_an_interval_around_it() -> None:
    before = np.random.default_rng(0).uniform(3, 5, 400)
    noise = np.random.default_rng(1).normal(0, 0.1, 400)
    score = smaller_tasks.Scored(before, 1.02 * before + noise, np.mean)
    worse, low, high = score.worse
    assert worse == pytest.approx(100 * (score.after.mean() / before.mean() - 1))
    spread = 100 * 1.96 * 0.1 / (400**0.5 * before.mean())
    assert worse - low == pytest.approx(spread, rel=0.25)
    assert high - worse == pytest.approx(spread, rel=0.25)


def test_a_language_is_named_that_falls_in_every_draw() -> None:
    def scores(*drops: float) -> list[Score]:
        return [Score(80 - d, d, d - 1, d + 1, 0.9) for d in drops]

    case = smaller.Case("neurons -50 %", "")
    said = smaller.apart(
        case, {"en": scores(-0.4, 0, -0.5), "de": scores(2, 3, 4), "zh": scores(2, 3, 0.5)}
    )
    assert len(said) == 1
    assert said[0].startswith("neurons -50 %: de falls in all draws, by -2.00 (-3.00 to -1.00)")
    assert said[0].endswith("en +0.40")


@pytest.mark.parametrize(("cosine", "met"), [(0.921, True), (0.916, True), (0.914, False)])
def test_the_bar_on_the_cosine_has_a_tolerance(cosine: float, met: bool) -> None:
    case = smaller.Case("neurons", "", cosine=0.92)
    (figure,) = smaller.judged(case, [Score(80.0, 0.1, 0.0, 0.2, cosine)] * 3)
    assert figure.met is met
