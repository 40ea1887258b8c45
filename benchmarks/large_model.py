"""A transformer-like model of any size, made from a seed, whose weights never lie in memory.

    python -m benchmarks.large_model FOLDER --bytes 6e9 --files 1

An embedding table of about a sixth of the bytes, then equal layers: LayerNormalization, four
projections, LayerNormalization and a feed-forward pair. Each linear layer is a ``Gemm`` with
``transB`` and the weight as PyTorch stores it, [out, in], so that canonicalization transposes it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

MODEL = "model.onnx"
ITEM = 4  # bytes of a float32
PAGE = 4096
CHUNK = 1 << 22  # elements made in one go
TILE = 128  # rows and columns of what is compared at a time
WIDTHS = (64, 128, 256, 512, 768, 1024, 2048, 4096)
FEWEST_LAYERS = 3


@dataclass(frozen=True)
class Plan:
    """The sizes of a model. files: among how many data files its weights are spread."""

    width: int
    layers: int
    rows: int
    files: int = 1

    @property
    def bytes(self) -> int:
        """Of all weights, nearly."""
        return ITEM * self.width * (12 * self.width * self.layers + self.rows)


def plan(size: float, files: int = 1) -> Plan:
    """The widest model of about ``size`` bytes that has three layers or more."""
    for width in reversed(WIDTHS):
        layers = int(size * 5 / 6) // (12 * width * width * ITEM)
        if layers >= FEWEST_LAYERS or width == WIDTHS[0]:
            layers = max(layers, 1)
            rows = int(size / (ITEM * width)) - 12 * width * layers
            return Plan(width, layers, max(rows, 16), files)
    raise AssertionError


def make(folder: Path, plan: Plan, seed: int = 0) -> Path:
    """Write the model and its data files into ``folder``; the path of the model."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"weights-{number}.bin" for number in range(plan.files)]
    tensors: list[onnx.TensorProto] = []
    rng = np.random.default_rng(seed)
    with ExitStack() as stack:
        opened = [stack.enter_context((folder / name).open("wb")) for name in names]
        for number, (name, shape) in enumerate(_weights(plan)):
            file, at = names[number % plan.files], opened[number % plan.files]
            at.write(bytes(-at.tell() % PAGE))
            offset, count = at.tell(), int(np.prod(shape))
            for start in range(0, count, CHUNK):
                part = rng.standard_normal(min(CHUNK, count - start), np.float32)
                part *= np.float32(shape[-1] ** -0.5)
                at.write(part.data)
            tensors.append(_external(name, shape, file, offset, ITEM * count))
    model = helper.make_model(
        _graph(plan, tensors), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )
    path = folder / MODEL
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path


def differing_weights(source: Path, compiled: Path, tiles: int = 32, seed: int = 1) -> list[str]:
    """Names of weights that a lossless compile changed, held against the source tile by tile.

    Weights are looked up by the compiler's own names: ``…_t`` is the transpose of ``…``. Corners
    and ``tiles`` random tiles are compared bit by bit; small weights whole. A weight of the source
    that is not in the result counts as well.
    """
    rng = np.random.default_rng(seed)
    before, after = _arrays(source), _arrays(compiled)
    wrong: list[str] = []
    for name, array in before.items():
        turned = name not in after
        other = after.get(f"{name}_t" if turned else name)
        view = None if other is None else other.T if turned else other
        if view is None or view.shape != array.shape or view.dtype != array.dtype:
            wrong.append(f"{name} is missing")
        elif not all(_same(array, view, place) for place in _places(array.shape, tiles, rng)):
            wrong.append(f"{name} has other numbers")
    return wrong


def _arrays(path: Path) -> dict[str, np.ndarray]:
    """The large weights of a model, mapped from their files."""
    found: dict[str, np.ndarray] = {}
    for tensor in onnx.load(path, load_external_data=False).graph.initializer:
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        entry = {e.key: e.value for e in tensor.external_data}
        found[tensor.name] = np.memmap(
            path.parent / entry["location"],
            np.float32,
            "r",
            int(entry["offset"]),
            tuple(tensor.dims),
        )
    return found


