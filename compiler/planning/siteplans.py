"""What a rehearsal says of each site, and the kernels that the runtime would run it in."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir

from ...ir.blocked import blocked_weights
from ...ir.errors import InputError, TargetError
from ...ir.graph import attribute, constant_tensor
from ...ir.provenance import Remark
from ...ir.save import save_model
from ...ir.sites import Site, find_sites
from ..backends.kernels import count_kernels
from .outlook import SitePlan
from .rehearse import Layer, Rehearsal

FLOAT = "float"
"""What ``count_kernels`` calls the kernel of a float layer, the weight of which was repacked."""
PACKED = 4
"""Bits of what stands in 8 until it is handed over."""
UNSAID = ("not-taken", "no pass of the pipeline speaks of it")


def site_plans(rehearsal: Rehearsal, kernels: Mapping[str, str]) -> tuple[SitePlan, ...]:
    """One plan a layer, in graph order. kernels: by site, from ``kernels_of``."""
    done: dict[str, tuple[str, int]] = {}
    for name, held in rehearsal.skipped.items():
        if rehearsal.model is None:
            done |= {c.site: (f"{name} {c.setting}", c.saving) for c in held}
    done |= {e.site: (f"{e.pass_name} {e.setting}", e.saving) for e in rehearsal.edits}
    bits = {} if rehearsal.model is None else _bits(rehearsal.model)
    left = {r.site: r for r in rehearsal.remarks if r.kind in ("refused", "missed")}
    return tuple(
        _plan(name, layer, done.get(name), bits.get(name), kernels.get(name, ""), left.get(name))
        for name, layer in rehearsal.layers.items()
    )


def kernels_of(rehearsal: Rehearsal, threads: int) -> dict[str, str]:
    """The kernels by site, as ONNX Runtime makes them here; nothing where it refuses the graph.

    The model is written to a temporary folder, which is gone afterwards.
    """
    if rehearsal.model is None:
        return {}
    sites = find_sites(rehearsal.model).of_kind("linear", "conv", "embedding")
    found = {site.name: site.nodes[0].op_type for site in sites}
    with tempfile.TemporaryDirectory(prefix="planish-") as folder:
        path = Path(folder) / "model.onnx"
        try:
            save_model(rehearsal.model, path)
            counted = count_kernels(path, rehearsal.model, rehearsal.remarks, threads=threads)
        except (InputError, TargetError):
            return {}
    shown = {
        k.site: found.get(k.site, "") if k.kernel == FLOAT else k.kernel for k in counted.sites
    }
    return found | shown


def _plan(
    name: str,
    layer: Layer,
    done: tuple[str, int] | None,
    bits: int | None,
    kernel: str,
    left: Remark | None,
) -> SitePlan:
    if done is not None:
        return SitePlan(name, layer.kind, layer.weight, done[0], bits, kernel, done[1])
    code, sentence = UNSAID if left is None else (left.code, left.sentence)
    return SitePlan(name, layer.kind, layer.weight, "", bits, kernel, 0, code, sentence)


def _bits(model: ir.Model) -> dict[str, int]:
    """Bits that a weight is stored in, by site."""
    packed = {weight.codes for weight in blocked_weights(model) if weight.kind == "float4"}
    sites = find_sites(model, nested=True)
    found = ((s.name, PACKED if s.weight in packed else _stored_bits(s)) for s in sites)
    return {name: bits for name, bits in found if bits is not None}


def _stored_bits(site: Site) -> int | None:
    bits = attribute(site.nodes[0], "bits") if site.nodes else None
    tensor = constant_tensor(site.weight)
    if bits is not None:
        return int(bits)
    return None if tensor is None else int(tensor.dtype.bitwidth)
