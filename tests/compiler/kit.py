"""Small models for compiles, a judge that counts float layers, and timing that is made up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from planish.compiler.context import CompileContext
from planish.compiler.data.feeds import FeedSet, load_feeds
from planish.compiler.driver import compile_model
from planish.compiler.instruments import Instrument, RegionCheck, VerifyEach
from planish.compiler.prepare import Request
from planish.compiler.progress import Silent
from planish.compiler.quality.judge import Judge
from planish.compiler.quality.outputs import output_kinds
from planish.compiler.result import Built, Quality
from planish.compiler.timing import Paired
from planish.compiler.workshop import Workshop
from planish.ir.load import load_model
from planish.ir.rewriter import Rewriter
from planish.ir.save import to_bytes
from planish.ir.signature import Signature
from planish.targets.loader import load_target
from planish.targets.runtime import Session, open_session
from planish.targets.schema import Target

TARGET = "generic"
"""Every CPU is one, so it is measured wherever tests run; its weights saturate nowhere."""
WIDTH = 64
ROUNDS = 11

Arrays = dict[str, np.ndarray]
Seconds = Callable[[onnx.ModelProto], float]


def target() -> Target:
    return load_target(TARGET)


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def chain(
    layers: int = 3, *, rows: str = '"batch"', gains: Mapping[int, float] | None = None
) -> onnx.ModelProto:
    """x [rows, 64] -> y [rows, 64] through ``layers`` times (linear, Relu), the last without.

    gains: three channels of that layer's output are so much larger, and the weights of the next
    layer that read them so much smaller: int8 then loses the other channels.
    """
    weights: Arrays = {}
    body, value = [], "x"
    for i in range(layers):
        weights[f"block{i}.weight"] = normal(WIDTH, WIDTH, seed=i, scale=WIDTH**-0.5)
        weights[f"block{i}.bias"] = normal(WIDTH, seed=50 + i, scale=0.1)
        last = i == layers - 1
        product, made = f"p{i}", "y" if last else f"a{i}"
        body.append(f'{product} = MatMul({value}, "block{i}.weight")')
        body.append(f'{made} = Add({product}, "block{i}.bias")')
        value = made
        if not last:
            body.append(f"r{i} = Relu({made})")
            value = f"r{i}"
    for i, gain in (gains or {}).items():
        weights[f"block{i}.weight"][:, :3] *= gain
        weights[f"block{i}.bias"][:3] *= gain
        if i + 1 < layers:
            weights[f"block{i + 1}.weight"][:3] /= gain
    return graph(" ".join(body), weights, f"float[{rows}, 64] x", f"float[{rows}, 64] y")


def graph(
    body: str, weights: Mapping[str, Any], inputs: str, outputs: str, opset: int = 20
) -> onnx.ModelProto:
    """A model in ONNX's text form with these initializers."""
    header = f'<ir_version: 10, opset_import: ["": {opset}]>'
    proto = onnx.parser.parse_model(f"{header} net ({inputs}) => ({outputs}) {{ {body} }}")
    proto.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()
    )
    return proto


def feeds(count: int = 6, rows: int = 8, width: int = WIDTH) -> list[Arrays]:
    return [{"x": normal(rows, width, seed=100 + i)} for i in range(count)]


def feed_set(model: onnx.ModelProto, given: Any = None) -> FeedSet:
    return load_feeds(feeds() if given is None else given, Signature.of(ir.from_proto(model)))


@dataclass
class CountingJudge:
    """Over budget while more than ``allowed`` layers are quantized; counts how often it is asked.

    Sees the file of a build, as a real judge sees what was loaded from it.
    """

    original: Session
    holdout: FeedSet
    allowed: int
    asked: list[int] = field(default_factory=list)

    def judge(self, session: Session, answers: object = None) -> Quality:
        count = integers(proto_of(session))
        self.asked.append(count)
        holds = count <= self.allowed
        return Quality("within-budget" if holds else "over-budget", sentence=f"{count} layers")


def workshop(
    model: onnx.ModelProto,
    folder: Path,
    *,
    allowed: int | None = None,
    calibrated: bool = True,
    instruments: Sequence[Instrument] | None = None,
    given: Any = None,
) -> Workshop:
    """A workshop on the model. allowed: judge by counting layers, not by drift."""
    imported = load_model(model).model
    data = feed_set(model, given)
    context = CompileContext(target(), imported, data, calibrated, None, 1, Silent())
    session = open_session(to_bytes(imported), threads=1)
    judge: Any = Judge(session, data, output_kinds(imported.graph.outputs))
    if allowed is not None:
        judge = CountingJudge(session, data, allowed)
    default = [VerifyEach(Signature.of(imported)), RegionCheck()]
    used = default if instruments is None else instruments
    return Workshop(Rewriter(imported), context, used, judge, folder / "builds")


def compiled(
    model: onnx.ModelProto, output: Path, *, calibration: Any = None, **options: Any
) -> Built:
    """The driver on a model in memory; calibration: ``feeds()`` unless given, False for none."""
    data = feeds() if calibration is None else calibration or None
    settings: dict[str, Any] = {"target": target(), "threads": 1} | options
    return compile_model(model, output=output, calibration=data, **settings)


def request(source: Any, folder: Path, **changes: Any) -> Request:
    """What the driver hands on, as if everything but the model was left out."""
    plain: dict[str, Any] = dict.fromkeys(field.name for field in fields(Request))
    plain |= {
        "source": source, "target": target(), "dynamic_shapes": "auto", "goal": "latency",
        "calibration": feeds(), "threads": 1, "keep_overridable": False, "seed": 0,
        "output": folder / "out", "command": "",
    }  # fmt: skip
    return Request(**(plain | changes))


def made_up(seconds: Seconds) -> Callable[..., Paired]:
    """A ``time_alternating`` that asks ``seconds`` of each session's model instead of a clock."""

    def time_alternating(
        sessions: Sequence[Session], feeds: Sequence[Arrays], *, budget: float = 0.0
    ) -> Paired:
        for session in sessions:
            session.run(feeds[0])
        each = [seconds(proto_of(session)) for session in sessions]
        return Paired(np.repeat(np.array(each)[:, None], ROUNDS, axis=1))

    return time_alternating


def proto_of(session: Session) -> onnx.ModelProto:
    """The model that a session was opened on."""
    return onnx.load(session._label)


def integers(model: onnx.ModelProto) -> int:
    """Integer matrices among the initializers."""
    return sum(
        t.data_type in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8) and len(t.dims) >= 2
        for t in model.graph.initializer
    )


def dynamic(model: onnx.ModelProto) -> bool:
    return any(node.op_type == "DynamicQuantizeLinear" for node in model.graph.node)


def everything(*folders: Path) -> list[str]:
    """All that lies in some folders, at any depth."""
    return sorted(str(path) for folder in folders for path in folder.rglob("*"))
