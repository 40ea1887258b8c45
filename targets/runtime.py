"""ONNX Runtime: the only place that opens its sessions and reads its errors.

Everything runs on the CPU provider with one inter-op thread. Errors of the runtime come out as
``InputError`` (the feeds or the file) or ``TargetError`` (the runtime cannot run this model),
with the node named and the runtime's own reason.
"""

from __future__ import annotations

import ctypes
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime as ort

from ..ir.errors import InputError, UsageError, near
from .elements import FOREIGN_TYPES, byte_count, from_bytes, to_bytes
from .refusals import loading_error, running_error

Array: TypeAlias = npt.NDArray[Any]
Feeds: TypeAlias = Mapping[str, Any]
"""By input name: an array, a list of arrays for a sequence, None for an absent optional."""
Dim: TypeAlias = int | str | None
Optimize: TypeAlias = Literal["all", "extended", "basic", "none"]

PROVIDER = "CPUExecutionProvider"

_LEVELS = {
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}

# Runtime names of the element types that numpy has; see ``elements`` for the others.
_NUMPY_TYPES = {
    "bool": "bool",
    "double": "float64",
    "float": "float32",
    "float16": "float16",
    "int8": "int8",
    "int16": "int16",
    "int32": "int32",
    "int64": "int64",
    "uint8": "uint8",
    "uint16": "uint16",
    "uint32": "uint32",
    "uint64": "uint64",
}

_FATAL_ONLY = 4  # the runtime's errors are raised as exceptions, so its log repeats them
_EXTERNAL_FROM_BYTES = 1024

WARM_ROUNDS, LEAST_ROUNDS = 1, 3
MOST_EVENTS = 100_000
"""Of a trace, about 100 MB of JSON."""

ort.disable_telemetry_events()


@dataclass(frozen=True)
class Port:
    """An input or output of a session.

    dtype: a numpy type name ("float32"), or the runtime's own type name ("tensor(string)",
    "seq(tensor(float))") where numpy has none. shape: None when the rank is unknown or 0; a
    dimension is a number, a symbol, or None.
    """

    name: str
    dtype: str
    shape: tuple[Dim, ...] | None

    def __str__(self) -> str:
        if self.shape is None:
            return self.dtype
        return f"{self.dtype}[{', '.join('?' if d is None else str(d) for d in self.shape)}]"


@dataclass(frozen=True)
class Recorded:
    """What a profiled session left. trace: the profiler's JSON, one event for each node that ran.
    graph: what the runtime executed. skip: runs at the start that only warmed it up."""

    trace: Path
    graph: Path
    skip: int


