"""What a user hands over as a model, as one imported graph and one baseline to compare it with."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from ..ir.errors import InputError, PlanishError, UsageError
from ..ir.importing.read import PROTOBUF_LIMIT
from ..ir.load import Imported, load_model
from ..ir.pytorch.call import Array, Feeds
from ..ir.pytorch.errors import INSTALL, root_cause
from ..ir.pytorch.front import Exported, export_module, export_program
from ..ir.save import save_model
from .data.usercode import call, is_function_reference, load_function
from .exportcheck import complaint

ORIGINAL = "original.onnx"
FORMS = (
    "give a path of an ONNX file, an onnx.ModelProto, an onnx_ir.Model, a torch.nn.Module with "
    "example_inputs, a torch.export.ExportedProgram, or file.py:function"
)
_RETURNS = "return (module, example_inputs) or (module, example_inputs, dynamic_shapes)"
_FUNCTION = "the function that gives the model"


@dataclass(frozen=True)
class Source:
    """A model to compile.

    imported: as the passes see it. baseline: the ONNX file that the result is measured against,
    the user's own where there is one. label: how messages and reports call it. module: runs the
    PyTorch module itself on feeds, outputs in the graph's order; None for ONNX. written: whether
    the baseline was written here and is no file of the user's.
    """

    imported: Imported
    baseline: Path
    label: str
    module: Callable[[Feeds], list[Array]] | None = None
    written: bool = True


def resolve_source(
    source: Any,
    example_inputs: Any,
    dynamic_shapes: Any,
    work: Path,
    *,
    keep_overridable: bool = False,
) -> Source:
    """Import whatever ``source`` is; files that have to be written go to the folder ``work``.

    example_inputs, dynamic_shapes: see ``ir.pytorch.front.export_module``; for PyTorch only.
    Raises InputError for a model that cannot be used, UsageError for arguments that do not
    belong together and where torch is missing.
    """
    work.mkdir(parents=True, exist_ok=True)
    if isinstance(source, str) and is_function_reference(source):
        _refuse_examples(example_inputs, "the function returns them")
        return _from_function(source, dynamic_shapes, work, keep_overridable)
    if _is_torch(source):
        return _from_torch(source, example_inputs, dynamic_shapes, work, keep_overridable)
    _refuse_examples(example_inputs, "they go with a PyTorch module")
    if not isinstance(source, (str, os.PathLike, onnx.ModelProto, ir.Model)):
        raise UsageError(f"a model cannot be a {type(source).__name__}", hint=FORMS)
    if isinstance(source, os.PathLike):
        source = Path(source)
    imported = load_model(source, keep_overridable=keep_overridable)
    if isinstance(source, (onnx.ModelProto, ir.Model)):
        return Source(imported, _saved(source, work), source.graph.name or type(source).__name__)
    assert imported.path is not None
    return Source(imported, imported.path, str(source), written=False)


def _from_function(
    reference: str, dynamic_shapes: Any, work: Path, keep_overridable: bool
) -> Source:
    try:
        given = call(load_function(reference), _FUNCTION)
    except InputError as error:
        cause = root_cause(error)
        if isinstance(cause, ModuleNotFoundError) and cause.name in ("torch", "onnxscript"):
            what = f"{reference} needs {cause.name}, which is not installed"
            raise UsageError(what, where=error.where, hint=INSTALL) from error
        raise
    module, examples, shapes = _parts(given, reference)
    shapes = dynamic_shapes if shapes is None else shapes[0]
    made = _from_torch(module, examples, shapes, work, keep_overridable, reference)
    return replace(made, label=reference)


def _parts(given: Any, reference: str) -> tuple[Any, Any, tuple[Any] | None]:
    """Module, example inputs, and the dynamic shapes where there are any."""
    if _is_program(given):
        return given, None, None
    if not isinstance(given, tuple) or len(given) not in (2, 3) or not _is_torch(given[0]):
        kind = type(given).__name__
        if isinstance(given, tuple):
            kind += f" of {', '.join(type(part).__name__ for part in given) or 'nothing'}"
        raise InputError(f"{_FUNCTION} returned a {kind}", where=reference, hint=_RETURNS)
    return given[0], given[1], given[2:] or None


def _from_torch(
    source: Any,
    example_inputs: Any,
    dynamic_shapes: Any,
    work: Path,
    keep_overridable: bool,
    label: str = "",
) -> Source:
    label = label or type(source).__name__
    path = work / ORIGINAL

    def accept(exported: Exported) -> str:
        save_model(exported.model, path)
        return complaint(exported, path)

    try:
        if _is_program(source):
            _refuse_program_options(example_inputs, dynamic_shapes)
            exported = export_program(source, accept=accept)
        else:
            exported = export_module(source, example_inputs, dynamic_shapes, accept=accept)
        imported = load_model(path, keep_overridable=keep_overridable)
    except PlanishError as error:  # the file is ours and will be gone
        error.where = error.where.replace(str(path), label)
        raise
    remarks = (*exported.remarks, *imported.remarks)
    return Source(replace(imported, remarks=remarks), path, label, exported.original)


def _saved(source: onnx.ModelProto | ir.Model, work: Path) -> Path:
    """The model as it was given, in a file."""
    path = work / ORIGINAL
    if isinstance(source, onnx.ModelProto) and source.ByteSize() < PROTOBUF_LIMIT:
        path.write_bytes(source.SerializeToString(deterministic=True))
        return path
    save_model(source if isinstance(source, ir.Model) else ir.from_proto(source), path)
    return path


def _refuse_examples(example_inputs: Any, reason: str) -> None:
    if example_inputs is not None:
        raise UsageError(f"example_inputs are not wanted here: {reason}", hint="leave them out")


def _refuse_program_options(example_inputs: Any, dynamic_shapes: Any) -> None:
    _refuse_examples(example_inputs, "an exported program holds its own")
    if dynamic_shapes not in ("auto", None):
        hint = "give dynamic_shapes to torch.export.export"
        raise UsageError("an exported program has its sizes already", hint=hint)


def _is_torch(source: Any) -> bool:
    """Whether it is a PyTorch module or program; torch is not imported to find out."""
    torch = sys.modules.get("torch")
    return torch is not None and (isinstance(source, torch.nn.Module) or _is_program(source))


def _is_program(source: Any) -> bool:
    export = sys.modules.get("torch.export")
    return export is not None and isinstance(source, export.ExportedProgram)
