"""planish compiles trained neural networks for a named hardware target.

::

    artifact = planish.compile("model.onnx", "host", calibration="data.npz")
    print(artifact.verdict)
    artifact.save("out")

Never slower, never silently worse: every rewrite is checked, measured, and kept or undone with
a reason. ``planish.load`` opens an artifact again; ``planish.rewrite_pass`` and ``planish.adapt``
make passes of a pattern, or of a transform that others wrote; ``python -m planish`` is the command
line.
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
from .passes.adapting import adapt
from .passes.rewriting import rewrite_pass

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
    "adapt",
    "compile",
    "diff",
    "doctor",
    "load",
    "plan",
    "rewrite_pass",
]
