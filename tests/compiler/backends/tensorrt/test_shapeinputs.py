"""Inputs whose numbers decide shapes: found, their ranges taken from data, written for TensorRT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from planish.compiler.backends.tensorrt.profiles import Shapes
from planish.compiler.backends.tensorrt.shapeinputs import shape_inputs, split_given, values_of
from planish.compiler.data.feeds import load_feeds
from planish.compiler.driver import compile_model
from planish.ir.errors import TargetError, UsageError
from planish.ir.signature import Signature

IMAGE = "float[n, 3, 8, 8] x, int64[4] size"
RESIZED = 'y = Resize<mode="linear">(x, none, none, size)'
NONE = {"none": np.zeros(0, np.float32)}


def feed(*size: int, batch: int = 2) -> dict[str, np.ndarray]:
    image = np.random.default_rng(sum(size)).normal(size=(batch, 3, 8, 8))
    return {"x": image.astype(np.float32), "size": np.array(size, np.int64)}


@pytest.mark.parametrize(
    ("body", "ports", "wanted"),
    [
        ("y = Reshape(x, s)", "float[n, 4] x, int64[2] s", {"s": "Reshape"}),
        ("y = Expand(x, s)", "float[1, 4] x, int64[2] s", {"s": "Expand"}),
        ("y = Tile(x, s)", "float[1, 4] x, int64[2] s", {"s": "Tile"}),
        ("a = Mul(s, two) y = Reshape(x, a)", "float[n, 4] x, int64[2] s", {"s": "Reshape"}),
        ("y = Slice(x, s, e)", "float[n, 4] x, int64[1] s, int64[1] e",
         {"s": "Slice", "e": "Slice"}),
        ("a = Shape(x) y = Reshape(z, a)", "float[n, 4] x, float[n, 4] z", {}),
        ("a = Cast<to=1>(s) y = Mul(x, a)", "float[n, 4] x, int64[1] s", {}),
        ("a = Range(zero, s, one) b = Cast<to=1>(a) y = Add(x, b)", "float[1] x, int64 s",
         {"s": "Range"}),
        ("y, i = TopK(x, s)", "float[n, 4] x, int64[1] s", {"s": "TopK"}),
    ],
)  # fmt: skip
def test_those_whose_numbers_a_shape_is_computed_of_are_found(
    build: Any, body: str, ports: str, wanted: dict[str, str]
) -> None:
    numbers = {name: np.array(n, np.int64) for name, n in (("zero", 0), ("one", 1))}
    numbers["two"] = np.array([1, 1], np.int64)
    used = {name: array for name, array in numbers.items() if name in body}
    found = shape_inputs(build(body, used, ports, "float y"))
    assert found.keys() == wanted.keys()
    assert all(wanted[name] in node for name, node in found.items())


def test_what_a_loop_hands_to_its_body_is_no_input(build: Any) -> None:
    body = """
      y = Loop<body = turn (int64 i, bool c) => (bool d, float part) {
        d = Identity(c) one = Constant<value = int64[1] {1}>() at = Unsqueeze(i, zeros)
        end = Add(at, one) part = Slice(x, at, end)
      }>(count, going)
    """
    numbers = {
        "zeros": np.zeros(1, np.int64),
        "count": np.array(3, np.int64),
        "going": np.array(True),
    }
    assert shape_inputs(build(body, numbers, "float[n, 4] x", "float y")) == {}


@pytest.mark.parametrize(
    ("ports", "said"),
    [
        ("float[n, 4] x, int64[1, 2] s", "it has 2 axes"),
        ("float[n, 4] x, int64[k] s", "its length 'k' is open"),
        ("float[n, 4] x, float[2] s", "it is of float"),
        ("float[n, 4] x, int64[65] s", "it holds more than 64 numbers"),
    ],
)
def test_what_tensorrt_takes_no_shape_from_is_refused(build: Any, ports: str, said: str) -> None:
    body = "c = Cast<to=7>(s) f = Reshape(c, flat) y = Reshape(x, f)"
    model = build(body, {"flat": np.array([-1], np.int64)}, ports, "float y")
    with pytest.raises(TargetError, match=said) as caught:
        shape_inputs(model)
    assert "'s' decide the shape of Reshape" in caught.value.what


def test_the_numbers_seen_make_the_range(build: Any) -> None:
    model = build(RESIZED, NONE, IMAGE, "float[n, c, h, w] y")
    signature = Signature.of(model)
    feeds = load_feeds([feed(2, 3, 16, 32), feed(2, 3, 32, 16), feed(2, 3, 16, 32)], signature)
    found = values_of(model, [feeds])
    assert found == {"size": Shapes((2, 3, 16, 16), (2, 3, 16, 32), (2, 3, 32, 32))}
    _, given = split_given("size=1x3x8x8:1x3x16x16:4x3x64x64", ["size"])
    assert values_of(model, [feeds], given)["size"].max == (4, 3, 64, 64)


def test_numbers_that_nobody_knows_are_refused(build: Any) -> None:
    model = build(RESIZED, NONE, IMAGE, "float[n, c, h, w] y")
    with pytest.raises(UsageError, match="nothing says what they may be") as caught:
        values_of(model, [])
    assert "--profile" in caught.value.hint
    _, given = split_given("size=8:16:32", ["size"])
    with pytest.raises(UsageError, match="holds 4 numbers, 1 are given"):
        values_of(model, [], given)


def test_what_is_given_is_split_from_the_axes() -> None:
    text = "batch=1:2:4, size=1x-1:2x8:3x9 ,seq=1:1:1"
    axes, values = split_given(text, ["size", "other"])
    assert axes == "batch=1:2:4,seq=1:1:1"
    assert values == {"size": Shapes((1, -1), (2, 8), (3, 9))}
    assert split_given(None, ["size"]) == ("", {})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("size=1:2", "gives no values"),
        ("size=axb:1:2", "gives no values"),
        ("size=1x2:3:4x5", "different counts"),
        ("size=4:2:8", "does not go from least to largest"),
        ("size=1:2:3,size=1:2:3", "given twice"),
    ],
)
def test_what_is_no_range_of_values_is_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        split_given(text, ["size"])


def model_of(folder: Path) -> onnx.ModelProto:
    body = 'a = Conv<pads=[1,1,1,1]>(x, k) y = Resize<mode="nearest">(a, none, none, size)'
    header = '<ir_version: 8, opset_import: ["": 19]>'
    proto = onnx.parser.parse_model(f"{header} g ({IMAGE}) => (float[n, c, h, w] y) {{ {body} }}")
    kernel = np.random.default_rng(0).normal(size=(3, 3, 3, 3)).astype(np.float32)
    for name, array in {"k": kernel, **NONE}.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return proto


def test_a_compile_writes_them_for_every_way_to_build(tmp_path: Path) -> None:
    data = [feed(2, 3, 16, size) for size in (16, 16, 24, 32)]
    built = compile_model(
        model_of(tmp_path), "nvidia-a100", output=tmp_path / "out", calibration=data,
        holdout=data[:1], pipeline="canonicalize", threads=1, profile="n=1:2:2",
    )  # fmt: skip
    folder = built.folder
    profile = json.loads((folder / "profiles.json").read_text())
    assert profile["size"]["values"] == {
        "min": [2, 3, 16, 16], "opt": [2, 3, 16, 16], "max": [2, 3, 16, 32]
    }  # fmt: skip
    assert profile["size"]["min"] == [4]
    assert "size:2x3x16x32" in (folder / "build.sh").read_text()
    options = json.loads((folder / "provider.json").read_text())["provider_options"]
    assert options["trt_profile_max_shapes"] == "x:2x3x8x8,size:2x3x16x32"
    assert "| `size` | 2 3 16 16 | 2 3 16 16 | 2 3 16 32 |" in (folder / "README.md").read_text()


def test_a_compile_without_their_numbers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the numbers of input 'size' decide the shape"):
        compile_model(
            model_of(tmp_path), "nvidia-a100", output=tmp_path / "out", pipeline="canonicalize",
            profile="n=1:2:2",
        )  # fmt: skip
    assert not (tmp_path / "out").exists()
