"""Write a failing case to a folder, with the command that shows the failure again."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

import onnx

from .case import Case
from .check import Failure
from .feedfile import write_feeds
from .subject import DEFAULT_TARGET, Subject

MODEL, TEXT, FEEDS, COMMAND = "model.onnx", "model.txt", "feeds.npz", "command.txt"
LARGEST_TEXT = 200_000
"""Characters; nobody reads a longer model, and its numbers stand in the file."""


def write_reproducer(folder: Path, case: Case, failure: Failure, command: str) -> Path:
    """Write model, text, feeds, failure and command; returns the folder.

    model.txt is ONNX text that parses back to the model where ONNX can write it so; else its first
    line says that it does not. It is left out where it would be very long.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MODEL).write_bytes(case.model.SerializeToString(deterministic=True))
    write_feeds(folder / FEEDS, case.feeds)
    text = model_text(case.model)
    if text is not None:
        (folder / TEXT).write_text(text, encoding="utf8")
    why = "\n# ".join(str(failure).splitlines())  # names may hold line ends: they end no comment
    (folder / COMMAND).write_text(f"{command}\n# {why}\n", encoding="utf8")
    return folder


def command_for(subject: Subject, folder: Path, files: Sequence[Path] = ()) -> str:
    """The command line that checks the reproducer in a folder. files: with passes of users."""
    words = ["planish", "test-pass", subject.pipeline]
    words += [word for file in files for word in ("--pass-file", str(file))]
    words += ["--model", str(folder / MODEL), "--feeds", str(folder / FEEDS)]
    words += ["--target", subject.target] if subject.target != DEFAULT_TARGET else []
    return shlex.join([*words, *(["--exact"] if subject.exact else [])])


def model_text(model: onnx.ModelProto, file: str = MODEL) -> str | None:
    """The model as ONNX text; None where it is too long to be read.

    file: that holds the model, for the first line of a text that does not parse back.
    """
    if model.ByteSize() > LARGEST_TEXT:
        return None
    text = str(onnx.printer.to_text(model))
    if len(text) > LARGEST_TEXT:
        return None
    return text if _parses_back(text, model) else f"# does not parse back: use {file}\n{text}"


def _parses_back(text: str, model: onnx.ModelProto) -> bool:
    """Whether ONNX's own parser makes the same model of the text, constants included."""
    try:
        parsed = onnx.parser.parse_model(text)
    except Exception:
        return False
    return _bare(parsed) == _bare(model)


def _bare(model: onnx.ModelProto) -> bytes:
    """The model with tensors and domains in one of the ways that ONNX has to write them."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    _plain_domains(copy.graph.node)
    for opset in copy.opset_import:
        if not opset.domain:
            opset.ClearField("domain")
    for function in copy.functions:
        _plain_domains(function.node)
    for tensor in copy.graph.initializer:
        if not tensor.raw_data and tensor.data_type != onnx.TensorProto.STRING:
            array = onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    data: bytes = copy.SerializeToString(deterministic=True)
    return data


def _plain_domains(nodes: Iterable[onnx.NodeProto]) -> None:
    """An empty domain is no domain, also in branches and loops."""
    for node in nodes:
        if not node.domain:
            node.ClearField("domain")
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                _plain_domains(graph.node)
