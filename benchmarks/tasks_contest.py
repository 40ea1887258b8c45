"""One task, all contenders: every model made, judged and raced, and only what is missing or stale.

Below the folder of the benchmarks, ``contest/TASK/CONTENDER`` keeps what each step found as JSON
under a key: what it was made from, with which versions. A step whose key is the same is not
taken again; all models of a task are timed anew, by turns, when any of them changed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.artifacts import MODEL, megabytes
from benchmarks.cost import WENT_THROUGH
from benchmarks.data import ROOT
from benchmarks.peers import PEERS, Environment, Peer, environment
from benchmarks.settings import Settings
from benchmarks.tasks import NOT_DONE, finish
from benchmarks.tasks_worker import CALIBRATION, FLOAT, RACE, TASK
from benchmarks.taskworker import DEFAULT, OPTIONS, compile_words
from planish.targets.probe.busy import load_between, read_usage

FLOAT_NAME, PLANISH, PLANISH_SIZE = "float", "planish", "planish, goal size"
SIZE_OPTIONS = ("--goal", "size")
MADE, SCORE, RACED = "made.json", "score.npz", "raced.json"
SOURCES = ("planish", "compiler", "passes", "targets", "ir")
HANDED_OVER = (*WENT_THROUGH, 5)
"""Exit codes of a compile that wrote an artifact; what it found stands in the table."""
OUT_OF_TIME = "out of time; run it again"
TASK_LIMIT, STEP_LIMIT = 3.0, 0.5
"""A task may take three times ``Settings.timeout``, one step of it half of that."""


@dataclass(frozen=True)
class Contender:
    """One line of the table. peer: None for float and for planish, whose options it adds."""

    name: str
    peer: Peer | None = None
    options: tuple[str, ...] | None = None

    @property
    def folder(self) -> str:
        """Its name as that of a folder."""
        return "".join(c if c.isalnum() else "-" for c in self.name.lower())


CONTENDERS = (
    Contender(FLOAT_NAME),
    Contender(PLANISH, options=OPTIONS[DEFAULT]),
    Contender(PLANISH_SIZE, options=SIZE_OPTIONS),
    *(Contender(peer.name, peer) for peer in PEERS),
)


@dataclass(frozen=True)
class Made:
    """What one contender made of a task's model, and what that cost: the whole process.

    key: of what it was made from. judged: of that and of what scores it. model: the file, "" where
    there is none that runs, for which ``error`` says why. limit: seconds that it was given, where
    it ran out of them, else 0.
    """

    contender: str
    key: str
    model: str = ""
    error: str = ""
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_bytes: int = 0
    megabytes: float = 0.0
    exit_code: int = 0
    limit: float = 0.0
    judged: str = ""


@dataclass(frozen=True)
class Contest:
    """Everything found of one task. about: what ``prepare`` wrote. race: seconds by contender.

    error: why there is nothing, or not everything: what did not come about is done by a rerun.
    """

    task: str
    folder: Path
    about: Mapping[str, Any] = field(default_factory=dict)
    made: Mapping[str, Made] = field(default_factory=dict)
    race: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""


class Clock:
    """What is left of a task's time."""

    def __init__(self, settings: Settings) -> None:
        self.end = time.monotonic() + TASK_LIMIT * settings.timeout
        self.step = STEP_LIMIT * settings.timeout

    @property
    def over(self) -> bool:
        """Whether no further step is begun."""
        return time.monotonic() >= self.end

    def left(self) -> float:
        """Seconds for the next step."""
        return max(min(self.step, self.end - time.monotonic()), 1.0)

    def short(self, made: Made) -> bool:
        """Whether a step ran out of less time than it may have."""
        return 0 < made.limit < self.step


def contest(name: str, settings: Settings) -> Contest:
    """Do what is missing or stale of one task, within its time limit."""
    folder = settings.workdir / "contest" / name
    folder.mkdir(parents=True, exist_ok=True)
    clock = Clock(settings)
    error = prepared(name, folder, settings, clock)
    if error:
        return Contest(name, folder, error=error)
    about = json.loads((folder / TASK).read_text("utf8"))
    made: dict[str, Made] = {}
    for contender in CONTENDERS:
        if clock.over:
            return Contest(name, folder, about, made, error=OUT_OF_TIME)
        made[contender.name] = judged(contender, about, folder, settings, clock)
    if any(clock.short(one) for one in made.values()):
        return Contest(name, folder, about, made, error=OUT_OF_TIME)
    error = raced(made, about, folder, settings, clock)
    race = {} if error else json.loads((folder / RACE).read_text("utf8"))
    return Contest(name, folder, about, made, race, error)


