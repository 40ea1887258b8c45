"""What a user with the GPU needs: scripts that build, compare and time an engine of the model."""

from __future__ import annotations

import json
from pathlib import Path

from ..result import Engine
from . import selftest
from .engineshapes import for_trtexec, is_open, untold_trtexec
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


def _rendered(template: str, engine: Engine) -> str:
    return (
        environment()
        .get_template(template)
        .render(
            engine=engine,
            shapes={which: for_trtexec(engine, which) for which in ("min", "opt", "max")},
            open=is_open(engine),
            untold=untold_trtexec(engine),
            logic=Path(selftest.__file__).read_text("utf8"),
        )
    )


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf8", newline="\n")
