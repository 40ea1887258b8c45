"""Convolutions whose outputs get back the mean and variance that they had in the float model.

What the re-estimation of batch norms does where there still are any: errors of many layers add up
to drifts of scale and mean, which are cheap to take back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from ...ir.digest import contents_digest
from ...ir.graph import constant_array, constant_tensor
from ...ir.sites import Site, Sites
from ...ir.storage.tensors import tensor_digest
from ..api import MATCHED, REMEMBERED, Context
from .consumers import form_of, own_bias

Tensors = Mapping[str, np.ndarray]


def matched(
    model: ir.Model, sites: Sequence[Site], tensors: Tensors, ctx: Context
) -> dict[str, np.ndarray]:
    """``tensors``, and weights and biases of convolutions that match the model as it was.

    sites: ``matchable``, in graph order. Scale goes into the weight, the mean into the bias.
    """
    names = tuple(str(site.uses[0].output.name) for site in sites)
    changed = tuple((name, tensor_digest(ir.tensor(tensors[name]))) for name in sorted(tensors))
    key = "matched", contents_digest(model), names, changed
    found = ctx.analysis(REMEMBERED, (key, lambda: ctx.analysis(MATCHED, (tensors, names))))
    made = dict(tensors)
    for site, name in zip(sites, names, strict=True):
        made |= _moved(site, made, *found[name])
    return made


def matchable(sites: Sites, names: Iterable[str], ctx: Context) -> Iterator[Site]:
    """The convolutions among ``names`` that can be matched, in graph order: those with one use and
    a weight and a bias of their own. Of others without a bias a remark tells."""
    wanted = set(names)
    for site in (s for s in sites if s.name in wanted and s.kind == "conv"):
        if own_bias(site) is None:
            why = "there is no bias of its own to hold its mean, so it is not matched"
            ctx.remark("note", site.name, "no-bias", why)
        elif len(site.uses) == 1 and site.weight is not None and len(site.weight.uses()) == 1:
            yield site


def _moved(
    site: Site, tensors: Tensors, factor: np.ndarray, summand: np.ndarray
) -> dict[str, np.ndarray]:
    assert site.weight is not None and site.bias is not None
    weight, bias = (_held(value, tensors) for value in (site.weight, site.bias))
    form = form_of(site)
    parts = form.matrices(weight.astype(np.float64))
    columns = np.tile(factor.reshape(form.groups, 1, -1), (1, 1, form.taps_each))
    moved = bias.astype(np.float64) * factor.reshape(bias.shape) + summand.reshape(bias.shape)
    return {
        str(site.weight.name): form.stored((parts * columns).astype(weight.dtype)),
        str(site.bias.name): moved.astype(bias.dtype),
    }


def _held(value: ir.Value, tensors: Tensors) -> np.ndarray:
    given = tensors.get(str(value.name))
    array = constant_array(value) if given is None else given
    assert array is not None and constant_tensor(value) is not None
    return array
