"""``planish report``, ``diff --html``, ``inspect --html``: pages, as a user asks for them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import helper, numpy_helper, save

Planish = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and what became of it."""
    folder = tmp_path_factory.mktemp("compiled")
    weights = [numpy_helper.from_array(np.eye(8, dtype=np.float32), "m.layer.0.up.weight")]
    nodes = [helper.make_node("MatMul", ["x", "m.layer.0.up.weight"], ["y"], name="up")]
    face = [helper.make_tensor_value_info(name, 1, ["batch", 8]) for name in "xy"]
    graph = helper.make_graph(nodes, "net", face[:1], face[1:], weights)
    opsets = [helper.make_opsetid("", 20)]
    save(helper.make_model(graph, opset_imports=opsets, ir_version=10), folder / "model.onnx")
    words = ("-m", "planish", "compile", "model.onnx", "-o", "out", "--passes", "canonicalize")
    done = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True)
    assert done.returncode in (0, 6, 8), done.stderr
    return folder


@pytest.fixture
def folder(compiled: Path, tmp_path: Path) -> Path:
    """A compiled model, to do with as one likes."""
    shutil.copytree(compiled, tmp_path, dirs_exist_ok=True)
    return tmp_path / "out"


def test_a_compile_leaves_a_page_and_report_makes_it_again(planish: Planish, folder: Path) -> None:
    first = (folder / "report.html").read_bytes()
    (folder / "report.html").unlink()
    done = planish("report", "out")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{(folder / 'report.html').resolve()}\n"
    assert (folder / "report.html").read_bytes() == first
    assert planish("verify", "out").returncode == 0, "the manifest knows the page"


def test_the_page_goes_where_it_is_asked_to(planish: Planish, folder: Path) -> None:
    done = planish("report", "out", "-o", "page.html", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    page = folder.parent / "page.html"
    assert told["bytes"] == page.stat().st_size
    assert page.read_text("utf8").startswith("<!doctype html>")


def test_without_the_original_it_is_made_from_the_stages(planish: Planish, folder: Path) -> None:
    (folder.parent / "model.onnx").rename(folder.parent / "elsewhere.onnx")
    done = planish("report", "out")
    assert done.returncode == 0
    assert done.stderr.startswith("note: the original is not here")
    done = planish("report", "out", "--original", "elsewhere.onnx")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("words", "code", "what"),
    [
        (("report", "nowhere"), 3, "no such folder"),
        (("report", "."), 3, "not an artifact"),
        (("report", "model.onnx"), 3, "a file, not an artifact's folder"),
        (("report", "out", "--original", "out/model.onnx.gone"), 3, "no such file"),
        (("report", "out", "-o", "out"), 2, "name a file: -o 'out/report.html'"),
        (("report", "out", "-o", "gone/page.html"), 2, "there is no folder"),
        (("diff", "model.onnx", "out", "--html", "gone/page.html"), 2, "there is no folder"),
        (("diff", "model.onnx", "out", "--html", "out"), 2, "a file: --html 'out/report.html'"),
        (("inspect", "model.onnx", "--html", "out"), 2, "is a folder"),
    ],
)
def test_what_cannot_be_done_is_said(
    planish: Planish, folder: Path, words: tuple[str, ...], code: int, what: str
) -> None:
    done = planish(*words)
    assert done.returncode == code, done.stdout
    assert what in done.stderr
    assert not list(folder.parent.glob("*.html"))


def test_another_model_is_refused_as_the_original(planish: Planish, folder: Path) -> None:
    (folder.parent / "other.onnx").write_bytes((folder / "model.onnx").read_bytes() + b"\x00")
    done = planish("report", "out", "--original", "other.onnx")
    assert done.returncode == 3
    assert "not the model that was compiled" in done.stderr


def test_a_difference_and_a_model_as_pages(planish: Planish, folder: Path) -> None:
    for words in (("diff", "model.onnx", "out"), ("inspect", "model.onnx")):
        done = planish(*words, "--html", f"{words[0]}.html")
        assert (done.returncode, done.stdout, done.stderr) == (0, f"{words[0]}.html\n", "")
        text = (folder.parent / f"{words[0]}.html").read_text("utf8")
        assert '"kind":"' + words[0] in text


def test_modules_in_lines(planish: Planish, folder: Path) -> None:
    done = planish("inspect", "model.onnx", "--modules", "--workload", "batch=1")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["(whole", "model)", "1", "64", "256", "B", "100", "%", "128"] in lines
    assert ["m.layer.0.up", "1", "64", "256", "B", "100", "%", "128"] in lines
    told = json.loads(planish("inspect", "model.onnx", "--json").stdout)["modules"]
    assert [row["name"] for row in told] == ["(whole model)", "m.layer.0.up"]


def test_modules_add_up_to_what_the_headline_says(planish: Planish, tmp_path: Path) -> None:
    weight = numpy_helper.from_array(np.eye(8, dtype=np.float32), "m.up.weight")
    scale = numpy_helper.from_array(np.ones(8, np.float32), "scale")
    nodes = [helper.make_node("MatMul", ["x", "m.up.weight"], ["h"], name="up"),
             helper.make_node("Mul", ["h", "scale"], ["y"])]  # fmt: skip
    face = [helper.make_tensor_value_info(name, 1, [1, 8]) for name in "xy"]
    graph = helper.make_graph(nodes, "net", face[:1], face[1:], [weight, scale])
    opsets = [helper.make_opsetid("", 20)]
    save(helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "m.onnx")
    words = ("inspect", "m.onnx", "--target", "nvidia-h200", "--json")
    told = json.loads(planish(*words).stdout)
    whole, up, outside = told["modules"]
    assert [row["name"] for row in (whole, outside)] == ["(whole model)", "(outside of sites)"]
    for key in ("parameters", "flops"):
        assert whole[key] == told["totals"][key] == up[key] + outside[key]
    assert whole["bytes"] == sum(told["totals"]["bytes"].values()) == up["bytes"] + outside["bytes"]
    assert (outside["sites"], outside["parameters"], outside["bytes"]) == (0, 8, 32)
    assert outside["ms"] == 0  # TensorRT scales inside the kernel of the product
    assert 0 < up["ms"] == whole["ms"]
