"""The model file that a user means: an ONNX file itself, or the one in an artifact's folder."""

from __future__ import annotations

from pathlib import Path

from ..ir.errors import InputError
from .reporting.selftest import MODEL


def model_file(given: str | Path) -> Path:
    """The file of a model. What is no folder comes back as it is, whether it exists or not.

    Raises InputError for a folder that holds no ``model.onnx``.
    """
    path = Path(given)
    if not path.is_dir():
        return path
    if not (path / MODEL).is_file():
        raise InputError(
            f"there is no {MODEL} in this folder", where=str(given),
            hint="give an ONNX file, or the folder that planish compile wrote",
        )  # fmt: skip
    return path / MODEL
