"""Samples of an artifact: one .npz a feed, with what both models answered; never pickled."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...ir.errors import InputError
from ..result import Sample

FOLDER = "samples"

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest a zip knows: equal samples are equal bytes


def write_samples(samples: Sequence[Sample], folder: Path) -> list[str]:
    """Write each sample; the names of the files, relative to ``folder``.

    Keys are ``feed/NAME``, ``output/NAME`` (the compiled model's) and ``original/NAME``.
    Raises InputError for arrays that need pickling.
    """
    if not samples:
        return []
    (folder / FOLDER).mkdir()
    names = [f"{FOLDER}/{number:04}.npz" for number in range(len(samples))]
    for name, sample in zip(names, samples, strict=True):
        write_arrays(folder / name, arrays_of(sample))
    return names


def arrays_of(sample: Sample) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of a sample under their names in the file: ``feed/NAME`` and so on."""
    tables = (("feed", sample.feeds), ("output", sample.outputs), ("original", sample.original))
    return {
        f"{kind}/{name}": plain(f"{kind} {name!r}", array)
        for kind, table in tables
        for name, array in table.items()
    }


def plain(what: str, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The array in C order; an object array of texts becomes one of numpy texts."""
    value = np.asarray(array, order="C")
    if value.dtype != object:
        return value
    if all(isinstance(item, str) for item in value.flat):
        return value.astype(str)
    raise InputError(f"the {what} of a sample holds objects that are no text")


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """``numpy.savez`` with bytes that depend on nothing but the arrays."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for key, array in arrays.items():
            entry = zipfile.ZipInfo(f"{key}.npy", _EPOCH)
            with archive.open(entry, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
