"""Which kernel computes each site of an emitted model, and why the float ones are float."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from ...ir.facts import QUANTIZED
from ...ir.provenance import Remark
from ...ir.sites import Site, find_sites
from ...passes.api import Semantics, registered
from ...targets.census import Census, KernelRow, runtime_census
from ...targets.rules.table import check_model
from ...targets.schema import Target
from ..result import Kernels, SiteKernel

LAYERS = ("linear", "conv")
UNEXPLAINED = "no pass of the pipeline takes it"
UNFUSED = "it is quantized, but the runtime finds no integer kernel for it"
PACKED = "com.microsoft:MatMulNBits"
WIDENED = "its weights of few bits are widened as they are read, and multiplied in float"


def count_kernels(
    path: Path,
    model: ir.Model,
    remarks: Iterable[Remark],
    *,
    threads: int = 0,
    otherwise: str = UNEXPLAINED,
    target: Target | None = None,
) -> Kernels:
    """Census of the model at ``path``; ``model`` is what was written there.

    otherwise: why sites are float of which no pass said anything. target: of whose rules one
    explains why a quantized layer runs in float.
    """
    census = runtime_census(path, threads=threads)
    left = (r for r in remarks if r.kind in ("refused", "missed") and _decides(r.pass_name))
    reasons = {r.site: r.sentence for r in left}
    rows = census.by_weight()
    found = find_sites(model, nested=True)  # as passes name them
    sites = [s for s in found if s.kind in LAYERS and not s.nested]
    kernels = tuple(_site_kernel(site, rows, reasons, otherwise) for site in sites)
    kernels = _explained(kernels, sites, model, target)
    return Kernels(dict(census.counts), kernels, tuple(_surprises(census, model, kernels, sites)))


def _site_kernel(
    site: Site,
    rows: Mapping[str, tuple[KernelRow, ...]],
    reasons: Mapping[str, str],
    otherwise: str,
) -> SiteKernel:
    name = "" if site.weight is None else str(site.weight.name)
    found = rows.get(name, ())
    if not found and QUANTIZED not in site.facts:  # the runtime repacks float weights
        return SiteKernel(site.name, "float", False, reasons.get(site.name, otherwise))
    if not found:
        return SiteKernel(site.name, "unknown", False, "the runtime renamed or removed its weight")
    integer = all(row.integer for row in found)
    kernel = "+".join(sorted({row.op for row in found}))
    if integer:
        return SiteKernel(site.name, kernel, True)
    if QUANTIZED in site.facts:
        return SiteKernel(site.name, kernel, False, WIDENED if kernel == PACKED else UNFUSED)
    return SiteKernel(site.name, kernel, False, reasons.get(site.name, otherwise))


def _explained(
    kernels: tuple[SiteKernel, ...], sites: Iterable[Site], model: ir.Model, target: Target | None
) -> tuple[SiteKernel, ...]:
    """The same, with the rule that a quantized layer breaks which runs in float."""
    if target is None or all(kernel.reason != UNFUSED for kernel in kernels):
        return kernels
    found = reversed(check_model(model, target))
    broken = {each.node: each.reason for each in found if each.severity != "note"}

    def said(kernel: SiteKernel, site: Site) -> SiteKernel:
        names = (str(node.name) for node in site.nodes)
        why = next((broken[name] for name in names if name in broken), "")
        known = kernel.reason == UNFUSED and why
        return replace(kernel, reason=f"{UNFUSED}: {why}") if known else kernel

    return tuple(map(said, kernels, sites))


def _decides(pass_name: str) -> bool:
    """Whether what the pass leaves alone stays float for that; of an enabling pass it does not."""
    known = registered().get(pass_name)
    return known is None or known.semantics is Semantics.LOSSY


def _surprises(
    census: Census, model: ir.Model, kernels: Iterable[SiteKernel], sites: Iterable[Site]
) -> Iterable[str]:
    written = set(model.graph.initializers)
    for tensor in census.foreign_weights(written):
        yield (
            f"the runtime quantized {tensor.name} ({tensor.dtype.lower()}"
            f"{list(tensor.shape)}) on its own"
        )
    quantized = {s.name for s in sites if QUANTIZED in s.facts}
    for kernel in kernels:
        if kernel.site in quantized and not kernel.integer and kernel.kernel != PACKED:
            yield f"{kernel.site} was quantized but runs in the float kernel {kernel.kernel}"
