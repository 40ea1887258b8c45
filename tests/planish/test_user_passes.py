"""Passes of a user's own: where they are found, and what is said when they are wrong."""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import planish as package
from planish.cli import main
from planish.ir.digest import contents_digest
from planish.ir.errors import PassError
from planish.passes import registry

Planish = Callable[..., subprocess.CompletedProcess[str]]

HEAD = '''
from dataclasses import dataclass
import numpy as np
import planish
from planish.ir.graph import constant_array, is_constant
from planish.passes.api import (
    SITES, Candidate, Pass, Perturbation, Refusal, Semantics, register,
)

@dataclass(frozen=True)
class Nothing:
    """No options."""

'''
DIVISION = (
    HEAD
    + '''
def division(op, x, c):
    return op.Div(x, c)

def stored(c):
    if not is_constant(c):
        return "the divisor is computed"

@planish.rewrite_pass("div-to-mul", division, check=stored, semantics=Semantics.REASSOCIATES)
def div_to_mul(op, x, c):
    """Multiply by the reciprocal instead of dividing by a stored number."""
    return op.Mul(x, op.initializer(1 / constant_array(c), "reciprocal"))
'''
)
PASS = (
    HEAD
    + '''
@register
class Mine(Pass):
    """Do something to the linear layers."""
    name = "mine"
    semantics = Semantics.{semantics}
    Options = Nothing

    def candidates(self, model, ctx):
        for site in ctx.analysis(SITES).of_kind("linear"):
            {candidates}
            yield Candidate(site.name, "changed")

    def perturb(self, model, candidate, ctx):
        site = ctx.analysis(SITES).by_name[candidate.site]
        weight = constant_array(site.weight)
        {perturb}
        return Perturbation(
            (site.input.name,), (site.output.name,), {{site.weight.name: weight}},
            contraction=len(weight),
        )

    def lower(self, model, candidate, perturbation, rewriter, ctx):
        site = ctx.analysis(SITES).by_name[candidate.site]
        node = site.nodes[0]
        {lower}
        rewriter.set_tensor(site.weight, perturbation.tensors[site.weight.name])
'''
)


def mine(
    *, candidates: str = "", perturb: str = "weight = weight * np.float32(0.999)",
    lower: str = "", semantics: str = "LOSSY",
) -> str:  # fmt: skip
    """A pass that makes every weight a little smaller, with something wrong in it."""
    return PASS.format(
        semantics=semantics, candidates=candidates or "pass", perturb=perturb, lower=lower or "pass"
    )


