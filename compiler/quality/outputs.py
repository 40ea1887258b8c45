"""What kind of thing an output is, which decides how its drift is measured by default."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import onnx_ir as ir

from ...ir.graph import producer
from .drift import Drift, DriftGate, DriftVerdict, Kind, default_gate, judge, margin

PASS_THROUGH = frozenset("Identity Cast Squeeze Unsqueeze Reshape Flatten Transpose Slice".split())
CLASSES = frozenset({"Softmax", "LogSoftmax", "ArgMax"})
EMBEDDINGS = frozenset({"LayerNormalization", "LpNormalization", "RMSNormalization"})
CLASS_WORDS = re.compile(
    r"(^|[_./])(logits?|prob(abilitie)?s?|class(es)?|labels?)($|[_./\d])", re.IGNORECASE
)
EMBEDDING_WORDS = re.compile(r"(embedding|hidden_state|features?)", re.I)


def output_kind(value: ir.Value) -> Kind:
    """``classes`` behind a softmax or called so, ``embedding`` behind a normalisation or
    called so, else ``tensor``."""
    name = str(value.name)
    node = producer(value)
    while node is not None and node.op_type in PASS_THROUGH and node.inputs:
        node = producer(node.inputs[0])
    op = "" if node is None else node.op_type
    if op in CLASSES or CLASS_WORDS.search(name):
        return "classes"
    if op in EMBEDDINGS or EMBEDDING_WORDS.search(name):
        return "embedding"
    return "tensor"


def output_kinds(outputs: Iterable[ir.Value]) -> dict[str, Kind]:
    """The kind of each output by its name."""
    return {str(value.name): output_kind(value) for value in outputs}


def judge_drift(drift: Drift, kinds: Mapping[str, Kind], asked: DriftGate | None) -> DriftVerdict:
    """The verdict of the output that holds least; each by its own kind unless ``asked``."""
    if asked is not None:
        return judge(drift, asked)
    verdicts = (
        judge(Drift((o,)), default_gate(kinds.get(o.name, "tensor"))) for o in drift.outputs
    )
    return min(verdicts, key=margin)
