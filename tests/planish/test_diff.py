"""``planish diff`` as a user starts it, and ``planish.diff``."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import planish

Planish = Callable[..., subprocess.CompletedProcess[str]]


def save(path: Path, scale: float = 1.0, activation: str = "Relu", prefix: str = "") -> Path:
    """Two layers of 64 neurons with an activation between them."""
    rng = np.random.default_rng(0)
    first, second = (rng.normal(size=(64, 64)).astype(np.float32) for _ in range(2))
    names = [f"{prefix}{n}" for n in ("h", "a", "first.weight", "second.weight")]
    hidden, activated, one, two = names
    nodes = [
        helper.make_node("MatMul", ["x", one], [hidden], name=f"{prefix}n0"),
        helper.make_node(activation, [hidden], [activated], name=f"{prefix}n1"),
        helper.make_node("MatMul", [activated, two], ["y"], name=f"{prefix}n2"),
    ]
    face = [helper.make_tensor_value_info(n, 1, ["batch", 64]) for n in "xy"]
    weights = [numpy_helper.from_array(first, one), numpy_helper.from_array(scale * second, two)]
    graph = helper.make_graph(nodes, "net", face[:1], face[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, path)
    return path


def test_no_difference_whatever_the_names(planish: Planish, tmp_path: Path) -> None:
    one, other = save(tmp_path / "one.onnx"), save(tmp_path / "other.onnx", prefix="q.")
    done = planish("diff", one.name, other.name, "--exit-code")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "no difference: the contents of both graphs are equal\n"
    assert not json.loads(planish("diff", one.name, other.name, "--json").stdout)["hunks"]


def test_what_changed_in_lines(planish: Planish, tmp_path: Path) -> None:
    one = save(tmp_path / "one.onnx")
    other = save(tmp_path / "other.onnx", scale=2.0, activation="Sigmoid", prefix="q.")
    done = planish("diff", one.name, other.name)
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        done.stdout
        == """\
one.onnx -> other.onnx
  nodes                   3 -> 3
  parameters          8,192 -> 8,192
  bytes             32.8 kB -> 32.8 kB
  operators  Relu 1 -> 0, Sigmoid 0 -> 1

  1 x replaced: Relu -> Sigmoid
  1 x other weights: MatMul
  1 node is the same

@@ first  replaced 1 -> 1
 - Relu([batch, 64]) -> [batch, 64]  n1
 + Sigmoid([batch, 64]) -> [batch, 64]  q.n1

@@ second  other weights 1 -> 1
 ~ MatMul([batch, 64], second.weight FLOAT[64, 64]) -> [batch, 64]
   second.weight -> q.second.weight: FLOAT[64, 64] 16.4 kB -> FLOAT[64, 64] 16.4 kB, relative \
