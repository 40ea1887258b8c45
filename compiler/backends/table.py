"""The table of backends: planish's own, those that a program registers, those installed beside."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from ...ir.errors import PlanishError, TargetError, UsageError
from ...targets.loader import require_backend
from ...targets.runtimes import backend_name, check_offers, offered, register_runtime
from ...targets.schema import Target
from ..result import CompileResult
from .backend import Backend
from .onnxruntime_cpu import OnnxRuntimeCpu
from .onnxruntime_cuda import OnnxRuntimeCuda
from .tensorrt.backend import TensorRT

B = TypeVar("B", bound=Backend)

_OWN: tuple[Backend, ...] = (OnnxRuntimeCpu(), OnnxRuntimeCuda(), TensorRT())
_KNOWN: dict[str, Backend] = {each.name: each for each in _OWN}


def backend_for(target: Target) -> Backend:
    """The backend that serves a target.

    Raises TargetError where none does, UsageError where two distributions claim one name or an
    installed backend cannot be used.
    """
    require_backend(target)
    found = backend_or_none(target)
    assert found is not None
    return found


def backend_or_none(target: Target) -> Backend | None:
    """The backend that serves a target; None where none does, so that it can only be planned for.

    Raises UsageError as ``backend_for``.
    """
    check_offers()
    name = backend_name((target.runtime.name, target.runtime.provider))
    if name is not None and name not in _KNOWN:
        _KNOWN[name] = _sound(offered(name))
    return None if name is None else _KNOWN[name]


def register(backend: B) -> B:
    """Make a backend known to this process; an entry point does that for all.

    Raises UsageError where its name or its runtime is taken.
    """
    _sound(backend)
    register_runtime(backend.name, backend.served, _place(backend))
    _KNOWN[backend.name] = backend
    return backend


@contextmanager
def blamed(backend: Backend, step: str) -> Iterator[None]:
    """Around a call of a backend that is none of planish's own: what it raises names it.

    Raises TargetError, with file and line, for anything but planish's own errors.
    """
    if backend in _OWN:
        yield
        return
    try:
        yield
    except PlanishError:
        raise
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise TargetError(
            f"the backend {backend.name!r} failed in {step}: {type(error).__name__}: {error}",
            where=f"{last.filename}:{last.lineno}",
            hint="this is a fault of the backend: tell who wrote it",
        ) from error


def finished_by(backend: Backend, result: CompileResult, folder: Path) -> CompileResult:
    """What ``finish`` of a backend returns. Raises TargetError where that is no result."""
    with blamed(backend, "finish"):
        found = backend.finish(result, folder)
        if not isinstance(found, CompileResult):
            raise TypeError(f"it returns {type(found).__name__}, not the result")
    return found


def _sound(backend: object) -> Backend:
    if not isinstance(backend, Backend):
        what = f"{backend!r} is no backend: it is no instance of a subclass of Backend"
        raise UsageError(what, hint="docs/writing-a-backend.md shows one")
    lacking = [key for key in ("name", "runtime") if not getattr(backend, key)]
    if lacking:
        what = f"{type(backend).__name__} sets no {' and no '.join(lacking)}"
        raise UsageError(what, where=_place(backend), hint="set them as texts in the class")
    return backend


def _place(backend: Backend) -> str:
    """Where its class stands: module, and file where there is one."""
    cls = type(backend)
    try:
        return f"{cls.__module__}.{cls.__qualname__} ({inspect.getfile(cls)})"
    except (OSError, TypeError):  # made in an interactive session
        return f"{cls.__module__}.{cls.__qualname__}"
