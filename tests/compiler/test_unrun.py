"""Compiles of models that are taken to be too large to run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from planish.compiler import memory
from planish.compiler.driver import compile_model
from planish.compiler.memory import activation_bytes, bindings_of, estimate, weight_bytes
from planish.compiler.reporting import selftest
from planish.compiler.reporting.headline import headline
from planish.compiler.result import Built
from planish.ir.errors import InputError, UsageError
from planish.ir.load import load_model
from planish.targets import runtime

GB = 10**9


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions take so much that none fits, and to open one of a model file is an error."""
    monkeypatch.setattr(memory, "SESSION", 1e9)
    opened = runtime._open

    def watched(model: Path | bytes, *given: Any) -> Any:
        assert isinstance(model, bytes), "a session was opened on a file"
        return opened(model, *given)

    monkeypatch.setattr(runtime, "_open", watched)


def gemms(layers: int = 2, width: int = 64) -> onnx.ModelProto:
    """Linear layers as PyTorch writes them, with a Relu between."""
    rng = np.random.default_rng(3)
    shape = (width, width)
    weights = {f"w{i}": rng.normal(size=shape).astype(np.float32) for i in range(layers)}
    body = "".join(
        f"a{i} = Gemm <transB = 1> (r{i}, w{i}) r{i + 1} = Relu(a{i}) " for i in range(layers)
    )
    face = f"(float[batch, {width}] r0) => (float[batch, {width}] r{layers})"
    header = '<ir_version: 10, opset_import: ["" : 20]>'
    proto = onnx.parser.parse_model(f"{header} g {face} {{ {body}}}")
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in weights.items())
    return proto


def compiled(model: onnx.ModelProto, folder: Path, **options: Any) -> Built:
    given: dict[str, Any] = {"target": "generic", "threads": 1, "max_memory": "8GB"} | options
    return compile_model(model, output=folder / "out", **given)


def manifest(built: Built) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads((built.folder / "manifest.json").read_text("utf8"))
    return found


@pytest.mark.usefixtures("large")
def test_the_lossless_model_is_handed_over_and_the_first_line_says_why(tmp_path: Path) -> None:
    built = compiled(gemms(), tmp_path)
    result = built.result
    assert (result.speed.verdict, result.quality.verdict) == ("not-measured", "unverified")
    assert result.exit_code == 0
    assert result.lossless
    line = headline(result)
    assert "(not run: running the whole model would take about" in line
    assert "8.00 GB may be used" in line
    assert "2 changed regions (1 different) compute the same" in line
    assert any("quantization was not tried" in note for note in result.notes)
    memory = manifest(built)["memory"]
    assert memory["bounded"] is True
    assert memory["limit_bytes"] == 8 * GB
    assert memory["regions"] == {"equal": 2, "forms": 1, "not_checked": {}}
    ops = [n.op_type for n in ir.load(built.folder / "model.onnx").graph]
    assert ops == ["MatMul", "Relu"] * 2


@pytest.mark.usefixtures("large")
def test_goal_size_quantizes_layer_by_layer(tmp_path: Path) -> None:
    built = compiled(gemms(), tmp_path, goal="size")
    assert not built.result.lossless
    assert built.result.bytes_after < 0.5 * built.result.bytes_before
    assert "2 lossy edits were checked on their regions" in headline(built.result)
    assert built.result.quality.verdict == "unverified"


@pytest.mark.usefixtures("large")
def test_weights_are_packed_layer_by_layer(tmp_path: Path) -> None:
    first = compiled(gemms(), tmp_path / "a", pipeline="canonicalize,weight-only")
    assert "2 lossy edits were checked on their regions" in headline(first.result)
    assert first.result.bytes_after < 0.3 * first.result.bytes_before
    again = compiled(gemms(), tmp_path / "b", plan=first.folder)
    one, two = ((b.folder / "model.onnx").read_bytes() for b in (first, again))
    assert one == two
    refused = compiled(gemms(), tmp_path / "c", pipeline="weight-only{method=gptq}")
    assert {r.code for r in refused.result.remarks if r.kind == "refused"} == {"no-calibration"}


@pytest.mark.usefixtures("large")
def test_the_choices_of_the_user_are_kept(tmp_path: Path) -> None:
    pipeline = "canonicalize,quantize{scheme=dynamic exclude=block1.ffn.up}"
    first = compiled(gemms(), tmp_path / "a", pipeline=pipeline)
    names = [e.site for e in first.result.edits if e.loss is not None]
    assert names == ["block1.ffn.down"]
    again = compiled(gemms(), tmp_path / "b", plan=first.folder)
    assert [e.site for e in again.result.edits if e.loss is not None] == names
    one, two = ((b.folder / "model.onnx").read_bytes() for b in (first, again))
    assert one == two


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize(
    "options",
    [
        {"calibration": {"r0": np.zeros((4, 64), np.float32)}},
        {"holdout": {"r0": np.zeros((4, 64), np.float32)}},
        {"max_drift": "cosine=0.9"},
        {"evaluate": lambda run: 1.0, "max_drop": "1%"},
    ],
    ids=lambda options: "+".join(options),
)
def test_data_that_cannot_be_used_is_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="cannot be used: not run") as caught:
        compiled(gemms(), tmp_path, **options)
    assert all(f"--{name.replace('_', '-')}" in caught.value.what for name in options)
    assert "--max-memory" in caught.value.hint
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("large")
def test_passes_that_need_statistics_say_so(tmp_path: Path) -> None:
    built = compiled(gemms(), tmp_path, pipeline="canonicalize,quantize{scheme=static}")
    assert {r.code for r in built.result.remarks if r.kind == "refused"} == {"no-calibration"}
    assert built.result.lossless


