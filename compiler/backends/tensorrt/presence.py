"""What of TensorRT is there: the package, a GPU; and ONNX Runtime in the place of both."""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ....ir.errors import PlanishError
from ....targets.rules.tensorrt.scope import capability
from ....targets.runtime import open_session
from ....targets.schema import Target
from .emission import ENTRIES

Arrays = Mapping[str, np.ndarray]
_CAPABILITY = (75, 76)
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR"""
KIT = (
    "`./build.sh` or `python build_engine.py` builds the engine, `python run.py` compares and "
    "times it"
)


@dataclass(frozen=True)
class Gpu:
    """The first GPU that the CUDA driver finds. capability: 80 for 8.0."""

    name: str
    capability: int

    def __str__(self) -> str:
        return f"{self.name} (compute capability {self.capability // 10}.{self.capability % 10})"


def how_to_build(target: Target) -> str:
    """Why no engine is built here, and how it is done elsewhere; "" where one can be built."""
    package, gpu = importlib.util.find_spec("tensorrt") is not None, find_gpu()
    if package and gpu is not None:
        least = capability(target)
        if least is None or gpu.capability >= least:
            return ""
        wants = f"{target.name} wants {least // 10}.{least % 10}"
        return f"not built here on {gpu}, as {wants}: on the target {KIT}"
    lacking = " and ".join(
        name
        for name, there in (("tensorrt", package), ("an NVIDIA GPU", gpu is not None))
        if not there
    )
    verb = "are" if " and " in lacking else "is"
    return f"not built here, as {lacking} {verb} missing: on the target {KIT}"


def find_gpu() -> Gpu | None:
    """The first GPU; None without the CUDA driver, or where that finds none."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    count, device = ctypes.c_int(0), ctypes.c_int(0)
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or count.value < 1:
        return None
    name, parts = ctypes.create_string_buffer(256), (ctypes.c_int(0), ctypes.c_int(0))
    failed = driver.cuDeviceGet(ctypes.byref(device), 0) or driver.cuDeviceGetName(
        name, 256, device
    )
    for part, which in zip(parts, _CAPABILITY, strict=True):
        failed = failed or driver.cuDeviceGetAttribute(ctypes.byref(part), which, device)
    if failed:
        return None
    return Gpu(name.value.decode("utf8", "replace"), 10 * parts[0].value + parts[1].value)


def typed_runs(path: Path) -> Callable[[Arrays], dict[str, np.ndarray]] | None:
    """What ONNX Runtime computes with a typed model; None where it does not take it."""
    try:
        session = open_session(path, entries=ENTRIES)
    except PlanishError:
        return None
    names = session.output_names
    return lambda feeds: dict(zip(names, session.run(feeds), strict=True))
