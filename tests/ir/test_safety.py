"""Model files made to do harm: refused in time, in little memory, with one sentence that says why.

Each file is imported in a process of its own with 1 GB of address space (a bare import of planish
takes a quarter of that); what it grew to is measured. See docs/security.md.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from planish.compiler.reporting import manifest
from planish.ir.importing import limits, tensorcheck, wire
from planish.ir.storage import sparse as sparse_module
from planish.targets import tomlfile

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is limited as on Linux")

SPACE = 1 << 30
RESIDENT = 320 << 20
"""Bytes; a model of one node takes 110 MB."""

Tensor = onnx.TensorProto
Node = onnx.NodeProto


def info(name: str, shape: Any, dtype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def model(
    nodes: list[Node],
    weights: dict[str, Any] | None = None,
    tensors: tuple[Tensor, ...] = (),
    inputs: list[onnx.ValueInfoProto] | None = None,
    functions: tuple[onnx.FunctionProto, ...] = (),
) -> onnx.ModelProto:
    """x float[2] -> y through these nodes."""
    made = [numpy_helper.from_array(np.asarray(a), name) for name, a in (weights or {}).items()]
    graph = helper.make_graph(
        nodes, "g", inputs or [info("x", [2])], [info("y", None)], [*made, *tensors]
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
    return helper.make_model(graph, functions=functions, ir_version=9, opset_imports=opsets)


def add(*before: Node, weights: dict[str, Any] | None = None, **more: Any) -> onnx.ModelProto:
    """``y = Add(x, w)`` behind nodes that make ``w``."""
    return model([*before, helper.make_node("Add", ["x", "w"], ["y"])], weights, **more)


def tensor(dims: list[int], data: bytes = b"", dtype: int = TensorProto.FLOAT) -> Tensor:
    return Tensor(name="w", data_type=dtype, dims=dims, raw_data=data)


def external(dims: list[int], dtype: int = TensorProto.FLOAT, **entries: str) -> Tensor:
    made = Tensor(name="w", data_type=dtype, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in entries.items():
        made.external_data.add(key=key, value=value)
    return made


def varint(number: int) -> bytes:
    low, rest = number & 127, number >> 7
    return bytes([low | 128]) + varint(rest) if rest else bytes([low])


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def raw(graph: bytes) -> bytes:
    """A model of IR version 9 and opset 17 around the bytes of a graph."""
    return b"\x08\x09" + field(7, graph) + b"\x42\x02\x10\x11"


def nested(levels: int) -> bytes:
    graph = b""
    for _ in range(levels):
        attribute = field(1, b"g") + b"\xa0\x01\x05" + field(6, graph)
        graph = field(1, field(4, b"If") + field(5, attribute))
    return raw(graph)


def nested_type(levels: int) -> bytes:
    kind = b""
    for _ in range(levels):
        kind = field(4, field(1, kind))
    return raw(field(11, field(1, b"x") + field(2, kind)))


def call(name: str, source: str, target: str) -> Node:
    return helper.make_node(name, [source], [target], domain="f")


def function(name: str, *body: Node) -> onnx.FunctionProto:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("f", 1)]
    return helper.make_function("f", name, ["a"], ["b"], body, opsets)


def doubling(levels: int) -> onnx.ModelProto:
    """Each function calls the one before twice."""
    functions = [function("F0", helper.make_node("Relu", ["a"], ["b"]))]
    for i in range(levels):
        functions.append(function(f"F{i + 1}", call(f"F{i}", "a", "t"), call(f"F{i}", "t", "b")))
    return model([call(f"F{levels}", "x", "y")], functions=tuple(functions))


def calling(levels: int) -> onnx.ModelProto:
    functions = [function("F0", helper.make_node("Relu", ["a"], ["b"]))]
    functions += [function(f"F{i + 1}", call(f"F{i}", "a", "b")) for i in range(levels)]
    return model([call(f"F{levels}", "x", "y")], functions=tuple(functions))


def in_a_circle(opset: int) -> onnx.ModelProto:
    first, second = function("A", call("B", "a", "b")), function("B", call("A", "a", "b"))
    for made in (first, second):
        made.opset_import[0].version = opset
    return model([call("A", "x", "y")], functions=(first, second))


def kept_function_with_a_file() -> onnx.ModelProto:
    """Written for another opset, so that it stays a function."""
    constant = helper.make_node("Constant", [], ["w"])
    constant.attribute.append(
        onnx.AttributeProto(
            name="value", type=onnx.AttributeProto.TENSOR,
            t=external([2], location="/etc/hostname", length="8"),
        )
    )  # fmt: skip
    body = function("F", constant, helper.make_node("Add", ["a", "w"], ["b"]))
    body.opset_import[0].version = 11
    return model([call("F", "x", "y")], functions=(body,))


def sparse(dims: list[int], count: int = 1) -> onnx.ModelProto:
    made = add()
    for i in range(count):
        values = numpy_helper.from_array(np.ones(1, np.float32), f"w{i or ''}")
        indices = numpy_helper.from_array(np.zeros(1, np.int64), "i")
        made.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, dims))
    return made


def concat(times: int) -> onnx.ModelProto:
    names = [f"c{i}" for i in range(times)] + ["w"]
    nodes = [
        helper.make_node("Concat", [a, a], [b], axis=0)
        for a, b in zip(["s", *names], names, strict=False)
    ]
    return add(*nodes, weights={"s": np.ones(16, np.int64)})


def long_vector(op: str) -> onnx.ModelProto:
    """An operator that carries data, behind one that makes 10^12 of one number."""
    made = helper.make_node("ConstantOfShape", ["n"], ["v"])
    after = helper.make_node("Cast", ["v"], ["w"], to=TensorProto.FLOAT)
    if op == "Gather":
        after = helper.make_node("Gather", ["v", "i"], ["w"])
    if op == "Add":
        after = helper.make_node("Add", ["v", "v"], ["w"])
    return add(made, after, weights={"n": np.array([10**12]), "i": np.int64(0)})


def range_of(limit: int, delta: int) -> onnx.ModelProto:
    made = helper.make_node("Range", ["a", "b", "c"], ["v"])
    cast = helper.make_node("Cast", ["v"], ["w"], to=TensorProto.FLOAT)
    numbers = {"a": np.int64(0), "b": np.int64(limit), "c": np.int64(delta)}
    return add(made, cast, weights=numbers)


def numbers(count: int) -> onnx.ModelProto:
    made = model([helper.make_node("Relu", ["x"], ["y"])])
    bomb = onnx.AttributeProto(name="a", type=onnx.AttributeProto.INTS)
    bomb.ints.extend([0] * count)
    made.graph.node[0].attribute.append(bomb)
    return made


def cycle(length: int) -> onnx.ModelProto:
    nodes = [helper.make_node("Relu", [f"v{i}"], [f"v{i + 1}"]) for i in range(length)]
    nodes[0].input[0] = f"v{length}"
    return model([*nodes, helper.make_node("Add", ["x", "v1"], ["y"])])


def named(node: str = "n", op: str = "Relu", output: str = "y") -> onnx.ModelProto:
    made = model([helper.make_node(op, ["x"], [output], name=node)])
    made.graph.output[0].name = output
    return made


Content = onnx.ModelProto | bytes
LOADS = ""

CASES: dict[str, tuple[Callable[[], Content], str]] = {
    # Bytes that become many objects.
    "empty nodes": (lambda: raw(b"\x0a\x00" * 600_000), "more than planish reads"),
    "empty inputs": (lambda: raw(b"\x5a\x00" * 2_100_000), "more than planish reads"),
    "empty initializers": (lambda: raw(b"\x2a\x00" * 2_100_000), "more than planish reads"),
    "empty metadata": (
        lambda: raw(b"") + b"\x72\x00" * 2_100_000, "more than planish reads"),
    "numbers of an attribute": (lambda: numbers(20_000_001), "more than planish reads"),
    "a length beyond the end": (
        lambda: b"\x08\x09\x3a" + varint(2**31 - 100) + b"abc", "truncated"),
    "a length beyond 2^63": (lambda: b"\x08\x09\x3a" + varint(2**63) + b"abc", "truncated"),
    "deep graphs": (lambda: nested(3000), "truncated"),
    "graphs as deep as protobuf goes": (lambda: nested(30), LOADS),
    "deep types": (lambda: nested_type(5000), "truncated"),
    "groups": (lambda: b"\x08\x09" + b"\x0b" * 50_000, "truncated"),
    # Shapes.
    "a weight of 100 GB": (lambda: add(tensors=(tensor([25 * 10**9], b"1234"),)), "should hold"),
    "sizes whose product overflows": (
        lambda: add(tensors=(tensor([2**62, 4]),)), "larger than any memory"),
    "huge sizes beside a zero": (
        lambda: add(tensors=(tensor([0, 2**62, 2**62]),)), "larger than any memory"),
    "a negative size": (lambda: add(tensors=(tensor([-4, -4]),)), "negative size"),
    "100,000 axes": (lambda: add(tensors=(tensor([1] * 100_000, b"1234"),)), "100,000 axes"),
    "100,000 axes of an input": (
        lambda: model([helper.make_node("Relu", ["x"], ["y"])], inputs=[info("x", [1] * 100_000)]),
        "100,000 axes"),
    "int4 of 2^60": (
        lambda: add(tensors=(tensor([2**60], b"12", TensorProto.INT4),)), "should hold"),
    "an input of 100 GB": (
        lambda: model([helper.make_node("Relu", ["x"], ["y"])], inputs=[info("x", [25 * 10**9])]),
        LOADS),
    # What inference would compute.
    "a cast of 10^12": (lambda: long_vector("Cast"), LOADS),
    "a gather of 10^12": (lambda: long_vector("Gather"), LOADS),
    "a sum of 10^12": (lambda: long_vector("Add"), LOADS),
    "a range of 10^12": (lambda: range_of(10**12, 1), LOADS),
    "a range without end": (lambda: range_of(10**12, 0), LOADS),
    "2^60 by doubling": (lambda: concat(60), LOADS),
    "a constant of 100 GB": (
        lambda: add(helper.make_node("ConstantOfShape", ["n"], ["w"]),
                    weights={"n": np.array([25 * 10**9])}), LOADS),
    "a tile of 100 GB": (
        lambda: add(helper.make_node("Tile", ["s", "n"], ["w"]),
                    weights={"s": np.ones(1000, np.float32), "n": np.array([25 * 10**6])}), LOADS),
    "an expansion of 100 GB": (
        lambda: add(helper.make_node("Expand", ["s", "n"], ["w"]),
                    weights={"s": np.ones(1, np.float32), "n": np.array([25 * 10**9])}), LOADS),
    "a one-hot of 100 GB": (
        lambda: add(helper.make_node("OneHot", ["i", "d", "v"], ["w"]),
                    weights={"i": np.zeros(1000, np.int64), "d": np.int64(25 * 10**6),
                             "v": np.array([0, 1], np.float32)}), LOADS),
    # Sparse tensors.
    "a sparse tensor of 2 GB": (lambda: sparse([2**29 - 1]), "too large"),
    "sparse tensors of 20 GB together": (lambda: sparse([2**26], 80), "too large"),
    "a sparse tensor that overflows": (
        lambda: sparse([2**62, 2**62, 2**62]), "larger than any memory"),
    "a sparse tensor of negative size": (lambda: sparse([-4, -4]), "negative size"),
    # Functions and circles.
    "2^40 nodes by functions": (lambda: doubling(40), "1,099,511,627,776 nodes"),
    "2^4000 nodes by functions": (lambda: doubling(150), "countless nodes"),
    "functions 1,000 deep": (lambda: calling(1000), "1,001 deep"),
    "functions 100 deep": (lambda: calling(100), LOADS),
    "functions in a circle": (lambda: in_a_circle(17), "Cyclic"),
    "functions that stay in a circle": (lambda: in_a_circle(11), "Cyclic"),
    "a circle of 5,000": (lambda: cycle(5000), "in a circle"),
    # Files of weights that lie.
    "an absolute path": (
        lambda: add(tensors=(external([2], location="/etc/hostname", length="8"),)), "not a path"),
    "a path out of the folder": (
        lambda: add(tensors=(external([2], location="../w", length="8"),)), "outside"),
    "a path out of the folder and back": (
        lambda: add(tensors=(external([2], location="a/../../w", length="8"),)), "outside"),
    "a file named by a function that stays": (kept_function_with_a_file, "in another file"),
    "an address in memory": (
        lambda: add(tensors=(external([2], location="*/_ORT_MEM_ADDR_/*"),)), "address"),
    "a negative offset": (
        lambda: add(tensors=(external([2], location="w.bin", offset="-8"),)), "no place"),
    "an offset beyond 2^63": (
        lambda: add(tensors=(external([2], location="w.bin", offset=str(2**64 - 8)),)), "no place"),
    "an offset of 5,000 digits": (
        lambda: add(tensors=(external([2], location="w.bin", offset="9" * 5000),)), "no place"),
    "a length that is no number": (
        lambda: add(tensors=(external([2], location="w.bin", length="8.0"),)), "no place"),
    "a negative length": (
        lambda: add(tensors=(external([2], location="w.bin", length="-8"),)), "no place"),
    "a length unlike the shape": (
        lambda: add(tensors=(external([2], location="w.bin", length="4"),)), "its shape for 8"),
    "100 GB of a file of 64 bytes": (
        lambda: add(tensors=(external([25 * 10**9], location="w.bin"),)), "ends at 64 bytes"),
    "texts in a file": (
        lambda: add(tensors=(external([2], TensorProto.STRING, location="w.bin"),)), "texts"),
    # Names.
    "a name of 10 MB": (lambda: named(node="n" * 10**7), "10,000,000 characters"),
    "an operator of 1 MB": (lambda: named(op="Q" * 10**6), "1,000,000 characters"),
    "an operator with an escape": (lambda: named(op="Relu\x1b[2J"), r"Relu\x1b[2J"),
    "an operator with a line of its own": (lambda: named(op="Relu\n  try: this"), r"Relu\n"),
    "names like paths": (lambda: named("../../n", output="../../../etc/passwd"), LOADS),
    "names with escapes": (lambda: named("\x1b]0;n\x07", output="y\x1b[31m"), LOADS),
}  # fmt: skip

WORKER = """
import json, os, resource, signal, sys
from pathlib import Path
from planish.ir.errors import PlanishError
from planish.ir.load import load_model

