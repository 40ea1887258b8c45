"""Other quantizers on the same models and data: ONNX Runtime's own, and NNCF.

NNCF lives in an environment of its own (``make bench`` makes ``.venv-bench``); its interpreter
is found in ``$PLANISH_PEERS``, else in that folder.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from onnxruntime.quantization import CalibrationDataReader, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from benchmarks.data import ROOT, Feeds, save_feeds

PEERS_VARIABLE = "PLANISH_PEERS"
HOW_TO_INSTALL = "not installed: run `make bench`, which makes .venv-bench"


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Feeds in the form that onnxruntime.quantization asks for."""

    def __init__(self, feeds: Sequence[Feeds]) -> None:
        self.feeds = iter(feeds)

    def get_next(self) -> Feeds | None:
        """The next feed, None after the last."""
        return next(self.feeds, None)


def onnxruntime_dynamic(model: Path, output: Path) -> Path:
    """``quantize_dynamic`` with its defaults."""
    with quiet():
        quantize_dynamic(model, output)
    return output


def onnxruntime_static(model: Path, feeds: Sequence[Feeds], output: Path) -> Path:
    """``quantize_static`` with its defaults (QDQ, min-max), after the preprocessing it asks for."""
    prepared = output.with_suffix(".prepared.onnx")
    with quiet():
        quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
        quantize_static(prepared, output, Reader(feeds))
    prepared.unlink()
    return output


def nncf_static(model: Path, feeds: Sequence[Feeds], output: Path, *, transformer: bool) -> Path:
    """NNCF's post-training quantization, in the environment of the peers.

    Raises FileNotFoundError where that environment is missing, RuntimeError where NNCF fails.
    """
    python = nncf_python()
    if python is None:
        raise FileNotFoundError(HOW_TO_INSTALL)
    folder = save_feeds(feeds, output.parent / f"{output.stem}-feeds")
    words = [str(python), str(ROOT / "benchmarks" / "nncf_worker.py"), str(model), str(folder),
             str(output), "transformer" if transformer else "any"]  # fmt: skip
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"NNCF failed: {done.stderr.strip()[-800:]}")
    return output


def nncf_python() -> Path | None:
    """The interpreter of the peers' environment, None where NNCF is not installed there."""
    python = Path(os.environ.get(PEERS_VARIABLE) or ROOT / ".venv-bench" / "bin" / "python")
    python = python if python.is_absolute() else ROOT / python
    if not python.exists():
        return None
    probe = "import importlib.util, sys; sys.exit(importlib.util.find_spec('nncf') is None)"
    return python if subprocess.run([python, "-c", probe], check=False).returncode == 0 else None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings that onnxruntime.quantization logs at every call."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