def _places(
    shape: tuple[int, ...], tiles: int, rng: np.random.Generator
) -> Iterator[tuple[int, ...]]:
    yield (0,) * len(shape)
    yield tuple(max(0, size - TILE) for size in shape)
    for _ in range(tiles):
        yield tuple(int(rng.integers(0, max(1, size - TILE + 1))) for size in shape)


def _same(one: np.ndarray, other: np.ndarray, place: tuple[int, ...]) -> bool:
    where = tuple(slice(start, start + TILE) for start in place)
    return bool(one[where].tobytes() == other[where].tobytes())


def _weights(plan: Plan) -> Iterator[tuple[str, tuple[int, ...]]]:
    width = plan.width
    yield "embedding.weight", (plan.rows, width)
    for layer in range(plan.layers):
        yield f"layer.{layer}.norm1.weight", (width,)
        yield f"layer.{layer}.norm1.bias", (width,)
        for name in ("query", "key", "value", "output"):
            yield f"layer.{layer}.{name}.weight", (width, width)
            yield f"layer.{layer}.{name}.bias", (width,)
        yield f"layer.{layer}.norm2.weight", (width,)
        yield f"layer.{layer}.norm2.bias", (width,)
        yield f"layer.{layer}.up.weight", (4 * width, width)
        yield f"layer.{layer}.up.bias", (4 * width,)
        yield f"layer.{layer}.down.weight", (width, 4 * width)
        yield f"layer.{layer}.down.bias", (width,)


def _external(
    name: str, shape: tuple[int, ...], file: str, offset: int, length: int
) -> onnx.TensorProto:
    tensor = TensorProto(
        name=name, dims=shape, data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL
    )
    for key, value in (("location", file), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def _graph(plan: Plan, tensors: list[onnx.TensorProto]) -> onnx.GraphProto:
    shape = helper.make_tensor("flat", TensorProto.INT64, [2], [-1, plan.width])
    nodes = [
        helper.make_node("Gather", ["embedding.weight", "ids"], ["embedded"]),
        helper.make_node("Reshape", ["embedded", "flat"], ["x0"]),
    ]
    for layer in range(plan.layers):
        nodes += _layer(f"layer.{layer}.", f"x{layer}", f"x{layer + 1}")
    last = f"x{plan.layers}"
    nodes.append(helper.make_node("ReduceMax", [last], ["y"], axes=[1], keepdims=0))
    for node in nodes:
        node.name = node.name or f"/{node.output[0]}"
    return helper.make_graph(
        nodes,
        "big",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "length"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["tokens"])],
        [*tensors, shape],
    )


def _layer(prefix: str, x: str, y: str) -> list[onnx.NodeProto]:
    def named(name: str) -> str:
        return prefix + name

    def norm(which: str, source: str) -> onnx.NodeProto:
        inputs = [source, named(f"{which}.weight"), named(f"{which}.bias")]
        return helper.make_node("LayerNormalization", inputs, [named(which)], axis=-1)

    def linear(name: str, source: str) -> onnx.NodeProto:
        inputs = [source, named(f"{name}.weight"), named(f"{name}.bias")]
        where = f"/{prefix.replace('.', '/')}{name}/Gemm"
        return helper.make_node("Gemm", inputs, [named(name)], where, transB=1)

    def node(op: str, inputs: list[str], output: str) -> onnx.NodeProto:
        return helper.make_node(op, inputs, [output])

    return [
        norm("norm1", x),
        *(linear(name, named("norm1")) for name in ("query", "key", "value")),
        node("Sigmoid", [named("query")], named("gate")),
        node("Mul", [named("gate"), named("key")], named("gated")),
        node("Add", [named("gated"), named("value")], named("mixed")),
        linear("output", named("mixed")),
        node("Add", [x, named("output")], named("middle")),
        norm("norm2", named("middle")),
        linear("up", named("norm2")),
        node("Relu", [named("up")], named("active")),
        linear("down", named("active")),
        node("Add", [named("middle"), named("down")], y),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bytes", type=float, default=6e9)
    parser.add_argument("--files", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(make(options.folder, plan(options.bytes, options.files), options.seed))