class Session:
    """A loaded model. ``run`` takes arrays by input name and returns arrays in output order.

    A sequence goes in and comes out as a list of arrays, an absent optional as None; tensors of
    types that numpy lacks (bf16, fp8, 4 bits) are arrays of the dtypes of ``ml_dtypes``.
    """

    def __init__(self, native: ort.InferenceSession, label: str) -> None:
        self._native = native
        self._label = label
        self.inputs = tuple(_port(a) for a in native.get_inputs())
        self.outputs = tuple(_port(a) for a in native.get_outputs())
        optional = tuple(_port(a) for a in native.get_overridable_initializers())
        self._known = {p.name: p for p in (*self.inputs, *optional)}
        self._foreign = {p.name for p in (*self._known.values(), *self.outputs) if _foreign(p)}

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs, in the model's order."""
        return tuple(p.name for p in self.inputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs, in the model's order."""
        return tuple(p.name for p in self.outputs)

    def run(self, feeds: Feeds) -> list[Array]:
        """All outputs, in the order of ``output_names``.

        Raises InputError for feeds that do not fit the inputs (missing or unknown names, dtype,
        rank, fixed dimensions, values out of range), TargetError where the runtime fails.
        """
        return self.run_outputs(None, feeds)

    def run_outputs(self, names: Sequence[str] | None, feeds: Feeds) -> list[Array]:
        """The outputs named, in that order; None means all. Raises as ``run``, and UsageError."""
        self._check_names(names, feeds)
        for name, array in feeds.items():
            _check_feed(self._known[name], array)
        try:
            return self._results(names, feeds)
        except Exception as error:
            raise running_error(error, self._label) from error

    def end_profiling(self) -> str:
        """The path of the trace of a session that was opened to write one."""
        return str(self._native.end_profiling())

    def _results(self, names: Sequence[str] | None, feeds: Feeds) -> list[Array]:
        wanted = self.output_names if names is None else names
        if self._foreign.isdisjoint((*wanted, *feeds)):
            plain = {n: np.asarray(a) if isinstance(a, np.generic) else a for n, a in feeds.items()}
            results: list[Array] = self._native.run(names, plain)
            return results
        values = {n: _value(self._known[n], array) for n, array in feeds.items()}
        return [_array(v) for v in self._native.run_with_ort_values(names, values)]

    def _check_names(self, names: Sequence[str] | None, feeds: Feeds) -> None:
        missing = [p for p in self.inputs if p.name not in feeds]
        if missing:
            wanted = ", ".join(f"'{p.name}' ({p})" for p in missing)
            given = ", ".join(repr(n) for n in feeds) or "nothing"
            raise InputError(f"no data for input {wanted}", where=f"the feeds hold {given}")
        for name in feeds:
            if name not in self._known:
                raise InputError(f"the model has no input {name!r}", hint=near(name, self._known))
        for name in names or ():
            if name not in self.output_names:
                raise UsageError(
                    f"the model has no output {name!r}", hint=near(name, self.output_names)
                )


def open_session(
    model: Path | bytes,
    *,
    threads: int = 0,
    optimize: Optimize = "all",
    entries: Mapping[str, str] | None = None,
) -> Session:
    """Load a model file, or a serialized model without external data.

    threads: intra-op threads, 0 = the runtime's default (one per core). optimize: the graph
    optimisation level. entries: session configuration entries by their runtime key.
    Raises InputError where the file is not a model, TargetError where the runtime refuses it.
    """
    return _open(model, _options(threads, optimize, entries or {}))


def optimized_model(
    model: Path | bytes, *, threads: int = 0, entries: Mapping[str, str] | None = None
) -> onnx.ModelProto:
    """The graph that the runtime really executes: dumped after its optimisations, level all.

    Names of nodes and initializers are the runtime's; weights are included. Specific to this
    machine and runtime version: good for looking at, never an artifact. Raises as open_session.
    """
    with tempfile.TemporaryDirectory(prefix="planish-") as folder:
        return onnx.load(_dump(model, Path(folder), threads, entries or {}))


def optimized_graph(
    model: Path | bytes, *, threads: int = 0, entries: Mapping[str, str] | None = None
) -> onnx.ModelProto:
    """As ``optimized_model``, but large weights keep only their name, dtype and shape."""
    with tempfile.TemporaryDirectory(prefix="planish-") as folder:
        dump = _dump(model, Path(folder), threads, entries or {})
        return onnx.load(dump, load_external_data=False)


def record(
    model: Path, feeds: Sequence[Feeds], folder: Path, *, threads: int = 0, seconds: float = 3.0,
    entries: Mapping[str, str] | None = None,
) -> Recorded:  # fmt: skip
    """Run a model on feeds by turns, with default optimisations, under the runtime's profiler.

    One round warms up; then at least ``LEAST_ROUNDS``, and until ``seconds`` are spent or the
    trace holds ``MOST_EVENTS``. Written to ``folder``: the trace, and the graph that was executed,
    its larger weights in a file beside it. Raises as open_session and as ``Session.run``.
    """
    graph = folder / "optimized.onnx"
    options = _options(threads, "all", entries or {})
    _write_graph(options, graph)
    options.enable_profiling = True
    options.profile_file_prefix = str(folder / "trace")
    session = _open(model, options)
    rounds = 0
    start = time.perf_counter()
    nodes = max(1, len(onnx.load(graph, load_external_data=False).graph.node))
    most = max(LEAST_ROUNDS, MOST_EVENTS // (nodes * max(1, len(feeds))))
    while rounds < WARM_ROUNDS + LEAST_ROUNDS or (
        time.perf_counter() - start < seconds and rounds < WARM_ROUNDS + most
    ):
        for feed in feeds:
            session.run(feed)
        rounds += 1
    return Recorded(Path(session.end_profiling()), graph, WARM_ROUNDS * len(feeds))


def runtime_version() -> str:
    """Version of the installed ONNX Runtime, such as "1.31.1"."""
    return str(ort.__version__)


def available_providers() -> tuple[str, ...]:
    """Execution providers that the installed ONNX Runtime was built with."""
    return tuple(ort.get_available_providers())


def _dump(model: Path | bytes, folder: Path, threads: int, entries: Mapping[str, str]) -> Path:
    path = folder / "optimized.onnx"
    options = _options(threads, "all", entries)
    _write_graph(options, path)
    _open(model, options)
    return path


def _write_graph(options: ort.SessionOptions, path: Path) -> None:
    """Have the session write the graph that it executes."""
    options.optimized_model_filepath = str(path)
    # One file would stop at protobuf's 2 GB.
    _set(options, "session.optimized_model_external_initializers_file_name", "weights.bin")
    size = str(_EXTERNAL_FROM_BYTES)
    _set(options, "session.optimized_model_external_initializers_min_size_in_bytes", size)


def _options(threads: int, optimize: Optimize, entries: Mapping[str, str]) -> ort.SessionOptions:
    if threads < 0:
        raise UsageError(f"threads is {threads}", hint="use 0 (one per core) or more")
    options = ort.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = _LEVELS[optimize]
    if optimize == "none":
        # A constant operand of a product is packed for another kernel, which adds in another
        # order: making a constant of what was computed would change the last bits (1.31).
        _set(options, "session.disable_prepacking", "1")
    for key, value in entries.items():
        _set(options, key, value)
    return options


def _set(options: ort.SessionOptions, key: str, value: str) -> None:
    try:
        options.add_session_config_entry(key, value)
    except Exception as error:
        raise UsageError(f"the runtime refuses the session entry {key}={value}") from error


def _open(model: Path | bytes, options: ort.SessionOptions) -> Session:
    label = "the model in memory" if isinstance(model, bytes) else str(model)
    source = model if isinstance(model, bytes) else str(model)
    try:
        native = ort.InferenceSession(
            source,
            options,
            providers=[PROVIDER],
            enable_fallback=0,  # it prints, and tries the same
        )
    except Exception as error:
        raise loading_error(error, label) from error
    return Session(native, label)


def _port(arg: ort.NodeArg) -> Port:
    inner = arg.type.removeprefix("tensor(").removesuffix(")")
    dtype = _NUMPY_TYPES.get(inner, arg.type)
    # Of an unknown rank ONNX Runtime says [], as of a scalar (1.31).
    return Port(arg.name, dtype, tuple(arg.shape) if arg.shape else None)


def _foreign(port: Port) -> ir.DataType | None:
    """The type of a tensor whose elements numpy has no name for."""
    return FOREIGN_TYPES.get(port.dtype.removeprefix("tensor(").removesuffix(")"))


def _value(port: Port, array: Array) -> ort.OrtValue:
    foreign = _foreign(port)
    if foreign is None:
        return ort.OrtValue.ortvalue_from_numpy(np.asarray(array))
    value = ort.OrtValue.ortvalue_from_shape_and_type(list(array.shape), int(foreign))
    data = to_bytes(array, foreign)
    ctypes.memmove(value.data_ptr(), data, len(data))
    return value


def _array(value: ort.OrtValue) -> Array:
    foreign = FOREIGN_TYPES.get(value.data_type().removeprefix("tensor(").removesuffix(")"))
    if foreign is None:
        return np.asarray(value.numpy())
    shape = tuple(value.shape())
    size = byte_count(shape, foreign)
    return from_bytes(ctypes.string_at(value.data_ptr(), size), shape, foreign)


def _check_feed(port: Port, array: Any) -> None:
    foreign = _foreign(port)
    dtype = foreign.numpy() if foreign else port.dtype
    if foreign is None and dtype not in _NUMPY_TYPES.values():
        return
    if not isinstance(array, (np.ndarray, np.generic)):
        raise InputError(f"input {port.name!r} got a {type(array).__name__}, wants an array {port}")
    fits = array.dtype == dtype and _shape_fits(port.shape, array.shape)
    if not fits:
        raise InputError(
            f"input {port.name!r} got {array.dtype}{list(array.shape)}, wants {port}",
            hint="make the array with that dtype and shape; a word is a free dimension",
        )


def _shape_fits(wanted: tuple[Dim, ...] | None, got: tuple[int, ...]) -> bool:
    if wanted is None:
        return True
    if len(wanted) != len(got):
        return False
    return all(w == g for w, g in zip(wanted, got, strict=True) if isinstance(w, int))
