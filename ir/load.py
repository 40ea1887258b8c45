"""Import: whatever comes in leaves as one verified graph in one form, its weights still on disk."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir

from .errors import InputError
from .importing.inline import inline_functions, root_cause
from .importing.mend import forget_negative_sizes, mend_proto
from .importing.normalise import (
    drop_overridable,
    lift_constants,
    rename_standard_domain,
    stamp_origins,
    strip_metadata,
    unique_names,
)
from .importing.protocheck import check_parts, check_proto, check_versions
from .importing.read import read_proto
from .provenance import Remark
from .signature import Signature
from .storage.absent import stand_in
from .storage.external import check_external, external_tensors, load_attributes, source_digest
from .storage.finite import check_finite
from .storage.sealed import seal
from .storage.sparse import densify
from .storage.stamp import Stamp, check_unchanged, stamp
from .types.shapes import infer_shapes
from .verify import violations

FIRST_IR_WITH_DEFAULTS = 4  # before, every weight had to be an input as well

Source = str | Path | onnx.ModelProto | ir.Model


@dataclass(frozen=True)
class Imported:
    """A model as the passes see it.

    path: the absolute path of its file. signature: what callers may rely on from here on.
    remarks: what import changed or could not find out. file_digest: over the bytes of the file
    and of the weights it names in other files. path and file_digest are None for a model that
    came from memory.
    stamps: the state of all files that were read, for ``stamp.check_unchanged``.
    """

    model: ir.Model
    path: Path | None
    remarks: tuple[Remark, ...]
    file_digest: str | None
    signature: Signature
    stamps: tuple[Stamp, ...] = ()


def load_model(
    source: Source, *, keep_overridable: bool = False, lenient: bool = False
) -> Imported:
    """Import a model from a file, a proto or an ``onnx_ir.Model``; the source stays as it is.

    keep_overridable: leave initializers that are also graph inputs in the signature's reach.
    lenient: of a file, weights that lie in other files may be missing; ``storage.absent`` then
    stands for them. For who looks at graphs, not for passes.
    Raises ``InputError`` with the path and what to do: see ``read``, ``protocheck``, ``external``
    and ``finite`` for what can be wrong.
    """
    if isinstance(source, ir.Model):
        return _finish(_cloned(source), None, [], keep_overridable)
    if isinstance(source, onnx.ModelProto):
        proto = onnx.ModelProto()
        proto.CopyFrom(source)
        return _from_proto(proto, None, keep_overridable)
    if not isinstance(source, (str, os.PathLike)):
        kind = type(source).__name__
        raise InputError(f"a model cannot be a {kind}", hint="give a path, a proto or an ir.Model")
    path = Path(source).absolute()  # links stay: weights lie beside the link
    proto, state = read_proto(path)
    return _from_proto(proto, path, keep_overridable, state, lenient)


def load_as_written(path: str | Path) -> ir.Model:
    """The model of a file with the nodes, names and versions that it has there, shapes inferred.

    For who looks at a file, not for passes: versions may be too new for any runtime, constants
    stay nodes. Calls of the model's own functions are inlined, as runtimes do. Raises
    ``InputError`` as ``load_model`` does.
    """
    path = Path(path).absolute()
    where = str(path)
    proto, _ = read_proto(path)
    mend_proto(proto)
    check_parts(proto, where)
    densify(proto, where)
    model = _deserialized(proto, where)
    rename_standard_domain(model)
    forget_negative_sizes(model)
    inline_functions(model, where)
    check_external(model, path.parent, where)
    load_attributes(model.graph)
    _sorted(model, where)
    if model.ir_version < FIRST_IR_WITH_DEFAULTS:
        drop_overridable(model)
    infer_shapes(model, fill_outputs=True)
    return model


def _from_proto(
    proto: onnx.ModelProto,
    path: Path | None,
    keep_overridable: bool,
    state: Stamp | None = None,
    lenient: bool = False,
) -> Imported:
    where = _where(path)
    remarks = mend_proto(proto)
    check_proto(proto, where)
    remarks += densify(proto, where)
    model = _deserialized(proto, where)
    if lenient and path is not None:
        stand_in(model, path.parent)
    return _finish(model, path, remarks, keep_overridable, state)


def _finish(
    model: ir.Model,
    path: Path | None,
    remarks: list[Remark],
    keep_overridable: bool,
    state: Stamp | None = None,
) -> Imported:
    where = _where(path)
    check_versions(model.ir_version, model.opset_imports, where)
    rename_standard_domain(model)
    forget_negative_sizes(model)
    remarks += inline_functions(model, where)
    files = check_external(model, path.parent if path else None, where)
    stamps = (*([state] if state else []), *map(stamp, files))
    weights = external_tensors(model)
    load_attributes(model.graph)
    remarks += _sorted(model, where)
    lift_constants(model)
    seal(model)
    if not keep_overridable:
        remarks += drop_overridable(model)
    unique_names(model)
    strip_metadata(model)
    stamp_origins(model)
    model.graph.name = model.graph.name or "main"
    check_finite(model, where)
    remarks += infer_shapes(model, fill_outputs=True)
    _verify(model, where)
    digest = source_digest(path, weights) if path else None
    check_unchanged(stamps)
    return Imported(model, path, tuple(remarks), digest, Signature.of(model), stamps)


def _where(path: Path | None) -> str:
    return str(path) if path else "the model given"


def _cloned(model: ir.Model) -> ir.Model:
    try:
        return model.clone()
    except Exception as error:
        raise InputError(
            f"the model cannot be copied: {root_cause(error)}",
            where=_where(None),
            hint="sort it with model.graph.sort() and check that every value is defined",
        ) from error


def _deserialized(proto: onnx.ModelProto, where: str) -> ir.Model:
    try:
        with _quiet():
            return ir.from_proto(proto)
    except Exception as error:
        raise InputError(
            f"the model cannot be read: {root_cause(error)}",
            where=where,
            hint="onnx.checker.check_model may say more; export it again",
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep ``onnx_ir`` from logging what is about to be said as an error."""
    logger = logging.getLogger("onnx_ir")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.setLevel(level)


def _sorted(model: ir.Model, where: str) -> list[Remark]:
    if not any(v.startswith("topological-order") for v in violations(model)):
        return []
    try:
        model.graph.sort()
    except ValueError as error:
        hint = "export it again"
        raise InputError("the graph runs in a circle", where=where, hint=hint) from error
    sentence = "the nodes did not stand in the order of computation and were sorted"
    return [Remark("note", "import", "model", "sorted", sentence)]


def _verify(model: ir.Model, where: str) -> None:
    found = violations(model)
    if not found:
        return
    missing = [v for v in found if v.startswith("inputs-defined")]
    if missing:
        raise InputError(
            "an initializer or input is missing: "
            + "; ".join(v.split(": ", 1)[1] for v in missing[:3]),
            where=where,
            hint="the weights were not exported with the graph; export the model again",
        )
    more = f" (and {len(found) - 3} more)" if len(found) > 3 else ""
    raise InputError(
        "the model is not well formed: " + "; ".join(found[:3]) + more,
        where=where,
        hint="onnx.checker.check_model may say more; export it again",
    )