@pytest.mark.usefixtures("large")
def test_the_artifact_is_compared_elsewhere(tmp_path: Path) -> None:
    model = gemms()
    onnx.save(model, tmp_path / "model.onnx")
    built = compiled(model, tmp_path)
    words = [sys.executable, str(built.folder / "verify.py")]
    plain = subprocess.run(words, capture_output=True, text=True, check=False)
    assert plain.returncode == 0, plain.stdout
    assert "give --original MODEL" in plain.stdout
    words += ["--original", str(tmp_path / "model.onnx")]
    compared = subprocess.run(words, capture_output=True, text=True, check=False)
    assert compared.returncode == 0, compared.stdout
    assert "cosine 1.00000" in compared.stdout
    other = gemms()
    other.graph.initializer[0].raw_data = other.graph.initializer[1].raw_data
    onnx.save(other, tmp_path / "model.onnx")
    wrong = subprocess.run(words, capture_output=True, text=True, check=False)
    assert wrong.returncode == 1
    assert "of the original differs by up to" in wrong.stdout


@pytest.mark.usefixtures("large")
def test_a_machine_too_small_to_verify_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = compiled(gemms(), tmp_path)
    monkeypatch.setattr(selftest, "free_bytes", lambda: 10)

    def never(path: Path) -> Any:
        raise AssertionError("the model was loaded")

    outcome = selftest.check(built.folder, never)
    assert outcome.passed
    assert "not run: the model takes about" in outcome.text()


def test_an_ordinary_compile_tells_its_estimate(tmp_path: Path) -> None:
    built = compiled(gemms(1), tmp_path, pipeline="canonicalize")
    memory = manifest(built)["memory"]
    assert memory["bounded"] is False
    assert memory["weights_bytes"] == 64 * 64 * 4
    assert memory["whole_model_bytes"] <= memory["limit_bytes"] == 8 * GB
    assert "regions" not in memory
    assert built.result.quality.verdict == "unverified"  # no data
    assert built.result.samples[0].outputs


def test_too_little_memory_for_anything(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"50\.0 MB of memory are too little \(--max-memory\)"):
        compiled(gemms(1), tmp_path, max_memory="50MB")
    assert not (tmp_path / "out").exists()


def test_a_size_that_is_none_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'much' is no size of memory"):
        compiled(gemms(1), tmp_path, max_memory="much")


# -- the estimate ------------------------------------------------------------------------

ALIVE = """
<ir_version: 10, opset_import: ["" : 20]>
g (float[batch, 100] x) => (float[batch, 1] y)
{
  a = Concat <axis = 1> (x, x)
  b = Relu(a)
  c = Concat <axis = 1> (b, b)
  y = ReduceMean <keepdims = 1> (c, axes)
}
"""


def test_activations_are_what_is_alive_at_one_time() -> None:
    axes = ir.tensor(np.array([1], np.int64), name="axes")
    model = load_model(ir.from_onnx_text(ALIVE, initializers=[axes])).model
    rows = 7
    # b with 200 and c with 400 numbers a row live together; a is gone by then.
    assert activation_bytes(model, {"batch": rows}) == 4 * rows * (200 + 400)


def test_open_axes_have_the_largest_size_of_the_feeds() -> None:
    axes = ir.tensor(np.array([1], np.int64), name="axes")
    model = load_model(ir.from_onnx_text(ALIVE, initializers=[axes])).model
    assert bindings_of(model, ()) == {"batch": 4}
    assert bindings_of(model, [{"x": np.zeros((n, 100))} for n in (3, 9, 2)]) == {"batch": 9}


@pytest.mark.parametrize(
    ("inputs", "sizes"),
    [
        ("float[batch, n] x, float[2, batch, 8] state", {"batch": 4, "n": 32}),
        ("float[2, batch, 8] state, float[batch, n] x", {"batch": 4, "n": 32}),
        ("int64[batch, tokens] x, int64[tokens] places", {"batch": 4, "tokens": 32}),
        ("float[1, frames] x", {"frames": 32}),
    ],
)
def test_the_first_open_axis_is_the_batch_wherever_it_stands(
    inputs: str, sizes: dict[str, int]
) -> None:
    text = (
        f'<ir_version: 10, opset_import: ["" : 20]>\n'
        f"g ({inputs}) => (float y) {{ y = Constant <value_float = 1.0> () }}"
    )
    assert bindings_of(load_model(ir.from_onnx_text(text)).model, ()) == sizes


def test_a_tensor_held_twice_counts_once(kit: ModuleType) -> None:
    model = load_model(kit.chain(2)).model
    values = model.graph.initializers
    before = weight_bytes(model)
    values["block1.weight"].const_value = values["block0.weight"].const_value
    assert before - weight_bytes(model) == 64 * 64 * 4


def test_what_fits_depends_on_the_limit_alone(
    kit: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(kit.chain(2)).model
    found = estimate(model, "100GB", ())
    assert found.fits
    assert found.reason == ""
    assert found.weights < found.bounded <= found.whole < 100 * GB
    monkeypatch.setattr(memory, "SESSION", 1e6)
    most = estimate(model, "100GB", ()).whole
    assert estimate(model, most + (1 << 28), ()).fits
    assert not estimate(model, most - (1 << 28), ()).fits
