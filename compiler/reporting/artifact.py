"""The folder that is handed over: the model, the proof, and how to check both."""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from ...ir.errors import InputError
from ...ir.signature import Signature, TensorSpec
from ...targets.runtime import Session, open_session
from ..result import CompileResult
from ..staging import refuse_inputs_inside, staging
from . import manifest as manifests
from .report import render_card, render_report, render_verify
from .samples import write_samples
from .selftest import MODEL, file_digest

__all__ = ["Artifact", "refuse_inputs_inside", "staging", "write_artifact"]

REPORT = "report.md"
CARD = "README.md"
VERIFY = "verify.py"


def write_artifact(
    result: CompileResult, folder: Path, known: Mapping[Path, str] | None = None
) -> None:
    """Write everything but the model itself into ``folder``, which holds ``model.onnx``.

    known: SHA-256 of files in the folder, made while they were written. The manifest comes last
    and lists every other file with its size and SHA-256. Raises InputError where there is no
    model in the folder.
    """
    if not (folder / MODEL).is_file():
        raise InputError("there is no model to write the documents for", where=str(folder / MODEL))
    signature = _signature(folder / MODEL)
    samples = write_samples(result.samples, folder)
    sample = samples[0] if samples else ""
    _write(folder / REPORT, render_report(result))
    _write(folder / CARD, render_card(result, signature, sample))
    on_gpu = result.provider is not None and result.engine is None
    _write(folder / VERIFY, render_verify(gpu=on_gpu))
    files = {"samples": samples, "files": file_table(folder, known)}
    _write(folder / manifests.MANIFEST, manifests.dumps(manifests.to_json(result) | files))


def _signature(path: Path) -> Signature:
    """Of a model file, from its inputs and outputs alone."""
    proto = onnx.load(path, load_external_data=False)
    weights = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in weights]
    return Signature(tuple(map(_spec, inputs)), tuple(map(_spec, proto.graph.output)))


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    return TensorSpec.of(ir.serde.deserialize_value_info_proto(value, None))


def file_table(folder: Path, known: Mapping[Path, str] | None = None) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every file in a folder but the manifest, by relative path.

    Files whose SHA-256 is ``known`` are not read.
    """
    found = known or {}
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": found.get(path) or file_digest(path),
        }
        for path in paths
        if path != folder / manifests.MANIFEST
    }


class Artifact:
    """A compiled model in its folder.

    path: the folder. manifest: what manifest.json holds. An artifact that was compiled without
    an output folder lives in a temporary one that goes away with the object: ``save`` it.
    """

    def __init__(self, path: Path, manifest: Mapping[str, Any]) -> None:
        self.path = path
        self.manifest = manifest

    @classmethod
    def open(cls, path: Path | str) -> Artifact:
        """The artifact in a folder. Raises InputError where the folder is none."""
        folder = Path(path)
        if not folder.is_dir():
            what = "a file, not an artifact's folder" if folder.exists() else "no such folder"
            raise InputError(what, where=str(folder))
        for name in (manifests.MANIFEST, MODEL):
            if not (folder / name).is_file():
                raise InputError(
                    f"not an artifact: it has no {name}", where=str(folder),
                    hint="give the folder that `planish compile -o` wrote",
                )  # fmt: skip
        return cls(folder.resolve(), manifests.read(folder))

    @property
    def verdict(self) -> str:
        """Both verdicts with their figures, in one line."""
        return str(self.manifest["headline"])

    @property
    def exit_code(self) -> int:
        """The status that the command line ended with: 0, or what keeps it from success."""
        return int(self.manifest["exit_code"])

    @property
    def report(self) -> str:
        """The text of report.md."""
        return (self.path / REPORT).read_text("utf8")

    def session(self, threads: int = 0) -> Session:
        """The compiled model, loaded; for TensorRT the reference model.

        threads: 0 = the runtime's default, one per core.

        Raises InputError or TargetError where the runtime does not load it.
        """
        return open_session(self.runnable, threads=threads)

    @property
    def runnable(self) -> Path:
        """The model that ONNX Runtime runs: for other runtimes, what stands in for theirs."""
        return self.path / (self.manifest.get("reference_model") or MODEL)

    def save(self, path: Path | str, *, force: bool = False) -> Artifact:
        """Copy the folder to ``path``, whole or not at all; the artifact there.

        Raises UsageError where ``path`` is a file or a folder with something in it (which
        ``force`` replaces), or cannot be written.
        """
        output = Path(path)
        refuse_inputs_inside(output, [self.path])
        with staging(output, force) as folder:
            shutil.copytree(self.path, folder, dirs_exist_ok=True)
        return Artifact.open(output)

    def __repr__(self) -> str:
        return f"Artifact({str(self.path)!r}: {self.verdict})"


def temporary_artifact(folder: Path, inside: Path) -> Artifact:
    """The artifact in ``folder``; ``inside``, which holds it, is deleted with the object."""
    artifact = Artifact.open(folder)
    weakref.finalize(artifact, shutil.rmtree, inside, ignore_errors=True)
    return artifact


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf8", newline="\n")