space = int(sys.argv[1])
for path in sys.argv[2:]:
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        resource.setrlimit(resource.RLIMIT_AS, (space, space))
        signal.alarm(60)
        try:
            load_model(Path(path))
            said = ["loaded", ""]
        except PlanishError as error:
            said = [type(error).__name__, str(error)]
        except BaseException as error:
            said = ["crashed", repr(error)]
        os.write(writer, json.dumps(said).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        said = json.loads(file.read() or b'["killed", ""]')
    _, status, usage = os.wait4(child, 0)
    print(json.dumps([*said, status, usage.ru_maxrss * 1024]), flush=True)
"""


@dataclass(frozen=True)
class Told:
    """What an import came to. outcome: "loaded", the class of an error, "crashed", "killed"."""

    outcome: str
    message: str
    status: int
    resident: int


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Told]:
    """All files of ``CASES``, imported."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "w.bin").write_bytes(bytes(64))
    paths = []
    for number, (make, _) in enumerate(CASES.values()):
        content = make()
        data = content if isinstance(content, bytes) else content.SerializeToString()
        paths.append(folder / f"{number}.onnx")
        paths[-1].write_bytes(data)
        del content, data
    done = subprocess.run(
        [sys.executable, "-c", WORKER, str(SPACE), *map(str, paths)],
        capture_output=True, text=True, check=True, cwd=folder,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    left = sorted(path.name for path in folder.iterdir())
    assert left == sorted(["w.bin", *(path.name for path in paths)]), "something was written"
    return dict(zip(CASES, (Told(*line) for line in lines), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_a_file_made_to_do_harm(imported: dict[str, Told], name: str) -> None:
    told, sentence = imported[name], CASES[name][1]
    assert told.status == 0, "killed, or out of time"
    assert told.resident < RESIDENT
    if sentence == LOADS:
        assert told.outcome == "loaded", told.message
        return
    assert told.outcome == "InputError", told.message
    assert sentence in told.message
    assert len(told.message) < 3000
    assert told.message.replace("\n", "").isprintable()
    assert len(told.message.splitlines()) <= 3


@pytest.mark.parametrize(
    "limit",
    [
        f"| {wire.MAX_NODES:,} |",
        f"| {wire.MAX_PARTS:,} |",
        f"| {wire.MAX_FIELDS:,} |",
        f"| {wire.MAX_NAME:,} bytes |",
        f"| {tensorcheck.MAX_RANK} |",
        f"| {limits.MAX_CALLS} |",
        f"| {sparse_module.MAX_BYTES / 2**30:g} GB together |",
        f"| {manifest.MAX_BYTES >> 20} MB |",
        f"| {tomlfile.MAX_BYTES >> 20} MB |",
    ],
)
def test_the_page_on_security_states_the_limits(root: Path, limit: str) -> None:
    assert limit in (root / "docs" / "security.md").read_text("utf8")
