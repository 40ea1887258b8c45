"""The contest with the peers: what is done again, what counts as beaten, what the page says."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

from benchmarks import peers, peers_worker, results, tasks_contest, tasks_worker
from benchmarks.data import Feeds, save_feeds
from benchmarks.settings import Settings
from benchmarks.tasks_contest import CONTENDERS, Clock, Contender, Contest, Made

SIMPLE = '<ir_version: 9, opset_import: ["" : {opset}]> g (float[n, 2] x) => (float[n, 2] y) {body}'


def model(path: Path, body: str = "{ y = Relu(x) }", opset: int = 17) -> Path:
    onnx.save(onnx.parser.parse_model(SIMPLE.format(opset=opset, body=body)), path)
    return path


def write_score(path: Path, samples: np.ndarray, sqnr: float = 30.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, per_sample=samples, value=np.array(samples.mean()), sqnr=np.array(sqnr))


@pytest.fixture
def found(tmp_path: Path) -> Contest:
    """Float, planish and three peers: one faster and as good, one faster and ruined, one better
    but slow; 200 samples that are right or wrong."""
    rng = np.random.default_rng(0)
    right = 100.0 * (rng.random(200) < 0.9)
    scores = {
        "float": right,
        "planish": np.where(np.arange(200) < 20, 0.0, right),
        "NNCF": np.where(np.arange(200) < 21, 0.0, right),
        "Olive static": np.zeros(200),
        "onnxsim": right,
    }
    speeds = {"float": 4.0, "planish": 2.0, "NNCF": 1.0, "Olive static": 1.0, "onnxsim": 4.0}
    about = {"metric": "top1", "aggregate": "mean", "higher_is_better": True, "samples": 200}
    made = {}
    for name, samples in scores.items():
        write_score(tasks_contest.score_of(tmp_path, name), samples)
        size = {"float": 4.0, "planish": 1.0, "Olive static": 0.1}.get(name, 2.0)
        made[name] = Made(name, "k", "model.onnx", seconds=10.0, peak_bytes=10**9, megabytes=size)
    made["NNCF"] = Made("NNCF", "k", "model.onnx", "", 2.0, 0.0, 2 * 10**9, 2.0)
    np.savez(tmp_path / "mask.npz", mask=np.ones(200, bool))
    noise = rng.normal(1, 0.001, 9)
    race = {"feeds": 4, "others": 0.1, "seconds": {n: list(s * noise) for n, s in speeds.items()}}
    return Contest("digits", tmp_path, about, made, race)


def test_beaten_is_faster_and_no_worse_or_surely_better(found: Contest) -> None:
    beats = {(beat.peer, beat.respect) for beat in results.beaten(found)}
    assert beats == {("NNCF", "speed"), ("onnxsim", "quality")}
    lines = results.summary([found], results.beaten(found))
    assert lines[0].startswith("speed: a peer beats planish on 1 of 1 tasks: digits (NNCF 2.00x")
    assert "digits (onnxsim" in lines[1]
    assert lines[2] == "size: no peer beats planish on any of 1 tasks"
    assert lines[3] == "planish slower than float: nowhere"
    assert "5.0x the time and 0.5x the memory of NNCF" in lines[4]
    figure = results.figure(found, results.beaten(found))
    assert figure.word == "miss"
    assert "NNCF: speed" in figure.value


def test_a_model_for_size_is_measured_against_ours_for_size(found: Contest) -> None:
    ours = tasks_contest.PLANISH_SIZE
    write_score(tasks_contest.score_of(found.folder, ours), np.zeros(200))
    small = Made(ours, "k", "model.onnx", megabytes=0.5)
    seconds = {**found.race["seconds"], ours: found.race["seconds"]["planish"]}
    wider = Contest("digits", found.folder, found.about, {**found.made, ours: small},
                    {**found.race, "seconds": seconds})  # fmt: skip
    beats = {(b.peer, b.respect) for b in results.beaten(wider)}
    assert ("Olive static", "size") in beats  # as bad as ours, and a fifth of its size
    assert ("Olive static", "speed") not in beats


def test_planish_slower_than_float_is_said(found: Contest) -> None:
    seconds = {**found.race["seconds"], "planish": [8.0] * 9}
    slow = Contest("digits", found.folder, found.about, found.made, {**found.race,
                   "seconds": seconds})  # fmt: skip
    assert "planish slower than float: digits" in results.summary([slow], [])


def test_a_task_without_a_model_of_ours_is_said(found: Contest) -> None:
    made = {**found.made, "planish": Made("planish", "k", error="error: out of ideas")}
    failed = Contest("digits", found.folder, found.about, made, found.race)
    lines = results.summary([failed], results.beaten(failed))
    assert "planish makes no model of digits (error: out of ideas)" in lines
    assert results.figure(failed, []).word == "miss"


def test_rows_hold_the_figures(found: Contest) -> None:
    rows = {row[1]: row for row in results.rows(found)}
    assert all(len(row) == len(results.COLUMNS) for row in rows.values())
    assert rows["float"][4:] == ("", "4", "1e+03", "1x", "", "")
    assert rows["planish"][7].startswith("2.00x (")
    lost = rows["NNCF"][3]
    assert lost.startswith("+")
    assert rows["onnxsim"][3] == "+0 (+0 … +0)"


def test_an_error_shows_no_folder_of_this_machine() -> None:
    text = results.plain("Load model from /home/somebody/folder/model.onnx failed:\n bad /a/b")
    assert text == "Load model from model.onnx failed: bad b"
    assert len(results.plain("word " * 100)) < 170


def test_drops_are_paired_and_signed_by_what_is_better() -> None:
    rng = np.random.default_rng(1)
    before = rng.normal(10, 5, 400)
    after = before - rng.normal(0.5, 0.1, 400)
    worse = results.paired(before, after, "mean", True)
    assert worse.value == pytest.approx((before - after).mean())
    assert worse.worse
    assert worse.high - worse.low < 0.1  # unpaired it would be about 1.4
    better = results.paired(before, after, "mean", False)
    assert better.better
    assert (better.value, better.low, better.high) == pytest.approx(
        (-worse.value, -worse.high, -worse.low), abs=0.01
    )
    exponent = results.paired(np.full(10, 1.0), np.full(10, 2.0), "exp", False)
    assert exponent.value == pytest.approx(np.exp(2) - np.exp(1))
    assert results.paired(before, np.full(400, np.nan), "mean", True).worse


def evaluation(samples: np.ndarray, value: float, **slices: np.ndarray) -> Any:
    return SimpleNamespace(per_sample=samples, metrics={"m": value}, slices=slices)


def test_how_a_metric_comes_of_its_samples_is_found_out() -> None:
    samples = np.array([1.0, 2.0, 6.0, 7.0])
    part = np.array([True, True, False, False])
    assert tasks_worker.aggregation(evaluation(samples, 4.0), "m")[0] == "mean"
    how, mask = tasks_worker.aggregation(evaluation(samples, 1.5, part=part), "m")
    assert (how, list(mask)) == ("mean", list(part))
    how, mask = tasks_worker.aggregation(evaluation(samples, np.exp(1.5), part=part), "m")
    assert (how, list(mask)) == ("exp", list(part))
    how, mask = tasks_worker.aggregation(evaluation(samples, 99.0, part=part), "m")
    assert how == "sample"
    assert mask.all()


def test_noise_is_measured_over_all_outputs() -> None:
    before = [np.array([3.0, 4.0]), np.array([[0.0]])]
    after = [np.array([3.0, 4.5]), np.array([[0.0]])]
    assert tasks_worker.sqnr(before, before) == np.inf
    assert tasks_worker.sqnr(before, after) == pytest.approx(20.0)  # 25 to 0.25
    broken = [np.array([3.0, np.nan]), np.array([[0.0]])]
    assert np.isnan(tasks_worker.sqnr(before, broken))
    assert np.isnan(tasks_worker.sqnr(before, [np.zeros(3), np.zeros((1, 1))]))
    masked = [np.array([3.0, -np.inf])]
    assert tasks_worker.sqnr(masked, masked) == np.inf


def test_outputs_are_kept_in_order(tmp_path: Path) -> None:
    outputs = [np.full(2, i) for i in range(12)]
    found = SimpleNamespace(per_sample=np.zeros(1), metrics={"m": 1.0})
    tasks_worker.write_score(tmp_path / "float.npz", found, "m", outputs)
    with np.load(tmp_path / "float.npz") as file:
        assert [a[0] for a in tasks_worker.stored(file)] == list(range(12))


def test_feeds_that_are_timed_come_from_all_over() -> None:
    recorder = tasks_worker.Recorder(lambda feeds: [feeds["x"]])
    for i in range(100):
        recorder({"x": np.array([i])})
    recorder.seconds = [0.1] * 100
    assert [int(f["x"][0]) for f in recorder.sample(0.5)] == [0, 24, 49, 74, 99]
    assert len(recorder.sample(0.01)) == 1
    assert len(recorder.sample(1e9)) == 100
    assert len(recorder.sample(1e9, most=7)) == 7


def test_a_recorded_feed_is_a_copy() -> None:
    recorder = tasks_worker.Recorder(lambda feeds: [])
    buffer = np.zeros(2)
    recorder({"x": buffer})
    buffer[:] = 9
    assert recorder.feeds[0]["x"].max() == 0


def test_transformers_are_known_by_their_attention(tmp_path: Path) -> None:
    attention = "{ s = Softmax(x) y = MatMul(s, x) }"
    assert tasks_worker.has_attention(model(tmp_path / "a.onnx", attention))
    assert not tasks_worker.has_attention(model(tmp_path / "b.onnx", "{ y = Softmax(x) }"))


def test_the_digest_is_of_the_model_and_of_every_feed(tmp_path: Path) -> None:
    path = model(tmp_path / "a.onnx")
    feeds: list[Feeds] = [{"x": np.zeros(2)}, {"x": np.ones(2)}]
    first = tasks_worker.digest(path, save_feeds(feeds, tmp_path / "one"))
    assert tasks_worker.digest(path, save_feeds(feeds, tmp_path / "two")) == first
    feeds[1] = {"x": np.ones(2, np.float32)}
    assert tasks_worker.digest(path, save_feeds(feeds, tmp_path / "two")) != first


def test_an_old_opset_is_raised_for_the_tools_that_need_it(tmp_path: Path) -> None:
    old = peers_worker.raised(model(tmp_path / "old.onnx", opset=9))
    assert old.opset_import[0].version == peers_worker.QDQ_OPSET
    new = peers_worker.raised(model(tmp_path / "new.onnx", opset=17))
    assert new.opset_import[0].version == 17


def test_every_peer_has_a_maker_and_pins() -> None:
    assert {peer.maker for peer in peers.PEERS} == set(peers_worker.MAKERS)
    for peer in peers.PEERS:
        pins = peers.requirements(peer.package).read_text("utf8")
        assert f"{peers.DISTRIBUTIONS[peer.package]}==" in pins
    folders = [contender.folder for contender in CONTENDERS]
    assert len(set(folders)) == len(folders)


def test_other_pins_or_a_failed_installation_are_no_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pins = tmp_path / "pins.txt"
    pins.write_text("no-such-package-of-that-name==1\n", "utf8")
    monkeypatch.setattr(peers, "requirements", lambda package: pins)
    said: list[tuple[str, ...]] = []

    def checked(*words: str) -> str:
        said.append(words)
        if "install" in words:
            raise RuntimeError("ERROR: no matching distribution")
        return "[]"

    monkeypatch.setattr(peers, "checked", checked)
    assert peers.environment("nncf", tmp_path).python is None
    home = peers.install("nncf", tmp_path)
    assert home.python is None
    assert home.reason == "cannot be installed: ERROR: no matching distribution"
    monkeypatch.setattr(peers, "checked", lambda *words: '[{"name": "nncf", "version": "3"}]')
    home = peers.install("nncf", tmp_path)
    assert home.versions == {"nncf": "3"}
    monkeypatch.setattr(peers, "checked", checked)
    assert peers.install("nncf", tmp_path) == home  # nothing is installed twice
    pins.write_text("other==1\n", "utf8")
    assert "other pins" in peers.environment("nncf", tmp_path).reason


@pytest.fixture
def steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The contest over two contenders whose steps only write what they would; their names."""
    done: list[str] = []

    def finish(words: list[str], timeout: float, output: Path | None = None) -> str:
        assert timeout > 0
        if "measure.py" in words[2]:
            name = Path(words[3]).parent.name
            done.append(f"make {name}")
            if name in failing:
                return "not done after 9 s"
            cost = {"seconds": 1.0, "cpu_seconds": 1.0, "peak_bytes": 1, "exit_code": 0}
            Path(words[3]).write_text(json.dumps(cost), "utf8")
            made = next(w for w in words[4:] if w.endswith("artifact"))
            Path(made).mkdir()
            Path(made, "model.onnx").write_bytes(b"x")
            return ""
        step, folder = words[2], Path(words[4] if words[2] != "race" else words[3])
        done.append(step)
        if step == "prepare":
            about = {"task": "t", "model": str(original), "digest": "d", "kind": "any"}
            (folder / "task.json").write_text(json.dumps(about), "utf8")
        elif step == "race":
            (folder / "race.json").write_text('{"seconds": {}}', "utf8")
        return ""

    failing: set[str] = set()
    monkeypatch.setattr(steps_state, "failing", failing)
    original = tmp_path / "original.onnx"
    original.write_bytes(b"x")
    monkeypatch.setattr(tasks_contest, "finish", finish)
    monkeypatch.setattr(tasks_contest, "sources_digest", lambda: steps_state.sources)
    ours = [Contender("one", options=()), Contender("two", options=("--goal", "size"))]
    monkeypatch.setattr(tasks_contest, "CONTENDERS", (Contender("float"), *ours))
    return done


