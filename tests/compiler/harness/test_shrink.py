"""Failing cases are made small, every step a model that the runtime runs, always the same way."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from planish.cli import main
from planish.compiler.harness.case import Case
from planish.compiler.harness.check import Failure, check
from planish.compiler.harness.execute import run_all
from planish.compiler.harness.feedfile import read_feeds, write_feeds
from planish.compiler.harness.reproduce import model_text, write_reproducer
from planish.compiler.harness.run import Run
from planish.compiler.harness.shrink import minimized, shrink
from planish.compiler.harness.subject import Subject
from planish.ir.errors import InputError

MakeCase = Callable[..., Case]
RNG = np.random.default_rng(3)
HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'


def big(seed: int = 0, op: str = "Softsign", at: int = 23) -> Case:
    """48 nodes with residuals and three outputs; node ``at`` is the only one of its type."""
    rng = np.random.default_rng(seed)
    nodes, tensors, last = [], [], ["x"]
    for index in range(48):
        left, right = last[-1], last[int(rng.integers(0, len(last)))]
        name = f"v{index}"
        if index == at:
            nodes.append(helper.make_node(op, [left], [name]))
        elif index % 5 == 0:
            array = rng.normal(size=(8, 8)).astype(np.float32) / 3
            tensors.append(numpy_helper.from_array(array, f"w{index}"))
            nodes.append(helper.make_node("MatMul", [left, f"w{index}"], [name]))
        else:
            kind = ("Add", "Sub", "Max", "Min")[index % 4]
            nodes.append(helper.make_node(kind, [left, right], [name]))
        last.append(name)
    face = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8])]
    ends = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 8]) for n in ("v23", "v40", "v47")
    ]
    graph = helper.make_graph(nodes, "big", face, ends, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    feeds = [{"x": rng.normal(size=(3, 8)).astype(np.float32)} for _ in range(2)]
    return Case("big", model, tuple(feeds))


def ops(case: Case) -> list[str]:
    return [node.op_type for node in case.model.graph.node]


def holds(*wanted: str) -> Callable[[Case], bool]:
    """Whether operators follow one another, each reading what the one before computes."""

    def interesting(case: Case) -> bool:
        made = {name: n for n in case.model.graph.node for name in n.output}

        def reaches(node: onnx.NodeProto, rest: tuple[str, ...]) -> bool:
            if node.op_type != rest[-1]:
                return False
            before = [made[name] for name in node.input if name in made]
            return len(rest) == 1 or any(reaches(n, rest[:-1]) for n in before)

        return any(reaches(node, wanted) for node in case.model.graph.node)

    return interesting


@pytest.mark.parametrize(
    ("items", "needed"),
    [(50, {7}), (50, {3, 40}), (1, {0}), (9, set(range(9))), (33, {0, 16, 32})],
)
def test_a_list_is_minimized(items: int, needed: set[int]) -> None:
    asked: list[list[int]] = []

    def keep(kept: list[int]) -> bool:
        asked.append(kept)
        return needed <= set(kept)

    assert minimized(list(range(items)), keep) == sorted(needed)
    assert len(asked) <= 8 * len(needed) * items.bit_length()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_planted_fault_is_laid_bare(liars: ModuleType, seed: int) -> None:
    """A pass that spoils one operator, somewhere among 48."""
    case = big(seed)
    subject = Subject("spoils-softsign")
    (failure,) = check(subject, case).failures
    assert failure.rule == "bits"
    asked: list[Case] = []

    def interesting(tried: Case) -> bool:
        asked.append(tried)
        return any(f.rule == "bits" for f in check(subject, tried).failures)

    small = shrink(case, interesting, 200)
    assert len(ops(small)) <= 5
    assert "Softsign" in ops(small)
    assert check(subject, small).failures[0].rule == "bits"
    for tried in asked:
        onnx.checker.check_model(tried.model)
        run_all(tried.model.SerializeToString(), tried.feeds)
    again = shrink(case, interesting, 200)
    assert again.model == small.model
    assert case.model == big(seed).model


def test_what_belongs_together_stays_together() -> None:
    """Nodes between two that matter are bypassed, so that the two still meet."""
    small = shrink(big(op="Tanh"), holds("MatMul", "Sub", "Tanh"), 300)
    assert ops(small) == ["MatMul", "Sub", "Tanh"]
    assert len(small.feeds) == 1
    assert len(small.model.graph.output) == 1
    assert {tuple(t.dims) for t in small.model.graph.initializer} <= {(1, 1)}


def test_nothing_is_made_of_what_is_not_interesting() -> None:
    case = big()
    assert shrink(case, lambda _: False, 40) is case


def test_the_budget_is_held() -> None:
    asked: list[Case] = []

    def interesting(case: Case) -> bool:
        asked.append(case)
        return False

    shrink(big(), interesting, 17)
    assert len(asked) == 17


def test_a_branch_takes_the_place_of_its_if(make_case: MakeCase) -> None:
    text = (
        HEAD
        + """g (float[4] x, bool c) => (float[4] y) {
      a = Neg(x)
      y = If(c) <
        then_branch = t () => (float[4] p) { q = Abs(a) r = Relu(q) p = Neg(r) },
        else_branch = e () => (float[4] s) { s = Identity(a) }
      >
    }"""
    )
    case = make_case(text, {"x": np.ones(4, np.float32), "c": np.array(True)})

    def relu(case: Case) -> bool:
        return "Relu" in str(case.model.graph)

    assert ops(shrink(case, relu, 100)) == ["Relu"]


def test_bodies_lose_nodes(make_case: MakeCase) -> None:
    text = (
        HEAD
        + """g (float[4] x, int64 k, bool c) => (float[4] y) {
      y = Loop(k, c, x) <body = b (int64 i, bool go, float[4] v) => (bool on, float[4] w) {
        on = Identity(go) p = Neg(v) q = Relu(p) r = Abs(q) w = Add(r, v) }>
    }"""
    )
    feed = {"x": np.ones(4, np.float32), "k": np.array(3), "c": np.array(True)}

    def relu_in_a_loop(case: Case) -> bool:
        loops = [n for n in case.model.graph.node if n.op_type == "Loop"]
        return any("Relu" in str(n.attribute) for n in loops)

    small = shrink(make_case(text, feed), relu_in_a_loop, 100)
    (body,) = [a.g for n in small.model.graph.node for a in n.attribute]
    assert [n.op_type for n in body.node] == ["Relu"]


def test_sizes_that_constants_hold_shrink_along(make_case: MakeCase) -> None:
    text = HEAD + "g (float[12, 6] x) => (float[6, 12] y) { y = Reshape(x, s) }"
    feed = {"x": np.zeros((12, 6), np.float32)}
    case = make_case(text, feed, s=np.array([6, 12]))
    small = shrink(case, lambda c: "Reshape" in ops(c), 100)
    assert small.feeds[0]["x"].size == 1


def test_sequences_are_recorded_as_inputs(make_case: MakeCase) -> None:
    text = HEAD + (
        "g (float[2] x) => (float[m] y) "
        "{ a = Neg(x) s = SequenceConstruct(a, x) y = ConcatFromSequence <axis = 0> (s) }"
    )
    case = make_case(text, {"x": np.ones(2, np.float32)})
    small = shrink(case, lambda c: "ConcatFromSequence" in ops(c), 60)
    assert ops(small) == ["ConcatFromSequence"]
    assert isinstance(small.feeds[0]["s"], list)


# -- the reproducer ------------------------------------------------------------------------

KINDS: dict[str, Any] = {
    "array": np.arange(6, dtype=np.float32).reshape(2, 3),
    "number": np.array(True),
    "sequence": [np.ones(2, np.float32), np.zeros((0, 3), np.int64)],
    "absent": None,
    "text": np.array(["a", "böse"], object),
    "payload": np.array([0x7FC01234], np.uint32).view(np.float32),
}


def test_feeds_of_every_kind_come_back(tmp_path: Path) -> None:
    import ml_dtypes

    half = np.array([1.5, -0.0], ml_dtypes.bfloat16)
    feeds = (KINDS | {"half": half}, {"x": np.ones(1)})
    write_feeds(tmp_path / "feeds.npz", feeds)
    first, second = read_feeds(tmp_path / "feeds.npz")
    assert list(first) == list(feeds[0])
    for name in ("array", "number", "payload", "half"):
        assert first[name].tobytes() == feeds[0][name].tobytes()
        assert (first[name].dtype, first[name].shape) == (
            feeds[0][name].dtype,
            feeds[0][name].shape,
        )
    assert [a.shape for a in first["sequence"]] == [(2,), (0, 3)]
    assert first["absent"] is None
    assert first["text"].tolist() == ["a", "böse"]
    assert second["x"].tolist() == [1.0]


def test_plain_arrays_are_one_feed(tmp_path: Path) -> None:
    np.savez(tmp_path / "plain.npz", x=np.ones(3), y=np.zeros(2))
    (feed,) = read_feeds(tmp_path / "plain.npz")
    assert sorted(feed) == ["x", "y"]


@pytest.mark.parametrize("content", [b"", b"PK\3\4 and no more", b"\x93NUMPY\1\0"])
def test_other_files_are_no_feeds(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "feeds.npz").write_bytes(content)
    with pytest.raises(InputError, match="feeds cannot be read"):
        read_feeds(tmp_path / "feeds.npz")


def test_text_parses_back_or_says_that_it_does_not(make_case: MakeCase) -> None:
    case = make_case(HEAD + "g (float[2] x) => (float[2] y) { y = Relu(x) }", {})
    text = model_text(case.model)
    assert text is not None
    assert not text.startswith("#")
    assert onnx.parser.parse_model(text).graph.node[0].op_type == "Relu"
    # ONNX text has no way to write what a NaN holds
    nan = make_case(
        HEAD + "g (float[1] x) => (float[1] y) { y = Add(x, w) }",
        {},
        w=np.array([0x7FC00001], np.uint32).view(np.float32),
    )
    assert str(model_text(nan.model)).startswith("# does not parse back")
    assert model_text(make_case(
        HEAD + "g (float[n] x) => (float[n] y) { y = Add(x, w) }", {}, w=np.zeros(90_000)
    ).model) is None  # fmt: skip


def test_an_empty_domain_is_none(make_case: MakeCase) -> None:
    text = (
        HEAD
        + """g (bool c, float[2] x) => (float[2] y) {
        y = If (c) <then_branch = t () => (float[2] a) { a = Relu(x) },
                    else_branch = e () => (float[2] b) { b = Abs(x) }> }"""
    )
    model = make_case(text, {}).model
    (node,) = model.graph.node
    for each in (node, node.attribute[0].g.node[0]):
        each.domain = ""
        assert each.HasField("domain")
    assert "does not parse back" not in str(model_text(model))
    node.domain = "other words"
    said = str(model_text(model, "small.onnx"))
    assert said.startswith("# does not parse back: use small.onnx\n")


def test_a_name_cannot_leave_the_comment_of_a_command(tmp_path: Path) -> None:
    failure = Failure("verify", "c", "node 'a\ntouch PWNED\n' is no node")
    folder = write_reproducer(tmp_path / "out", big(), failure, "true")
    subprocess.run(["bash", folder / "command.txt"], cwd=tmp_path, check=True)
    assert not (tmp_path / "PWNED").exists()


def test_the_command_shows_the_failure_again(liars: ModuleType, tmp_path: Path) -> None:
    """In a process of its own, to which the pass is made known."""
    run = Run(Subject("spoils-softsign"), keep=tmp_path / "kept with space", budget=60)
    report = run.over([big()])
    (shrunk,) = report.shrunk
    folder = tmp_path / "kept with space" / "01-bits"
    assert sorted(p.name for p in folder.iterdir()) == [
        "command.txt", "feeds.npz", "model.onnx", "model.txt",
    ]  # fmt: skip
    command, failure = (folder / "command.txt").read_text("utf8").splitlines()
    assert command == shrunk.command
    assert failure == f"# {shrunk.failure}"
    words = shlex.split(command)
    assert words[:3] == ["planish", "test-pass", "spoils-softsign"]
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import liars\n"
        "from planish.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words[1:], "--json", "--budget", "0"],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 9, done.stderr
    (found,) = json.loads(done.stdout)["failures"]
    assert (found["rule"], found["stage"]) == ("bits", "spoils-softsign")
    assert found["sentence"] == shrunk.failure.sentence


# -- the command line ----------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    case = big()
    (tmp_path / "models").mkdir()
    for name in ("one", "two"):
        onnx.save(case.model, tmp_path / "models" / f"{name}.onnx")
    write_feeds(tmp_path / "feeds.npz", case.feeds)
    return tmp_path


def test_a_screen_says_what_is_broken(
    liars: ModuleType, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["test-pass", "spoils-softsign", "--model", "models/one.onnx", "--feeds", "feeds.npz"]
    assert main([*words, "--keep", "kept", "--budget", "80"]) == 9
    shown = capsys.readouterr().out
    assert shown.startswith("1 failed: spoils-softsign for generic, 1 case checked, 0 edits")
    assert "bits: 1 (one.onnx): where EXACT is promised" in shown
    assert "shrunk from 48" in shown
    assert "Softsign" in shown
    assert "again: planish test-pass spoils-softsign --model kept/01-bits/model.onnx" in shown
    assert len(shown.splitlines()) <= 40


def test_a_folder_and_generated_graphs_without_a_failure(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["test-pass", "canonicalize", "--model", "models", "--generated", "2", "--seed", "1"]
    assert main([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["checked"] == 4
    assert document["failures"] == []


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["canonicalise"], 2, "'canonicalize'"),
        (["canonicalize", "--suite", "onnx-nodes"], 2, "'onnx-node'"),
        (["canonicalize", "--feeds", "feeds.npz"], 2, "--model"),
        (["canonicalize", "--model", "models", "--case", "three"], 2, "three"),
        (["canonicalize", "--model", "models/one.onnx", "--target", "nowhere"], 2, "nowhere"),
        (["canonicalize", "--model", "nothing.onnx"], 3, "nothing.onnx"),
        (["canonicalize", "--model", "models/one.onnx", "--feeds", "models/one.onnx"], 3, "feeds"),
    ],
)
def test_what_does_not_exist_is_an_error(
    files: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, says: str
) -> None:
    assert main(["test-pass", *words]) == code
    assert says in capsys.readouterr().err


def test_one_case_of_a_suite(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["canonicalize", "--suite", "onnx-models", "--case", "simple/test_expand_shape_model1"]
    code = main(["test-pass", *words, "-v"])
    shown = capsys.readouterr()
    assert (code, "1 case checked" in shown.out) == (0, True), shown


def test_one_fault_in_many_cases_is_shrunk_once(liars: ModuleType, tmp_path: Path) -> None:
    cases = [replace(big(seed), name=f"big-{seed}") for seed in range(3)]
    report = Run(Subject("spoils-softsign"), budget=5).over(cases)
    assert report.failing_cases == 3
    assert len(report.shrunk) == 1
    assert report.shrunk[0].failure.case == "big-0"
    assert report.shrunk[0].command == ""


def test_a_reproducer_says_which_failure(make_case: MakeCase, tmp_path: Path) -> None:
    case = make_case(HEAD + "g (float[2] x) => (float[2] y) { y = Relu(x) }", {"x": np.ones(2)})
    failure = Failure("bits", "a case", "they differ", "canonicalize")
    folder: Any = write_reproducer(tmp_path / "new" / "one", case, failure, "planish …")
    assert (folder / "command.txt").read_text("utf8") == (
        "planish …\n# bits in canonicalize: they differ\n"
    )
