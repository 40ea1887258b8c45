"""The Python face: compile a model, open an artifact."""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from .compiler.conduct import TIMEOUT, Conduct, conducting
from .compiler.diffing import ModelDiff, compare
from .compiler.progress import progress_on
from .compiler.reporting.artifact import Artifact, temporary_artifact
from .compiler.staging import refuse_inputs_inside
from .compiler.userpasses import loaded, using
from .targets.schema import Target

if TYPE_CHECKING:
    from .compiler.doctor.diagnosis import Diagnosis
    from .compiler.planning.outlook import Planned
    from .compiler.policy import Goal
    from .compiler.result import Built


def compile(
    model: Any,
    target: str | Path | Target = "host",
    *,
    example_inputs: Any = None,
    dynamic_shapes: Any = "auto",
    calibration: Any = None,
    holdout: Any = None,
    token_mask: str | None = None,
    evaluate: Callable[..., Any] | str | None = None,
    max_drop: float | str | None = None,
    max_drift: str | None = None,
    goal: Goal = "latency",
    pipeline: str | None = None,
    plan: Path | str | Mapping[str, Any] | None = None,
    threads: int = 0,
    output: Path | str | None = None,
    force: bool = False,
    keep_overridable: bool = False,
    seed: int = 0,
    max_memory: str | int | float | None = None,
    workload: str | Sequence[str] | None = None,
    profile: str | None = None,
    keep_stages: bool = False,
    pass_files: str | Path | Sequence[Any] = (),
    on_pass_failure: str = "stop",
    pass_timeout: float = TIMEOUT,
    progress: bool | None = None,
) -> Artifact:
    """Compile a model for a target; the artifact, whatever its verdict.

    model: a path of an ONNX file, an ``onnx.ModelProto``, an ``onnx_ir.Model``, or a
    ``torch.nn.Module`` with ``example_inputs`` (a tuple, or a mapping by argument name) and
    ``dynamic_shapes`` as ``torch.export`` takes them ("auto": axis 0 and what else may vary).
    target: a name, a TOML file, or a ``Target``.

    calibration, holdout: an ``.npz`` with arrays named as the inputs and samples on axis 0, a
    folder of such files (one feed each), ``file.py:function``, a mapping of arrays, or feeds.
    Without holdout a random 20 % of the calibration samples (by seed) is held out for measuring.
    token_mask: the input that is 0 at padding, where it is not found by itself.

    evaluate: a function (or ``file.py:function``) that gets ``run(feeds) -> [outputs]`` and returns
    a number, one number per sample, or ``Scores``. max_drop: what the metric may lose, in its
    units, or relative as ``"0.5%"``. max_drift: what the outputs must keep without a metric,
    such as ``"cosine=0.98"``.

    goal: "latency", "size" or "balanced". pipeline: passes as text instead of the policy's;
    plan: a manifest or plan whose choices are replayed. threads: of the runtime, 0 = one per
    core. output: the folder to write; without it the artifact lives in a temporary folder until
    it is ``save``d or garbage. force: replace a folder that is there. keep_overridable: keep
    initializers that are also inputs. seed: of every random choice. progress: show it; None:
    where stderr is a terminal. max_memory: what the process may grow to, such as ``"1.5GB"`` or
    ``"2GiB"``, None for 80 % of what is free; a model that cannot be run within it is compiled
    without running it, and nothing is measured. workload: sizes of open axes, such as
    ``"batch=1,seq=128"``, or several with their share of the runs (``"batch=1,seq=1*0.9"``): what
    feeds that are generated look like, and what the choice of passes counts on; without it the
    shapes of the held-out feeds. profile: for targets of TensorRT, the least, usual and largest
    sizes of open axes, such as ``"batch=1:8:32"``, or numbers of an input that decide a shape;
    without it those seen in the data.
    keep_stages: keep the graph after each pass with its weights; without them it is kept anyway.

    pass_files: what holds passes of your own, known for this compile: paths of Python files,
    classes of passes, modules; one, or several. on_pass_failure: "stop", or "skip" to go on
    without a pass that fails. pass_timeout: seconds that one call into a pass of yours may take, 0
    for any.

    Raises InputError, UsageError, TargetError or PassError; nothing is left behind then.
    """
    settings = {
        "example_inputs": example_inputs, "dynamic_shapes": dynamic_shapes, "goal": goal,
        "pipeline": pipeline, "plan": plan, "calibration": calibration, "holdout": holdout,
        "token_mask": token_mask, "evaluate": evaluate, "max_drop": max_drop,
        "max_drift": max_drift, "threads": threads, "force": force,
        "keep_overridable": keep_overridable, "seed": seed, "max_memory": max_memory,
        "workload": workload, "profile": profile, "keep_stages": keep_stages,
        "pass_files": pass_files, "on_pass_failure": on_pass_failure,
        "pass_timeout": pass_timeout,
    }  # fmt: skip
    shown = sys.stderr.isatty() if progress is None else progress
    if output is not None:
        built = build(model, target, Path(output), shown=shown, settings=settings)
        return Artifact.open(built.folder)
    inside = Path(tempfile.mkdtemp(prefix="planish-"))
    try:
        built = build(model, target, inside / "artifact", shown=shown, settings=settings)
        return temporary_artifact(built.folder, inside)
    except BaseException:
        with contextlib.suppress(OSError):  # not empty where it holds a reproducer
            inside.rmdir()
        raise


