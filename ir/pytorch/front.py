"""PyTorch's front door: a module, or an exported program, as an ONNX graph.

torch is imported where it is used; planish works without it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import onnx_ir as ir

from ..errors import InputError, UsageError
from ..importing.normalise import strip_metadata, unique_names
from ..provenance import Remark
from .axes import Attempt, attempts, fixed_axes, guessed_names, name_axes
from .call import (
    Array,
    Call,
    Feeds,
    call_of,
    evaluating,
    gradient_free,
    output_names,
    plain_module,
    program_call,
    to_arrays,
    unique,
)
from .errors import EXPORT_YOURSELF, INSTALL, explained, quiet

if TYPE_CHECKING:
    import torch

CANNOT_EXPORT = "PyTorch cannot export the module"


@dataclass(frozen=True)
class Exported:
    """A module as a graph, with the module itself to compare with.

    model: opset and IR version as the exporter chose; its weights share the module's memory.
    feeds: the example inputs by name. original: runs the module on numpy feeds and gives its
    outputs in the order of the graph's. remarks: which sizes stayed free, which did not and why.
    """

    model: ir.Model
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    original: Callable[[Feeds], list[Array]]
    feeds: Mapping[str, Array]
    remarks: tuple[Remark, ...] = ()


Accept: TypeAlias = Callable[[Exported], str]
"""Says what is wrong with an export, ``""`` where nothing is."""

Mode: TypeAlias = "Callable[[torch.nn.Module], AbstractContextManager[None]]"
"""In what state a module runs."""


def export_module(
    module: torch.nn.Module,
    example_inputs: Any,
    dynamic_shapes: Any = "auto",
    *,
    accept: Accept | None = None,
) -> Exported:
    """Export a module in eval mode; it is left in the mode it was in.

    example_inputs: a tuple of forward's arguments, a mapping by name, or one tensor; numpy arrays
    are taken too. dynamic_shapes: as ``torch.export.export`` takes them, None for the sizes of
    the examples, or "auto": batch and sequence free, else the batch alone, else nothing, with a
    remark for what had to be given up. accept: judges an export; "auto" goes on to the next
    guess where it complains.

    Raises UsageError where torch is missing; InputError where the examples do not fit the module,
    the exporter cannot follow it, or ``accept`` complains of the last guess.
    """
    require_torch()
    module = plain_module(module)
    call = call_of(module.forward, example_inputs)
    outputs = output_names(_tried(module, call, evaluating))
    remarks: list[Remark] = []
    guesses = _guesses(call, dynamic_shapes)
    for index, guess in enumerate(guesses):
        try:
            exported = _attempt(module, call, outputs, guess, dynamic_shapes)
            _check(exported, accept)
        except InputError as error:
            if index == len(guesses) - 1:
                raise
            remarks.append(_given_up(guess, guesses[index + 1], error))
            continue
        remarks += _fixed(exported.model, guess)
        return replace(exported, remarks=tuple(remarks))
    raise AssertionError("there is always a guess")


def export_program(
    program: torch.export.ExportedProgram, *, accept: Accept | None = None
) -> Exported:
    """The graph of a program that ``torch.export.export`` gave; its free sizes stay free.

    Raises as ``export_module``; InputError also where the program was saved without its examples.
    """
    require_torch()
    if program.example_inputs is None:
        hint = "export it again, or give the module and example inputs"
        raise InputError("the exported program holds no example inputs", hint=hint)
    call = program_call(program)
    runnable = program.module()
    outputs = output_names(_tried(runnable, call, gradient_free))
    model = _to_onnx(runnable, program, (), {}, None)
    exported = _finished(model, runnable, call, outputs, gradient_free)
    name_axes(model, guessed_names(model))
    _check(exported, accept)
    return exported


def require_torch() -> None:
    """Raise UsageError where torch, or the onnxscript that its exporter needs, is missing."""
    for package in ("torch", "onnxscript"):
        if importlib.util.find_spec(package) is None:
            raise UsageError(f"PyTorch models need {package}, which is not installed", hint=INSTALL)


def _guesses(call: Call, dynamic_shapes: Any) -> list[Attempt]:
    if isinstance(dynamic_shapes, str):
        if dynamic_shapes != "auto":
            hint = "give 'auto', None, or a dict as torch.export takes it"
            raise UsageError(f"dynamic_shapes cannot be {dynamic_shapes!r}", hint=hint)
        return attempts(call.tensors)
    return [Attempt("the dynamic shapes given", {})]


def _attempt(
    module: torch.nn.Module, call: Call, outputs: list[str], guess: Attempt, shapes: Any
) -> Exported:
    import torch

    if shapes == "auto":
        free = {
            name: dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for name, axes in guess.axes.items()
        }
        shapes = call.shapes(free) if free else None
    args, kwargs = call.again(call.feeds)
    with evaluating(module):
        model = _to_onnx(module, module, args, kwargs, shapes)
    exported = _finished(model, module, call, outputs, evaluating)
    name_axes(model, guess.axes)
    return exported


def _to_onnx(
    culprit: torch.nn.Module, source: Any, args: tuple[Any, ...], kwargs: Any, shapes: Any
) -> ir.Model:
    import torch

    if args and isinstance(args[-1], Mapping) and not kwargs:
        args = (*args, {})  # the exporter takes a dict at the end for keyword arguments
    with explained(culprit, CANNOT_EXPORT), quiet():
        program = torch.onnx.export(
            source, args, kwargs=kwargs, dynamic_shapes=shapes, dynamo=True, verbose=False
        )
    assert program is not None
    model: ir.Model = program.model
    strip_metadata(model)
    return model


def _finished(
    model: ir.Model, module: torch.nn.Module, call: Call, outputs: list[str], mode: Mode
) -> Exported:
    """Name inputs and outputs as the user knows them, and tie the graph to its module."""
    names = list(call.tensors)
    if (len(model.graph.inputs), len(model.graph.outputs)) != (len(names), len(outputs)):
        raise InputError(
            f"the export has {len(model.graph.inputs)} inputs and {len(model.graph.outputs)} "
            f"outputs, the module {len(names)} and {len(outputs)}",
            where=type(module).__name__,
            hint=EXPORT_YOURSELF,
        )
    outputs = unique(outputs, names)
    for value, name in zip(model.graph.inputs, names, strict=True):
        value.name = name
    for value, name in zip(model.graph.outputs, outputs, strict=True):
        value.name = name
    unique_names(model)

    def original(feeds: Feeds) -> list[Array]:
        args, kwargs = call.again(feeds)
        with quiet(), mode(module):
            return to_arrays(module(*args, **kwargs))

    return Exported(model, tuple(names), tuple(outputs), original, call.feeds)


def _tried(module: torch.nn.Module, call: Call, mode: Mode) -> Any:
    """What the module returns for its examples: before any exporter says something else."""
    args, kwargs = call.again(call.feeds)
    what = "the module fails on its own example inputs"
    hint = "run it on them without planish first"
    with explained(module, what, hint), quiet(), mode(module):
        return module(*args, **kwargs)


def _check(exported: Exported, accept: Accept | None) -> None:
    complaint = accept(exported) if accept else ""
    if complaint:
        raise InputError(f"the export is not the module: {complaint}", hint=EXPORT_YOURSELF)


def _given_up(guess: Attempt, next_guess: Attempt, error: InputError) -> Remark:
    reason = error.what.removeprefix(f"{CANNOT_EXPORT}: ")
    sentence = f"not exported with {guess.label} free but with {next_guess.label}: {reason}"
    return Remark("missed", "import", "model", "axes-fixed", sentence)


def _fixed(model: ir.Model, guess: Attempt) -> list[Remark]:
    return [
        Remark(
            "missed",
            "import",
            name,
            "axes-fixed",
            f"axis {axis} of {name!r} has one size: the module allows no other",
        )
        for name, axis in fixed_axes(model, guess.axes)
    ]
