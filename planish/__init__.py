"""planish compiles trained neural networks for a named hardware target.

::

    artifact = planish.compile("model.onnx", "host", calibration="data.npz")
    print(artifact.verdict)
    artifact.save("out")

Never slower, never silently worse: every rewrite is checked, measured, and kept or undone with
a reason. ``planish.load`` opens an artifact again; ``python -m planish`` is the command line.
"""

from __future__ import annotations

from importlib.metadata import version

from .api import compile, diff, doctor, load, plan
from .compiler.diffing import ModelDiff
from .compiler.doctor.diagnosis import Diagnosis
from .compiler.planning.outlook import Planned
from .compiler.quality.evaluation import Scores
from .compiler.reporting.artifact import Artifact
from .ir.errors import (
    InputError,
    PassError,
    PlanishError,
    TargetError,
    UsageError,
    VerifyError,
)

__version__ = version("planish")

__all__ = [
    "Artifact",
    "Diagnosis",
    "InputError",
    "ModelDiff",
    "PassError",
    "PlanishError",
    "Planned",
    "Scores",
    "TargetError",
    "UsageError",
    "VerifyError",
    "__version__",
    "compile",
    "diff",
    "doctor",
    "load",
    "plan",
]
