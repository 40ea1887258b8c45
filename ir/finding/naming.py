"""Names that users know for the layers of a graph: module paths, never an exporter's ``val_17``.

Sources, best first: the initializer of the weight (``encoder.q.weight``), that of the bias,
PyTorch's module scopes, and node names that are paths (``/encoder/q/MatMul``). Where none
speaks, ``sites`` invents a structural name.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Sequence

import onnx_ir as ir

from ..provenance import ORIGIN_KEY, SCOPE_KEY

_LEAF = re.compile(
    r"(?:(?P<stem>(?!(?:weights?|kernel|bias)_)\w+?)_)?(?:weights?|kernel|bias|embedding_table|qweight)(?:_[A-Za-z0-9]+)*"
    r"|[wWbB](?:_[A-Za-z0-9]+)*"
)
_JUNK = re.compile(
    r"val_\d+.*|onnx::.*|const_?fold.*|constants?(_?\d+)?(_.*)?|.*_output_\d+|_?tensor_constant\d*"
    r"|node_.*|initializer(_?\d+)?|_empty_nn_module.*",
    re.IGNORECASE,
)
_OPERATION = re.compile(
    r"(Q|QLinear|Fused|Batch)?(MatMul|Gemm|Conv|Conv[123]D|Gather|Softmax|Add|Identity)(V2)?"
    r"|ConvTranspose|DepthwiseConv2dNative|BiasAdd|Einsum|einsum|Tensordot|ResourceGather"
    r"|embedding_lookup|convolution|depthwise|ReadVariableOp|read|Relu6?"
)


def layer_name(
    nodes: Sequence[ir.Node], weight: ir.Value | None, bias: ir.Value | None, *, alone: bool
) -> str | None:
    """The module path of a layer, None where nothing in the graph names it.

    alone: no other layer uses the weight, so that its name can only mean this one. A bias that
    several nodes read (exporters merge equal ones) names none of them.
    """
    return next(filter(None, _names(nodes, weight, bias, alone)), None)


def _names(
    nodes: Sequence[ir.Node], weight: ir.Value | None, bias: ir.Value | None, alone: bool
) -> Iterable[str | None]:
    if alone:
        yield parameter_path(weight)
    if bias is not None and len(bias.uses()) == 1:
        yield parameter_path(bias)
    yield from map(scope_path, nodes)
    yield from map(node_path, nodes)
    yield parameter_path(weight)


def parameter_path(value: ir.Value | None) -> str | None:
    """``encoder.q`` for an initializer named ``encoder.q.weight`` or ``encoder/q/kernel:0``."""
    name = "" if value is None or value.name is None else value.name
    parts = [p for p in re.split(r"[./]", name.split(":0")[0]) if p]
    leaf = _LEAF.fullmatch(parts[-1]) if parts else None
    if leaf is None or "::" in name:
        return None
    stem = leaf.group("stem")
    return _join([*parts[:-1], *([stem] if stem else [])])


def scope_path(node: ir.Node) -> str | None:
    """The innermost module in the scopes that PyTorch's exporter writes, as a dotted path.

    The entry is a Python list: the enclosing modules from the outside in (the outermost has no
    name), then the traced operation.
    """
    try:
        scopes = ast.literal_eval(node.metadata_props.get(SCOPE_KEY, "[]"))
    except (ValueError, SyntaxError):
        return None
    modules = [s for s in scopes[:-1] if isinstance(s, str) and s]
    return _join(modules[-1].split(".")) if modules else None


def node_path(node: ir.Node) -> str | None:
    """``encoder.layer.0.q`` for ``/encoder/layer.0/q/MatMul``, in the user's own model."""
    origins = node.metadata_props.get(ORIGIN_KEY, "").split("|")
    return next(filter(None, map(_path, [*origins, node.name or ""])), None)


def common_path(names: Iterable[str]) -> str:
    """The longest dotted path that starts all the names; ``""`` where there is none."""
    split = [name.split(".") for name in names]
    shared = []
    for parts in zip(*split, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)


def parent_path(name: str) -> str:
    """``a.b`` for ``a.b.c``, ``""`` for ``a``."""
    return name.rpartition(".")[0]


def _path(name: str) -> str | None:
    """The module path in a node name that is one, None for ``Conv_41`` or ``node_linear_3``."""
    if "/" not in name or "::" in name:
        return None
    parts = [p.removesuffix(":0") for p in name.split("/") if p]
    # TorchScript paths start with a slash and end with the operator
    parts = parts[:-1] if name.startswith("/") else _without_operations(parts)
    kept: list[str] = []
    for part in parts:
        if kept and part.startswith(kept[-1] + "."):
            kept.pop()  # a list of modules: layer1/layer1.0
        kept.append(part)
    return _join([p for part in kept for p in part.split(".")])


def _without_operations(parts: list[str]) -> list[str]:
    """Without the operators that end a path; ``Conv_0`` is one at the end, a module before it."""
    if parts and _OPERATION.fullmatch(re.sub(r"_\d+$", "", parts[-1])):
        parts = parts[:-1]
    while parts and _OPERATION.fullmatch(parts[-1]):
        parts = parts[:-1]
    return parts


def _join(parts: Sequence[str]) -> str | None:
    if not parts or any(_JUNK.fullmatch(part) for part in parts):
        return None
    if all(part.isdigit() for part in parts):
        return None
    return ".".join(parts)
