"""Make any model small while a command goes on finding it interesting, as C-Reduce does for C.

The search is that of ``shrink``, on the model alone: nodes, outputs, inputs, bodies, sizes,
attributes, and what weights hold. Source: Regehr et al., "Test-case reduction for C compiler
bugs" (2012).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, numpy_helper

from ...ir.errors import InputError, UsageError
from .case import Case
from .cuts import copied, reads
from .shrink import shrink

MODEL = "{model}"
"""What a command has in the place of the model's path; else the path is its last word."""
LARGEST = 1 << 31
"""Bytes that one protobuf message can hold."""
STDERR = 2
"""Its file descriptor."""


@dataclass(frozen=True)
class Predicate:
    """A command that exits with 0 while a model is still interesting.

    words: of the command. seconds: what one run may take; one that takes longer is not
    interesting. loud: what it prints is seen.
    """

    words: tuple[str, ...]
    seconds: float
    loud: bool = False

    @classmethod
    def parse(cls, text: str, seconds: float, *, loud: bool = False) -> Predicate:
        """Raises UsageError for a text without a command, or with an open quote."""
        try:
            words = tuple(shlex.split(text))
        except ValueError as error:
            raise UsageError(f"this is no command: {error}", where=text) from error
        if not words:
            raise UsageError("the command is empty", hint="such as --predicate './check.sh'")
        return cls(words, seconds, loud)

    def holds(self, model: Path) -> bool:
        """Run the command on a file. Raises UsageError where it cannot be started."""
        put = [word.replace(MODEL, str(model)) for word in self.words]
        words = put if put != list(self.words) else [*put, str(model)]
        output = STDERR if self.loud else subprocess.DEVNULL  # stdout is for the result
        try:
            process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            hint = "give the path of a script that can be executed, or sh -c '...'"
            raise UsageError(
                f"the command cannot be started: {error.strerror}", where=words[0], hint=hint
            ) from error
        try:
            return process.wait(self.seconds) == 0
        except subprocess.TimeoutExpired:
            return False
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """The command and all that it started."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@dataclass(frozen=True)
class Size:
    """Of a model: nodes of the main graph, inputs, weights, bytes."""

    nodes: int
    inputs: int
    weights: int
    bytes: int

    @classmethod
    def of(cls, model: ModelProto) -> Size:
        """As the file has it."""
        graph = model.graph
        return cls(len(graph.node), len(graph.input), len(graph.initializer), model.ByteSize())


@dataclass
class Reduction:
    """A search in progress. output: always holds the smallest model found so far.

    folder: for models that are tried. advance: called after each run of the command.
    """

    predicate: Predicate
    output: Path
    folder: Path
    advance: Callable[[Reduction], None] | None = None
    best: ModelProto = field(default_factory=ModelProto)
    runs: int = 0
    _asked: dict[bytes, bool] = field(default_factory=dict)

    def reduce(self, model: ModelProto, budget: int) -> ModelProto:
        """The smallest interesting model found. Raises UsageError where ``model`` is not one."""
        if not self._ask(Case("model", model, ())):
            raise UsageError(
                "the command does not find the model itself interesting",
                where=shlex.join(self.predicate.words),
                hint="it must exit with 0 for the model as it is, whose path is its last argument "
                "or stands for {model}; -v shows what it prints, --timeout gives it more time",
            )
        return shrink(Case("model", model, ()), self._ask, budget, MORE).model

    def holds_still(self) -> bool:
        """Whether the command, asked once more, still finds the best one interesting."""
        return self.predicate.holds(self.output)

    def _ask(self, case: Case) -> bool:
        data = case.model.SerializeToString(deterministic=True)
        key = hashlib.blake2b(data, digest_size=16).digest()
        if key not in self._asked:
            path = self.folder / "model.onnx"
            path.write_bytes(data)
            self.runs += 1
            self._asked[key] = self.predicate.holds(path)
            if self._asked[key]:
                self.best = case.model
                self._write(data)
            if self.advance is not None:
                self.advance(self)
        return self._asked[key]

    def _write(self, data: bytes) -> None:
        """The output: written whole next to it, then put in its place."""
        part = self.output.with_name(f".{self.output.name}.part")
        try:
            part.write_bytes(data)
            part.replace(self.output)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise InputError(
                f"the model cannot be written: {error.strerror}", where=str(self.output)
            ) from error


def read(path: Path) -> ModelProto:
    """A model file, weights included. Raises InputError for what is none, or beyond 2 GiB."""
    try:
        model = onnx.load(path)
    except Exception as error:  # onnx hands on what its parser raises, of a type of its own
        raise InputError(f"the model cannot be read: {error}", where=str(path)) from error
    if not model.graph.node:
        raise InputError("the model has no nodes", where=str(path), hint="is it an ONNX file?")
    size = model.ByteSize()
    if not 0 < size < LARGEST:
        raise InputError(
            "models beyond 2 GiB cannot be reduced",
            where=str(path),
            hint="cut out a part first: onnx.utils.extract_model",
        )
    return model


# -- further ways to make a model smaller ----------------------------------------------


def fewer_inputs(case: Case) -> Iterator[Case]:
    """Without an input that nothing reads."""
    graph = case.model.graph
    used = {name for node in graph.node for name in reads(node)} | {o.name for o in graph.output}
    for place, info in enumerate(graph.input):
        if info.name not in used:
            yield copied(case, lambda m, place=place: m.graph.input.pop(place))  # type: ignore[misc]


def fixed_inputs(case: Case) -> Iterator[Case]:
    """A weight of ones, or of zeros, in the place of an input whose sizes are known."""
    for place, info in enumerate(case.model.graph.input):
        kind = info.type.tensor_type
        dims = [d.dim_value for d in kind.shape.dim]
        if not kind.HasField("shape") or any(d < 1 for d in dims) or not kind.elem_type:
            continue
        for number in (1, 0):
            made = _filled(info.name, kind.elem_type, dims, number)
            if made is not None:
                yield copied(case, lambda m, p=place, t=made: _fixed(m, p, t))  # type: ignore[misc]


def plainer_weights(case: Case) -> Iterator[Case]:
    """A weight whose elements are all one, or all zero."""
    for place, tensor in enumerate(case.model.graph.initializer):
        if tensor.data_type not in _NUMBERS:
            continue
        held = numpy_helper.to_array(tensor)
        if held.size < 2 or (held == held.flat[0]).all():
            continue
        for number in (1, 0):
            made = _filled(tensor.name, tensor.data_type, list(tensor.dims), number)
            if made is not None:
                yield copied(case, lambda m, p=place, t=made: _held(m, p, t))  # type: ignore[misc]


_NUMBERS = frozenset(
    getattr(TensorProto, name)
    for name in "FLOAT DOUBLE FLOAT16 INT8 INT16 INT32 INT64 UINT8 UINT16 UINT32 UINT64".split()
)


def _filled(name: str, kind: int, dims: list[int], number: int) -> TensorProto | None:
    if kind not in _NUMBERS:
        return None
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
    return numpy_helper.from_array(np.full(dims, number, dtype), name)


def _fixed(model: ModelProto, place: int, tensor: TensorProto) -> None:
    del model.graph.input[place]
    present = [i for i, t in enumerate(model.graph.initializer) if t.name == tensor.name]
    for index in reversed(present):
        del model.graph.initializer[index]
    model.graph.initializer.append(tensor)


def _held(model: ModelProto, place: int, tensor: TensorProto) -> None:
    model.graph.initializer[place].CopyFrom(tensor)


MORE = (fewer_inputs, fixed_inputs, plainer_weights)
