"""Models inside the onnx package that come with inputs and the outputs that were stored then.

``simple`` (small graphs with sequences and strings), ``pytorch-converted`` and
``pytorch-operator`` (exports of the first years). Most are of opset 6, which planish refuses and
the runtime of today runs but in part: they are raised to opset 7 by ONNX's own converter, as the
refusal advises. What the runtime refuses or computes otherwise than was stored stands with its
reason in ``excluded_stored_models.toml``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import onnx.version_converter

from ....ir.importing.protocheck import OLDEST_OPSET
from ..case import Case
from .exclusions import excluded
from .node_cases import opset
from .wheels import data_folder, feedable

STORED = "excluded_stored_models.toml"
FOLDERS = ("simple", "pytorch-converted", "pytorch-operator")


def stored_cases() -> Iterator[Case]:
    """All stored models that the runtime runs."""
    out = excluded(STORED)
    return (case for case in all_stored_cases() if case.name not in out.reasons)


def all_stored_cases() -> Iterator[Case]:
    """All stored models, named "simple/test_shrink" and so on."""
    for kind in FOLDERS:
        for folder in sorted(data_folder(kind).iterdir()):
            if Path(folder, "model.onnx").is_file():
                yield _case(f"{kind}/{folder.name}", folder)


def _case(name: str, folder: Path) -> Case:
    model = _readable(onnx.load(folder / "model.onnx"))
    weights = {t.name for t in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in weights]
    sets = sorted(folder.glob("test_data_set_*"))
    feeds = [dict(_stored(inputs, s, "input")) for s in sets]
    expected = [tuple(data for _, data in _stored(model.graph.output, s, "output")) for s in sets]
    return Case(name, model, tuple(feeds), tuple(expected))


def _readable(model: onnx.ModelProto) -> onnx.ModelProto:
    if opset(model) >= OLDEST_OPSET:
        return model
    return onnx.version_converter.convert_version(model, OLDEST_OPSET)


def _stored(values: Any, folder: Path, kind: str) -> Iterator[tuple[str, Any]]:
    for i, value in enumerate(values):
        proto = _PROTOS[value.type.WhichOneof("value")]()
        proto.ParseFromString(Path(folder, f"{kind}_{i}.pb").read_bytes())
        yield value.name, feedable(proto)


_PROTOS: dict[str, type[Any]] = {
    "tensor_type": onnx.TensorProto,
    "sequence_type": onnx.SequenceProto,
    "optional_type": onnx.OptionalProto,
}
