"""Compiling for a machine that is not this one: what may be measured here, what only predicted."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from ..ir.provenance import Remark
from ..targets.host import Machine, executable_here, probe_host, read_machine
from ..targets.runtime import PROVIDER, runtime_version
from ..targets.schema import Target
from ..targets.tomlfile import catalog_files
from .backends.pairsums import PairSums, pair_sums
from .backends.table import backend_or_none
from .planning.times import before_and_after, run_time
from .reporting.summary import some
from .result import PredictedSpeed
from .workload import Workload

MAY_SATURATE = "pair-may-saturate"


@dataclass(frozen=True)
class Sums:
    """What was found out about 16-bit sums: a sentence ("" where the target has none), remarks."""

    sentence: str = ""
    remarks: tuple[Remark, ...] = ()


def not_the_target(target: Target, machine: Machine | None = None) -> str:
    """Why what runs on this machine does not run on the target; "" where it does.

    Features alone do not decide. A class of which this machine has more than is asked may compute
    integers with other kernels, as an AVX2 class does on a CPU with VNNI: time, and sums that
    saturate, would be another machine's. Of a machine of the catalogue nobody knows whether it is
    this one unless a probe wrote it; a user's own file is taken at its
    word, but for a probe of another CPU.
    """
    backend = backend_or_none(target)
    if backend is not None and (never := backend.elsewhere(target)):
        return never
    here = machine or read_machine()
    found = executable_here(target, here)
    if not found.ok:
        return found.reason
    tables = target.measured
    if tables is not None and tables.cpu != here.cpu:
        return f"its tables were measured on {tables.cpu}, this machine is {here.cpu or here.arch}"
    if target.kind == "host" or target.arch == "any":
        return ""
    host = probe_host(here)
    if _products(target) != _products(host):
        return (
            f"this machine multiplies int8 as {host.resolved} does, {_adds(host)}, "
            f"not {_adds(target)}"
        )
    if target.kind == "class" and set(target.features) != set(host.features):
        return f"this machine is {host.resolved}, for which the runtime has other int8 kernels"
    if target.kind == "machine" and target.name in catalog_files() and tables is None:
        return f"this machine ({here.cpu or here.arch}) is not known to be one"
    return ""


def reference_runtime() -> str:
    """What runs here instead of the target: ``onnxruntime 1.31.1 (CPUExecutionProvider) on …``."""
    here = read_machine()
    return f"onnxruntime {runtime_version()} ({PROVIDER}) on {here.cpu or here.arch}"


def predicted_speed(
    before: ir.Model, after: ir.Model, target: Target, workloads: tuple[Workload, ...], threads: int
) -> PredictedSpeed:
    """What the cost model says of both; without a figure for either there is no ratio."""
    first = run_time(before, target, workloads, threads)
    second = run_time(after, target, workloads, threads)
    found = before_and_after(first, second)
    if found.ratio is None:
        note = f"{target.name} has no rates or tables to predict from"
        return PredictedSpeed(None, None, None, "unknown", note)
    return PredictedSpeed(found.before, found.after, found.ratio, found.basis, found.note)


def sums_of(model: ir.Model, target: Target) -> Sums:
    """Whether 16-bit sums of a finished model can saturate on the target, layer by layer."""
    if not target.int8.saturates:
        return Sums()
    found = pair_sums(model)
    if not found.layers and not found.unread:
        return Sums()
    if found.unread:
        sentence = (
            f"16-bit sums may saturate on {target.name}: the int8 weights of "
            f"{some(found.unread)} could not be read; quality was judged with exact sums"
        )
        return Sums(sentence, _may_saturate(found, target))
    if not found.unsafe:
        sentence = (
            f"no 16-bit sum of two products can saturate on {target.name}: proven for every pair "
            f"of weights of all {len(found.layers)} integer layers, so it computes the same sums"
        )
        return Sums(sentence)
    remarks = _may_saturate(found, target)
    sentence = (
        f"16-bit sums can saturate on {target.name} in {len(remarks)} of {len(found.layers)} "
        "integer layers; quality was judged with exact sums, its answers there may differ"
    )
    return Sums(sentence, remarks)


def _may_saturate(found: PairSums, target: Target) -> tuple[Remark, ...]:
    return tuple(
        Remark(
            "note", "target", name, MAY_SATURATE,
            f"a sum of two of its products can come to {worst.sum} on {target.name}, which keeps "
            "16 bits of it",
        )
        for name, worst in found.unsafe.items()
    )  # fmt: skip


def _products(target: Target) -> tuple[bool, bool, str]:
    int8 = target.int8
    return int8.supported, int8.saturates, int8.kernels


def _adds(target: Target) -> str:
    if not target.int8.supported:
        return "in no integer kernel"
    pair = "signed" if target.int8.kernels == "s8s8" else "uint8 x int8"
    return f"{pair} in {'16' if target.int8.saturates else '32'} bits"
