"""The other tools: what each is asked for, and the environment of its own that it lives in.

``benchmarks/peers_install.py`` makes the environments below the folder of the benchmarks;
``peers_worker.py`` runs in them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import peers_worker
from benchmarks.data import ROOT, Feeds

ENVIRONMENTS = "environments"
STAMP = "installed.json"
NOT_INSTALLED = "not installed: run benchmarks/peers_install.py"


@dataclass(frozen=True)
class Peer:
    """One way of using another tool.

    name: in tables. maker: of ``peers_worker``. package: whose environment it runs in. int4:
    whether it is made for size (weights of 4 bits), not for speed. lossless: float stays float.
    """

    name: str
    maker: str
    package: str
    int4: bool = False
    lossless: bool = False


PEERS = (
    Peer("onnxruntime dynamic", "onnxruntime-dynamic", "onnxruntime"),
    Peer("onnxruntime static", "onnxruntime-static", "onnxruntime"),
    Peer("onnxruntime static U8S8", "onnxruntime-static-u8s8", "onnxruntime"),
    Peer("NNCF", "nncf", "nncf"),
    Peer("Olive static", "olive-static", "olive"),
    Peer("onnxruntime int4", "onnxruntime-int4", "onnxruntime", int4=True),
    Peer("Olive int4", "olive-int4", "olive", int4=True),
    Peer("onnxsim", "onnxsim", "onnxsim", lossless=True),
)
DISTRIBUTIONS = {"onnxruntime": "onnxruntime", "nncf": "nncf", "olive": "olive-ai",
                 "onnxsim": "onnxsim"}  # fmt: skip
"""Package -> what pip calls it."""


@dataclass(frozen=True)
class Environment:
    """Where a package lives. python: its interpreter, None where it is not installed, with the
    reason. key: changes with the pins. versions: of everything installed, by name."""

    package: str
    python: Path | None
    key: str
    reason: str = ""
    versions: dict[str, str] = field(default_factory=dict)


def requirements(package: str) -> Path:
    """The pins of a package and all that it needs."""
    return ROOT / f"requirements-bench-{package}.txt"


def environment_key(package: str) -> str:
    """Digest of the pins and the version of Python."""
    pins = requirements(package).read_bytes()
    return hashlib.sha256(pins + sys.version.encode()).hexdigest()[:16]


def environment(package: str, workdir: Path) -> Environment:
    """What ``install`` left of a package; one of other pins counts as not installed."""
    folder, key = workdir / ENVIRONMENTS / package, environment_key(package)
    if not (folder / STAMP).is_file():
        return Environment(package, None, key, NOT_INSTALLED)
    found = json.loads((folder / STAMP).read_text("utf8"))
    if found["key"] != key:
        return Environment(package, None, key, f"other pins are installed; {NOT_INSTALLED}")
    if found["error"]:
        return Environment(package, None, key, f"cannot be installed: {found['error']}")
    return Environment(package, folder / "bin" / "python", key, "", found["versions"])


def install(package: str, workdir: Path) -> Environment:
    """Make the environment of a package, or leave it where it is as its pins say.

    What went wrong is written down beside it: see ``Environment.reason``.
    """
    known = environment(package, workdir)
    if known.python is not None:
        return known
    folder = workdir / ENVIRONMENTS / package
    error, versions = "", {}
    try:
        checked(sys.executable, "-m", "venv", "--clear", str(folder))
        pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
        checked(*pip, "install", "--quiet", "-r", str(requirements(package)))
        versions = {item["name"]: item["version"]
                    for item in json.loads(checked(*pip, "list", "--format", "json"))}  # fmt: skip
    except RuntimeError as problem:
        error = str(problem)
    stamp = {"key": environment_key(package), "error": error, "versions": versions}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / STAMP).write_text(json.dumps(stamp, indent=1), "utf8")
    return environment(package, workdir)


def checked(*words: str) -> str:
    """What a command prints. Raises RuntimeError with the last lines of its complaint."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise RuntimeError(" ".join(lines or done.stderr.splitlines()[-2:])[:600])
    return done.stdout


def onnxruntime_dynamic(model: Path, output: Path) -> Path:
    """``quantize_dynamic`` with its defaults, here and without any preprocessing."""
    from onnxruntime.quantization import quantize_dynamic

    with quiet():
        quantize_dynamic(model, output)
    return output


def onnxruntime_static(model: Path, feeds: Sequence[Feeds], output: Path) -> Path:
    """``quantize_static`` with its defaults (QDQ, min-max), after the preprocessing; here."""
    with quiet():
        peers_worker.quantized_statically(model, feeds, output)
    return output


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings that onnxruntime.quantization logs at every call."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
