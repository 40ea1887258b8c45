"""The artifact folder: what is in it, that its self-test tells good from bad, the public class."""

from __future__ import annotations

import gc
import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest

from planish.compiler.reporting.artifact import Artifact, temporary_artifact, write_artifact
from planish.compiler.result import Sample
from planish.ir.errors import InputError, UsageError


@pytest.fixture(scope="module")
def pristine(made: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("artifact") / "out"
    made.artifact(folder)
    return folder


@pytest.fixture
def folder(pristine: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(pristine, tmp_path / "out"))


def verify(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the artifact's verify.py as a user would, isolated, from another folder."""
    words = [sys.executable, "-I", str(folder / "verify.py")]
    return subprocess.run(words, cwd="/", capture_output=True, text=True)


def rewrite_manifest(folder: Path, change: Callable[[dict[str, object]], object]) -> None:
    document = json.loads((folder / "manifest.json").read_text("utf8"))
    change(document)
    (folder / "manifest.json").write_text(json.dumps(document))


def update_digest(folder: Path, name: str) -> None:
    """Let the manifest list the file as it is now."""
    content = (folder / name).read_bytes()
    entry = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    rewrite_manifest(folder, lambda d: d["files"].update({name: entry}))  # type: ignore[attr-defined]


def test_the_manifest_lists_every_file(pristine: Path) -> None:
    listed = json.loads((pristine / "manifest.json").read_text("utf8"))["files"]
    found = {p.relative_to(pristine).as_posix() for p in pristine.rglob("*") if p.is_file()}
    assert set(listed) == found - {"manifest.json"}
    assert {"model.onnx", "report.md", "README.md", "verify.py", "samples/0002.npz"} <= set(listed)
    for name, entry in listed.items():
        content = (pristine / name).read_bytes()
        assert entry == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def test_two_writes_give_the_same_bytes(pristine: Path, made: ModuleType, tmp_path: Path) -> None:
    made.artifact(tmp_path / "again")
    for path in pristine.rglob("*"):
        if path.is_file():
            name = path.relative_to(pristine)
            assert path.read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_samples_need_no_pickle(pristine: Path, made: ModuleType) -> None:
    (_, second, _) = made.samples(pristine / "model.onnx")
    with np.load(pristine / "samples" / "0001.npz", allow_pickle=False) as arrays:
        assert set(arrays.files) == {
            "feed/x", "output/y", "output/label", "original/y", "original/label",
        }  # fmt: skip
        np.testing.assert_array_equal(arrays["feed/x"], second.feeds["x"])
        np.testing.assert_array_equal(arrays["original/y"], second.original["y"])


def test_texts_are_stored_as_texts_and_objects_refused(made: ModuleType, tmp_path: Path) -> None:
    words = np.array(["a", "bc"], dtype=object)
    made.artifact(tmp_path / "out", samples=(Sample({"x": words}, {}, {}),))
    with np.load(tmp_path / "out" / "samples" / "0000.npz", allow_pickle=False) as arrays:
        assert arrays["feed/x"].tolist() == ["a", "bc"]
    broken = Sample({"x": np.array([object()])}, {}, {})
    with pytest.raises(InputError, match="feed 'x' of a sample holds objects"):
        made.artifact(tmp_path / "other", samples=(broken,))


def test_a_folder_without_a_model_gets_no_documents(made: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no model"):
        write_artifact(made.result(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_verify_passes_and_says_what_it_saw(folder: Path) -> None:
    done = verify(folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.rstrip().endswith("PASS")
    assert "3 of 3 give the recorded outputs" in done.stdout
    cosine, sqnr = map(float, re.findall(r"y: cosine ([\d.]+), SQNR ([\d.]+) dB", done.stdout)[0])
    arrays = [np.load(path) for path in sorted((folder / "samples").iterdir())]
    a = np.concatenate([x["original/y"].ravel() for x in arrays]).astype(np.float64)
    b = np.concatenate([x["output/y"].ravel() for x in arrays]).astype(np.float64)
    assert cosine == pytest.approx(np.corrcoef([a, b])[0, 1], abs=1e-3)
    assert sqnr == pytest.approx(20 * np.log10(np.linalg.norm(a) / np.linalg.norm(a - b)), abs=0.06)


def test_verify_imports_nothing_of_planish(pristine: Path) -> None:
    source = (pristine / "verify.py").read_text("utf8")
    imported = set(re.findall(r"^\s*(?:from|import) ([\w]+)", source, re.MULTILINE))
    assert imported - set(sys.stdlib_module_names) == {"numpy", "onnxruntime"}


def test_verify_allows_a_document_to_grow(folder: Path) -> None:
    with (folder / "README.md").open("a") as file:
        file.write("\nOur licence: …\n")
    done = verify(folder)
    assert done.returncode == 0
    assert "document  README.md has" in done.stdout


def flip_a_byte(folder: Path) -> None:
    content = bytearray((folder / "model.onnx").read_bytes())
    content[-3] ^= 1
    (folder / "model.onnx").write_bytes(content)


def remove_a_sample(folder: Path) -> None:
    (folder / "samples" / "0001.npz").unlink()


def cut_the_model(folder: Path) -> None:
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:-10])


def move_a_weight(folder: Path) -> None:
    model = onnx.load(folder / "model.onnx")
    (weight,) = (t for t in model.graph.initializer if t.name == "weight")
    array = onnx.numpy_helper.to_array(weight) + np.float32(0.05)
    weight.CopyFrom(onnx.numpy_helper.from_array(array, "weight"))
    onnx.save(model, folder / "model.onnx")
    update_digest(folder, "model.onnx")


def drop_an_output(folder: Path) -> None:
    model = onnx.load(folder / "model.onnx")
    del model.graph.output[1]
    onnx.save(model, folder / "model.onnx")
    update_digest(folder, "model.onnx")


def no_model_at_all(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"nonsense")
    update_digest(folder, "model.onnx")


def no_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def other_schema(folder: Path) -> None:
    rewrite_manifest(folder, lambda d: d.update(schema="planish-manifest/99"))


def broken_table(folder: Path) -> None:
    rewrite_manifest(folder, lambda d: d.update(files=[]))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (flip_a_byte, "file model.onnx has the right size but other contents"),
        (remove_a_sample, "file samples/0001.npz is missing"),
        (cut_the_model, "file model.onnx has"),
        (move_a_weight, "sample 0, output 'y' differs by up to"),
        (drop_an_output, "sample 0, output 'label': the model has no such output"),
        (no_model_at_all, "does not load model.onnx"),
        (no_manifest, "no manifest.json"),
        (other_schema, "another schema"),
        (broken_table, "no proper 'files'"),
    ],
)
def test_verify_fails_with_a_message(
    folder: Path, harm: Callable[[Path], None], message: str
) -> None:
    harm(folder)
    done = verify(folder)
    assert done.returncode == 1
    assert "FAIL" in done.stdout
    assert message in done.stdout
    assert "PASS" not in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_verify_holds_each_output_to_its_tolerance(folder: Path) -> None:
    move_a_weight(folder)
    rewrite_manifest(folder, lambda d: d.update(tolerance={"y": 10.0, "label": 3}))
    assert verify(folder).returncode == 0
    rewrite_manifest(folder, lambda d: d.update(tolerance={"y": 1e-3, "label": 3}))
    assert verify(folder).returncode == 1


def test_open_gives_what_was_written(pristine: Path, made: ModuleType) -> None:
    artifact = Artifact.open(pristine)
    assert artifact.path == pristine.resolve()
    assert artifact.verdict == artifact.manifest["headline"]
    assert artifact.verdict.startswith("faster: 2.71x")
    assert artifact.exit_code == 0
    assert artifact.report.startswith(f"# {artifact.verdict}")
    assert "faster" in repr(artifact)


def test_the_session_runs_the_model(pristine: Path, made: ModuleType) -> None:
    (sample, *_) = made.samples(pristine / "model.onnx")
    y, label = Artifact.open(str(pristine)).session(threads=1).run(sample.feeds)
    np.testing.assert_array_equal(y, sample.outputs["y"])
    np.testing.assert_array_equal(label, sample.outputs["label"])


def test_save_copies_all_of_it(pristine: Path, tmp_path: Path) -> None:
    saved = Artifact.open(pristine).save(tmp_path / "copy")
    assert saved.path == (tmp_path / "copy").resolve()
    assert verify(saved.path).returncode == 0
    with pytest.raises(UsageError, match="something in it"):
        Artifact.open(pristine).save(tmp_path / "copy")
    (tmp_path / "copy" / "stale").touch()
    saved = Artifact.open(pristine).save(tmp_path / "copy", force=True)
    assert not (saved.path / "stale").exists()


def test_save_refuses_to_replace_itself(folder: Path) -> None:
    with pytest.raises(UsageError, match="would replace"):
        Artifact.open(folder).save(folder.parent, force=True)
    assert verify(folder).returncode == 0


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (no_manifest, "it has no manifest.json"),
        (lambda f: (f / "model.onnx").unlink(), "it has no model.onnx"),
        (other_schema, "planish-manifest/99"),
        (shutil.rmtree, "no such folder"),
    ],
)
def test_open_refuses_what_is_no_artifact(
    folder: Path, harm: Callable[[Path], None], message: str
) -> None:
    harm(folder)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        Artifact.open(folder)
    assert str(folder) in caught.value.where


def test_open_refuses_a_file(pristine: Path) -> None:
    with pytest.raises(InputError, match="a file"):
        Artifact.open(pristine / "model.onnx")


def test_a_temporary_artifact_goes_away_with_its_object(folder: Path) -> None:
    artifact = temporary_artifact(folder, folder.parent)
    assert artifact.exit_code == 0
    assert folder.exists()
    del artifact
    gc.collect()
    assert not folder.parent.exists()
