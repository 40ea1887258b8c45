"""``planish reduce``: models become small while a command finds them interesting."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from planish.cli import main
from planish.targets.runtime import open_session

LAYERS = 12
BUG = """
import sys, onnx
graph = onnx.load(sys.argv[1]).graph
made = {name: node.op_type for node in graph.node for name in node.output}
pairs = [(made.get(n.input[0]), n.op_type) for n in graph.node if n.input]
sys.exit(0 if ("Sigmoid", "MatMul") in pairs else 3)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bug.py").write_text(BUG)
    onnx.save(chain("Relu"), tmp_path / "m.onnx")
    return tmp_path


def chain(op: str, domain: str = "") -> onnx.ModelProto:
    """MatMuls with something behind each: a Sigmoid in the middle, else ``op``."""
    make, rng = onnx.helper, np.random.default_rng(1)
    nodes, held, last = [], [], "x"
    for i in range(LAYERS):
        held.append(numpy_helper.from_array(rng.normal(size=(8, 8)).astype(np.float32), f"w{i}"))
        nodes.append(make.make_node("MatMul", [last, f"w{i}"], [f"m{i}"]))
        middle = i == LAYERS // 2
        nodes.append(
            make.make_node(
                "Sigmoid" if middle else op, [f"m{i}"], [f"a{i}"], domain="" if middle else domain
            )
        )
        last = f"a{i}"
    nodes.append(make.make_node("Add", [last, "unused"], ["y"]))
    kind = onnx.TensorProto.FLOAT
    graph = make.make_graph(
        nodes, "g",
        [make.make_tensor_value_info(n, kind, ["b", 8]) for n in ("x", "unused")],
        [make.make_tensor_value_info("y", kind, ["b", 8])], held,
    )  # fmt: skip
    imports = [make.make_opsetid("", 17), *([make.make_opsetid(domain, 1)] if domain else [])]
    return make.make_model(graph, ir_version=8, opset_imports=imports)


def asks(script: str = "bug.py", *more: str) -> str:
    return shlex.join([sys.executable, script, *more])


def test_what_the_command_does_not_need_goes(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reduce", "m.onnx", "--predicate", asks()]) == 0
    said = capsys.readouterr().out
    assert "reduced: 25 nodes to 2, 2 inputs to 1, 12 weights to 1" in said
    made = onnx.load("m.reduced.onnx")
    assert [node.op_type for node in made.graph.node] == ["Sigmoid", "MatMul"]
    onnx.checker.check_model(made)
    open_session(made.SerializeToString(), threads=1)
    (weight,) = made.graph.initializer
    held = numpy_helper.to_array(weight)
    assert held.size == 1 or (held == held.flat[0]).all()
    assert not list(folder.glob(".*"))


def test_a_model_that_the_runtime_refuses_is_reduced_too(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(chain("Nonsense", "my.domain"), "odd.onnx")
    asked = "grep -q Nonsense {model}"
    assert main(["reduce", "odd.onnx", "--predicate", asked, "-o", "small.onnx", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["before"]["nodes"] == 25
    assert told["after"]["nodes"] == 1
    assert told["output"] == "small.onnx"
    assert [n.op_type for n in onnx.load("small.onnx").graph.node] == ["Nonsense"]


def test_an_interrupt_keeps_the_smallest_so_far(folder: Path) -> None:
    (folder / "slow.py").write_text("import time; time.sleep(0.2)" + BUG)
    words = [sys.executable, "-m", "planish", "reduce", "m.onnx", "-o", "kept.onnx"]
    process = subprocess.Popen(
        [*words, "--predicate", asks("slow.py")], stdout=subprocess.PIPE, text=True
    )
    for _ in range(600):
        if (folder / "kept.onnx").exists():
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; the smallest so far" in said
    assert subprocess.run([*shlex.split(asks()), "kept.onnx"], check=False).returncode == 0


def test_runs_that_take_too_long_are_ended_with_all_they_started(folder: Path) -> None:
    (folder / "hang.sh").write_text("touch started; (sleep 3; touch late) & wait")
    before = time.monotonic()
    assert main(["reduce", "m.onnx", "--predicate", "sh hang.sh", "--timeout", "0.5"]) == 2
    assert (folder / "started").exists()
    time.sleep(max(0.0, before + 4 - time.monotonic()))
    assert not (folder / "late").exists()


def test_a_command_that_is_not_sure_is_told(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "odd.sh").write_text("test $(basename $1) = model.onnx")  # never of the output
    assert main(["reduce", "m.onnx", "--predicate", "sh odd.sh", "--budget", "3"]) == 0
    assert "does not say the same each time" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["m.onnx", "--predicate", "false"], 2, "does not find the model itself interesting"),
        (["m.onnx", "--predicate", "nosuchthing"], 2, "cannot be started"),
        (["m.onnx", "--predicate", ""], 2, "the command is empty"),
        (["m.onnx", "--predicate", "sh 'open"], 2, "no command"),
        (["none.onnx", "--predicate", "true"], 3, "cannot be read"),
        (["bug.py", "--predicate", "true"], 3, "bug.py"),
        (["empty.onnx", "--predicate", "true"], 3, "no nodes"),
        (["m.onnx", "--predicate", "true", "-o", "m.onnx", "--force"], 2, "there already"),
        (["m.onnx", "--predicate", "true", "-o", "bug.py"], 2, "there already"),
        (["m.onnx", "--predicate", "true", "-o", "no/such.onnx"], 2, "no such folder"),
    ],
)
def test_what_cannot_be_is_told(
    folder: Path, capsys: pytest.CaptureFixture[str], words: Any, code: int, said: str
) -> None:
    (folder / "empty.onnx").write_bytes(b"")
    before = sorted(folder.iterdir())
    assert main(["reduce", *words]) == code
    assert said in capsys.readouterr().err
    assert sorted(folder.iterdir()) == before
