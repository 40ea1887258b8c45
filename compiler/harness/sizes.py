"""Make a case smaller without taking nodes out: sizes, numbers, attributes, descriptions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, ValueInfoProto, numpy_helper

from .case import Case
from .cuts import copied

LARGEST_SHAPE = 64
"""Elements of an integer initializer that may hold sizes."""


def smaller_sizes(case: Case) -> Iterator[Case]:
    """A size that occurs, wherever it occurs, made smaller: 1, 2, then half of it."""
    for size in sorted(_sizes(case), reverse=True):
        for new in dict.fromkeys(n for n in (1, 2, size // 2) if n < size):
            yield _resized(case, size, new, numbers=False)
            yield _resized(case, size, new, numbers=True)


def plainer_nodes(case: Case) -> Iterator[Case]:
    """One attribute less."""
    for index, node in enumerate(case.model.graph.node):
        for place, attribute in enumerate(node.attribute):
            if attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
                continue

            def change(model: ModelProto, index: int = index, place: int = place) -> None:
                del model.graph.node[index].attribute[place]

            yield copied(case, change)


def tidier(case: Case) -> Iterator[Case]:
    """Without what only describes: notes, types of inner values, functions and domains unused."""
    model, graph = case.model, case.model.graph
    used = {(n.domain, n.op_type) for n in _all_nodes(model)}
    if graph.value_info:
        yield copied(case, lambda m: m.graph.ClearField("value_info"))
    if model.metadata_props or model.doc_string or graph.doc_string or graph.metadata_props:
        yield copied(case, _forget_notes)
    for place, function in enumerate(model.functions):
        if (function.domain, function.name) not in used:
            yield copied(case, lambda m, place=place: m.functions.pop(place))  # type: ignore[misc]
    domains = {domain for domain, _ in used}
    for place, opset in enumerate(model.opset_import):
        if opset.domain and opset.domain not in domains:
            yield copied(case, lambda m, place=place: m.opset_import.pop(place))  # type: ignore[misc]


def _forget_notes(model: ModelProto) -> None:
    for name in ("doc_string", "metadata_props"):
        model.ClearField(name)
        model.graph.ClearField(name)


def _all_nodes(model: ModelProto) -> Iterator[onnx.NodeProto]:
    pending = [*model.graph.node, *(n for f in model.functions for n in f.node)]
    while pending:
        node = pending.pop()
        yield node
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                pending.extend(body.node)


def _sizes(case: Case) -> set[int]:
    arrays = [a for feed in case.feeds for a in feed.values() if isinstance(a, np.ndarray)]
    shapes = [a.shape for a in arrays] + [tuple(t.dims) for t in case.model.graph.initializer]
    return {size for shape in shapes for size in shape if size > 1}


def _resized(case: Case, old: int, new: int, *, numbers: bool) -> Case:
    """Every axis of size ``old`` cut to ``new``. numbers: also the sizes that constants hold."""

    def change(model: ModelProto) -> None:
        graph = model.graph
        for tensor in graph.initializer:
            tensor.CopyFrom(_cut_tensor(tensor, old, new, numbers))
        for info in (*graph.input, *graph.output, *graph.value_info):
            _cut_info(info, old, new)

    feeds = tuple(_cut_feed(feed, old, new) for feed in case.feeds)
    return replace(copied(case, change), feeds=feeds)


def _cut_tensor(tensor: TensorProto, old: int, new: int, numbers: bool) -> TensorProto:
    holds = (
        numbers and tensor.data_type == TensorProto.INT64 and np.prod(tensor.dims) <= LARGEST_SHAPE
    )
    if not holds and old not in tensor.dims:
        return tensor
    array = _cut(numpy_helper.to_array(tensor), old, new)
    if holds:
        array = np.where(array == old, new, array)
    made = numpy_helper.from_array(np.ascontiguousarray(array), tensor.name)
    made.data_type = tensor.data_type
    return made


def _cut_info(info: ValueInfoProto, old: int, new: int) -> None:
    for dim in info.type.tensor_type.shape.dim:
        if dim.dim_value == old:
            dim.dim_value = new


def _cut_feed(feed: Mapping[str, Any], old: int, new: int) -> dict[str, Any]:
    return {
        name: _cut(value, old, new) if isinstance(value, np.ndarray) else value
        for name, value in feed.items()
    }


def _cut(array: np.ndarray, old: int, new: int) -> np.ndarray:
    return array[tuple(slice(new) if size == old else slice(None) for size in array.shape)]
