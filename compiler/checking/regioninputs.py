"""Numbers for the inputs of regions, where no run of the model can tell them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import onnx_ir as ir

from ...ir.errors import InputError, PassError
from ...ir.finding.index_limits import index_limits
from ...ir.signature import Signature, TensorSpec
from ...ir.types.bound import Shapes, bound_shapes
from ..data.synthetic import synthetic
from ..memory import bindings_of

SIZES = {"batch": 2, "other": 5}
"""Sizes of open axes, by position: enough for every axis to be told from the others."""


def region_shapes(model: ir.Model) -> Shapes:
    """The shapes of all values where open axes have the sizes that regions are run with."""
    return bound_shapes(model, bindings_of(model, (), SIZES))


def generated(model: ir.Model, names: Sequence[str], shapes: Shapes) -> dict[str, Any]:
    """Values of the model by name, generated for their dtypes and the shapes given.

    Raises PassError where a shape is not known or such values cannot be generated.
    """
    values = {str(v.name): v for v in model.graph.inputs}
    values.update({str(v.name): v for node in model.graph for v in node.outputs})
    specs = [TensorSpec(n, TensorSpec.of(values[n]).dtype, shapes.get(n)) for n in names]
    return region_feed(specs, index_limits(model))


def region_feed(
    specs: Iterable[TensorSpec], limits: Mapping[str, int], seed: int = 0
) -> dict[str, Any]:
    """One feed of random numbers; see ``synthetic``. Raises PassError as ``generated``."""
    wanted = tuple(specs)
    for spec in wanted:
        if spec.shape is None or not all(isinstance(size, int) for size in spec.shape):
            raise PassError("the shape of one of its inputs is not known", where=spec.name)
    try:
        return synthetic(Signature(wanted, ()), 1, seed, limits=limits)[0] if wanted else {}
    except InputError as error:
        raise PassError(f"its inputs cannot be generated: {error.what}") from error