steps_state = SimpleNamespace(sources="s", failing=set())


def test_only_what_is_missing_or_stale_is_done_again(
    steps: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(workdir=tmp_path)
    tasks_contest.contest("t", settings)
    assert steps == ["prepare", "make one", "judge", "make two", "judge", "race"]
    steps.clear()
    found = tasks_contest.contest("t", settings)
    assert steps == []
    assert (found.error, set(found.made)) == ("", {"float", "one", "two"})
    assert set(tasks_contest.stored("t", settings).made) == {"one", "two"}
    (tmp_path / "contest" / "t" / "two" / "made.json").unlink()
    tasks_contest.contest("t", settings)
    assert steps == ["make two", "judge"]  # the same model again: no other times
    steps.clear()
    monkeypatch.setattr(steps_state, "sources", "changed")
    tasks_contest.contest("t", settings)
    assert steps == ["make one", "judge", "make two", "judge", "race"]


def test_what_ran_out_of_time_is_tried_again_only_with_more(
    steps: list[str], tmp_path: Path
) -> None:
    steps_state.failing.add("two")
    found = tasks_contest.contest("t", Settings(workdir=tmp_path, timeout=10))
    assert found.made["two"].error == "not done after 9 s"
    assert found.made["one"].model
    steps.clear()
    tasks_contest.contest("t", Settings(workdir=tmp_path, timeout=10))
    assert steps == []
    tasks_contest.contest("t", Settings(workdir=tmp_path, timeout=1000))
    assert steps == ["make two"]


def test_a_task_out_of_time_says_so_and_keeps_what_it_has(
    steps: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = iter([False, False, True])
    monkeypatch.setattr(Clock, "over", property(lambda self: next(over)))
    found = tasks_contest.contest("t", Settings(workdir=tmp_path))
    assert "out of time" in found.error
    assert list(found.made) == ["float", "one"]


def test_the_sources_that_count_are_those_that_a_compile_reads(tmp_path: Path) -> None:
    (tmp_path / "passes").mkdir()
    source = tmp_path / "passes" / "a.py"
    source.write_text("1", "utf8")
    before = tasks_contest.sources_digest(tmp_path)
    (tmp_path / "passes" / "notes.md").write_text("x", "utf8")
    assert tasks_contest.sources_digest(tmp_path) == before
    source.write_text("2", "utf8")
    assert tasks_contest.sources_digest(tmp_path) != before


def test_the_page_starts_with_where_peers_are_better(
    found: Contest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = {**found.about, "samples": 200}
    one = Contest("digits", found.folder, full, found.made, found.race)
    other = Contest("letters", found.folder, error="not run yet")
    known: Mapping[str, Contest] = {"digits": one, "letters": other}
    monkeypatch.setattr(results, "chosen", lambda words: list(words or known))
    monkeypatch.setattr(results, "contest", lambda name, settings: known[name])
    monkeypatch.setattr(results, "stored", lambda name, settings: known[name])
    monkeypatch.setattr(results, "PAGE", tmp_path / "repository" / "RESULTS.md")
    work = tmp_path / "work"
    work.mkdir()
    outcome = results.peers(Settings(workdir=work, tasks=("digits",)))
    text = (work / "RESULTS.md").read_text("utf8")
    assert text.splitlines()[2].startswith("- Speed: a peer beats planish on 1 of 1 tasks")
    assert "- Not run to the end yet: letters." in text
    assert text.count("**digits**") == 1
    assert not results.PAGE.exists()  # half a table does not replace a whole one
    assert [figure.name for figure in outcome.figures] == ["digits, beaten by a peer"]
    results.PAGE.parent.mkdir()
    del known["letters"]  # type: ignore[attr-defined]
    results.peers(Settings(workdir=work))
    assert results.PAGE.read_text("utf8").count("| NNCF |") == 1


def test_a_command_s_word_is_kept_and_its_time_limited(tmp_path: Path) -> None:
    from benchmarks.tasks import finish

    code = "import sys; print('said'); print('complained', file=sys.stderr); sys.exit(3)"
    log = tmp_path / "log.txt"
    assert finish([sys.executable, "-c", code], 30.0, log).startswith("crashed")
    assert {"said", "complained"} <= set(log.read_text("utf8").split())
    assert tasks_contest.last_line(log) in ("said", "complained")
    log.write_text("error: no such thing\n  where: there\n  try:   this\n", "utf8")
    assert tasks_contest.last_line(log) == "error: no such thing"
    log.write_text("", "utf8")
    assert "no word of why" in tasks_contest.last_line(log)
