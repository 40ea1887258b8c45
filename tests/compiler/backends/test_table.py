"""The table of backends: what serves a target, what others add, clashes, what cannot be used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from planish.compiler.backends import table
from planish.compiler.backends.backend import Backend
from planish.compiler.backends.table import backend_for, backend_or_none, register
from planish.ir.errors import TargetError, UsageError
from planish.targets import runtimes
from planish.targets.loader import load_target, require_backend, target_names
from planish.targets.schema import Target
from planish.targets.techniques import compiles

TOML = """
name = "mine"
summary = "A runtime of one's own"
kind = "machine"
extends = "generic"

[runtime]
name = "{runtime}"
provider = "{provider}"
"""


class Mine(Backend):
    """Hands graphs over as they are."""

    name, runtime = "mine", "my-runtime"


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing that a test adds outlives it."""
    monkeypatch.setattr(table, "_KNOWN", dict(table._KNOWN))
    monkeypatch.setattr(runtimes, "_REGISTERED", {})
    runtimes.forget()
    yield
    runtimes.forget()


def target_of(folder: Path, runtime: str, provider: str = "") -> Target:
    path = folder / "mine.toml"
    path.write_text(TOML.format(runtime=runtime, provider=provider))
    return load_target(path)


def install(folder: Path, name: str, point: str, source: str = "") -> None:
    """A distribution of the name on the path, offering one backend."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[planish.backends]\n{point}\n")
    if source:
        (folder / f"module_of_{name}.py").write_text(source)


SOURCE = """
from planish.compiler.backends.backend import Backend


class Mine(Backend):
    name, runtime = "{name}", "{runtime}"


MINE = Mine()
"""


def test_every_target_has_the_backend_that_its_runtime_names() -> None:
    for name in target_names():
        target = load_target(name)
        found = backend_or_none(target)
        assert (found is not None) == compiles(target).supported
        if found is not None:
            assert found.served == (target.runtime.name, target.runtime.provider)
            assert backend_for(target) is found
    assert backend_for(load_target("host")).name == "onnxruntime-cpu"
    assert backend_for(load_target("nvidia-a100")).name == "tensorrt"
    with pytest.raises(TargetError, match="no backend for onnxruntime"):
        backend_for(load_target("apple-coreml"))


def test_a_registered_backend_serves_targets_of_its_runtime(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"'runtime\.name' is 'my-runtime', must be"):
        target_of(tmp_path, "my-runtime")
    mine = register(Mine())
    target = target_of(tmp_path, "my-runtime")
    assert backend_for(target) is mine
    require_backend(target)
    register(mine)  # the same once more is nothing new
    with pytest.raises(TargetError, match=r"no backend for my-runtime \(Other\)"):
        backend_for(replace(target, runtime=replace(target.runtime, provider="Other")))


def test_a_name_or_runtime_that_is_taken_is_refused_with_both_places() -> None:
    class Second(Mine):
        name = "second"

    class Own(Backend):
        name, runtime = "tensorrt", "my-trt"

    class Cpu(Backend):
        name, runtime, provider = "faster", "onnxruntime", "CPUExecutionProvider"

    register(Mine())
    with pytest.raises(UsageError, match="two backends claim the runtime my-runtime") as caught:
        register(Second())
    assert "Mine" in caught.value.where
    assert "Second" in caught.value.where
    assert "test_table.py" in caught.value.where
    with pytest.raises(UsageError, match="claim the name 'tensorrt'") as caught:
        register(Own())
    assert "planish itself" in caught.value.where
    with pytest.raises(UsageError, match=r"the runtime onnxruntime \(CPUExecutionProvider\)"):
        register(Cpu())


@pytest.mark.parametrize(
    ("thing", "said"),
    [
        (type("Nameless", (Backend,), {"runtime": "r"})(), "sets no name"),
        (type("Nowhere", (Backend,), {"name": "n"})(), "sets no runtime"),
        (object(), "is no backend"),
        (Mine, "is no backend"),
    ],
)
def test_what_is_no_backend_is_not_registered(thing: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        register(thing)


def test_an_installed_backend_is_found_by_its_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    source = SOURCE.format(name="other", runtime="other-runtime")
    install(tmp_path, "one", "other = module_of_one:MINE", source)
    target = target_of(tmp_path, "other-runtime")
    assert backend_for(target).name == "other"
    assert compiles(target).supported


@pytest.mark.parametrize(
    ("point", "source", "said"),
    [
        ("other = module_of_two:NONE", SOURCE.format(name="other", runtime="r2"), "AttributeError"),
        ("other = module_of_two:MINE", "MINE = 3", "it has no text 'name'"),
        ("other = module_of_two:Mine", SOURCE.format(name="other", runtime="r2"), "it is a class"),
        ("other = module_of_two:MINE", SOURCE.format(name="b", runtime="r2"), "its name is 'b'"),
        ("other = module_of_two:MINE", SOURCE.format(name="other", runtime="tensorrt"),
         "two backends serve tensorrt: one of planish itself and one of two 1.0"),
        ("tensorrt = module_of_two:MINE", "", "is taken twice"),
    ],
)  # fmt: skip
def test_an_installed_backend_that_cannot_be_used_says_whose_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str, source: str, said: str
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "module_of_two", raising=False)
    install(tmp_path, "two", point, source)
    with pytest.raises(UsageError, match=said) as caught:
        backend_or_none(load_target("apple-coreml"))
    assert "two" in str(caught.value)


def test_two_distributions_that_offer_one_name_stop_every_compile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    install(tmp_path, "one", "other = module_of_one:MINE")
    install(tmp_path, "two", "other = module_of_two:MINE")
    with pytest.raises(UsageError, match=r"taken twice in planish\.backends") as caught:
        backend_for(load_target("host"))
    assert "one 1.0" in caught.value.what
    assert "two 1.0" in caught.value.what


def test_a_misspelt_runtime_in_a_file_lists_the_known_ones(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(TOML.format(runtime="tensort", provider=""))
    words = [sys.executable, "-m", "planish", "targets", "show", str(path)]
    run = subprocess.run(words, capture_output=True, text=True)
    assert run.returncode == 4
    assert "'runtime.name' is 'tensort', must be a runtime that a backend serves" in run.stderr
    assert "backends serve onnxruntime, tensorrt" in run.stderr
    assert "mine.toml:8" in run.stderr


def test_the_least_backend_hands_the_graph_over_as_it_is() -> None:
    model = ir.from_onnx_text(
        '<ir_version: 9, opset_import: ["": 17]> g (float[2] x) => (float[2] y) { y = Relu(x) }'
    )
    made = Mine().emitter(None, None, ()).emit(model, wide=False)  # type: ignore[arg-type]
    assert made.model is model
    assert made.reference is None
    assert "does not run" in Mine().elsewhere(load_target("host"))


BUILT = """
from pathlib import Path

