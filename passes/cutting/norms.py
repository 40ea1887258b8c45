"""Which outputs of a layer count: a norm behind it makes some of them small for all readers."""

from __future__ import annotations

import numpy as np

from ...ir.graph import constant_array
from ...ir.norms import scale_behind
from ..math.refit import Doubles
from .consumers import Consumer


def output_scale(consumer: Consumer) -> Doubles | None:
    """By what a norm multiplies each output of a layer, |scale| float64 [outputs].

    None where anything else reads the output, or the sum that it becomes part of: it then counts
    as it is.
    """
    if len(consumer.site.uses) != 1 or consumer.site.kind != "linear":
        return None
    output = consumer.site.uses[0].output
    scale = constant_array(scale_behind(output, consumer.form.outputs))
    return None if scale is None else np.abs(scale.astype(np.float64))
