"""Feeds in one ``.npz`` file: arrays, sequences, absent optionals, strings, small floats.

The entry ``feeds`` is a JSON list with a mapping for each feed: input name to the name of an
entry, to a list of those (a sequence), or to null (an absent optional). Nothing is pickled.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from ...ir.errors import InputError
from .case import Feed

INDEX = "feeds"
UNREADABLE = (
    OSError, EOFError, ValueError, KeyError, AttributeError, TypeError, zipfile.BadZipFile,
)  # fmt: skip


def write_feeds(path: Path, feeds: Sequence[Feed]) -> None:
    """Write feeds to a file that ``read_feeds`` gives back, bit for bit."""
    arrays: dict[str, np.ndarray] = {}
    index = [{name: _entry(value, arrays) for name, value in feed.items()} for feed in feeds]
    arrays[INDEX] = np.array(json.dumps(index))
    np.savez(path, **arrays)  # type: ignore[arg-type]


def read_feeds(path: Path) -> tuple[Feed, ...]:
    """The feeds in a file: as ``write_feeds`` wrote them, or one feed of arrays by input name.

    Raises InputError for what is no such file.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        if INDEX not in arrays:
            return (arrays,)
        index = json.loads(str(arrays[INDEX]))
        return tuple(
            {name: _value(entry, arrays) for name, entry in feed.items()} for feed in index
        )
    except UNREADABLE as error:
        raise InputError(f"the feeds cannot be read: {error}", where=str(path)) from error


def _entry(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    if value is None:
        return None
    if isinstance(value, (list, tuple)):
        return [_entry(item, arrays) for item in value]
    array = np.asarray(value)
    if array.dtype.kind == "O":
        array = array.astype(np.str_)
    name, own = f"a{len(arrays)}", array.dtype.kind != "V"
    # NumPy's own format forgets what a type of ml_dtypes was: its bits are kept, and its name.
    name += "" if own else f":{ir.DataType.from_numpy(array.dtype).name}"
    arrays[name] = array if own else array.view(np.dtype(f"u{array.dtype.itemsize}"))
    return name


def _value(entry: Any, arrays: dict[str, np.ndarray]) -> Any:
    if entry is None:
        return None
    if isinstance(entry, list):
        return [_value(item, arrays) for item in entry]
    array, kind = arrays[entry], entry.partition(":")[2]
    return array.view(ir.DataType[kind].numpy()) if kind else array
