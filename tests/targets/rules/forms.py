"""Small quantized graphs in every form that tools write, and what the runtime makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper

from planish.ir.errors import PlanishError
from planish.targets.census import Census, runtime_census
from planish.targets.runtime import open_session

K, N = 64, 32
Shape: TypeAlias = Sequence[int | str]
Array: TypeAlias = np.ndarray[Any, Any]
FLAT: Shape = ("B", K)
DYNAMIC: Shape = ("B", "S", K)
STATIC: Shape = (2, 4, K)
IMAGE: Shape = ("B", 8, 6, 6)
SCALE = 0.05
SIZES = {"B": 2, "S": 3}

TYPES: dict[str, Any] = {
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float8e4m3fn": ml_dtypes.float8_e4m3fn,
    "float4e2m1": ml_dtypes.float4_e2m1fn,
    "int4": ml_dtypes.int4,
    "uint4": ml_dtypes.uint4,
    "int2": ml_dtypes.int2,
}


def dtype_of(name: str) -> Any:
    return TYPES.get(name) or np.dtype(name)


@dataclass
class Form:
    """A graph under construction; methods add nodes and return the name of the result."""

    shape: Shape = DYNAMIC
    dtype: int = TensorProto.FLOAT
    opset: int = 21
    ir_version: int = 10
    contrib: bool = False
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: dict[str, Array] = field(default_factory=dict)
    also_inputs: list[str] = field(default_factory=list)
    results: list[str] = field(default_factory=list)

    def op(self, op: str, *inputs: str, name: str = "", outputs: int = 1, **attributes: Any) -> str:
        names = [f"v{len(self.nodes)}" + (f"_{i}" if i else "") for i in range(outputs)]
        domain, _, kind = op.rpartition(":")
        self.nodes.append(
            helper.make_node(
                kind, inputs, names, name=name or f"{kind}_{names[0]}", domain=domain, **attributes
            )
        )
        return names[0]

    def ms(self, op: str, *inputs: str, **attributes: Any) -> str:
        self.contrib = True
        return self.op(f"com.microsoft:{op}", *inputs, **attributes)

    def const(self, name: str, value: Any) -> str:
        self.tensors[name] = np.asarray(value)
        return name

    def pair(
        self, value: str, zero: int = 128, dtype: str = "uint8", scale: Any = SCALE, **attrs: Any
    ) -> str:
        """QuantizeLinear and DequantizeLinear."""
        scale = np.float32(scale) if isinstance(scale, float) else scale
        s = self.const(f"{value}_scale", scale)
        z = self.const(f"{value}_zero", np.full(np.shape(scale), zero, dtype_of(dtype)))
        codes = self.op("QuantizeLinear", value, s, z, name=f"{value}_q", **attrs)
        return self.op("DequantizeLinear", codes, s, z, name=f"{value}_dq", **attrs)

    def codes(self, name: str, shape: Shape, dtype: str = "int8", most: int = 63) -> str:
        low = 0 if dtype.startswith("u") else -most
        most = {"int4": 7, "uint4": 15, "int2": 1}.get(dtype, most)
        low = max(low, -most)
        value = np.random.default_rng(len(name)).integers(low, most + 1, tuple(map(int, shape)))
        return self.const(name, value.astype(dtype_of(dtype)))

    def weight(
        self,
        shape: Sequence[int] = (K, N),
        axis: int | None = 1,
        dtype: str = "int8",
        *,
        block: int = 0,
        name: str = "fc.weight",
        most: int = 63,
        zero: bool = True,
    ) -> str:
        """Integer codes and their DequantizeLinear: one scale, one per index, or blocks."""
        codes = self.codes(name, shape, dtype, most)
        sizes: tuple[int, ...] = () if axis is None else (shape[axis],)
        if block and axis is not None:
            sizes = tuple(-(-n // block) if i == axis else n for i, n in enumerate(shape))
        scale = np.full(sizes, 0.01, np.float32)
        inputs = [codes, self.const(f"{name}.scale", scale)]
        if zero:
            inputs.append(self.const(f"{name}.zero", np.zeros(sizes, dtype_of(dtype))))
        attrs = {} if axis is None else {"axis": axis}
        attrs |= {"block_size": block} if block else {}
        return self.op("DequantizeLinear", *inputs, name=f"{name}_dq", **attrs)

    def floats(self, name: str, *shape: int) -> str:
        value = np.random.default_rng(len(name)).normal(size=shape)
        return self.const(name, value.astype(np.float32))

    def proto(self) -> onnx.ModelProto:
        extra = [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, self.tensors[n].shape)
            for n in self.also_inputs
        ]
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info("x", self.dtype, self.shape), *extra],
            [onnx.ValueInfoProto(name=n) for n in self.results or [self.nodes[-1].output[0]]],
            [stored(value, name) for name, value in self.tensors.items()],
        )
        opsets = [helper.make_opsetid("", self.opset)]
        if self.contrib:
            opsets.append(helper.make_opsetid("com.microsoft", 1))
        return helper.make_model(graph, opset_imports=opsets, ir_version=self.ir_version)

    def bytes(self) -> bytes:
        data: bytes = self.proto().SerializeToString()
        return data

    def census(self, **entries: str) -> Census:
        return runtime_census(
            self.bytes(), threads=1,
            entries={key.replace("__", "."): value for key, value in entries.items()},
        )  # fmt: skip

    def outcome(self, **entries: str) -> str:
        """The kernels, or in which step the runtime failed: "refused: …", "fails: …"."""
        try:
            found = self.census(**entries)
        except PlanishError as error:
            return f"refused: {error.what}"
        return " ".join(found.counts) + self._run()

    def _run(self) -> str:
        feed = np.random.default_rng(0).normal(
            size=[SIZES[n] if isinstance(n, str) else n for n in self.shape]
        )
        array = np.abs(feed).astype(helper.tensor_dtype_to_np_dtype(self.dtype))
        try:
            open_session(self.bytes(), threads=1).run({"x": array})
        except PlanishError as error:
            return f"; fails: {error.what}"
        return ""


def stored(value: Array, name: str) -> TensorProto:
    return ir.serde.serialize_tensor(ir.Tensor(value, name=name))


FLOAT_PRODUCTS = frozenset(
    {
        "MatMul",
        "Gemm",
        "Conv",
        "ConvTranspose",
        "com.microsoft:FusedConv",
        "com.microsoft:FusedGemm",
        "com.microsoft:FusedMatMul",
        "com.microsoft.nchwc:Conv",
    }
)
IMAGE_WEIGHT = (16, 8, 3, 3)


def linear(
    shape: Shape = DYNAMIC,
    *,
    act: bool = True,
    bias: Sequence[int] | None = None,
    middle: str = "",
    out: bool = False,
    out_zero: int = 128,
    zero: int = 128,
    activation: str = "uint8",
    opset: int = 21,
    **weight: Any,
) -> Form:
    """x (-> Q, DQ) -> MatMul with a dequantized weight (-> Add) (-> middle) (-> Q, DQ)."""
    form = Form(shape, opset=opset)
    x = form.pair("x", zero, activation) if act else "x"
    y = form.op("MatMul", x, form.weight(**weight), name="fc")
    y = y if bias is None else form.op("Add", y, form.floats("bias", *bias))
    y = form.op(middle, y) if middle else y
    if out:
        form.pair(y, out_zero)
    return form


def gemm(
    *,
    act: bool = True,
    bias: Sequence[int] = (),
    out: bool = False,
    turned: bool = False,
    **attrs: Any,
) -> Form:
    """x (-> Q, DQ) -> Gemm with a dequantized weight (-> Q, DQ)."""
    form = Form(FLAT)
    x = form.pair("x") if act else "x"
    w = form.weight((N, K), 0) if turned else form.weight()
    more = [form.floats("bias", *bias)] if bias else []
    attrs |= {"transB": 1} if turned else {}
    y = form.op("Gemm", x, w, *more, name="fc", **attrs)
    if out:
        form.pair(y)
    return form


def conv(
    *, act: bool = True, middle: str = "", out: bool = True, out_zero: int = 128, axis: int = 0,
    dtype: str = "int8", op: str = "Conv",
) -> Form:  # fmt: skip
    """x (-> Q, DQ) -> convolution with a dequantized weight (-> middle) (-> Q, DQ)."""
    form = Form(IMAGE)
    x = form.pair("x") if act else "x"
    shape = (8, 16, 3, 3) if op == "ConvTranspose" else IMAGE_WEIGHT
    y = form.op(op, x, form.weight(shape, axis, dtype), name="conv")
    y = form.op(middle, y) if middle else y
    if out:
        form.pair(y, out_zero)
    return form


def nbits(bits: int = 4, block: int = 32, level: int = 4, zero: str = "", k: int = 2 * K) -> Form:
    """MatMulNBits; zero: "codes" or "float" zero points."""
    form = Form(("B", "S", k))
    blocks = -(-k // block)
    codes = np.random.default_rng(0).integers(0, 256, (N, blocks, block * bits // 8))
    inputs = ["x", form.const("codes", codes.astype(np.uint8))]
    inputs.append(form.const("scales", np.full(N * blocks, 0.01, np.float32)))
    if zero == "codes":
        packed = np.full(N * -(-blocks * bits // 8), 0x88, np.uint8)
        inputs.append(form.const("zeros", packed))
    elif zero:
        inputs.append(form.const("zeros", np.full((N, blocks), 8, np.float32)))
    form.ms(
        "MatMulNBits", *inputs, K=k, N=N, bits=bits, block_size=block, accuracy_level=level
    )  # fmt: skip
    return form


def table(*, block: int = 32, bits: int = 4, dtype: str = "uint8") -> Form:
    """GatherBlockQuantized on a table [100, 64]."""
    form = Form(("B", "S"), dtype=TensorProto.INT64)
    width = 64 * bits // 8 if dtype == "uint8" else 64
    codes = form.codes("table", (100, width), dtype)
    scales = form.const("scales", np.full((100, -(-64 // block)), 0.01, np.float32))
    extra = {"bits": bits} if dtype == "uint8" else {}
    form.ms(
        "GatherBlockQuantized", codes, "x", scales,
        gather_axis=0, quantize_axis=1, block_size=block, **extra,
    )  # fmt: skip
    return form


LETTERS = {
    "f": TensorProto.FLOAT, "h": TensorProto.FLOAT16, "d": TensorProto.DOUBLE,
    "i": TensorProto.INT64, "n": TensorProto.INT32, "b": TensorProto.BOOL,
    "u": TensorProto.UINT8, "c": TensorProto.INT8, "s": TensorProto.STRING,
    "w": TensorProto.INT16, "z": TensorProto.BFLOAT16,
}  # fmt: skip


@dataclass
class Single:
    """A model of one node. inputs: "f2,B,4" for a float input [2, "B", 4], arrays for constants,
    "" for what is left out, "=f2" for an input that stands behind an Identity."""

    op: str
    inputs: tuple[Any, ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1
    opset: int = 22

    def proto(self) -> onnx.ModelProto:
        domain, _, kind = self.op.rpartition(":")
        fed, stored_, nodes, names = [], [], [], []
        for i, given in enumerate(self.inputs):
            names.append("" if isinstance(given, str) and not given else f"x{i}")
            if isinstance(given, str) and given:
                behind = given.startswith("=")
                name = f"fed{i}" if behind else f"x{i}"
                fed.append(_fed(name, given.lstrip("=")))
                nodes += [helper.make_node("Identity", [name], [f"x{i}"])] if behind else []
            elif names[-1]:
                stored_.append(stored(np.asarray(given), f"x{i}"))
        made = [f"y{i}" for i in range(self.outputs)]
        nodes.append(
            helper.make_node(kind, names, made, name="node", domain=domain, **self.attributes)
        )
        graph = helper.make_graph(
            nodes, "g", fed, [onnx.ValueInfoProto(name=made[0])], stored_
        )  # fmt: skip
        opsets = [helper.make_opsetid("", self.opset)]
        opsets += [helper.make_opsetid(domain, 1)] if domain else []
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    def bytes(self) -> bytes:
        data: bytes = self.proto().SerializeToString()
        return data


def _fed(name: str, text: str) -> onnx.ValueInfoProto:
    """An input of a type and a shape: "f2,B" is float [2, "B"], "f" a float scalar."""
    sizes = [int(n) if n.isdecimal() else n for n in text[1:].split(",") if n]
    return helper.make_tensor_value_info(name, LETTERS[text[0]], sizes)


def single(op: str, *inputs: Any, outputs: int = 1, opset: int = 22, **attributes: Any) -> Single:
    """A model of one node (``Single``)."""
    return Single(op, inputs, attributes, outputs, opset)