def plan(
    model: Any,
    target: str | Path | Target = "host",
    *,
    example_inputs: Any = None,
    dynamic_shapes: Any = "auto",
    goal: Goal = "latency",
    workload: str | Sequence[str] | None = None,
    calibration: Any = None,
    holdout: Any = None,
    token_mask: str | None = None,
    pipeline: str | None = None,
    threads: int = 0,
    keep_overridable: bool = False,
    seed: int = 0,
    max_memory: str | int | float | None = None,
    pass_files: str | Path | Sequence[Any] = (),
    progress: bool | None = None,
) -> Planned:
    """What ``compile`` would do with the same arguments, predicted; nothing is changed or kept.

    The result's ``outlooks`` are the pipelines that would be tried, the likeliest first
    (``chosen``): for each the sites with what would become of them or why they are left alone,
    size in bytes and milliseconds of one run before and after, each with its basis. ``aside``
    has the techniques that are not tried, with codes. With ``pipeline`` that one is looked at.
    The model is run only where calibration data is given, for its ranges. pass_files: as there.

    Raises UsageError, InputError, and TargetError where no technique can serve the goal.
    """
    from .compiler.planning.plan import plan_model

    shown = sys.stderr.isatty() if progress is None else progress
    with (
        using(loaded(pass_files)),
        progress_on(Console(stderr=True), live=shown, verbose=False) as running,
    ):
        return plan_model(
            model, target, example_inputs=example_inputs, dynamic_shapes=dynamic_shapes,
            goal=goal, workload=workload, calibration=calibration, holdout=holdout,
            token_mask=token_mask, pipeline=pipeline, threads=threads,
            keep_overridable=keep_overridable, seed=seed, max_memory=max_memory,
            progress=running,
        )  # fmt: skip


def load(path: Path | str) -> Artifact:
    """The artifact in a folder. Raises InputError where the folder is none."""
    return Artifact.open(path)


def diff(
    before: str | Path,
    after: str | Path,
    *,
    target: str | Path | Target | None = None,
    workload: str = "",
    threads: int = 0,
) -> ModelDiff:
    """What is different between two models, whoever made them: ONNX files, artifacts' folders, or
    a stage of a compile (``"out@quantize"``).

    ``str(…)`` shows it as ``planish diff`` does; ``to_json()`` is plain data; ``graph.hunks`` are
    the nodes that changed together, false where the contents are equal. target, workload, threads:
    what times are predicted and operations counted for. Raises InputError for a path that holds no
    model.
    """
    return compare(before, after, target=target, workload=workload, threads=threads)


def doctor(
    model: str | Path,
    target: str | Path | Target | None = None,
    *,
    calibration: Any = None,
    workload: str | Sequence[str] | None = None,
    threads: int = 0,
    fix: str | Path | None = None,
    progress: bool | None = None,
) -> Diagnosis:
    """Why a model is not faster, smaller or right on a target, and what to do about it.

    model: an ONNX file, or an artifact's folder. target: a name, a TOML file or a ``Target``; None
    for that of the artifact, else this machine. calibration: what to profile it on, as ``compile``
    takes it; without any, numbers are generated, with open axes of the sizes of ``workload``.
    threads: of the runtime, 0 = one per core. fix: where to write a copy in which is mended what
    can be mended in the file itself; ``mended`` says what that brought.

    The result's ``causes`` come in order: what is wrong, what is slow by its milliseconds, notes;
    ``run`` says where the time goes, ``healthy`` that nothing is wrong; ``str(…)`` shows it as
    ``planish doctor`` does. Where this machine is not the target, or cannot run the model,
    ``not_run`` says why, and no time is measured. Raises InputError for what is no ONNX file and
    for data that does not fit it, UsageError and TargetError.
    """
    from .compiler.doctor.examine import examine

    shown = sys.stderr.isatty() if progress is None else progress
    with progress_on(Console(stderr=True), live=shown, verbose=False) as running:
        return examine(
            model, target, calibration=calibration, workload=workload, threads=threads,
            fix=fix, progress=running,
        )  # fmt: skip


def build(
    model: Any, target: Any, output: Path, *, shown: bool, settings: Mapping[str, Any],
    verbose: bool = False,
) -> Built:  # fmt: skip
    """Call the compiler; the result with the folder that was written.

    Raises UsageError also where ``output`` holds one of the files that are read.
    """
    from .compiler.driver import compile_model

    rest = dict(settings)
    files = loaded(rest.pop("pass_files", ()))
    conduct = Conduct.checked(
        rest.pop("on_pass_failure", "stop"), rest.pop("pass_timeout", TIMEOUT)
    )
    inputs = (model, settings.get("calibration"), settings.get("holdout"), target)
    refuse_inputs_inside(output, [path for item in inputs for path in _path_of(item)])
    with (
        using(files),
        conducting(conduct),
        progress_on(Console(stderr=True), live=shown, verbose=verbose) as progress,
    ):
        return compile_model(model, target, output=output, progress=progress, **rest)


def _path_of(item: Any) -> list[Path]:
    """The file that an argument names, if it names one that is there."""
    if not isinstance(item, str | Path):
        return []
    path = Path(str(item).partition(".py:")[0] + ".py") if ".py:" in str(item) else Path(item)
    return [path] if path.exists() else []
