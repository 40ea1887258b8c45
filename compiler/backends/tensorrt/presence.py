"""What of TensorRT is there: the package, a GPU; and ONNX Runtime in the place of both."""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from ....ir.errors import PlanishError
from ....targets.runtime import open_session
from .emission import ENTRIES

Arrays = Mapping[str, np.ndarray]
KIT = (
    "`./build.sh` or `python build_engine.py` builds the engine, `python run.py` compares and "
    "times it"
)


def how_to_build() -> str:
    """Whether an engine could be built here, and with what; compile itself builds none."""
    package = importlib.util.find_spec("tensorrt") is not None
    if package and has_gpu():
        return f"not built here: tensorrt and a GPU are at hand, {KIT}"
    lacking = " and ".join(
        name for name, there in (("tensorrt", package), ("an NVIDIA GPU", has_gpu())) if not there
    )
    verb = "are" if " and " in lacking else "is"
    return f"not built here, as {lacking} {verb} missing: on the target {KIT}"


def has_gpu() -> bool:
    """Whether the CUDA driver is there and finds a device."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int(0)
    return (
        driver.cuInit(0) == 0
        and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
        and count.value > 0
    )


def typed_runs(path: Path) -> Callable[[Arrays], dict[str, np.ndarray]] | None:
    """What ONNX Runtime computes with a typed model; None where it does not take it."""
    try:
        session = open_session(path, entries=ENTRIES)
    except PlanishError:
        return None
    names = session.output_names
    return lambda feeds: dict(zip(names, session.run(feeds), strict=True))