def stored(name: str, settings: Settings) -> Contest:
    """What earlier runs left of a task, stale or not; nothing is done."""
    folder = settings.workdir / "contest" / name
    if not (folder / TASK).is_file():
        return Contest(name, folder, error="not run yet")
    about = json.loads((folder / TASK).read_text("utf8"))
    found = {c.name: read_made(folder / c.folder) for c in CONTENDERS}
    made = {contender: one for contender, one in found.items() if one is not None}
    raced_yet = (folder / RACE).is_file()
    race = json.loads((folder / RACE).read_text("utf8")) if raced_yet else {}
    return Contest(name, folder, about, made, race, "" if raced_yet else "not timed yet")


def prepared(name: str, folder: Path, settings: Settings, clock: Clock) -> str:
    """The task's feeds and the float model's score, once; what went wrong, or ""."""
    key = key_of(worker_digest(), str(settings.threads))
    mark = folder / "prepared.txt"
    if mark.is_file() and mark.read_text("utf8") == key and (folder / TASK).is_file():
        return ""
    print(f"{name}, feeds and float …", file=sys.stderr, flush=True)
    error = finish(worker("prepare", name, folder, settings.threads), clock.left())
    if not error:
        mark.write_text(key, "utf8")
    return error


def judged(
    contender: Contender, about: Mapping[str, Any], folder: Path, settings: Settings, clock: Clock
) -> Made:
    """The contender's model, made and scored if that is not done yet."""
    if contender.name == FLOAT_NAME:
        model = Path(about["model"])
        return Made(FLOAT_NAME, about["digest"], str(model), megabytes=megabytes(model))
    place = folder / contender.folder
    home = environment(contender.peer.package, settings.workdir) if contender.peer else None
    key = contender_key(contender, home, about, settings)
    known = read_made(place)
    if known is None or known.key != key or clock.short(known):
        known = make(contender, home, key, about, folder, settings, clock)
        write_made(place, known)
    scored = key_of(key, worker_digest())
    if known.model and known.judged != scored:
        print(f"{about['task']}, {contender.name}: score …", file=sys.stderr, flush=True)
        limit = clock.left()
        words = worker("judge", about["task"], folder, settings.threads, known.model, place / SCORE)
        error = finish(words, limit)
        wrong = {"error": f"does not run: {error}", "model": "", "limit": limit}
        if not error.startswith(NOT_DONE):
            wrong["limit"] = 0.0
        known = Made(**{**asdict(known), **(wrong if error else {"judged": scored})})
        write_made(place, known)
    return known


def make(
    contender: Contender, home: Environment | None, key: str, about: Mapping[str, Any],
    folder: Path, settings: Settings, clock: Clock,
) -> Made:  # fmt: skip
    """Run the compile or the peer, measured as a process of its own."""
    if home is not None and home.python is None:
        return Made(contender.name, key, error=home.reason)
    place = folder / contender.folder
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    print(f"{about['task']}, {contender.name} …", file=sys.stderr, flush=True)
    words, model = command(contender, home, about, folder, settings)
    limit = clock.left()
    result = place / "measured.json"
    measure = [sys.executable, "-I", str(ROOT / "benchmarks" / "measure.py"), str(result)]
    error = finish([*measure, *words], limit, place / "output.txt")
    if error:
        late = error.startswith(NOT_DONE)
        return Made(contender.name, key, error=error, limit=limit if late else 0.0)
    cost = json.loads(result.read_text("utf8"))
    wrong = cost["exit_code"] not in (HANDED_OVER if contender.peer is None else (0,))
    if wrong or not model.is_file():
        return Made(contender.name, key, error=last_line(place / "output.txt"), **cost)
    return Made(contender.name, key, str(model), megabytes=megabytes(model), **cost)