error 1.00e+00
"""
    )


def test_how_many_elements_of_a_weight_changed(planish: Planish, tmp_path: Path) -> None:
    one = save(tmp_path / "one.onnx")
    model = onnx.load(one)
    second = numpy_helper.to_array(model.graph.initializer[1]).copy()
    second[3, 5:7] += 1
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(second, "second.weight"))
    onnx.save(model, tmp_path / "other.onnx")
    assert "in 2 of 4,096 elements" in planish("diff", one.name, "other.onnx").stdout
    found = json.loads(planish("diff", one.name, "other.onnx", "--json").stdout)
    assert found["hunks"][0]["weights"][0]["changed_elements"] == 2


def test_defaults_that_are_spelled_out_are_one_line(planish: Planish, tmp_path: Path) -> None:
    one = save(tmp_path / "one.onnx", activation="Softmax")
    model = onnx.load(one)
    model.graph.node[1].attribute.append(helper.make_attribute("axis", -1))
    onnx.save(model, tmp_path / "other.onnx")
    text = planish("diff", one.name, "other.onnx").stdout
    assert "1 x a default spelled out, or no longer: Softmax" in text
    assert "@@" not in text
    every = planish("diff", one.name, "other.onnx", "--every").stdout
    assert "Softmax: axis: absent -> -1, its default" in every


def test_a_compile_names_its_passes(planish: Planish, tmp_path: Path) -> None:
    """Lineage and manifest tell who did what, at what loss; --only filters by it."""
    one = save(tmp_path / "one.onnx")
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(1).normal(size=(64, 64)).astype("f4"))
    pipeline = "canonicalize,quantize{scheme=dynamic}"
    done = planish("compile", one.name, "-o", "out", "--passes", pipeline, "--threads", "1",
                   "--calibration", "data.npz", "--max-drift", "cosine=0.5")  # fmt: skip
    assert (tmp_path / "out" / "manifest.json").is_file(), done.stderr
    found = json.loads(planish("diff", one.name, "out", "--json").stdout)
    assert found["schema"] == 3
    by = [[edit["pass"] for edit in hunk["edits"]] for hunk in found["hunks"]]
    assert by
    assert all("quantize" in names for names in by)
    losses = [edit.get("loss") for hunk in found["hunks"] for edit in hunk["edits"]]
    assert any(isinstance(loss, float) for loss in losses)
    shown = planish("diff", one.name, "out", "--only", "quantize", "--stat").stdout
    assert "by quantize" in shown
    assert f"only what quantize did: {len(by)} of {len(by)} places; the sums above" in shown
    wrong = planish("diff", one.name, "out", "--only", "prune-heads")
    assert wrong.returncode == 2
    assert "quantize" in wrong.stderr
    between = planish("diff", "out@canonicalize", "out@quantize", "--exit-code", "--stat",
                      "--export", "model-explorer", "explorer")  # fmt: skip
    assert (between.returncode, between.stderr) == (12, "")
    assert "computed in 8-bit integers" in between.stdout
    assert json.loads((tmp_path / "explorer" / "mapping.json").read_text())["mappingEntries"]
    missing = planish("diff", one.name, "out@qantize")
    assert missing.returncode == 3
    assert "there are 00-imported, 01-canonicalize, 02-quantize" in missing.stderr
    assert "did you mean 'quantize'" in missing.stderr


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--exit-code"], 12),
        (["--fail-on", "nodes>2"], 12),
        (["--fail-on", "nodes>3", "--fail-on", "bytes>+0%"], 0),
        (["--fail-on", "parameters>=-1%"], 12),
        (["--fail-on", "flops>+0%"], 2),
        (["--fail-on", "flops>=+0%", "--workload", "batch=2"], 12),
        (["--fail-on", "nodes"], 2),
        (["--fail-on", "weights>3"], 2),
    ],
)
def test_conditions(planish: Planish, tmp_path: Path, words: list[str], code: int) -> None:
    one = save(tmp_path / "one.onnx")
    other = save(tmp_path / "other.onnx", activation="Sigmoid")
    assert planish("diff", one.name, other.name, *words).returncode == code


def test_markdown(planish: Planish, tmp_path: Path) -> None:
    one = save(tmp_path / "one.onnx")
    other = save(tmp_path / "other.onnx", activation="Sigmoid")
    text = planish("diff", one.name, other.name, "--markdown").stdout
    assert text.startswith("### one.onnx -> other.onnx\n\n```diff\n")
    assert "\n-  Relu([batch, 64]) -> [batch, 64]  n1\n" in text
    assert "\n+  Sigmoid([batch, 64]) -> [batch, 64]  n1\n" in text


@pytest.mark.parametrize("name", ["nothing.onnx", "text.onnx", "empty"])
def test_what_is_no_model(planish: Planish, tmp_path: Path, name: str) -> None:
    save(tmp_path / "one.onnx")
    (tmp_path / "text.onnx").write_text("no model")
    (tmp_path / "empty").mkdir()
    for words in (("one.onnx", name), (name, "one.onnx")):
        done = planish("diff", *words)
        assert done.returncode == 3
        assert name in done.stderr
        assert "Traceback" not in done.stderr


def test_the_python_face(tmp_path: Path) -> None:
    one = save(tmp_path / "one.onnx")
    other = save(tmp_path / "other.onnx", activation="Sigmoid")
    assert not planish.diff(one, one)
    found = planish.diff(one, other)
    assert found
    assert [hunk.kind for hunk in found.graph.hunks] == ["replaced"]
    assert "1 x replaced: Relu -> Sigmoid" in str(found)
