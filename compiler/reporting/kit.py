"""What a user with the GPU needs: scripts that build, compare and time an engine of the model."""

from __future__ import annotations

import json
from pathlib import Path

from ..result import Engine
from . import selftest
from .report import environment

BUILD, BUILD_PYTHON, RUN, PROFILES = "build.sh", "build_engine.py", "run.py", "profiles.json"


def write_kit(engine: Engine, folder: Path) -> None:
    """Write the scripts and the profile beside the model."""
    profile: dict[str, dict[str, object]] = {
        name: {k: list(v) for k, v in shapes.items()} for name, shapes in engine.profile.items()
    }
    for name, values in engine.values.items():
        profile[name]["values"] = {which: list(numbers) for which, numbers in values.items()}
    _write(folder / PROFILES, json.dumps(profile, indent=2) + "\n")
    for name, template in (
        (BUILD, "tensorrt_build.sh.j2"),
        (BUILD_PYTHON, "tensorrt_build_engine.py.j2"),
        (RUN, "tensorrt_run.py.j2"),
    ):
        _write(folder / name, _rendered(template, engine))
        (folder / name).chmod(0o755)


def is_open(engine: Engine) -> bool:
    """Whether a profile is needed: an axis is open, or numbers of an input decide a shape."""
    return bool(engine.open_axes or engine.values)


def shape_text(engine: Engine, which: str) -> str:
    """Shapes as trtexec takes them: ``ids:1x128,mask:1x128``; of inputs that decide shapes their
    numbers, written the same."""
    known = {name: shapes[which] for name, shapes in engine.profile.items() if shapes[which]}
    known |= {name: values[which] for name, values in engine.values.items()}
    return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in known.items())


def _rendered(template: str, engine: Engine) -> str:
    shapes = {which: shape_text(engine, which) for which in ("min", "opt", "max")}
    return (
        environment()
        .get_template(template)
        .render(
            engine=engine,
            shapes=shapes,
            open=is_open(engine),
            logic=Path(selftest.__file__).read_text("utf8"),
        )
    )


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf8", newline="\n")