from planish.compiler.backends.backend import Backend


class Mine(Backend):
    name, runtime = "other", "other-runtime"

    def legalise(self, rewriter, target):
        {legalise}

    def finish(self, result, folder):
        (folder / "model.other").write_text("written by the backend")
        {finish}


MINE = Mine()
"""


def compiled(folder: Path, legalise: str, finish: str) -> subprocess.CompletedProcess[str]:
    """``planish compile`` beside an installed backend, in a process of its own."""
    install(folder, "one", "other = module_of_one:MINE",
            BUILT.format(legalise=legalise, finish=finish))  # fmt: skip
    (folder / "mine.toml").write_text(TOML.format(runtime="other-runtime", provider=""))
    weight = onnx.numpy_helper.from_array(np.eye(32, dtype=np.float32), "w")
    body = "g (float[n, 32] x) => (float[n, 32] y) { y = MatMul(x, w) }"
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> {body}')
    model.graph.initializer.append(weight)
    onnx.save(model, folder / "model.onnx")
    words = [sys.executable, "-m", "planish", "compile", "model.onnx", "--target", "mine.toml",
             "-o", "out", "--passes", "canonicalize"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)


def test_the_command_line_compiles_with_an_installed_backend(tmp_path: Path) -> None:
    done = compiled(tmp_path, "return ()", "return result")
    assert "not run on the target mine (other-runtime does not run" in done.stdout, done.stderr
    assert (tmp_path / "out/model.other").read_text() == "written by the backend"
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert "model.other" in manifest["files"]
    verify = [sys.executable, str(tmp_path / "out/verify.py")]
    assert subprocess.run(verify, capture_output=True).returncode == 0


@pytest.mark.parametrize(
    ("legalise", "finish", "said"),
    [
        ("return 1 / 0", "return result", "failed in legalise: ZeroDivisionError"),
        ("return ()", "return result.nothing", "failed in finish: AttributeError"),
        ("return ()", "return None", "failed in finish: TypeError: it returns NoneType"),
    ],
)
def test_a_backend_that_fails_is_named_and_leaves_nothing(
    tmp_path: Path, legalise: str, finish: str, said: str
) -> None:
    done = compiled(tmp_path, legalise, finish)
    assert done.returncode == 4
    assert f"the backend 'other' {said}" in done.stderr
    assert ("module_of_one.py:" in done.stderr) is ("NoneType" not in said)
    assert not (tmp_path / "out").exists()
