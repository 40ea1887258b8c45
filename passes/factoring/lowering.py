"""The graph with two factors in the place of a layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from ...ir.graph import attribute
from ...ir.rewriter import Rewriter
from ...ir.sites import Site
from ..biases import set_bias
from .groups import Group, kernel_shape


@dataclass(frozen=True, eq=False)
class Factors:
    """What lowering builds from: A [inputs, rank], B [rank, outputs], new biases by site."""

    first: np.ndarray
    second: np.ndarray
    biases: tuple[np.ndarray, ...] = ()


def lower_linear(group: Group, made: Factors, rewriter: Rewriter) -> None:
    """``MatMul(x, W)`` becomes ``MatMul(MatMul(x, A), B)``; layers of a group share the first."""
    first = rewriter.initializer(f"{group.name}.weight_in", made.first)
    between: dict[ir.Value, ir.Value] = {}
    parts = np.split(made.second, np.cumsum(group.widths)[:-1], axis=1)
    for index, (site, part) in enumerate(zip(group.sites, parts, strict=True)):
        second = rewriter.initializer(f"{site.name}.weight_out", np.ascontiguousarray(part))
        for use in site.uses:
            node = use.nodes[0]
            x, old = node.inputs[:2]
            assert x is not None
            if x not in between:
                between[x] = in_front(rewriter, node, [x, first])
            rewriter.set_input(node, 0, between[x])
            rewriter.set_input(node, 1, second)
            rewriter.sweep([old])
        set_bias(site, made.biases[index] if made.biases else None, rewriter)


def lower_conv(site: Site, made: Factors, rewriter: Rewriter) -> None:
    """One of as many taps to fewer channels, then a 1x1 one with the bias."""
    kernel, rank = kernel_shape(site), made.first.shape[1]
    ones = [1] * (len(kernel) - 1)
    taps, point = made.first.T.reshape(rank, *kernel), made.second.T.reshape(-1, rank, *ones)
    first = rewriter.initializer(f"{site.name}.weight_in", np.ascontiguousarray(taps))
    second = rewriter.initializer(f"{site.name}.weight_out", np.ascontiguousarray(point))
    set_bias(site, made.biases[0] if made.biases else None, rewriter)
    for node in [use.nodes[0] for use in site.uses]:
        read = list(node.inputs)
        narrow = in_front(rewriter, node, [read[0], first])
        wide = [narrow, second, *read[2:]]
        name, given = f"{node.name}_out", {"kernel_shape": ones}
        out = rewriter.insert(
            "Conv", wide, before=node, attributes=given, name=name, origins=[node]
        )
        rewriter.take_over(node.outputs[0], out.outputs[0])
        rewriter.remove(node)
        rewriter.sweep(read)


def in_front(
    rewriter: Rewriter,
    node: ir.Node,
    inputs: Sequence[ir.Value | None],
    changed: Mapping[str, Any] | None = None,
) -> ir.Value:
    """The output of a node of the same kind, in front of it; ``changed``: other attributes."""
    given = {name: attribute(node, name) for name in node.attributes} | dict(changed or {})
    attributes = {name: value for name, value in given.items() if value is not None}
    made = rewriter.insert(
        node.op_type, inputs, before=node, attributes=attributes, name=f"{node.name}_in",
        origins=[node],
    )  # fmt: skip
    return made.outputs[0]
