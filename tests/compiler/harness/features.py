"""What a generated case holds, told from the model alone. The tests get it as a fixture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import onnx
from onnx import numpy_helper

from planish.compiler.harness.case import Case

Node = onnx.NodeProto
Array = np.ndarray


def nodes(case: Case) -> list[Node]:
    """Of the main graph."""
    return list(case.model.graph.node)


def bodies(case: Case) -> Iterator[tuple[Node, onnx.GraphProto]]:
    """Every nested graph with the node that holds it."""

    def inside(graph: onnx.GraphProto) -> Iterator[tuple[Node, onnx.GraphProto]]:
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    yield node, attribute.g
                    yield from inside(attribute.g)

    return inside(case.model.graph)


def everywhere(case: Case) -> list[Node]:
    return nodes(case) + [node for _, body in bodies(case) for node in body.node]


def op(*names: str) -> Callable[[Case], bool]:
    return lambda case: any(node.op_type in names for node in everywhere(case))


def attribute(op_type: str, name: str, wanted: Callable[[object], bool]) -> Callable[[Case], bool]:
    def found(case: Case) -> bool:
        return any(
            a.name == name and wanted(onnx.helper.get_attribute_value(a))
            for node in everywhere(case)
            if node.op_type == op_type
            for a in node.attribute
        )

    return found


def uses(case: Case) -> Counter[str]:
    inner = [name for _, body in bodies(case) for node in body.node for name in node.input]
    return Counter([name for node in nodes(case) for name in node.input] + inner)


def stored(case: Case) -> dict[str, onnx.TensorProto]:
    return {t.name: t for t in case.model.graph.initializer}


def arrays(case: Case) -> Iterator[Array]:
    yield from (numpy_helper.to_array(t) for t in case.model.graph.initializer)
    for node in everywhere(case):
        for a in node.attribute:
            if a.name == "value" and node.op_type == "Constant":
                yield numpy_helper.to_array(a.t)


def floats(case: Case) -> Iterator[Array]:
    return (a for a in arrays(case) if a.dtype.kind == "f" and a.size)


def producers(case: Case) -> dict[str, Node]:
    return {name: node for node in nodes(case) for name in node.output if name}


def constant(case: Case, name: str) -> bool:
    made = producers(case).get(name)
    listed = {i.name for i in case.model.graph.input}
    sparse = {t.values.name for t in case.model.graph.sparse_initializer}
    known = name in stored(case) and (name not in listed or case.model.ir_version < 4)
    return known or name in sparse or (made is not None and made.op_type.startswith("Constant"))


def fed(case: Case, op_type: str) -> Iterator[tuple[Node, Node]]:
    """Pairs of a node and one of this type that reads its first output."""
    made = producers(case)
    for node in nodes(case):
        for name in node.input:
            if node.op_type == op_type and name in made:
                yield made[name], node


def names(case: Case) -> set[str]:
    graph = case.model.graph
    made = [name for node in nodes(case) for name in node.output if name]
    return {*made, *(i.name for i in graph.input), *stored(case)}


def named(wanted: Callable[[str], bool]) -> Callable[[Case], bool]:
    return lambda case: any(map(wanted, names(case)))


def captures(case: Case) -> bool:
    return any(
        name in names(case) and name not in {o for n in body.node for o in n.output}
        for _, body in bodies(case)
        for node in body.node
        for name in node.input
    )


def returns_outer(case: Case) -> bool:
    """A body whose output is an outer value, through the Identity that the runtime asks for."""
    for _, body in bodies(case):
        inner = {o for n in body.node for o in n.output} | {t.name for t in body.initializer}
        inner |= {i.name for i in body.input}
        ends = {o.name for o in body.output}
        for node in body.node:
            if node.op_type == "Identity" and node.output[0] in ends and node.input[0] not in inner:
                return True
    return False


def layer_inside(case: Case) -> bool:
    return any(
        node.op_type in ("MatMul", "Gemm") and (node.input[1] in own or node.input[1] in outer)
        for _, body in bodies(case)
        for own in [{t.name for t in body.initializer}]
        for outer in [set(stored(case))]
        for node in body.node
    )


def dims(case: Case) -> Iterator[onnx.TensorShapeProto.Dimension]:
    listed = [i for i in case.model.graph.input if i.name not in stored(case)]
    return (d for info in listed for d in info.type.tensor_type.shape.dim)


def sizes_differ(case: Case) -> bool:
    shapes = [{name: np.shape(a) for name, a in feed.items()} for feed in case.feeds]
    return any(shape != shapes[0] for shape in shapes)


def kinds(case: Case) -> set[np.dtype]:
    return {a.dtype for a in arrays(case)} | {np.asarray(a).dtype for a in case.feeds[0].values()}


def unread(case: Case) -> set[str]:
    used = uses(case)
    ends = {o.name for o in case.model.graph.output}
    return {o for n in nodes(case) for o in n.output if o and not used[o] and o not in ends}


def repeated(case: Case) -> bool:
    faces = Counter(
        (n.op_type, tuple(n.input), tuple(a.SerializeToString() for a in n.attribute))
        for n in nodes(case)
        if n.input
    )
    return any(count > 1 for count in faces.values())


def tied(case: Case) -> bool:
    turned = {n.input[0] for n in nodes(case) if n.op_type == "Transpose"}
    return any(uses(case)[name] > 1 for name in turned & set(stored(case)))


def grouped(case: Case, depthwise: bool) -> bool:
    for node in everywhere(case):
        held = stored(case).get(node.input[1]) if node.op_type == "Conv" else None
        group = next((a.i for a in node.attribute if a.name == "group"), 1)
        if held is not None and group > 1 and (held.dims[1] == 1) == depthwise:
            return True
    return False


def convolves(rank: int) -> Callable[[Case], bool]:
    def found(case: Case) -> bool:
        held = stored(case)
        return any(
            n.op_type == "Conv" and n.input[1] in held and len(held[n.input[1]].dims) == rank
            for n in everywhere(case)
        )

    return found


def biased(case: Case) -> bool:
    return any(made.op_type == "MatMul" for made, _ in fed(case, "Add"))


def residual(case: Case) -> bool:
    return any(
        n.op_type == "Add" and not any(constant(case, name) for name in n.input)
        for n in nodes(case)
    )


def chained(case: Case) -> bool:
    idle = ("Identity", "Dropout")
    return any(made.op_type in idle for kind in idle for made, _ in fed(case, kind))


def looked_up(case: Case) -> bool:
    real = {i.name for i in case.model.graph.input} - set(stored(case))
    return any(n.op_type == "Gather" and n.input[1] in real for n in nodes(case))


def ends_in(case: Case, wanted: set[str]) -> bool:
    return any(o.name in wanted for o in case.model.graph.output)


def empty(case: Case) -> bool:
    return any(np.asarray(a).size == 0 for feed in case.feeds for a in feed.values())


FEATURES: dict[str, Callable[[Case], bool]] = {
    "shared initializer": lambda c: any(uses(c)[n] > 1 for n in stored(c)),
    "tied, transposed": tied,
    "residual": residual,
    "If": op("If"),
    "Loop": op("Loop"),
    "Scan": op("Scan"),
    "capture": captures,
    "initializer in a body": lambda c: any(len(b.initializer) > 0 for _, b in bodies(c)),
    "layer in a body": layer_inside,
    "body returns an outer value": returns_outer,
    "input left out": lambda c: any("" in n.input for n in everywhere(c)),
    **{
        f"opset {v}": lambda c, v=v: c.model.opset_import[0].version == v  # type: ignore[misc]
        for v in range(7, 24)
    },
    "opset written ai.onnx": lambda c: any(o.domain == "ai.onnx" for o in c.model.opset_import),
    "IR 3, weights are inputs": lambda c: c.model.ir_version == 3 and len(stored(c)) > 0,
    "overridable": lambda c: c.model.ir_version > 3
    and any(i.name in stored(c) for i in c.model.graph.input),
    "value named like a node": lambda c: bool(names(c) & {n.name for n in nodes(c)}),
    "value named like a number": named(str.isdigit),
    "names that a pass would make": named(lambda n: n.endswith(("_1", "_folded", "_quantized"))),
    "nodes without a name": lambda c: any(not n.name for n in nodes(c)),
    "slash": named(lambda n: "/" in n),
    "space": named(lambda n: " " in n),
    "unicode": named(lambda n: not n.isascii()),
    "module paths": lambda c: any(n.metadata_props for n in nodes(c)),
    "float16": lambda c: np.dtype("float16") in kinds(c),
    "float64": lambda c: np.dtype("float64") in kinds(c),
    "int64 fed": lambda c: any(np.asarray(a).dtype == np.int64 for a in c.feeds[0].values()),
    "bool fed": lambda c: any(np.asarray(a).dtype == np.bool_ for a in c.feeds[0].values()),
    "scalar": lambda c: any(a.ndim == 0 for a in floats(c)),
    "empty constant": lambda c: any(a.size == 0 for a in arrays(c)),
    "empty feed": empty,
    "symbolic size": lambda c: any(d.dim_param for d in dims(c)),
    "nameless size": lambda c: any(not d.WhichOneof("value") for d in dims(c)),
    "sizes that differ": sizes_differ,
    "batch 1": lambda c: any(np.shape(a)[:1] == (1,) for f in c.feeds for a in f.values()),
    "Constant": op("Constant"),
    "ConstantOfShape": op("ConstantOfShape"),
    "sparse": lambda c: len(c.model.graph.sparse_initializer) > 0
    or attribute("Constant", "sparse_value", lambda _: True)(c),
    "typed data": lambda c: any(t.float_data or t.int64_data for t in stored(c).values()),
    "function": lambda c: any(n.domain == "local" for n in nodes(c)),
    "unused output of many": lambda c: any(
        len(n.output) > 1 and unread(c) & set(n.output) for n in nodes(c)
    ),
    "output is an input": lambda c: ends_in(c, {i.name for i in c.model.graph.input}),
    "output is an initializer": lambda c: ends_in(c, set(stored(c))),
    "output behind Identity": lambda c: ends_in(
        c, {n.output[0] for n in nodes(c) if n.op_type == "Identity"}
    ),
    "computed twice": repeated,
    "dead code": lambda c: bool(unread(c)),
    "Identity or Dropout in a row": chained,
    "MatMul and bias": biased,
    "Gemm": op("Gemm"),
    "Gemm alpha": attribute("Gemm", "alpha", lambda v: v != 1),
    "Gemm beta": attribute("Gemm", "beta", lambda v: v != 1),
    "Gemm transA": attribute("Gemm", "transA", lambda v: v == 1),
    "Gemm transB": attribute("Gemm", "transB", lambda v: v == 1),
    "convolution over a length": convolves(3),
    "convolution over an image": convolves(4),
    "grouped convolution": lambda c: grouped(c, False),
    "depthwise convolution": lambda c: grouped(c, True),
    "BatchNormalization": op("BatchNormalization"),
    "norm behind convolution": lambda c: any(
        made.op_type == "Conv" for made, _ in fed(c, "BatchNormalization")
    ),
    "LayerNormalization": op("LayerNormalization"),
    "InstanceNormalization": op("InstanceNormalization"),
    "Softmax": op("Softmax"),
    "attention by the runtime": op("MultiHeadAttention", "Attention"),
    "GELU": op("Erf", "Gelu"),
    "embedding": looked_up,
    **{
        name: op(name)
        for name in "Reshape Transpose Concat Split Slice Squeeze Unsqueeze Expand Tile Gather "
        "Flatten Pad Shape Cast Clip Where ReduceMean TopK Einsum SequenceConstruct".split()
    },
    "Q and DQ": op("QuantizeLinear"),
    "dynamic integers": op("MatMulInteger"),
    "zeros in weights": lambda c: any(a.ndim > 1 and np.mean(a == 0) > 0.2 for a in floats(c)),
    "minus zero": lambda c: any(np.any((a == 0) & np.signbit(a)) for a in floats(c)),
    "denormals": lambda c: any(
        np.any((a != 0) & (np.abs(a) < np.finfo(a.dtype).smallest_normal)) for a in floats(c)
    ),
    "largest numbers": lambda c: any(np.abs(a).max() > 1e4 * 6 for a in floats(c)),
    "equal channels": lambda c: any(
        a.ndim > 1 and len(np.unique(a.reshape(len(a), -1), axis=0)) < len(a) for a in floats(c)
    ),
}  # fmt: skip