def line_of(text: str, part: str) -> int:
    """The number of the first line that holds a part; behind # which of them."""
    part, _, which = part.partition("#")
    found = [i for i, line in enumerate(text.splitlines(), 1) if part in line]
    return found[int(which or 1) - 1]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a model of two linear layers and three divisions, and with files that
    bear the names of planish's own packages."""
    random = np.random.default_rng(0)
    weights = {
        "first.weight": random.normal(size=(16, 16)),
        "second.weight": random.normal(size=(16, 16)),
        "scales": np.linspace(1.3, 7, 16),
    }
    model = ir.from_onnx_text(
        """<ir_version: 9, opset_import: ["" : 17]>
        g (float[batch, 16] x) => (float[batch, 16] y) {
            a = MatMul(x, "first.weight") b = Div(a, scales) c = Relu(b)
            d = MatMul(c, "second.weight") e = Exp(c) f = Div(d, e) y = Div(f, scales)
        }""",
        initializers=[ir.tensor(a.astype(np.float32), name=n) for n, a in weights.items()],
    )
    ir.save(model, tmp_path / "model.onnx")
    for name in ("ir.py", "compiler.py", "targets.py"):
        (tmp_path / name).write_text("raise RuntimeError('nobody asked for this file')\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def compiled(*words: str, passes: str = "canonicalize,mine") -> int:
    """The exit code of a compile with the pass file, in this process."""
    options = ["-t", "generic", "-o", "out", "--force", "--passes", passes]
    return main(["compile", "model.onnx", *options, "--pass-file", "passes.py", *words])


# -- the ways in -------------------------------------------------------------------------


def test_a_file_called_passes_in_a_folder_of_its_own(planish: Planish, folder: Path) -> None:
    (folder / "passes.py").write_text(DIVISION)
    options = ["-t", "generic", "-o", "out", "--passes", "canonicalize,div-to-mul"]
    done = planish("compile", "model.onnx", *options, "--pass-file", "passes.py")
    assert done.returncode in (0, 6, 8), done.stderr
    assert "div-to-mul rewritten at 2 sites" in done.stdout
    assert "the divisor is computed" in done.stdout
    artifact = package.load(folder / "out")
    edits = [e for e in artifact.manifest["edits"] if e["pass"] == "div-to-mul"]
    assert len(edits) == 2
    assert all(e["origins"] for e in edits)
    kinds = [node.op_type for node in ir.load(folder / "out" / "model.onnx").graph]
    assert kinds.count("Div") == 1
    assert kinds.count("Mul") == 2
    assert "div-to-mul" in (folder / "out" / "report.md").read_text("utf8")
    written = artifact.manifest["digests"]["pass div-to-mul"]
    assert re.fullmatch(r"[0-9a-f]{64}", written)


def test_the_promise_of_a_rewrite_is_checked(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = DIVISION.replace(", semantics=Semantics.REASSOCIATES", "")
    (folder / "passes.py").write_text(text)
    assert compiled(passes="canonicalize,div-to-mul") == 1
    said = capsys.readouterr().err
    assert "although it promises not to" in said
    assert f"passes.py:{line_of(text, '@planish.rewrite_pass')}" in said
    assert re.search(r"div-to-mul at \w", said)
    assert "REASSOCIATES" in said


def test_a_project_names_its_passes(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "passes.py").write_text(DIVISION)
    (folder / "pyproject.toml").write_text('[tool.planish]\npass-files = ["passes.py"]\n')
    (folder / "below").mkdir()
    monkeypatch.chdir(folder / "below")
    assert main(["plan", "../model.onnx", "-t", "generic", "--passes", "div-to-mul"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert f"loaded {folder / 'passes.py'} (div-to-mul), named by {folder / 'pyproject.toml'}" in (
        said
    )
    assert main(["passes", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["passes"]
    (own,) = (p for p in listed if p["name"] == "div-to-mul")
    assert own["written_at"].startswith(str(folder / "passes.py"))


def test_a_file_that_fails_says_who_named_it(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "passes.py").write_text("import nothing_that_exists\n")
    (folder / "pyproject.toml").write_text('[tool.planish]\npass-files = ["passes.py"]\n')
    assert main(["passes", "list"]) in (1, 2, 3)
    said = " ".join(capsys.readouterr().err.split())
    assert f"{folder / 'passes.py'}:1" in said
    assert f"{folder / 'pyproject.toml'} names the file" in said


def test_what_an_edit_saves_is_measured(folder: Path) -> None:
    """The pass changes numbers only; what it states orders nothing and stands nowhere."""
    (folder / "passes.py").write_text(mine().replace('"changed")', '"changed", 1_000_000)'))
    assert compiled() in (0, 6, 8)
    manifest = package.load(folder / "out").manifest
    edits = [e for e in manifest["edits"] if e["pass"] == "mine"]
    assert [e["saving_bytes"] for e in edits] == [0, 0]
    said = [r for r in manifest["remarks"] if r["code"] == "saving-overstated"]
    assert [r["site"] for r in said] == ["first", "second"]
    assert "1000000 bytes" in said[0]["sentence"]


def test_what_an_edit_adds_is_measured_too(folder: Path) -> None:
    """Of three divisions by one stored vector two multiply by reciprocals that are stored anew."""
    (folder / "passes.py").write_text(DIVISION)
    assert compiled(passes="canonicalize,div-to-mul") in (0, 6, 8)
    manifest = package.load(folder / "out").manifest
    saved = [e["saving_bytes"] for e in manifest["edits"] if e["pass"] == "div-to-mul"]
    assert sum(saved) == 16 * 4 - 2 * 16 * 4


def test_what_nobody_asked_for_is_not_loaded(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "passes.py").write_text("raise SystemExit('loaded')\n")
    (folder / "pyproject.toml").write_text('[tool.planish]\npass-files = ["passes.py"]\n')
    assert main(["plan", "model.onnx", "-t", "generic"]) == 0
    assert main(["compile", "model.onnx", "-t", "generic", "-o", "out"]) in (0, 6, 8)
    assert "loaded" not in capsys.readouterr().err
    assert main(["plan", "model.onnx", "-t", "generic", "--passes", "canonicalize"]) == 3
    assert "SystemExit: loaded" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[tool.planish]\npass-file = ["passes.py"]\n', "unknown key 'pass-file'"),
        ('[tool.planish]\npass-files = "passes.py"\n', "must be a list of paths"),
        ('[tool.planish]\npass-files = ["gone.py"]\n', "gone.py"),
        ("[tool.planish\n", "not a TOML file"),
    ],
)
def test_a_project_that_cannot_be_read(
    folder: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    (folder / "pyproject.toml").write_text(text)
    assert main(["passes", "list"]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert str(folder / "pyproject.toml") in err


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_a_project_of_somebody_else_is_not_trusted(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "passes.py").write_text(DIVISION)
    (folder / "pyproject.toml").write_text('[tool.planish]\npass-files = ["passes.py"]\n')
    os.chown(folder / "pyproject.toml", 4711, 4711)
    assert main(["passes", "list"]) == 2
    assert "belongs to another user" in capsys.readouterr().err


@pytest.fixture
def offering(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The entry points of an installed package; what it registers is forgotten afterwards."""
    site = folder / "site"
    info = site / "offering-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "offering_passes.py").write_text(DIVISION)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: offering\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(site)
    yield info / "entry_points.txt"
    registry._REGISTRY.pop("div-to-mul", None)
    sys.modules.pop("offering_passes", None)


def test_installed_packages_offer_passes(
    folder: Path, offering: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["plan", "model.onnx", "-t", "generic", "--passes"]
    offering.write_text("[planish.passes]\ndiv-to-mul = offering_passes:div_to_mul\n")
    assert main([*words, "canonicalize"]) == 0
    assert "offering_passes" not in sys.modules
    assert main([*words, "canonicalize,div-to-mul"]) == 0
    capsys.readouterr()
    offering.write_text("[planish.passes]\nother = offering_passes:div_to_mul\n")
    assert main([*words, "other"]) == 2
    said = "offering 1.0 offers a pass 'other', but the pass there is called 'div-to-mul'"
    assert said in capsys.readouterr().err
    offering.write_text("[planish.passes]\nquantize = offering_passes:div_to_mul\n")
    assert main(["passes", "list"]) == 2
    assert "'quantize' is taken twice" in capsys.readouterr().err


def test_objects_from_python(folder: Path) -> None:
    (folder / "passes.py").write_text(DIVISION)
    text = "canonicalize,div-to-mul"
    artifact = package.compile("model.onnx", "generic", pipeline=text, pass_files=["passes.py"])
    assert {e["pass"] for e in artifact.manifest["edits"]} >= {"div-to-mul"}
    with pytest.raises(package.UsageError, match="there is no pass 'div-to-mul'"):
        package.compile("model.onnx", "generic", pipeline=text)


def test_a_file_that_was_imported_too_is_no_clash(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one path is as good as a list of it."""
    (folder / "imported_too.py").write_text(mine())
    monkeypatch.syspath_prepend(folder)
    known = registry.registered()  # all are imported before the table is another
    monkeypatch.setattr(registry, "_REGISTRY", dict(known))
    monkeypatch.delitem(sys.modules, "imported_too", raising=False)
    importlib.import_module("imported_too")
    for given in ("imported_too.py", Path("imported_too.py"), [folder / "imported_too.py"]):
        artifact = package.compile("model.onnx", "generic", pipeline="mine", pass_files=given)
        assert {e["pass"] for e in artifact.manifest["edits"]} == {"mine"}
    (folder / "other.py").write_text(mine())
    with pytest.raises(package.UsageError, match="two passes are called 'mine'"):
        package.compile("model.onnx", "generic", pipeline="mine", pass_files="other.py")


def test_a_file_without_a_pipeline_is_said_to_do_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "passes.py").write_text(mine())
    words = ["plan", "model.onnx", "-t", "generic", "--pass-file", "passes.py"]
    said = "mine of passes.py is in no pipeline: name it with --passes canonicalize,mine"
    main(words)
    assert said in capsys.readouterr().err
    main([*words, "--passes", "canonicalize,mine"])
    assert "in no pipeline" not in capsys.readouterr().err


def test_names_that_are_known_end_with_a_full_stop() -> None:
    with pytest.raises(package.UsageError) as caught:
        registry.pass_class("zzzzzzzzzz")
    assert re.search(r"known names: .*[^?.]\. A pass of your own needs", caught.value.hint)
    with pytest.raises(package.UsageError, match=r"'quantize'.*\? A pass of your own needs"):
        registry.pass_class("quantise")


# -- files that are wrong ----------------------------------------------------------------

FILES = {
    "a syntax error": ("x = (\n", 3, "x = (", "SyntaxError"),
    "nothing": ("", 3, "", "there is no pass in the file"),
    "no decorator": (HEAD + "class Forgotten(Pass): pass\n", 3, "", "@register"),
    "a missing import": ("import numpyy\n", 3, "import numpyy", "No module named 'numpyy'"),
    "raising": ("\n\n1 / 0\n", 3, "1 / 0", "ZeroDivisionError"),
    "one name twice": (mine() + mine(), 2, "@register#2", "two passes are called 'mine'"),
    "our name": (
        mine().replace('"mine"', '"quantize"'), 2, "@register", "two passes are called 'quantize'"
    ),
    "no name": (mine().replace('name = "mine"', "name = 'my pass'"), 2, "@register", "no name"),
    "an unknown operator": (
        DIVISION.replace("op.Div(x, c)", "op.Divide(x, c)"), 2, "def division", "did you mean 'Div'"
    ),
    "an unknown attribute": (
        DIVISION.replace("op.Div(x, c)", "op.Gemm(x, c, transB=1, transC=1)"), 2, "def division",
        "Gemm has no attribute 'transC'",
    ),
    "an unbound variable": (
        DIVISION.replace("def stored(c)", "def stored(d)"), 2, "def stored", "asks for 'd'"
    ),
    "a lossy rewrite": (
        DIVISION.replace("REASSOCIATES", "LOSSY"), 2, "@planish.rewrite_pass",
        "EXACT or REASSOCIATES",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_wrong(folder: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    text, status, place, said = FILES[name]
    (folder / "passes.py").write_text(text)
    assert compiled() == status
    err = capsys.readouterr().err
    assert said in err
    line = f":{line_of(text, place)}" if place else ""
    assert f"{folder / 'passes.py'}{line}" in err
    assert not list(folder.glob("out*"))


@pytest.mark.parametrize("name", ["gone.py", "model.onnx", "."])
def test_a_file_that_is_none(folder: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    words = ["plan", "model.onnx", "--passes", "mine", "--pass-file", name]
    assert main(words) in (2, 3)
    assert name.strip(".") in capsys.readouterr().err


# -- passes that are wrong ---------------------------------------------------------------

NODE = "node.replace_input_with(0, model.graph.inputs[0])"
WRONG = {
    "raises half-way": (
        mine(lower="if 'second' in candidate.site: raise ValueError('half way')"),
        "ValueError: half way", "raise ValueError",
    ),
    "mutates in candidates": (
        mine(candidates="site.weight.const_value = None"), "behind the rewriter's back",
        "def candidates",
    ),
    "mutates in perturb": (
        mine(perturb="model.graph.outputs[0].name = 'z'"), "behind the rewriter's back",
        "def perturb",
    ),
    "mutates in lower": (
        mine(lower="node.attributes.add(__import__('onnx_ir').AttrInt64('k', 1))"),
        "Unrecognized attribute: k", "def lower",
    ),
    "writes into a tensor": (mine(perturb="weight[0] = 0"), "read-only", "weight[0] = 0"),
    "changes the signature": (
        mine(lower="rewriter.set_type(model.graph.outputs[0], model.graph.outputs[0].dtype, "
             "__import__('onnx_ir').Shape([3, 16]))"),
        "signature", "def lower",
    ),
    "never ends": (mine(candidates="while True: pass"), "took more than 1 seconds", "while True"),
    "offers without end": (
        mine(candidates="while True: yield Candidate('a', 'b')"), "candidates() yields more than",
        "def candidates",
    ),
    "inserts without end": (
        mine(lower="while True: rewriter.value_name('n')"),
        "operations in one edit", "while True",
    ),
    "gives NaN": (
        mine(perturb="weight = weight * np.float32('nan')"), "hold NaN", "def perturb",
    ),
    "gives another shape": (mine(perturb="weight = weight[1:]"), "float32[15, 16]", "def perturb"),
    "names what is not there": (
        mine(perturb="return Perturbation(('nowhere',), (site.output.name,))"),
        "'nowhere', which the graph does not compute", "def perturb",
    ),
    "computes something else": (
        mine(lower="rewriter.set_tensor(site.weight, 2 * constant_array(site.weight)); return"),
        "the lowered region differs", "def lower",
    ),
    "promises too much": (
        mine(perturb="return None", semantics="EXACT",
             lower="rewriter.set_tensor(site.weight, 2 * constant_array(site.weight)); return"),
        "although it promises not to", "def lower",
    ),
    "an unknown attribute": (
        mine(lower="rewriter.insert('Softmax', [site.input], before=node, attributes={'axes': 1})"),
        "Softmax has no attribute 'axes'", "rewriter.insert",
    ),
    "an unknown operator": (
        mine(lower="rewriter.insert('Matmul', [site.input], before=node)"),
        "no operator 'Matmul'", "rewriter.insert",
    ),
    "a wrong type of attribute": (
        mine(lower="rewriter.insert('Softmax', [site.input], before=node, "
             "attributes={'axis': 1.5})"),
        "of type INT, not FLOAT", "rewriter.insert",
    ),
    "inputs that do not fit": (
        mine(lower="rewriter.insert('MatMul', [site.weight, rewriter.initializer('k', "
             "np.zeros((3, 3), np.float32))], before=node)"),
        "cannot take its inputs", "rewriter.insert",
    ),
    "a lie about a shape": (
        mine(lower="rewriter.set_type(node.outputs[0], node.outputs[0].dtype, "
             "__import__('onnx_ir').Shape([4, 4]))"),
        "shapes or types do not fit", "def lower",
    ),
    "a site that is none": (mine(candidates="yield 'a name'"), "a str, not a Candidate",
        "def candidates",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_pass_that_is_wrong_is_named_with_file_and_line(folder: Path, name: str) -> None:
    text, said, line = WRONG[name]
    (folder / "passes.py").write_text(text)
    before = contents_digest(ir.load("model.onnx"))
    settings: dict[str, Any] = {
        "pipeline": "mine",
        "pass_files": ["passes.py"],
        "pass_timeout": 1.0,
    }
    with pytest.raises(PassError, match=re.escape(said)) as caught:
        package.compile("model.onnx", "generic", output="out", **settings)
    where = str(caught.value)
    assert f"{folder / 'passes.py'}:{line_of(text, line)}" in where
    assert "mine" in where
    repro = folder / "out-repro"
    assert "a reproducer is in out-repro" in caught.value.hint
    assert contents_digest(ir.load(repro / "model.onnx")) == before
    assert not (folder / "out").exists()


def test_the_pass_and_the_site_are_named_beside_a_file_called_so(folder: Path) -> None:
    (folder / "mine.py").write_text(mine(lower="raise ValueError('no')"))
    with pytest.raises(PassError) as caught:
        package.compile("model.onnx", "generic", pipeline="mine", pass_files=["mine.py"])
    assert caught.value.where.startswith(f"mine at first: {folder / 'mine.py'}:")


@pytest.mark.parametrize("name", ["raises half-way", "mutates in candidates", "never ends"])
def test_a_pass_that_is_wrong_can_be_skipped(folder: Path, name: str) -> None:
    text, said, _ = WRONG[name]
    (folder / "passes.py").write_text(text)
    files: dict[str, Any] = {"pass_files": ["passes.py"], "pass_timeout": 1.0}
    settings: dict[str, Any] = {"pipeline": "canonicalize,mine", **files}
    artifact = package.compile("model.onnx", "generic", on_pass_failure="skip", **settings)
    plain = package.compile("model.onnx", "generic", pipeline="canonicalize")
    assert artifact.manifest["digests"]["model"] == plain.manifest["digests"]["model"]
    (missed,) = (r for r in artifact.manifest["remarks"] if r["code"] == "pass-failed")
    assert said in missed["sentence"]
    assert any("mine failed and was left out" in note for note in artifact.manifest["notes"])


@pytest.mark.parametrize("words", [["--on-pass-failure", "go"], ["--pass-timeout", "-1"]])
def test_options_that_do_not_exist(folder: Path, words: list[str]) -> None:
    (folder / "passes.py").write_text(mine())
    assert compiled(*words) == 2


def test_an_interrupt_ends_a_pass_that_does_not_end(folder: Path) -> None:
    (folder / "passes.py").write_text(mine(candidates="print('started', flush=True); WAIT"))
    text = (folder / "passes.py").read_text().replace("WAIT", "\n            while True: pass")
    (folder / "passes.py").write_text(text)
    words = ["compile", "model.onnx", "-t", "generic", "--passes", "mine", "-o", "out"]
    command = [sys.executable, "-m", "planish", *words, "--pass-file", "passes.py"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == b"started\n"
        time.sleep(0.1)
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=30)
    assert running.returncode == 130
    assert b"interrupted, nothing was written" in err
    assert not list(folder.glob("out*"))


LACKING = {
    "no promise": (mine().replace("    semantics = Semantics.LOSSY\n", ""), "promises nothing"),
    "no lower": (mine().replace("def lower", "def lowers"), "has no lower()"),
    "options": (mine().replace("Options = Nothing", "Options = dict"), "are no dataclass"),
}


@pytest.mark.parametrize("name", LACKING)
def test_a_class_that_lacks_something(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    text, said = LACKING[name]
    (folder / "passes.py").write_text(text)
    assert compiled() == 2
    err = capsys.readouterr().err
    assert said in err
    assert f"passes.py:{line_of(text, '@register')}" in err


@pytest.mark.parametrize("kind", ["list", "dict", "tuple[int, int]", "int | str"])
def test_options_that_no_pipeline_can_spell(
    folder: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    text = mine().replace('    """No options."""', f"    values: {kind} = None")
    (folder / "passes.py").write_text(text)
    assert compiled() == 2
    err = capsys.readouterr().err
    assert f"has the option 'values' of the type {kind}, which a pipeline cannot spell" in err
    assert f"passes.py:{line_of(text, '@register')}" in err


@pytest.mark.parametrize(
    "body",
    [
        "values: int = 3\n    def __post_init__(self): len(self.values)",
        "values: tuple[int, ...] = field(default_factory=lambda: len(3))",
    ],
)
def test_options_that_raise(folder: Path, capsys: pytest.CaptureFixture[str], body: str) -> None:
    text = mine().replace('    """No options."""', f"    {body}")
    text = text.replace("import dataclass", "import dataclass, field")
    (folder / "passes.py").write_text(text)
    assert compiled() == 2
    err = capsys.readouterr().err
    assert "the options of mine failed with TypeError: object of type 'int' has no len()" in err
    assert f"passes.py:{line_of(text, 'len(')}" in err


def test_a_plan_is_guarded_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = mine(perturb="raise ValueError('no numbers')")
    (folder / "passes.py").write_text(text)
    words = ["plan", "model.onnx", "-t", "generic", "--passes", "mine", "--pass-file", "passes.py"]
    assert main(words) == 1
    assert f"passes.py:{line_of(text, 'raise ValueError')}" in capsys.readouterr().err