def command(
    contender: Contender, home: Environment | None, about: Mapping[str, Any], folder: Path,
    settings: Settings,
) -> tuple[list[str], Path]:  # fmt: skip
    """What makes the contender's model, and where the model will be."""
    place, data = folder / contender.folder, folder / CALIBRATION
    if contender.peer is None or home is None:
        words = compile_words(
            about["model"], data, place / "artifact", settings.target, settings.threads,
            contender.options or (),
        )  # fmt: skip
        return words, place / "artifact" / MODEL
    script = ROOT / "benchmarks" / "peers_worker.py"
    model = place / MODEL
    words = [str(home.python), str(script), contender.peer.maker, about["model"], str(data),
             str(model), about["kind"]]  # fmt: skip
    return words, model


def raced(
    made: Mapping[str, Made], about: Mapping[str, Any], folder: Path, settings: Settings,
    clock: Clock,
) -> str:  # fmt: skip
    """Time all models by turns, unless these very ones were; what went wrong, or ""."""
    models = {name: one.model for name, one in made.items() if one.model}
    keys = [f"{name} {made[name].key}" for name in models]
    key = key_of(*keys, str(settings.rounds), str(settings.threads))
    if (folder / RACED).is_file() and (folder / RACED).read_text("utf8") == key:
        return ""
    print(f"{about['task']}: {len(models)} models by turns …", file=sys.stderr, flush=True)
    listed = folder / "models.json"
    listed.write_text(json.dumps(models), "utf8")
    words = worker("race", folder, settings.threads, settings.rounds, listed)
    before = read_usage()
    error = finish(words, max(clock.end - time.monotonic(), 1.0))
    if not error:
        others = load_between(before, read_usage()).others
        race = json.loads((folder / RACE).read_text("utf8")) | {"others": others}
        (folder / RACE).write_text(json.dumps(race), "utf8")
        (folder / RACED).write_text(key, "utf8")
    return error


def contender_key(
    contender: Contender, home: Environment | None, about: Mapping[str, Any], settings: Settings
) -> str:
    """Of the task, and of the code that makes the model."""
    if contender.peer is None or home is None:
        options = (settings.target, str(settings.threads), *(contender.options or ()))
        return key_of(about["digest"], sources_digest(), *options)
    script = (ROOT / "benchmarks" / "peers_worker.py").read_bytes()
    return key_of(about["digest"], home.key, str(home.python is None), contender.peer.maker,
                  hashlib.sha256(script).hexdigest())  # fmt: skip


def sources_digest(root: Path = ROOT) -> str:
    """Of all files of planish that a compile may read."""
    state = hashlib.sha256()
    for path in sorted(p for layer in SOURCES for p in (root / layer).rglob("*")):
        if path.is_file() and path.suffix in (".py", ".toml", ".j2"):
            state.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return state.hexdigest()[:16]


def worker_digest() -> str:
    """Of what prepares and scores a task."""
    return hashlib.sha256((ROOT / "benchmarks" / "tasks_worker.py").read_bytes()).hexdigest()


def key_of(*parts: str) -> str:
    """A short digest of texts."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def worker(step: str, *words: object) -> list[str]:
    """The command of one step."""
    script = ROOT / "benchmarks" / "tasks_worker.py"
    return [sys.executable, str(script), step, *map(str, words)]


def read_made(place: Path) -> Made | None:
    """What a contender's folder says of it; None where it is empty."""
    path = place / MADE
    return Made(**json.loads(path.read_text("utf8"))) if path.is_file() else None


def write_made(place: Path, made: Made) -> None:
    """Remember it."""
    place.mkdir(parents=True, exist_ok=True)
    (place / MADE).write_text(json.dumps(asdict(made), indent=1), "utf8")


def last_line(output: Path) -> str:
    """The last line of what a command said that is not indented: there a failing one says why
    (planish puts where, and what to try, below it)."""
    lines = output.read_text("utf8", errors="replace").splitlines()
    said = [line for line in lines if line.strip() and not line[0].isspace()]
    return said[-1][:400] if said else "no model, and no word of why"


def score_of(folder: Path, contender: str) -> Path:
    """Where a contender's scores lie."""
    if contender == FLOAT_NAME:
        return folder / FLOAT
    return folder / next(c.folder for c in CONTENDERS if c.name == contender) / SCORE
