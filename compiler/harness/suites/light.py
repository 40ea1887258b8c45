"""The nine "light" models of the onnx package: classic convolutional networks of 2012 to 2017.

Their graphs are those of the model zoo (opset 9, IR 3: every weight is also an input), but their
weights are constants of one number each, made by ``ConstantOfShape``. They get seeded random
weights instead (``weights``); what the runtime then computes is the reference.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from ..case import Case, Feed
from .weights import seed_weights
from .wheels import SEED, data_folder


def light_cases() -> Iterator[Case]:
    """The nine models; one is made at a time, as the largest takes half a gigabyte."""
    for path in sorted(data_folder("light").glob("light_*.onnx")):
        yield light_case(path)


def light_case(path: Path) -> Case:
    """One of the models with other weights, and a feed of N(0, 1)."""
    graph = ir.from_proto(onnx.load(path))
    seed_weights(graph)
    model = ir.to_proto(graph)
    return Case(path.stem, model, (image(model, SEED),))


def image(model: onnx.ModelProto, seed: int) -> Feed:
    """A feed of N(0, 1) for the one input that is no weight."""
    weights = {t.name for t in model.graph.initializer}
    (value,) = (i for i in model.graph.input if i.name not in weights)
    shape = [d.dim_value for d in value.type.tensor_type.shape.dim]
    return {value.name: np.random.default_rng(seed).standard_normal(shape, np.float32)}
